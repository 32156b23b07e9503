"""Many writers in several processes extend one log, some of them killed: no fork, gap, duplicate or loss."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import pytest

import smoltbot_records_postgres
import smoltbot_records_sqlite
from smoltbot_worker.ports import RecordStore
from tests.faults.evidence import new_signed_agent, request_ids, verified
from tests.scale import figure, scaled
from tests.services.postgres import PostgresServer

ROOT = Path(__file__).parents[2]
PROCESSES = 4
ENVIRON = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"}
LEAST_PER_SECOND = 300

pytestmark = [pytest.mark.alone, pytest.mark.proof]


@dataclass
class Log:
    """One agent's log in a database, and the processes that extend it."""

    name: str
    url: str
    store: RecordStore
    agent_id: str
    folder: Path

    def start(self, writers: int, appends: int) -> subprocess.Popen[str]:
        """A process with so many writers, connected and waiting for a line."""
        name = uuid4().hex[:6] + str(random.randrange(4))
        arguments = [self.url, self.agent_id, name, str(writers), str(appends), str(self.folder / f"{name}.ids")]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.append_process", *arguments],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRON,
        )  # fmt: skip
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    def acknowledged(self) -> list[str]:
        """The request ids that writers saw appended."""
        return [line for path in self.folder.glob("*.ids") for line in path.read_text().split()]


def go(process: subprocess.Popen[str]) -> None:
    """Let a waiting process begin."""
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def ended(process: subprocess.Popen[str]) -> int:
    """The exit code, once it has ended by itself or was killed."""
    process.communicate(timeout=240)
    return process.returncode


@pytest.fixture(params=["sqlite", "postgres"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    """An empty log in each database."""
    adapter: ModuleType = smoltbot_records_sqlite
    url = f"sqlite:///{tmp_path}/records.db"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_service")
        adapter, url = smoltbot_records_postgres, f"{server.url}?connect_timeout=10&command_timeout=20"
    await adapter.migrate(url, ROOT / "schema" / request.param)
    opened: Callable[[str], AbstractAsyncContextManager[RecordStore]] = adapter.open_records
    async with opened(url) as store:
        yield Log(request.param, url, store, await new_signed_agent(store), tmp_path)


async def test_a_hundred_writers_in_four_processes(log: Log) -> None:
    writers, appends = 100, scaled(15, 100)
    processes = [log.start(writers // PROCESSES, appends) for _ in range(PROCESSES)]
    began = time.monotonic()
    for process in processes:
        go(process)
    codes = [await asyncio.to_thread(ended, process) for process in processes]
    seconds = time.monotonic() - began
    assert codes == [0] * PROCESSES
    bundle = await verified(log.store, log.agent_id)
    appended = request_ids(bundle)
    assert len(appended) == writers * appends
    assert sorted(appended) == sorted(log.acknowledged())
    figure(
        f"{log.name}: {writers} writers x {appends} appends from {PROCESSES} processes",
        f"{len(appended)} leaves, 0 forks, all proofs verify, {len(appended) / seconds:.0f} appends/s "
        f"in {len(bundle['heads'])} batches",
    )
    assert len(appended) / seconds >= LEAST_PER_SECOND


async def test_killed_at_random_moments(log: Log) -> None:
    chance, kills = random.Random(11), scaled(6, 100)
    for _ in range(kills // 2):
        pair = [log.start(10, 100_000), log.start(10, 100_000)]
        for process in pair:
            go(process)
        for process in pair:
            await asyncio.sleep(chance.uniform(0.02, 0.25))
            process.kill()
            assert ended(process) == -signal.SIGKILL
    process = log.start(10, 3)
    go(process)
    assert await asyncio.to_thread(ended, process) == 0
    appended = request_ids(await verified(log.store, log.agent_id))
    acknowledged = log.acknowledged()
    assert len(acknowledged) == len(set(acknowledged)) > 30
    assert set(acknowledged) - set(appended) == set(), "acknowledged, and lost"
    assert len(appended) == len(set(appended))
    figure(
        f"{log.name}: {kills} kill -9 during appends",
        f"{len(acknowledged)} acknowledged, 0 lost, 0 twice, {len(appended) - len(acknowledged)} more were stored, "
        "all proofs verify",
    )
