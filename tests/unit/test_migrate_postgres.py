"""Migrations of a PostgreSQL database: once, wholly, by one runner at a time, waiting for a server that comes late."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from smoltbot_records_postgres import migrate, open_records
from smoltbot_worker.ports import Json, RecordsUnavailable
from tests.services.postgres import PostgresServer, postgres_server
from tests.services.process import free_port
from worker_compat.errors import ConfigError, StoreUnavailable

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "schema" / "postgres"
FILES = {
    "0001_notes.sql": "CREATE TABLE notes (text text NOT NULL, reply text);",
    "0002_replies.sql": "CREATE TABLE replies (text text); INSERT INTO notes VALUES ('from 2');",
    "0010_more.sql": "CREATE FUNCTION more() RETURNS text LANGUAGE sql AS 'SELECT text FROM smoltbot.notes';",
}


@pytest.fixture
async def url(postgres_service: PostgresServer) -> AsyncIterator[str]:
    """A database of its own."""
    name = f"d{uuid4().hex}"
    async with connected(postgres_service.url) as admin:
        await admin.execute(f"CREATE DATABASE {name}")
        yield f"{postgres_service.url.rpartition('/')[0]}/{name}"
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "schema"
    folder.mkdir()
    write_files(folder, FILES)
    return folder


def write_files(folder: Path, files: dict[str, str]) -> None:
    for name, sql in files.items():
        (folder / name).write_text(sql)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def values(url: str, sql: str) -> list[Any]:
    async with connected(url) as connection:
        return [row[0] for row in await connection.fetch(sql)]


async def applied(url: str) -> list[Any]:
    return await values(url, "SELECT filename FROM smoltbot._schema_migrations ORDER BY 1")


async def tables(url: str) -> set[str]:
    return set(await values(url, "SELECT relname::text FROM pg_class WHERE relnamespace = 'smoltbot'::regnamespace"))


def runner(url: str, folder: Path) -> subprocess.Popen[str]:
    """``migrate`` in another process, which prints what it applied."""
    program = (
        "import asyncio, pathlib, sys; sys.path[:0] = sys.argv[3:]; from smoltbot_records_postgres import migrate;"
        "print(*asyncio.run(migrate(sys.argv[1], pathlib.Path(sys.argv[2]))))"
    )
    paths = [str(ROOT), str(ROOT / "adapters")]
    return subprocess.Popen(
        [sys.executable, "-c", program, url, str(folder), *paths], stdout=subprocess.PIPE, text=True
    )


class TestApplying:
    async def test_the_schema_of_this_version(self, url: str) -> None:
        names = sorted(file.name for file in SCHEMA.glob("*.sql"))
        assert await migrate(url, SCHEMA, dry_run=True) == names
        assert await values(url, "SELECT 1 FROM pg_namespace WHERE nspname = 'smoltbot'") == []
        assert await migrate(url, SCHEMA) == names
        assert await applied(url) == names
        assert await migrate(url, SCHEMA) == await migrate(url, SCHEMA, dry_run=True) == []

    async def test_from_an_earlier_version_with_data(self, url: str, tmp_path: Path) -> None:
        first = sorted(SCHEMA.glob("*.sql"))[0]
        (tmp_path / first.name).write_bytes(first.read_bytes())
        await migrate(url, tmp_path)
        given: dict[str, Json] = {
            "agent_hash": "a" * 16,
            "key_hash": "a" * 64,
            "name": "old",
            "card": {},
            "seen_at": "2026-05-10T08:00Z",
        }
        async with open_records(url) as store:
            made: Any = await store.call("get_or_create_agent", given)
            await migrate(url, SCHEMA)
            found: Any = await store.call("get_or_create_agent", given)
        assert found == {"agent": made["agent"], "is_new": False}

    async def test_in_the_order_of_names(self, url: str, folder: Path) -> None:
        assert await migrate(url, folder) == sorted(FILES)
        assert await values(url, "SELECT smoltbot.more()") == ["from 2"]
        write_files(folder, {"0011_last.sql": "CREATE TABLE last (text text);"})
        assert await migrate(f"{url}?prepared=off", folder) == ["0011_last.sql"]

    async def test_a_changed_file_and_a_newer_database(self, url: str, folder: Path) -> None:
        await migrate(url, folder)
        write_files(folder, {"0002_replies.sql": FILES["0002_replies.sql"] + " "})
        for dry_run in (False, True):
            with pytest.raises(ConfigError, match=r"0002_replies\.sql was changed"):
                await migrate(url, folder, dry_run=dry_run)
        write_files(folder, FILES)
        (folder / "0010_more.sql").unlink()
        with pytest.raises(ConfigError, match="database is newer than this version"):
            await migrate(url, folder)

    @pytest.mark.parametrize(
        "sql",
        [
            "CREATE TABLE one (x text); CREATE TABLE one (x text);",
            "CREATE TABLE one (x text); SELECT 'no end",
            "CREATE TABLE one (x text); COMMIT; CREATE TABLE two (x text);",
            "CREATE TABLE one (x text); ROLLBACK;",
            "CREATE TABLE one (x text PRIMARY KEY); INSERT INTO one VALUES (NULL);",
            "CREATE TABLE one (x text REFERENCES one (y) DEFERRABLE INITIALLY DEFERRED, y text UNIQUE);"
            "INSERT INTO one VALUES ('1', '2');",
        ],
    )
    async def test_a_bad_file_changes_nothing(self, url: str, folder: Path, sql: str) -> None:
        write_files(folder, {"0003_bad.sql": sql})
        with pytest.raises(ConfigError, match=r"^0003_bad\.sql cannot be applied"):
            await migrate(url, folder)
        assert await applied(url) == ["0001_notes.sql", "0002_replies.sql"]
        assert not {"one", "two"} & await tables(url)

    async def test_a_role_that_may_not(self, url: str) -> None:
        async with connected(url) as admin:
            await admin.execute("DROP ROLE IF EXISTS powerless; CREATE ROLE powerless LOGIN")
            with pytest.raises(ConfigError, match="run `smoltbot migrate` as the database's owner"):
                await migrate(url.replace("postgres@", "powerless@"), SCHEMA)
            await admin.execute("DROP ROLE powerless")


class TestOthers:
    async def test_six_at_once(self, url: str, folder: Path) -> None:
        outputs = await asyncio.gather(*(migrate(url, folder) for _ in range(6)))
        assert sorted(name for names in outputs for name in names) == sorted(FILES)
        assert await values(url, "SELECT text FROM smoltbot.notes") == ["from 2"]

    async def test_a_lock_is_waited_for_but_not_for_ever(self, url: str, folder: Path) -> None:
        await migrate(url, folder)
        write_files(folder, {"0011_last.sql": "ALTER TABLE notes ADD last text;"})
        async with connected(url) as other:
            transaction = other.transaction()
            await transaction.start()
            await other.execute("SELECT * FROM smoltbot.notes")
            with pytest.raises(StoreUnavailable, match="locked"):
                await migrate(url, folder, wait_s=0.5)
            waiting = asyncio.create_task(migrate(url, folder, wait_s=20))
            await asyncio.sleep(0)
            await transaction.rollback()
            assert await waiting == ["0011_last.sql"]

    async def test_killed_midway(self, url: str, folder: Path) -> None:
        write_files(folder, {"0002_replies.sql": "CREATE TABLE replies (text text); SELECT pg_sleep(60);"})
        busy = (
            "SELECT pid FROM pg_stat_activity WHERE query LIKE '%smoltbot_apply($1)%' AND state = 'active'"
            " AND pid <> pg_backend_pid()"
        )
        first = "SELECT 1 FROM pg_class WHERE relname = 'notes'"
        process = runner(url, folder)
        deadline = time.monotonic() + 30
        while not (await values(url, first) and await values(url, busy)):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # The server notices when it next looks at the connection; who runs it may also end the session.
        async with connected(url) as admin:
            await admin.execute(f"SELECT pg_terminate_backend(pid) FROM ({busy}) AS left_behind")
        write_files(folder, FILES)
        assert await migrate(url, folder) == ["0002_replies.sql", "0010_more.sql"]

    async def test_a_server_that_comes_late(self, folder: Path) -> None:
        port = free_port()
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await migrate(url, folder, wait_s=0.3)
        waiting = asyncio.create_task(migrate(url, folder, wait_s=30))
        with ExitStack() as stack:
            await asyncio.to_thread(stack.enter_context, late_server(port))
            assert await waiting == sorted(FILES)


@contextmanager
def late_server(port: int) -> Iterator[None]:
    """A server of its own on this port; its data lies where its user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with postgres_server(Path(name), port=port):
            yield


class TestRights:
    async def test_a_role_without_it(self, url: str) -> None:
        await migrate(url, SCHEMA)
        async with connected(url) as admin:
            await admin.execute("DROP ROLE IF EXISTS stranger; CREATE ROLE stranger LOGIN")
            async with open_records(url.replace("postgres@", "stranger@")) as store:
                with pytest.raises(RecordsUnavailable, match="GRANT smoltbot_gateway TO it"):
                    await store.call("ping", {})
            await admin.execute("DROP ROLE stranger")

    async def test_a_database_that_was_not_migrated(self, url: str) -> None:
        async with open_records(url) as store:
            with pytest.raises(RecordsUnavailable, match="smoltbot migrate"):
                await store.call("ping", {})
            await migrate(url, SCHEMA)
            assert await store.call("ping", {})
