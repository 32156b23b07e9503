"""Migrations of a SQLite file: each file once, wholly or not at all, whoever else runs them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from smoltbot_records_sqlite import migrate
from smoltbot_records_sqlite.migrate import split_statements
from worker_compat.errors import ConfigError, StoreUnavailable

REPO = Path(__file__).parents[2]
SCHEMA = REPO / "schema" / "sqlite"
ENVIRON = {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{REPO / 'adapters'}"}
FILES = {
    "0001_notes.sql": "CREATE TABLE notes (text text);",
    "0002_replies.sql": "CREATE TABLE replies (text text);\nINSERT INTO notes VALUES ('from 2');\n",
    "0010_more.sql": "-- a comment only; really\nALTER TABLE notes ADD COLUMN more text;",
}
FOREVER = (
    "INSERT INTO notes VALUES ('half');\n"
    "INSERT INTO notes WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n;"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "schema", FILES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "smoltbot.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


def write_files(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, sql in files.items():
        (folder / name).write_text(sql)
    return folder


def rows(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def applied(path: Path) -> list[str]:
    return [name for (name,) in rows(path, "SELECT filename FROM _schema_migrations ORDER BY filename")]


def tables(path: Path) -> set[str]:
    return {name for (name,) in rows(path, "SELECT name FROM sqlite_schema WHERE type = 'table'")}


def snapshot(folder: Path) -> dict[str, str]:
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


def runner(url: str, folder: Path) -> subprocess.Popen[str]:
    """``migrate`` in another process, which says 'begin' and then what it applied."""
    program = (
        "import asyncio, pathlib, sys; from smoltbot_records_sqlite import migrate;"
        "print('begin', flush=True);"
        "print(*asyncio.run(migrate(sys.argv[1], pathlib.Path(sys.argv[2]))))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, url, str(folder)], env=ENVIRON, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "begin\n"
    return process


class TestApplying:
    async def test_the_schema_of_this_version(self, path: Path, url: str) -> None:
        names = sorted(file.name for file in SCHEMA.glob("*.sql"))
        assert await migrate(url, SCHEMA) == names
        assert applied(path) == names
        assert tables(path) >= {"agents", "alignment_cards"}
        assert rows(path, "PRAGMA journal_mode") == [("wal",)]
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]

    async def test_in_the_order_of_names(self, path: Path, url: str, folder: Path) -> None:
        assert await migrate(url, folder) == sorted(FILES)
        ledger = rows(path, "SELECT filename, checksum FROM _schema_migrations ORDER BY filename")
        assert ledger == [(name, hashlib.sha256(sql.encode()).hexdigest()) for name, sql in FILES.items()]
        ((time_text,), *_) = rows(path, "SELECT applied_at FROM _schema_migrations")
        assert time_text.endswith("Z")
        assert len(time_text) == len("2026-05-10T08:00:00.000Z")

    async def test_a_relative_path(self, path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(path.parent)
        assert await migrate(f"sqlite:///{path.name}", folder) == sorted(FILES)
        assert await migrate(f"sqlite:///{path.name}", folder, dry_run=True) == []
        assert applied(path) == sorted(FILES)

    async def test_twice(self, path: Path, url: str, folder: Path) -> None:
        await migrate(url, folder)
        assert await migrate(url, folder) == []
        assert rows(path, "SELECT text FROM notes") == [("from 2",)]

    async def test_only_what_is_missing(self, path: Path, url: str, folder: Path) -> None:
        await migrate(url, folder)
        write_files(folder, {"0011_last.sql": "CREATE TABLE last (text text);"})
        assert await migrate(url, folder) == ["0011_last.sql"]
        assert "last" in tables(path)

    async def test_the_folder_of_the_file_is_made(self, tmp_path: Path, folder: Path) -> None:
        assert await migrate(f"sqlite:///{tmp_path}/new/folder/smoltbot.db", folder) == sorted(FILES)

    async def test_a_folder_that_cannot_be_made(self, tmp_path: Path, folder: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="cannot be made"):
            await migrate(f"sqlite:///{tmp_path}/file/smoltbot.db", folder)

    async def test_a_table_that_others_refer_to_may_be_rebuilt(self, path: Path, url: str, folder: Path) -> None:
        write_files(
            folder,
            {
                "0011_a.sql": "CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a VALUES (1);"
                "CREATE TABLE b (a integer REFERENCES a); INSERT INTO b VALUES (1);",
                "0012_b.sql": "CREATE TABLE a2 (id integer PRIMARY KEY, more text);"
                "INSERT INTO a2 (id) SELECT id FROM a; DROP TABLE a; ALTER TABLE a2 RENAME TO a;",
            },
        )
        await migrate(url, folder)
        assert rows(path, "SELECT b.a, a.more FROM a JOIN b ON b.a = a.id") == [(1, None)]


class TestRefusing:
    async def test_a_changed_file(self, path: Path, url: str, folder: Path) -> None:
        await migrate(url, folder)
        write_files(folder, {"0002_replies.sql": FILES["0002_replies.sql"] + " ", "0011_last.sql": "SELECT 1;"})
        for dry_run in (False, True):
            with pytest.raises(ConfigError, match=r"0002_replies\.sql was changed"):
                await migrate(url, folder, dry_run=dry_run)
        assert applied(path) == sorted(FILES)

    async def test_a_newer_database(self, path: Path, url: str, folder: Path) -> None:
        await migrate(url, folder)
        (folder / "0010_more.sql").unlink()
        write_files(folder, {"0003_new.sql": "CREATE TABLE new (text text);"})
        for dry_run in (False, True):
            with pytest.raises(ConfigError, match=r"database is newer than this version.*0010_more\.sql"):
                await migrate(url, folder, dry_run=dry_run)
        assert "new" not in tables(path)

    @pytest.mark.parametrize(
        "sql",
        [
            "CREATE TABLE one (x); CREATE TABLE one (x);",
            "CREATE TABLE one (x); SELECT 'no end",
            "CREATE TABLE one (x); nonsense;",
            "CREATE TABLE one (x); COMMIT; CREATE TABLE two (x);",
            "CREATE TABLE one (x); ROLLBACK;",
            "CREATE TABLE one (x NOT NULL); INSERT INTO one VALUES (NULL);",
            "CREATE TABLE one (x REFERENCES notes); INSERT INTO one VALUES (77);",
            "CREATE TABLE one (x REFERENCES one (y), y UNIQUE); INSERT INTO one VALUES (1, 2);",
        ],
    )
    async def test_a_bad_file_changes_nothing(self, path: Path, url: str, folder: Path, sql: str) -> None:
        write_files(folder, {"0003_bad.sql": sql})
        with pytest.raises(ConfigError, match=r"^0003_bad\.sql "):
            await migrate(url, folder)
        assert applied(path) == ["0001_notes.sql", "0002_replies.sql"]
        assert tables(path) == {"_schema_migrations", "notes", "replies"}

        write_files(folder, {"0003_bad.sql": "CREATE TABLE one (x);"})
        assert await migrate(url, folder) == ["0003_bad.sql", "0010_more.sql"]

    @pytest.mark.parametrize("name", ["1_short.sql", "0003-dash.sql", "0003_Upper.sql", "notes.sql"])
    async def test_a_bad_name(self, path: Path, url: str, folder: Path, name: str) -> None:
        write_files(folder, {name: "SELECT 1;"})
        with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
            await migrate(url, folder)
        assert not path.exists()

    async def test_a_folder_without_files(self, tmp_path: Path, path: Path, url: str) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            await migrate(url, tmp_path / "absent")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ConfigError, match=r"no \.sql file"):
            await migrate(url, tmp_path / "empty")
        assert not path.exists()

    async def test_a_bad_url(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="write sqlite:///"):
            await migrate("postgres://user:secret@host/db", folder)

    async def test_garbage(self, path: Path, url: str, folder: Path) -> None:
        path.write_bytes(b"this is no database " * 100)
        for dry_run in (False, True):
            with pytest.raises(StoreUnavailable, match="damaged"):
                await migrate(url, folder, dry_run=dry_run)
        assert path.read_bytes() == b"this is no database " * 100

    async def test_a_directory_in_place_of_the_file(self, tmp_path: Path, folder: Path) -> None:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="may not be"):
            await migrate(f"sqlite:///{tmp_path}", folder)
        assert time.monotonic() - began < 10


class TestDryRun:
    async def test_of_no_database(self, tmp_path: Path, folder: Path) -> None:
        before = snapshot(tmp_path)
        assert await migrate(f"sqlite:///{tmp_path}/new/smoltbot.db", folder, dry_run=True) == sorted(FILES)
        assert snapshot(tmp_path) == before
        assert not (tmp_path / "new").exists()

    async def test_changes_nothing(self, tmp_path: Path, url: str, folder: Path) -> None:
        await migrate(url, folder)
        write_files(folder, {"0011_last.sql": "CREATE TABLE last (text text);"})
        before = snapshot(tmp_path)
        assert await migrate(url, folder, dry_run=True) == ["0011_last.sql"]
        assert snapshot(tmp_path) == before
        (folder / "0011_last.sql").unlink()
        assert await migrate(url, folder, dry_run=True) == []

    async def test_sees_what_only_the_log_holds(self, path: Path, url: str, folder: Path) -> None:
        (folder / "0010_more.sql").unlink()
        await migrate(url, folder)
        write_files(folder, FILES)
        with closing(sqlite3.connect(path)) as other:
            other.execute("SELECT 1 FROM notes").fetchall()
            assert await migrate(url, folder) == ["0010_more.sql"]
            assert path.with_name(path.name + "-wal").stat().st_size > 0
            assert await migrate(url, folder, dry_run=True) == []

    async def test_of_a_locked_database(self, path: Path, url: str, folder: Path) -> None:
        await migrate(url, folder)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert await migrate(url, folder, dry_run=True, wait_s=5) == []


class TestOthers:
    async def test_a_locked_database_is_waited_for(self, path: Path, url: str, folder: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("PRAGMA journal_mode=WAL").close()
            other.execute("BEGIN IMMEDIATE")
            timer = threading.Timer(0.3, other.execute, ["ROLLBACK"])
            timer.start()
            assert await migrate(url, folder, wait_s=20) == sorted(FILES)
            timer.join()

    @pytest.mark.parametrize("mode", ["wal", "delete"])
    async def test_but_not_for_ever(self, path: Path, url: str, folder: Path, mode: str) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute(f"PRAGMA journal_mode={mode}").close()
            other.execute("BEGIN EXCLUSIVE")
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="locked"):
                await migrate(url, folder, wait_s=0.3)
            assert 0.25 < time.monotonic() - began < 2
        assert await migrate(url, folder) == sorted(FILES)

    def test_two_processes_at_once(self, path: Path, url: str, folder: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as gate:
            gate.execute("PRAGMA journal_mode=WAL").close()
            gate.execute("BEGIN IMMEDIATE")
            processes = [runner(url, folder) for _ in range(2)]
            gate.execute("ROLLBACK")
        outputs = [process.communicate(timeout=60)[0].split() for process in processes]

        assert [process.returncode for process in processes] == [0, 0]
        assert sorted(outputs[0] + outputs[1]) == sorted(FILES)
        assert rows(path, "SELECT text FROM notes") == [("from 2",)]

    @pytest.mark.parametrize("round_number", range(5))
    async def test_many_at_once_on_no_file(self, path: Path, url: str, folder: Path, round_number: int) -> None:
        outputs = await asyncio.gather(*(migrate(url, folder) for _ in range(6)))
        assert sorted(name for names in outputs for name in names) == sorted(FILES)
        assert applied(path) == sorted(FILES)
        assert rows(path, "SELECT text FROM notes") == [("from 2",)]

    def test_killed_midway(self, path: Path, url: str, folder: Path) -> None:
        write_files(folder, {"0002_replies.sql": FOREVER})
        with runner(url, folder) as process:
            wait_until_busy(path)
            process.send_signal(signal.SIGKILL)
        assert applied(path) == ["0001_notes.sql"]
        assert rows(path, "SELECT * FROM notes") == []

        write_files(folder, {"0002_replies.sql": FILES["0002_replies.sql"]})
        with runner(url, folder) as process:
            assert process.communicate(timeout=60)[0].split() == ["0002_replies.sql", "0010_more.sql"]
        assert rows(path, "SELECT text FROM notes") == [("from 2",)]

    async def test_a_copy_of_a_running_database(self, tmp_path: Path, path: Path, url: str, folder: Path) -> None:
        await migrate(url, folder)
        with closing(sqlite3.connect(path)) as other:
            other.execute("INSERT INTO notes VALUES ('new', NULL)")
            other.commit()
            for suffix in ("", "-wal"):
                shutil.copy(f"{path}{suffix}", f"{tmp_path}/copy.db{suffix}")
        assert await migrate(f"sqlite:///{tmp_path}/copy.db", folder) == []
        assert rows(tmp_path / "copy.db", "SELECT text FROM notes") == [("from 2",), ("new",)]


def wait_until_busy(path: Path) -> None:
    """Return once the first file is applied and the second one holds the write lock."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
                if connection.execute("SELECT count(*) FROM _schema_migrations").fetchall() == [(1,)]:
                    connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error) and applied_count(path) == 1:
                return
        time.sleep(0.01)
    raise AssertionError("the second file never began")


