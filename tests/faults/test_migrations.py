"""``smoltbot migrate`` as a process: alone, twice, at once, killed, from earlier versions, late and without rights."""

from __future__ import annotations

import asyncio
import random
import signal
import tempfile
import time
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from pathlib import Path

import pytest

from tests.faults.migration_rows import ROWS
from tests.faults.migration_support import ROOT, Database, Ran, connected, ended, new_database
from tests.scale import figure, scaled
from tests.services.postgres import PostgresServer, postgres_server
from tests.services.process import free_port
from tests.services.starting_postgres import starting_server

LOCK = 0x736D6F6C74
"""The number of the advisory lock of runners."""
EVERY_VERSION = range(1, len(list((ROOT / "schema" / "sqlite").glob("*.sql"))))


def assert_done(ran: Ran) -> None:
    assert (ran.code, ran.err) == (0, "")


class TestOnce:
    async def test_an_empty_database_and_then_nothing_to_apply(self, database: Database) -> None:
        names = database.names
        ran = await database.migrate("--dry-run")
        assert_done(ran)
        assert ran.out == "".join(f"would apply {name}\n" for name in names)
        assert await database.is_empty()
        ran = await database.migrate()
        assert_done(ran)
        assert ran.out == "".join(f"applied {name}\n" for name in names)
        before = await database.state()
        assert before[0] == names
        for arguments in ([], ["--dry-run"]):
            assert await database.migrate(*arguments) == Ran(0, "nothing to apply\n", "")
        assert await database.state() == before
        # Embedded or not, there is no key in a folder that only a gateway needs.
        assert not (database.folder / "data").exists()

    async def test_a_dry_run_halfway_says_what_is_left(self, database: Database) -> None:
        await database.apply_first(1)
        before = await database.state()
        ran = await database.migrate("--dry-run")
        assert_done(ran)
        assert ran.out == "".join(f"would apply {name}\n" for name in database.names[1:])
        assert await database.state() == before

    @pytest.mark.parametrize("count", EVERY_VERSION)
    async def test_from_every_earlier_version_with_data(self, database: Database, count: int) -> None:
        await database.apply_first(count)
        await database.run(*(sql for name in database.names[:count] for sql in ROWS[database.kind][name]))
        before = await database.contents()
        assert [table for table, (_, rows) in before.items() if not rows] == [], "every table has a row to lose"

        ran = await database.migrate()
        assert_done(ran)
        assert ran.applied == database.names[count:]
        for table, (columns, rows) in before.items():
            assert await database.texts(table, columns) == rows, table
        async with database.adapter.open_records(database.url) as store:
            assert await store.call("ping", {}) == {"ok": True, "schema": database.names[-1]}
            given = {"agent_hash": "0123456789abcdef", "key_hash": "a" * 64, "name": None, "card": None,
                     "seen_at": "2026-05-10T08:00:00.000Z"}  # fmt: skip
            found = await store.call("get_or_create_agent", given)
            assert (found["agent"]["id"], found["is_new"]) == ("smolt-01234567", False)


class TestAtOnce:
    @pytest.mark.parametrize("runners", [2, 4])
    async def test_each_file_is_applied_by_one_of_them(self, database: Database, runners: int) -> None:
        runs = await asyncio.gather(*(database.migrate() for _ in range(runners)))
        for ran in runs:
            assert_done(ran)
            assert ran.applied or ran.out == "nothing to apply\n"
        assert sorted(name for ran in runs for name in ran.applied) == database.names
        assert await database.applied() == database.names

    async def test_one_killed_while_another_waits(self, database: Database) -> None:
        killed, waiting = database.start(), database.start()
        await has_begun(database)
        killed.send_signal(signal.SIGKILL)
        assert_done(await ended(waiting))
        await ended(killed)
        assert await database.applied() == database.names


async def has_begun(database: Database) -> None:
    """Return once a runner is at the database."""
    connections = "SELECT 1 FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()"
    deadline = time.monotonic() + 30
    if database.kind == "sqlite":
        while not database.path.exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        return
    address, _, name = database.url.rpartition("/")
    async with connected(f"{address}/postgres") as admin:
        while not await admin.fetch(connections.format(name)):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)


