"""``worker-compat adapters`` and ``worker-compat check``: what is installed, and whether a store keeps the rules."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.cli.support import COMMAND, environment, ran
from worker_compat_cli.main import main

LIARS = """
from contextlib import asynccontextmanager
from worker_compat.memory import MemoryKVStore
from worker_compat.ports import KVPage

class Backwards(MemoryKVStore):
    async def list(self, prefix, limit, cursor):
        page = await super().list(prefix, limit, cursor)
        return KVPage(list(reversed(page.keys)), page.cursor)

@asynccontextmanager
async def open_kv(url, *, clock):
    yield Backwards(clock=clock)
"""


def asked(*arguments: str) -> Result:
    """A command, in this process."""
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def liar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with a store that lists backwards."""
    info = tmp_path / "liar-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: liar\nVersion: 1.0\nProvides-Extra: gone\n")
    (info / "entry_points.txt").write_text(
        "[worker_compat.kv]\nliar = a_liar_of_a_store:open_kv\ngone = a_store_without_library:open_kv\n"
    )
    (tmp_path / "a_liar_of_a_store.py").write_text(LIARS)
    (tmp_path / "a_store_without_library.py").write_text("import a_library_nobody_has")
    monkeypatch.syspath_prepend(str(tmp_path))


class TestAdapters:
    def test_the_table(self, liar: None) -> None:
        result = asked("adapters")
        assert result.exit_code == 0
        head, *lines = (line.split(None, 4) for line in result.output.splitlines())
        assert head == ["group", "name", "package", "extra", "library"]
        rows = {(line[0], line[1]): line[2:] for line in lines}
        assert rows["kv", "memory://"] == ["worker_compat", "-", "installed"]
        assert rows["kv", "redis://"] == ["worker_compat_redis", "redis", "installed"]
        assert rows["queue", "sqlite://"] == ["worker_compat_sqlite", "sqlite", "installed"]
        assert rows["host", "aiohttp"] == ["worker_compat_aiohttp", "aiohttp", "installed"]
        assert rows["fetcher", "aiohttp"] == ["worker_compat_aiohttp", "aiohttp", "installed"]
        assert rows["kv", "gone://"] == [
            "a_store_without_library",
            "gone",
            "gone:// needs a_library_nobody_has; pip install 'liar[gone]'",
        ]


class TestCheck:
    def test_a_store_that_keeps_the_rules(self, tmp_path: Path) -> None:
        result = asked("check", "memory://", "--kv")
        assert result.exit_code == 0, result.output
        *rules, last = result.output.splitlines()
        assert "KVCompareAndPut: " in last
        assert " of " in last
        assert not [line for line in rules if "FAILED" in line]
        assert sum(line.startswith("passed  KVStore  ") for line in rules) > 10

    def test_a_store_that_does_not(self, liar: None) -> None:
        result = asked("check", "liar://")
        assert result.exit_code == 1
        lines = result.output.splitlines()
        failed = [index for index, line in enumerate(lines) if line.startswith("FAILED  KVStore  ")]
        assert failed
        for index in failed:
            assert lines[index + 1].startswith("        rule: ")
            assert lines[index + 2].startswith("        seen: ")
        assert any("order" in lines[index] + lines[index + 1] for index in failed)

    def test_as_json(self, liar: None) -> None:
        result = asked("check", "liar://", "--json")
        assert result.exit_code == 1
        report = json.loads(result.output)
        assert set(report) == {"KVStore", "KVCompareAndPut"}
        wrong = [case for case in report["KVStore"] if not case["passed"]]
        assert wrong
        assert all(case["seen"] and case["rule"] and case["name"] for case in wrong)

    def test_a_live_store_is_left_as_it_was(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'kv.sqlite'}"
        result = asked("check", url)
        assert result.exit_code == 0, result.output
        assert "KVStore: " in result.output
        assert "QueueStore: " in result.output
        with closing(sqlite3.connect(tmp_path / "kv.sqlite")) as database:
            for table in ("worker_compat_kv", "worker_compat_queue"):
                assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)

    @pytest.mark.parametrize(
        ("arguments", "code", "text"),
        [
            (("nowhere://hunter2",), 2, "Error: no worker_compat.kv adapter for nowhere://; installed: "),
            (("hunter2",), 2, "Error: malformed URL: expected scheme://"),
            (("kv+cloudflare://a/b", "--queue"), 2, "Error: no worker_compat.queue adapter for kv+cloudflare://; "),
            (("redis://:hunter2@127.0.0.1:1/", "--kv"), 1, "Error: "),
        ],
    )
    def test_mistakes(self, arguments: tuple[str, ...], code: int, text: str) -> None:
        result = asked("check", *arguments)
        assert (result.exit_code, result.stdout) == (code, "")
        (line,) = result.stderr.splitlines()
        assert line.startswith(text)
        assert "hunter2" not in line


class TestHelp:
    def test_commands(self) -> None:
        result = asked("--help")
        assert all(command in result.output for command in ("run", "adapters", "check"))
        assert asked("--version").output.startswith("worker-compat ")

    def test_help_imports_nothing_that_it_does_not_need(self) -> None:
        code = (
            "import sys\nfrom worker_compat_cli.main import main\n"
            "try: main(['run', '--help'])\nexcept SystemExit: pass\n"
            "print([name for name in ('worker_compat', 'asyncio', 'aiohttp', 'redis') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
        assert done.stdout.splitlines()[-1] == "[]"

    @pytest.mark.alone
    def test_help_is_quick(self, tmp_path: Path) -> None:
        def once() -> float:
            """Processor seconds, which other work on the machine changes little."""
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([*COMMAND, "--help"], env=environment(), capture_output=True, check=True, timeout=20)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        assert min(once() for _ in range(3)) < 0.3

    def test_as_a_module(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "worker_compat_cli", "--version"]
        done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=True)
        assert done.stdout.startswith("worker-compat ")
        assert ran(tmp_path, "nonsense").returncode == 2