def applied_count(path: Path) -> int:
    try:
        return len(applied(path))
    except sqlite3.OperationalError:
        return 0


class TestSplitStatements:
    @pytest.mark.parametrize(
        ("sql", "statements"),
        [
            ("", []),
            (" \n", []),
            ("SELECT 1", ["SELECT 1"]),
            ("SELECT 1;", ["SELECT 1;"]),
            ("SELECT 1; SELECT 2;\n", ["SELECT 1;", " SELECT 2;"]),
            ("SELECT ';'; SELECT \";\";", ["SELECT ';';", ' SELECT ";";']),
            ("-- a; b\nSELECT 1;", ["-- a; b\nSELECT 1;"]),
            ("/* a; b */ SELECT 1;", ["/* a; b */ SELECT 1;"]),
            (
                "CREATE TRIGGER t AFTER INSERT ON n BEGIN SELECT 1; SELECT 2; END; SELECT 3;",
                ["CREATE TRIGGER t AFTER INSERT ON n BEGIN SELECT 1; SELECT 2; END;", " SELECT 3;"],
            ),
        ],
    )
    def test_splits(self, sql: str, statements: list[str]) -> None:
        assert list(split_statements(sql)) == statements

    async def test_comments_and_empty_statements_are_harmless(self, path: Path, url: str, folder: Path) -> None:
        write_files(folder, {"0011_odd.sql": "-- first\n;;\nCREATE TABLE odd (x) ;; -- last; one\n/* end */"})
        await migrate(url, folder)
        assert "odd" in tables(path)