@pytest.mark.alone
@pytest.mark.proof
class TestKilled:
    async def test_at_random_moments_and_finished_by_the_next(
        self, request: pytest.FixtureRequest, database: Database, tmp_path: Path
    ) -> None:
        process = database.start()
        await has_begun(database)
        began = time.monotonic()
        assert_done(await ended(process))
        longest, whole = time.monotonic() - began, await database.shape()

        chance, rounds, midway = random.Random(8), scaled(6, 60), 0
        for number in range(rounds):
            fresh = Database(database.kind, f"sqlite:///{tmp_path}/{number}.db", tmp_path)
            async with fresh_url(request, fresh) as fresh.url:
                process = fresh.start()
                await has_begun(fresh)
                await asyncio.sleep(chance.uniform(0, longest))
                process.send_signal(signal.SIGKILL)
                ran = await ended(process)
                midway += ran.code == -signal.SIGKILL
                left = await fresh.applied()
                assert left == fresh.names[: len(left)], "files are applied in order"
                ran = await fresh.migrate()
                assert_done(ran)
                assert ran.applied == fresh.names[len(fresh.names) - len(ran.applied) :]
                assert len(ran.applied) <= len(fresh.names) - len(left), "none is applied twice"
                assert await fresh.shape() == whole, "as if nothing had happened"
        assert midway > 0
        figure(f"{database.kind}: migrate killed", f"{midway} of {rounds} midway, each finished by the next run")


def fresh_url(request: pytest.FixtureRequest, fresh: Database) -> AbstractAsyncContextManager[str]:
    """The URL of another empty database."""
    if fresh.kind == "sqlite":
        return nullcontext(fresh.url)
    server: PostgresServer = request.getfixturevalue("postgres_service")
    return new_database(server.url)


class TestLate:
    @pytest.mark.proof
    async def test_a_server_that_comes_late(self, tmp_path: Path) -> None:
        late_s = scaled(4, 30)
        port = free_port()
        late = Database("postgres", f"postgresql://postgres@127.0.0.1:{port}/postgres", tmp_path)
        with ExitStack() as stack:
            # Its data lies where its user may enter.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.chmod(0o755)
            with postgres_server(folder, port=port):
                pass  # so that afterwards it starts at once
            began = time.monotonic()
            process = late.start()
            await asyncio.sleep(late_s)
            assert process.poll() is None, "it waits"
            await asyncio.to_thread(stack.enter_context, postgres_server(folder, port=port))
            ran = await ended(process)
            seconds = time.monotonic() - began
            assert_done(ran)
            assert ran.applied == late.names
        figure(f"migrate with PostgreSQL started {late_s} s late", f"applied after {seconds:.1f} s")

    async def test_a_server_that_is_starting_up(self, postgres_service: PostgresServer, tmp_path: Path) -> None:
        async with new_database(postgres_service.url) as url, starting_server(postgres_service.port, 3) as front:
            database = Database("postgres", url.replace(str(postgres_service.port), str(front.port)), tmp_path)
            ran = await database.migrate()
            assert_done(ran)
            assert ran.applied == database.names
            assert front.refused == 3

    async def test_one_that_starts_for_ever(self, tmp_path: Path) -> None:
        async with starting_server(0, 1_000_000) as front:
            url = f"postgresql://postgres:the-secret@127.0.0.1:{front.port}/postgres"
            began = time.monotonic()
            ran = await Database("postgres", url, tmp_path).migrate("--wait", "1")
            assert time.monotonic() - began < 10
        assert front.refused > 1
        assert (ran.code, ran.out) == (1, "")
        assert ran.err == "Error: PostgreSQL cannot be used (CannotConnectNowError, 57P03): try again\n"

    async def test_one_that_hangs_meanwhile(self, tmp_path: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o755)
            with postgres_server(Path(name)) as server:
                database = Database("postgres", server.url, tmp_path)
                async with connected(server.url) as other, other.transaction():
                    # A runner that is at work for long.
                    await other.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
                    process = database.start("--wait", "2")
                    while not await other.fetch("SELECT 1 FROM pg_locks WHERE NOT granted"):
                        assert process.poll() is None
                        await asyncio.sleep(0.01)
                    server.pause()
                    ran = await ended(process)
                    server.resume()
                assert (ran.code, ran.out) == (1, "")
                assert ran.err == "Error: the connection to PostgreSQL broke (InterfaceError): try again\n"
                assert await database.is_empty()
