"""``smoltbot migrate`` refused: exit code 1, a sentence with the remedy, no password in it, the old state untouched."""

from __future__ import annotations

import resource
import shlex
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from tests.faults.migration_rows import ROWS
from tests.faults.migration_support import (
    COMMAND,
    Database,
    Ran,
    as_role,
    connected,
    ended,
    new_database,
    new_role,
    start,
)
from tests.faults.namespace import in_namespace, may_mount
from tests.services.postgres import GUARDED, PostgresServer
from tests.services.process import free_port

SECRET = "the-secret"
ENOUGH_TO_BEGIN = ["64", "160"] if may_mount() else []
"""So many KiB are free: one of the files still to apply finds no room."""
ROOMS = ["limit", *(["12"] if may_mount() else []), *ENOUGH_TO_BEGIN]
FULL = "the disk is full: make room"
BROKEN = "reading or writing its file failed: check the disk"
"""Not even the index of the write-ahead log finds room, or it is no disk that is full."""


def assert_refused(ran: Ran, sentence: str) -> None:
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"Error: {sentence}\n"


@pytest.fixture
async def halfway(database: Database) -> Database:
    """A database of an earlier version, with a row in every table."""
    await database.apply_first(2)
    await database.run(*(sql for name in database.names[:2] for sql in ROWS[database.kind][name]))
    return database


