"""``smoltbot doctor``: says what a start would meet, with a remedy, and changes nothing."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest

from smoltbot_host.doctor import Finding, examine
from smoltbot_host.migrate import migrate
from smoltbot_host.signing_keys import rotate
from tests.gateway_process import free_port
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer

SUBJECTS = ["environment", "DATA_DIR", "PORT", "DATABASE_URL", "signing key", "KV_URL", "QUEUE_URL"]
SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
KEYS = {"ED25519_SIGNING_KEY": SEED, "QUEUE_ENCRYPTION_KEY": "7a" * 32}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"DATA_DIR": str(tmp_path / "data"), "HOST": "127.0.0.1", "PORT": str(free_port())}


def only(findings: list[Finding], subject: str) -> Finding:
    [finding] = [finding for finding in findings if finding.subject == subject]
    return finding


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() if file.is_file() else b"" for file in folder.rglob("*")}


def test_before_the_first_start(environ: dict[str, str], tmp_path: Path) -> None:
    findings = examine(environ, network=False)
    assert [finding.subject for finding in findings] == SUBJECTS
    assert [finding.level for finding in findings] == ["ok", "ok", "ok", "warning", "ok", "ok", "ok"]
    assert only(findings, "environment").text == "role all"
    assert only(findings, "DATA_DIR").text == f"{tmp_path / 'data'} (will be made)"
    assert only(findings, "signing key").text == "will be made"
    assert "migrations to apply; serve will apply them" in only(findings, "DATABASE_URL").text
    assert everything(tmp_path) == {}


def test_after_it(environ: dict[str, str], tmp_path: Path) -> None:
    migrate(environ, dry_run=False, wait_s=30)
    before = everything(tmp_path)
    findings = examine(environ, network=False)
    assert {finding.level for finding in findings} == {"ok"}
    assert only(findings, "DATABASE_URL").text.endswith("schema is up to date")
    assert only(findings, "signing key").text == "key-001"
    assert everything(tmp_path).keys() == before.keys()


def test_wrong_settings_end_it(environ: dict[str, str], tmp_path: Path) -> None:
    [finding] = examine({**environ, "PORT": "x", "HOST_FILE": str(tmp_path / "none")}, network=True)
    assert finding.level == "error"
    assert "HOST_FILE" not in finding.text  # HOST itself is set
    assert "PORT: 'x'" in finding.text
    [finding] = examine({"PORT": "x", "HOST_FILE": str(tmp_path / "none")}, network=True)
    assert "PORT: 'x'" in finding.text
    assert "HOST_FILE" in finding.text


def test_warnings_of_settings_are_told(environ: dict[str, str]) -> None:
    findings = examine({**environ, "OPENAI_API_KEY": "the-secret", "LOG_LEVEL": "loud"}, network=False)
    texts = [finding.text for finding in findings if finding.level == "warning" and finding.subject == "environment"]
    assert len(texts) == 2
    assert "the-secret" not in str(findings)


def test_a_port_in_use(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = only(examine({**environ, "PORT": str(port)}, network=False), "PORT")
    assert finding.level == "warning"
    assert f"127.0.0.1:{port} cannot be used now (Address already in use" in finding.text


@pytest.mark.parametrize("host", ["::1", "::"])
def test_an_address_of_ip_6(environ: dict[str, str], host: str) -> None:
    try:
        socket.create_server((host, 0), family=socket.AF_INET6).close()
        expected = "ok"
    except OSError:  # a machine without IPv6
        expected = "warning"
    assert only(examine({**environ, "HOST": host}, network=False), "PORT").level == expected


def test_a_host_that_is_not_here(environ: dict[str, str]) -> None:
    assert only(examine({**environ, "HOST": "192.0.2.1"}, network=False), "PORT").level == "warning"


@pytest.mark.parametrize("below", ["", "data"])
def test_a_data_dir_that_cannot_be(environ: dict[str, str], tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    finding = only(examine({**environ, "DATA_DIR": str(tmp_path / "file" / below)}, network=False), "DATA_DIR")
    assert finding.level == "error"
    assert "point DATA_DIR at a folder of this user" in finding.text


def test_a_data_dir_that_cannot_be_looked_into(environ: dict[str, str], tmp_path: Path) -> None:
    """Here its name is too long; without the right to enter it the same happens."""
    findings = examine({**environ, "DATA_DIR": str(tmp_path / ("x" * 300))}, network=False)
    assert only(findings, "DATA_DIR").level == "error"
    assert only(findings, "signing key").level == "error"
    assert "signing.key cannot be looked for" in only(findings, "signing key").text


@pytest.mark.parametrize("name", ["queue.key", "admin.token"])
def test_files_with_which_no_start_succeeds(environ: dict[str, str], tmp_path: Path, name: str) -> None:
    migrate(environ, dry_run=False, wait_s=30)
    (tmp_path / "data" / name).write_text("short")
    finding = only(examine(environ, network=False), "DATA_DIR")
    assert (finding.level, f"{name} is damaged" in finding.text) == ("error", True)
    (tmp_path / "data" / name).unlink()
    assert only(examine(environ, network=False), "DATA_DIR").level == "ok"
    (tmp_path / "data" / name).mkdir()
    finding = only(examine(environ, network=False), "DATA_DIR")
    assert (finding.level, f"{name} cannot be read (Is a directory)" in finding.text) == ("error", True)


_AS_NOBODY = """
import os, sys
from smoltbot_host.doctor import examine
environ = {"DATA_DIR": sys.argv[1], "HOST": "127.0.0.1", "PORT": sys.argv[2]}
examine(environ, network=False)  # loads everything, which the other user may not be able to
if os.geteuid() == 0:  # who may write anywhere
    os.setgid(65534)
    os.setuid(65534)
