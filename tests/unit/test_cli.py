"""The command line, in this process and as one of its own: help, exit codes, and errors that name the remedy."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from smoltbot_cli.main import main
from tests.gateway_process import free_port
from worker_compat import __version__

COMMANDS = {
    "serve": ["--host", "--port", "--role"],
    "migrate": ["--dry-run", "--wait"],
    "doctor": ["--network"],
    "signing-keys": [],
    "verify": ["--keys", "--key", "--head"],
    "head": ["--agent", "--gateway", "--token"],
    "export": ["--agent", "-o", "--gateway", "--token"],
}
ENTRY_POINTS = [[sys.executable, "-m", "smoltbot_cli"], [str(Path(sys.executable).with_name("smoltbot"))]]
GROUPS = {"signing-keys": ["generate", "list", "rotate"]}
SCHEMA = Path(__file__).parents[2] / "schema" / "sqlite"
SHARED_KEYS = {"ED25519_SIGNING_KEY": "5c" * 32, "QUEUE_ENCRYPTION_KEY": "6d" * 32}
MIGRATIONS = sorted(file.name for file in SCHEMA.glob("*.sql"))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"DATA_DIR": str(tmp_path / "data"), "HOST": "127.0.0.1", "PORT": str(free_port())}


def run(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """As a process with this environment and nothing else."""
    return subprocess.run(
        [*ENTRY_POINTS[0], *arguments],
        env={"PATH": os.defpath, **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def invoke(environ: dict[str, str], *arguments: str) -> Result:
    """In this process."""
    return CliRunner().invoke(main, arguments, env=environ)


def logged(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


class TestHelp:
    def test_the_table_has_every_command(self) -> None:
        assert set(main.commands) == set(COMMANDS)

    @pytest.mark.parametrize("flag", ["--help", "-h"])
    def test_of_the_whole(self, flag: str) -> None:
        result = invoke({}, flag)
        assert result.exit_code == 0
        for command in COMMANDS:
            assert re.search(rf"^  {command} +\S", result.output, re.MULTILINE)
        assert "docs/configuration.md" in result.output

    @pytest.mark.parametrize("command", COMMANDS)
    @pytest.mark.parametrize("flag", ["--help", "-h"])
    def test_of_each_command(self, command: str, flag: str) -> None:
        result = invoke({}, command, flag)
        assert result.exit_code == 0
        assert result.output.startswith(f"Usage: main {command} [OPTIONS]")
        if command in GROUPS:
            assert set(re.findall(r"^  ([a-z]+) +\S", result.output, re.MULTILINE)) == set(GROUPS[command])
        for option in COMMANDS[command]:
            assert re.search(rf"^ +{option}\b.* \S", result.output, re.MULTILINE), option

    @pytest.mark.parametrize("entry", ENTRY_POINTS, ids=["module", "script"])
    def test_as_a_process(self, entry: list[str]) -> None:
        for arguments in (["--help"], *([command, "--help"] for command in COMMANDS)):
            ran = subprocess.run([*entry, *arguments], capture_output=True, text=True, timeout=30, check=True)
            assert ran.stdout.startswith("Usage: ")
            assert ran.stderr == ""

    def test_version(self) -> None:
        assert invoke({}, "--version").output == f"smoltbot, version {__version__}\n"

    @pytest.mark.parametrize(
        "arguments",
        [["nothing"], ["serve", "--nothing"], ["serve", "--port", "65536"], ["serve", "--role", "x"], ["migrate", "x"]],
    )
    def test_what_it_does_not_understand(self, arguments: list[str]) -> None:
        result = invoke({}, *arguments)
        assert result.exit_code == 2
        assert "Usage: " in result.output

    def test_no_state_comes_of_it(self, tmp_path: Path) -> None:
        for command in COMMANDS:
            invoke({"DATA_DIR": str(tmp_path / "data")}, command, "--help")
        assert list(tmp_path.iterdir()) == []


class TestServe:
    @pytest.mark.parametrize("as_process", [True, False])
    def test_wrong_settings_are_all_named(self, environ: dict[str, str], tmp_path: Path, as_process: bool) -> None:
        wrong = {
            **environ, "PORT": "http", "SMOLTBOT_ROLE": "observer", "SUPABASE_URL": "http://x:5432",
            "MNEMOM_ANALYZE_URL": "https://x", "LICENSE_MODE": "required", "ANALYSIS_MODE": "local",
            "ADMIN_TOKEN_FILE": "/nowhere", "READ_TOKEN": "the-secret",
        }  # fmt: skip
        if as_process:
            ran = run(wrong, "serve")
            code, text = ran.returncode, ran.stderr
            assert ran.stdout == ""
        else:
            result = invoke(wrong, "serve")
            code, text = result.exit_code, result.stderr
        assert code == 1
        lines = text.splitlines()
        assert lines[0] == "EnvValidationError: Missing required environment variables:"
        for name in (
            "SUPABASE_KEY",
            "ED25519_SIGNING_KEY",
            "QUEUE_ENCRYPTION_KEY",
            "QUEUE_URL",
            "MNEMOM_API_KEY",
            "MNEMOM_LICENSE_JWT",
            "ANTHROPIC_API_KEY",
        ):
            assert any(line.startswith(f"  {name} (because ") for line in lines), name
        assert "Invalid environment variables:" in lines
        for name in ("PORT", "SMOLTBOT_ROLE", "SUPABASE_URL", "ADMIN_TOKEN_FILE"):
            assert any(line.startswith(f"  {name}: ") for line in lines), name
        assert "Traceback" not in text
        assert "the-secret" not in text
        assert list(tmp_path.iterdir()) == []

    def test_options_win(self, environ: dict[str, str]) -> None:
        for option, name, value in (("--port", "PORT", "1"), ("--role", "SMOLTBOT_ROLE", "gateway")):
            text = invoke({**environ, name: "wrong", "MAX_BODY_BYTES": "wrong"}, "serve", option, value).stderr
            assert f"{name}:" not in text
            assert "MAX_BODY_BYTES:" in text

    def test_a_port_in_use_is_one_clear_line(self, environ: dict[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            ran = run(environ, "serve", "--port", str(port))
        assert (ran.returncode, ran.stderr) == (1, "")
        [line] = [line for line in logged(ran.stdout) if line["level"] == "error"]
        assert line["message"].startswith(f"cannot listen on 127.0.0.1:{port} (")
        assert "address already in use" in line["message"].lower()
        assert line["message"].endswith("; set HOST and PORT to an address that is free")
        assert "exception" not in line

    @pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
    def test_an_address_that_is_not_here(self, environ: dict[str, str], host: str) -> None:
        ran = run(environ, "serve", "--host", host)
        assert (ran.returncode, ran.stderr) == (1, "")
        [line] = [line for line in logged(ran.stdout) if line["level"] == "error"]
        assert line["message"].startswith(f"cannot listen on {host}:{environ['PORT']} (")

    @pytest.mark.parametrize(
        ("name", "value", "complaint"),
        [
            ("DATABASE_URL", "postgres://user:the-secret@h/db?nothing=1", "an option that is unknown or given twice"),
            ("DATABASE_URL", "postgres://user:the-secret@@h/db", "this is not the URL of a PostgreSQL server"),
            ("DATABASE_URL", "sqlite://h/db", "a SQLite URL has no host"),
            (
                "REDIS_URL",
                "etcd://user:the-secret@h",
                "no worker_compat.kv adapter for etcd://; installed: kv+cloudflare://, memory://, postgres://",
            ),
        ],
    )
    def test_an_adapter_that_is_not_there(self, environ: dict[str, str], name: str, value: str, complaint: str) -> None:
        ran = run({**environ, **SHARED_KEYS, name: value}, "serve")
        assert (ran.returncode, ran.stderr) == (1, "")
        [line] = [line for line in logged(ran.stdout) if line["level"] == "error"]
        assert line["message"].startswith("cannot start: ")
        assert complaint in line["message"]
        assert "the-secret" not in ran.stdout

    def test_a_database_of_a_later_version(self, environ: dict[str, str], tmp_path: Path) -> None:
        invoke(environ, "migrate")
        with closing(sqlite3.connect(tmp_path / "data" / "smoltbot.db")) as connection, connection:
            connection.execute("INSERT INTO _schema_migrations VALUES ('9999_later.sql', '', '')")
        ran = run(environ, "serve")
        assert (ran.returncode, ran.stderr) == (1, "")
        [line] = [line for line in logged(ran.stdout) if line["level"] == "error"]
        assert line["message"].startswith("cannot start: the database is newer than this version")

    def test_a_data_dir_that_cannot_be(self, environ: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "data").touch()
        ran = run(environ, "serve")
        assert (ran.returncode, ran.stdout) == (1, "")
        assert re.fullmatch(r"ConfigError: DATA_DIR '.*' cannot be used \(File exists\); point .*\n", ran.stderr)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_serves_until_a_signal(self, environ: dict[str, str], number: signal.Signals) -> None:
        command = [*ENTRY_POINTS[0], "serve", "--port", "0", "--role", "gateway"]
        child = subprocess.Popen(command, env={"PATH": os.defpath, **environ}, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        with child.stdout:
            lines = []
            for text in child.stdout:
                lines.append(json.loads(text))
                if lines[-1]["message"] == "ready":
                    child.send_signal(number)
        assert child.wait(10) == 0
        messages = [line["message"] for line in lines]
        assert {line["service"] for line in lines} == {"smoltbot-gateway"}
        assert {line["level"] for line in lines} == {"info", "warn"}
        assert any(re.fullmatch(r"listening on http://127\.0\.0\.1:\d+ as gateway", message) for message in messages)
        assert any("KV is in memory" in message for message in messages)
        assert [message for message in messages if message.startswith("made ")] == [
            f"made {name} in DATA_DIR, readable by this user only; back it up"
            for name in ("signing.key", "queue.key", "admin.token")
        ]
        assert messages[-2:] == ["ending: 0 requests in flight", "ended"]


class TestMigrate:
    @pytest.mark.parametrize("as_process", [True, False])
    def test_twice(self, environ: dict[str, str], tmp_path: Path, as_process: bool) -> None:
        outputs = []
        for _ in range(2):
            if as_process:
                ran = run(environ, "migrate")
                assert (ran.returncode, ran.stderr) == (0, "")
                outputs.append(ran.stdout)
            else:
                result = invoke(environ, "migrate")
                assert result.exit_code == 0
                outputs.append(result.output)
        assert outputs == ["".join(f"applied {name}\n" for name in MIGRATIONS), "nothing to apply\n"]
        with closing(sqlite3.connect(tmp_path / "data" / "smoltbot.db")) as connection:
            rows = connection.execute("SELECT filename FROM _schema_migrations ORDER BY filename").fetchall()
        assert [name for (name,) in rows] == MIGRATIONS

    @pytest.mark.parametrize("as_process", [True, False])
    def test_a_dry_run_twice(self, environ: dict[str, str], tmp_path: Path, as_process: bool) -> None:
        for _ in range(2):
            if as_process:
                ran = run(environ, "migrate", "--dry-run")
                code, output = ran.returncode, ran.stdout
            else:
                result = invoke(environ, "migrate", "--dry-run")
                code, output = result.exit_code, result.output
            assert (code, output) == (0, "".join(f"would apply {name}\n" for name in MIGRATIONS))
            assert list(tmp_path.iterdir()) == []

    def test_a_dry_run_afterwards(self, environ: dict[str, str]) -> None:
        invoke(environ, "migrate")
        assert invoke(environ, "migrate", "--dry-run").output == "nothing to apply\n"

    def test_a_locked_database_is_waited_for_so_long(self, environ: dict[str, str], tmp_path: Path) -> None:
        invoke(environ, "migrate")
        with closing(sqlite3.connect(tmp_path / "data" / "smoltbot.db", isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            result = invoke(environ, "migrate", "--wait", "0.1")
            connection.execute("ROLLBACK")
        assert result.exit_code == 1
        assert result.stderr == (
            "Error: the SQLite database cannot be used: it is locked by another process: try again, or end that one's"
            " transaction\n"
        )

    @pytest.mark.parametrize(
        ("given", "complaint"),
        [
            ({"MAX_BODY_BYTES": "x"}, "Invalid environment variables:\n  MAX_BODY_BYTES: 'x'"),
            ({"DATABASE_URL": "mysql://h"}, "Invalid environment variables:\n  DATABASE_URL: is not postgresql://"),
            ({"DATABASE_URL": "postgres://h?x=1"}, "the PostgreSQL URL has an option that is unknown"),
            ({"DATABASE_URL": "postgres://127.0.0.1:1/d"}, "PostgreSQL cannot be reached"),
            ({"SUPABASE_URL": "https://x", "SUPABASE_KEY": "k"}, "Supabase's REST API cannot change the schema"),
            ({"DATA_DIR": "/dev/null/data"}, "DATA_DIR '/dev/null/data' cannot be used"),
        ],
    )
    def test_what_an_operator_can_mend(self, environ: dict[str, str], given: dict[str, str], complaint: str) -> None:
        result = invoke({**environ, **given}, "migrate", "--wait", "0.1")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"Error: {complaint}")
        assert "Traceback" not in result.stderr


class TestDoctor:
    def test_all_is_well(self, environ: dict[str, str]) -> None:
        invoke(environ, "migrate")
        result = invoke(environ, "doctor")
        assert result.exit_code == 0
        assert [line.split()[0] for line in result.output.splitlines()] == ["ok"] * 7

    def test_something_is_wrong(self, environ: dict[str, str]) -> None:
        ran = run({**environ, "KV_URL": "redis://h", "OPENAI_API_KEY": "x"}, "doctor")
        assert (ran.returncode, ran.stderr) == (1, "")
        levels = {line.split()[1].rstrip(":"): line.split()[0] for line in ran.stdout.splitlines()}
        assert (levels["KV_URL"], levels["DATABASE_URL"], levels["environment"]) == ("error", "warning", "warning")

    def test_a_warning_is_no_failure(self, environ: dict[str, str]) -> None:
        assert invoke(environ, "doctor").exit_code == 0
