"""Appends while the database fails under them: what was acknowledged is there once, what was not is brought again."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

import smoltbot_records_postgres
import smoltbot_records_sqlite
from smoltbot_worker.attestation.log import CheckpointLog
from smoltbot_worker.ports import RecordStore
from tests.faults.evidence import append_surely, fresh, new_signed_agent, request_ids, verified
from tests.scale import figure, scaled
from tests.services.cutting_proxy import cutting_proxy
from tests.services.postgres import PostgresServer, postgres_server
from tests.services.process import free_port, wait_for
from tests.unit.attestation_support import CRYPTO

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "schema"
ENVIRON = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"}
PATIENCE = "connect_timeout=2&command_timeout=5"

pytestmark = [pytest.mark.alone, pytest.mark.proof]


@dataclass
class Writers:
    """Writers of one agent's log that go on through failures."""

    agent_id: str
    acknowledged: list[str] = field(default_factory=list)
    found_stored: int = 0
    """How many were stored by a call whose answer was lost."""
    stopping: bool = False

    async def write(self, log: CheckpointLog, session_id: str) -> None:
        """Append until told to stop; an entry that was begun is brought until it is acknowledged."""
        while not self.stopping:
            entry = fresh(session_id)
            stored_now = await append_surely(log, self.agent_id, entry)
            self.found_stored += not stored_now
            self.acknowledged.append(entry.request_id)

    @asynccontextmanager
    async def at_work(self, url: str, count: int = 8) -> AsyncIterator[None]:
        """Two openings of the database with writers each; at exit every writer has finished its entry."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            for _ in range(2):
                store = await stack.enter_async_context(smoltbot_records_postgres.open_records(url))
                log = CheckpointLog(store, CRYPTO)
                for number in range(count):
                    group.create_task(self.write(log, f"session-{number}"))
            try:
                yield
            finally:
                self.stopping = True

    async def more_than(self, count: int) -> None:
        """Wait until so many were acknowledged."""
        async with asyncio.timeout(60):
            while len(self.acknowledged) <= count:
                await asyncio.sleep(0.005)

    async def assert_all_there(self, store: RecordStore) -> None:
        """The log holds what was acknowledged, each once and nothing else, and all of it verifies."""
        appended = request_ids(await verified(store, self.agent_id))
        assert sorted(appended) == sorted(self.acknowledged)


@asynccontextmanager
async def empty_log(url: str) -> AsyncIterator[tuple[RecordStore, Writers]]:
    """A migrated PostgreSQL, and writers of an empty log in it."""
    await smoltbot_records_postgres.migrate(url, SCHEMA / "postgres")
    async with smoltbot_records_postgres.open_records(f"{url}?connect_timeout=10&command_timeout=20") as store:
        yield store, Writers(await new_signed_agent(store))


@pytest.mark.parametrize(
    ("options", "answer"), [("prepared=on", b'"appended"'), ("prepared=off", b"COMMIT\0")], ids=["prepared", "pooled"]
)
async def test_a_connection_cut_after_the_commit(postgres_service: PostgresServer, options: str, answer: bytes) -> None:
    """The server sends ``answer`` after a commit, and it gets lost: bringing the entry again finds it stored."""
    cuts, made, chance = scaled(30, 500), 0, random.Random(5)

    def cut_at(data: bytes) -> bool:
        nonlocal made
        cut = answer in data and made < cuts and chance.random() < 0.5
        made += cut
        return cut

    async with empty_log(postgres_service.url) as (store, writers):
        async with cutting_proxy(postgres_service.port, cut_at) as port:
            url = postgres_service.url.replace(f":{postgres_service.port}/", f":{port}/")
            async with writers.at_work(f"{url}?{PATIENCE}&{options}"):
                async with asyncio.timeout(120):
                    while made < cuts:
                        await asyncio.sleep(0.005)
                await writers.more_than(len(writers.acknowledged) + 20)
        await writers.assert_all_there(store)
    assert writers.found_stored >= (cuts if answer == b'"appended"' else 1)
    figure(
        f"PostgreSQL, {options}: {cuts} connections cut after COMMIT was sent, before its answer",
        f"{len(writers.acknowledged)} acknowledged, {writers.found_stored} of them found stored when brought again; "
        "0 lost, 0 twice",
    )


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


async def test_postgres_killed_during_appends(own_folder: Path) -> None:
    """By turns one process that serves a client, after which PostgreSQL recovers by itself, and the whole server."""
    chance, kills, port = random.Random(6), scaled(6, 60), free_port()
    with postgres_server(own_folder, port=port) as server:
        async with empty_log(server.url) as (_, writers):
            url = server.url
    with ExitStack() as servers:
        async with writers.at_work(f"{url}?{PATIENCE}"):
            for _ in range(kills // 2):
                server = await asyncio.to_thread(servers.enter_context, postgres_server(own_folder, port=port))
                for kill in (server.kill_backend, server.kill):
                    await writers.more_than(len(writers.acknowledged) + 20)
                    await asyncio.sleep(chance.uniform(0, 0.05))
                    await asyncio.to_thread(kill)
            await asyncio.to_thread(servers.enter_context, postgres_server(own_folder, port=port))
            await writers.more_than(len(writers.acknowledged) + 20)
        async with smoltbot_records_postgres.open_records(url) as store:
            await writers.assert_all_there(store)
    figure(
        f"PostgreSQL: {kills} kill -9 of the server or of one of its processes during appends",
        f"{len(writers.acknowledged)} acknowledged, {writers.found_stored} of them found stored when brought again; "
        "0 lost, 0 twice",
    )


@dataclass(frozen=True)
class Image:
    """A SQLite file and its log of changes as they lay on the disk, and what had been acknowledged by then."""

    file: Path
    acknowledged: set[str]

    async def entries(self, agent_id: str) -> list[str]:
        """The request ids in the log that opens from it, after every proof was checked."""
        with closing(sqlite3.connect(self.file)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        async with smoltbot_records_sqlite.open_records(f"sqlite:///{self.file}") as store:
            return request_ids(await verified(store, agent_id))


def image_of(process: psutil.Process, database: Path, ids: Path, folder: Path) -> Image:
    """What a crash at this moment would leave: the process is held still while its files are copied."""
    process.suspend()
    assert wait_for(lambda: process.status() == psutil.STATUS_STOPPED, 5)
    folder.mkdir()
    for file in (database, database.with_name(f"{database.name}-wal")):
        shutil.copy(file, folder / file.name)
    acknowledged = set(ids.read_text().split())
    process.resume()
    return Image(folder / database.name, acknowledged)


async def test_a_sqlite_file_as_a_crash_leaves_it(tmp_path: Path) -> None:
    database, ids, chance = tmp_path / "records.db", tmp_path / "acknowledged.ids", random.Random(8)
    url = f"sqlite:///{database}"
    await smoltbot_records_sqlite.migrate(url, SCHEMA / "sqlite")
    async with smoltbot_records_sqlite.open_records(url) as store:
        agent_id = await new_signed_agent(store)
        arguments = [url, agent_id, "writer-0", "10", "1000000", str(ids)]
        with started("tests.faults.append_process", *arguments) as process:
            assert wait_for(ids.exists, 10)
            images = []
            for number in range(scaled(8, 100)):
                await asyncio.sleep(chance.uniform(0.02, 0.25))
                images.append(image_of(psutil.Process(process.pid), database, ids, tmp_path / f"image-{number}"))
        last = request_ids(await verified(store, agent_id))
    for image in images:
        entries = await image.entries(agent_id)
        assert entries == last[: len(entries)], "not the beginning of the log"
        assert image.acknowledged <= set(entries), "acknowledged, and lost"
    figure(
        f"SQLite: {len(images)} images of the files at random moments of appends",
        f"each has a beginning of the log of {len(last)} entries with all acknowledged ones; all proofs verify",
    )


@contextmanager
def started(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the tests that was told to begin; killed at exit."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRON,
    )  # fmt: skip
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)