for finding in examine(environ, network=False):
    print(finding.level, finding.subject, finding.text, sep="|")
"""


def test_a_database_that_is_read_only(environ: dict[str, str]) -> None:
    with TemporaryDirectory(dir="/tmp") as folder:  # whose folders other users may enter
        Path(folder).chmod(0o755)
        data = Path(folder, "data")
        migrate({**environ, "DATA_DIR": str(data)}, dry_run=False, wait_s=30)
        data.chmod(0o777)
        for file in data.iterdir():
            file.chmod(0o444)
        command = [sys.executable, "-c", _AS_NOBODY, str(data), environ["PORT"]]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    [finding] = [line for line in ran.stdout.splitlines() if "|DATABASE_URL|" in line]
    assert finding == f"error|DATABASE_URL|{data}/smoltbot.db is read-only; let this user write it"


class TestDatabase:
    @pytest.fixture
    def database(self, environ: dict[str, str], tmp_path: Path) -> Path:
        migrate(environ, dry_run=False, wait_s=30)
        return tmp_path / "data" / "smoltbot.db"

    def test_locked(self, environ: dict[str, str], database: Path) -> None:
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            finding = only(examine(environ, network=False), "DATABASE_URL")
            connection.execute("ROLLBACK")
        assert finding.level == "error"

    def test_garbage(self, environ: dict[str, str], database: Path) -> None:
        database.write_bytes(b"no database" * 1000)
        finding = only(examine(environ, network=False), "DATABASE_URL")
        assert finding.level == "error"
        assert "damaged or not a SQLite database" in finding.text

    def test_newer(self, environ: dict[str, str], database: Path) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("INSERT INTO _schema_migrations VALUES ('9999_later.sql', '', '')")
        finding = only(examine(environ, network=False), "DATABASE_URL")
        assert finding.level == "error"
        assert "newer than this version" in finding.text

    @pytest.mark.parametrize(
        ("name", "url"),
        [
            ("DATABASE_URL", "postgres://user:the-secret@127.0.0.1:1/db"),
            ("DATABASE_URL", "postgres://user:the-secret@h@h/db"),
            ("DATABASE_URL", "postgres://user:the-secret@h/db?nothing=1"),
            ("DATABASE_URL", "sqlite://the-secret/x"),
            ("DATABASE_URL", "sqlite:///"),
            ("SUPABASE_URL", "http://127.0.0.1:1"),
        ],
    )
    def test_a_database_that_is_not_there(self, environ: dict[str, str], name: str, url: str) -> None:
        given = {**environ, **KEYS, name: url, "SUPABASE_KEY": "the-secret", "QUEUE_URL": "memory://"}
        findings = examine(given, network=False)
        assert only(findings, name).level == "error"
        assert only(findings, "signing key").text == "key-001, not compared with the database"
        assert "the-secret" not in str(findings)

    def test_an_older_one_in_postgres(self, environ: dict[str, str], postgres_service: PostgresServer) -> None:
        given = {**environ, **KEYS, "DATABASE_URL": postgres_service.url.rpartition("/")[0] + "/template1"}
        findings = examine(given, network=False)
        assert [finding.subject for finding in findings] == [each for each in SUBJECTS if each != "DATA_DIR"]
        finding = only(findings, "DATABASE_URL")
        assert (finding.level, finding.text.endswith("run `smoltbot migrate`")) == ("error", True)


class TestSigningKey:
    def test_damaged(self, environ: dict[str, str], tmp_path: Path) -> None:
        migrate(environ, dry_run=False, wait_s=30)
        (tmp_path / "data" / "signing.key").write_text("the-secret")
        finding = only(examine(environ, network=False), "signing key")
        assert finding.level == "error"
        assert "signing.key is damaged" in finding.text
        assert "the-secret" not in finding.text

    def test_not_the_active_one(self, environ: dict[str, str]) -> None:
        migrate(environ, dry_run=False, wait_s=30)
        rotate(environ)
        assert only(examine(environ, network=False), "signing key") == Finding("ok", "signing key", "key-002")
        finding = only(examine({**environ, "ED25519_SIGNING_KEY": SEED}, network=False), "signing key")
        assert finding.level == "error"
        assert "key-001 is not the active key; set ED25519_SIGNING_KEY" in finding.text
        assert SEED not in finding.text


@pytest.mark.parametrize("url", ["redis://user:the-secret@h", "nothing", "://"])
def test_a_kv_that_is_not_there(environ: dict[str, str], url: str) -> None:
    finding = only(examine({**environ, "KV_URL": url}, network=False), "KV_URL")
    assert finding.level == "error"
    assert "the-secret" not in finding.text


class TestTheQueue:
    @pytest.mark.parametrize("url", ["redis://user:the-secret@h", "sqlite://h/x", "://"])
    def test_one_that_is_not_there(self, environ: dict[str, str], url: str) -> None:
        finding = only(examine({**environ, "QUEUE_URL": url}, network=False), "QUEUE_URL")
        assert finding.level == "error"
        assert "the-secret" not in finding.text

    def test_how_many_wait(self, environ: dict[str, str], redis_service: RedisServer) -> None:
        given = {**environ, "QUEUE_URL": f"{redis_service.url}?queue={uuid4().hex}"}
        assert only(examine(given, network=False), "QUEUE_URL") == Finding("ok", "QUEUE_URL", "redis, 0 exchanges wait")

    def test_one_in_memory_for_several_processes(self, environ: dict[str, str]) -> None:
        given = {**environ, "QUEUE_URL": "memory://", "SMOLTBOT_ROLE": "gateway"}
        assert "no process shares" in only(examine(given, network=False), "QUEUE_URL").text


def test_the_providers(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        urls = {
            "UPSTREAM_ANTHROPIC_URL": f"http://127.0.0.1:{port}/base",
            "UPSTREAM_OPENAI_URL": f"http://127.0.0.1:{free_port()}",
            "UPSTREAM_GEMINI_URL": "https://nowhere.invalid",
        }
        findings = examine({**environ, **urls}, network=True)
    assert [finding.subject for finding in findings] == [*SUBJECTS, "anthropic", "openai", "gemini"]
    assert [finding.level for finding in findings[-3:]] == ["ok", "error", "error"]
    assert findings[-3].text == f"127.0.0.1:{port} answers"
    assert "nowhere.invalid:443 cannot be reached" in findings[-1].text
    assert "allow it outbound" in findings[-1].text
