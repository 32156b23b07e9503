"""``smoltbot migrate`` as uid 65534 on a read-only root: it writes the database and DATA_DIR, and nothing else."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import namespace
from tests.faults.migration_support import COMMAND, ENVIRON, Database, Ran, ended, start
from tests.scale import figure

ANYBODY_WRITES = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/var/lock")
WAYS = [
    *(["read-only root"] if namespace.may_mount() else []),
    # The user of the tests where these do not run as root.
    *(["owns nothing"] if os.geteuid() or namespace.may_enter() else []),
]
"""What this machine permits: with mounts the kernel refuses every write, without only the files left behind tell."""
LARGE = """
    CREATE TABLE many (text text);
    INSERT INTO many WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 100000)
        SELECT hex(randomblob(32)) FROM n;
    CREATE INDEX many_text ON many (text);
"""
"""More to sort than SQLite keeps in memory unless told to."""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def data_dir(home: Path) -> Path:
    """A folder that belongs to the unprivileged user."""
    folder = home / "data"
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, namespace.NOBODY, namespace.NOBODY)
    return folder


def test_there_is_a_way() -> None:
    assert WAYS, "neither mounts are permitted here, nor may uid 65534 enter the folder of Python"


@pytest.mark.parametrize("way", WAYS)
class TestUnprivileged:
    async def test_with_the_embedded_database(self, home: Path, data_dir: Path, way: str) -> None:
        database = Database("sqlite", f"sqlite:///{data_dir}/smoltbot.db", home)
        await self.migrate(database, {"DATA_DIR": str(data_dir)}, data_dir, way)
        assert {file.name for file in data_dir.iterdir()} == {"smoltbot.db", "signing.key", "queue.key", "admin.token"}
        assert {file.stat().st_mode & 0o777 for file in data_dir.iterdir()} == {0o600}

    async def test_with_each_database(self, database: Database, home: Path, data_dir: Path, way: str) -> None:
        if database.kind == "sqlite":
            database.url = f"sqlite:///{data_dir}/records.db"
        environ = {"DATA_DIR": "/nowhere", "DATABASE_URL": database.url}
        await self.migrate(database, environ, data_dir, way)
        assert [file.name for file in data_dir.iterdir()] == ["records.db"] * (database.kind == "sqlite")

    async def test_a_large_table_needs_no_temporary_file(self, home: Path, data_dir: Path, way: str) -> None:
        folder = home / "schema"
        folder.mkdir()
        (folder / "0001_large.sql").write_text(LARGE)
        program = (
            "import asyncio, pathlib, sys; from smoltbot_records_sqlite import migrate;"
            "print(*asyncio.run(migrate(sys.argv[1], pathlib.Path(sys.argv[2]))))"
        )
        command = [sys.executable, "-c", program, f"sqlite:///{data_dir}/large.db", str(folder)]
        ran = await self.run(command, {}, data_dir, way)
        assert (ran.code, ran.out, ran.err) == (0, "0001_large.sql\n", "")

    async def migrate(self, database: Database, environ: dict[str, str], data_dir: Path, way: str) -> None:
        ran = await self.run(COMMAND, environ, data_dir, way)
        assert (ran.code, ran.err) == (0, "")
        assert ran.applied == database.names == await database.applied()
        figure(f"migrate as an unprivileged user, {database.kind}", way)

    async def run(self, command: list[str], environ: dict[str, str], data_dir: Path, way: str) -> Ran:
        # No HOME, and no folder for temporary files: not even one that could be written.
        environ = {**ENVIRON, "TMPDIR": "/proc", **environ}
        if os.geteuid() == 0:
            command = namespace.as_nobody(command, environ)
        if way == "read-only root":
            holds = data_dir.parent / "holds"
            holds.mkdir()
            return await ended(start(namespace.on_read_only_root(command, data_dir, holds), environ))
        before = left_behind(data_dir)
        ran = await ended(start(command, environ))
        assert left_behind(data_dir) - before == set()
        return ran


def left_behind(data_dir: Path) -> set[Path]:
    """What belongs to the unprivileged user where anybody may write, but for its own folder."""
    user = namespace.NOBODY if os.geteuid() == 0 else os.geteuid()
    found = set()
    for top in ANYBODY_WRITES:
        for name, folders, files in os.walk(top):
            folder = Path(name)
            folders[:] = [below for below in folders if folder / below != data_dir]
            found |= {path for below in (*folders, *files) if owner(path := folder / below) == user}
    return found


def owner(path: Path) -> int | None:
    """Whose it is; None when it is gone."""
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        return None