@pytest.fixture
async def postgres(postgres_service: PostgresServer, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty PostgreSQL database."""
    async with new_database(postgres_service.url) as url:
        yield Database("postgres", url, tmp_path)


class TestContradictions:
    async def test_a_database_that_is_newer(self, halfway: Database) -> None:
        await halfway.run("INSERT INTO _schema_migrations VALUES ('9999_later.sql', '2026-05-10T08:00:00.000Z', '')")
        before = await halfway.state()
        for arguments in ([], ["--dry-run"]):
            assert_refused(
                await halfway.migrate(*arguments),
                "the database is newer than this version: it knows 9999_later.sql; install the version that does",
            )
        assert await halfway.state() == before

    async def test_a_file_that_was_changed_after_it_was_applied(self, halfway: Database) -> None:
        first = halfway.names[0]
        await halfway.run(f"UPDATE _schema_migrations SET checksum = 'of another text' WHERE filename = '{first}'")
        before = await halfway.state()
        for arguments in ([], ["--dry-run"]):
            assert_refused(
                await halfway.migrate(*arguments),
                f"{first} was changed after it was applied: restore it, put the change in a new file",
            )
        assert await halfway.state() == before

    async def test_tables_that_no_migration_made(self, database: Database) -> None:
        made = ["CREATE SCHEMA smoltbot"] if database.kind == "postgres" else []
        await database.run(*made, "CREATE TABLE agents (mine text)")
        before = await database.shape()
        ran = await database.migrate()
        assert ran.code == 1
        assert ran.err.startswith(f"Error: {database.names[0]} cannot be applied: ")
        assert "already exists" in ran.err
        assert await database.shape() == before


class TestServer:
    async def test_nobody_is_there(self, tmp_path: Path) -> None:
        url = f"postgresql://postgres:{SECRET}@127.0.0.1:{free_port()}/postgres"
        for arguments in ([], ["--dry-run"]):
            assert_refused(
                await Database("postgres", url, tmp_path).migrate("--wait", "0.3", *arguments),
                "PostgreSQL cannot be reached (ConnectionRefusedError): check that it runs, host and port",
            )

    async def test_a_wrong_password(self, postgres: Database) -> None:
        async with guarded(postgres.url) as url:
            assert_refused(
                await Database("postgres", url.replace(SECRET, f"not-{SECRET}"), postgres.folder).migrate(),
                "PostgreSQL refuses (InvalidPasswordError, 28P01): check user, password and database in the URL",
            )
            assert await postgres.is_empty()
            assert (await Database("postgres", url, postgres.folder).migrate("--dry-run")).code == 0

    async def test_an_unknown_database(self, postgres: Database) -> None:
        url = f"{postgres.url.rpartition('/')[0]}/nowhere"
        assert_refused(
            await Database("postgres", as_role(url, "postgres", SECRET), postgres.folder).migrate(),
            "PostgreSQL refuses (InvalidCatalogNameError, 3D000): check user, password and database in the URL",
        )

    @pytest.mark.parametrize("is_applied", [False, True])
    async def test_a_role_without_rights(self, postgres: Database, is_applied: bool) -> None:
        if is_applied:
            await postgres.apply_first(len(postgres.names) - 1)
        before = await postgres.state()
        async with new_role(postgres.url) as role:
            assert_refused(
                await Database("postgres", as_role(postgres.url, role, SECRET), postgres.folder).migrate(),
                "this role may not change the schema: run `smoltbot migrate` as the database's owner",
            )
        assert await postgres.state() == before

    async def test_a_server_that_takes_no_writes(self, postgres: Database) -> None:
        name = postgres.url.rpartition("/")[2]
        await postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        ran = await postgres.migrate()
        assert_refused(ran, "PostgreSQL cannot be used (ReadOnlySQLTransactionError, 25006): try again")
        assert await postgres.is_empty()

    async def test_a_table_that_another_session_holds(self, postgres: Database) -> None:
        await postgres.apply_first(len(postgres.names) - 1)
        before = await postgres.state()
        async with connected(postgres.url) as other, other.transaction():
            await other.execute("LOCK TABLE _schema_migrations")
            assert_refused(
                await postgres.migrate("--wait", "0.5"),
                "PostgreSQL is locked by another runner of migrations: try again",
            )
        assert await postgres.state() == before
        assert (await postgres.migrate()).code == 0


@asynccontextmanager
async def guarded(url: str) -> AsyncIterator[str]:
    """The URL for a user that needs a password, with that password."""
    async with connected(url) as admin:
        await admin.execute(f"DROP ROLE IF EXISTS {GUARDED}")
        await admin.execute(f"CREATE ROLE {GUARDED} LOGIN PASSWORD '{SECRET}'")
        yield as_role(url, GUARDED, SECRET)
        await admin.execute(f"DROP ROLE {GUARDED}")


class TestFile:
    @pytest.fixture
    async def halfway(self, tmp_path: Path) -> Database:
        """A file of an earlier version, with a row in every table."""
        database = Database("sqlite", f"sqlite:///{tmp_path}/records.db", tmp_path)
        await database.apply_first(2)
        await database.run(*(sql for name in database.names[:2] for sql in ROWS["sqlite"][name]))
        return database

    async def test_it_is_locked(self, halfway: Database) -> None:
        before = await halfway.state()
        with closing(sqlite3.connect(halfway.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            ran = await halfway.migrate("--wait", "0.3")
        assert_refused(
            ran,
            "the SQLite database cannot be used: it is locked by another process: try again, or end that one's"
            " transaction",
        )
        assert await halfway.state() == before
        assert (await halfway.migrate()).applied == halfway.names[2:]

    async def test_it_is_no_database(self, halfway: Database) -> None:
        halfway.path.write_bytes(b"this is no database " * 100)
        for arguments in ([], ["--dry-run"]):
            assert_refused(
                await halfway.migrate(*arguments),
                "the SQLite database cannot be used: its file is damaged or not a SQLite database: restore a backup,"
                " or name another file",
            )
        assert halfway.path.read_bytes() == b"this is no database " * 100

    @pytest.mark.parametrize("room", ROOMS)
    async def test_the_disk_has_no_room(self, halfway: Database, room: str) -> None:
        before = await halfway.contents()
        ran = await (within_limit(halfway) if room == "limit" else on_full_disk(halfway, int(room)))
        assert_refused(ran, f"the SQLite database cannot be used: {FULL if room in ENOUGH_TO_BEGIN else BROKEN}")
        await assert_whole_files(halfway, before)


async def within_limit(database: Database) -> Ran:
    """As with a quota: what is there may be written, and nothing after it."""
    limit = (database.path.stat().st_size,) * 2
    code = f"import os, resource, sys; resource.setrlimit({resource.RLIMIT_FSIZE}, {limit}); os.execv({COMMAND[0]!r}"
    return await ended(start([sys.executable, "-c", f"{code}, sys.argv[1:])", *COMMAND], database.environ()))


async def on_full_disk(database: Database, free_kib: int) -> Ran:
    """On a disk of its own with so much room; afterwards its files are where the database was."""
    disk = database.folder / "disk"
    disk.mkdir()
    script = f"""
        mount -t tmpfs -o size=2m none {disk}
        cp {database.path} {disk}/records.db
        head -c "$(($(stat -f -c '%a * %S' {disk}) - {free_kib} * 1024))" /dev/zero >{disk}/ballast
        {shlex.join(COMMAND)} && code=0 || code=$?
        cp {disk}/records.db* {database.folder}/
        exit $code
    """
    at_disk = Database("sqlite", f"sqlite:///{disk}/records.db", database.folder)
    return await ended(start(in_namespace(script), at_disk.environ()))


async def assert_whole_files(database: Database, before: dict[str, Any]) -> None:
    """Files that found room are applied wholly and the one that found none not at all; another run does the rest."""
    left = await database.applied()
    assert 2 <= len(left) < len(database.names)
    assert left == database.names[: len(left)]
    after = await database.contents()
    assert {table: after[table] for table in before} == before
    assert (await database.migrate()).applied == database.names[len(left) :]
    fresh = Database("sqlite", f"sqlite:///{database.folder}/fresh.db", database.folder)
    await fresh.adapter.migrate(fresh.url, fresh.schema)
    assert await database.shape() == await fresh.shape()
