"""Many writers in several processes extend one log, some of them killed: no fork, no gap, no duplicate, no loss."""

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
from typing import Any
from uuid import uuid4

import pytest

import smoltbot_records_postgres
import smoltbot_records_sqlite
from smoltbot_worker.ports import RecordStore
from smoltbot_worker.testing.records_area import new_agent
from smoltbot_worker.testing.samples import digest
from tests.scale import figure, scaled
from tests.services.postgres import PostgresServer

ROOT = Path(__file__).parents[2]
PROCESSES = 4
ENVIRON = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"}
LEAST_PER_SECOND = 300

pytestmark = [pytest.mark.alone, pytest.mark.proof]

Rows = list[dict[str, Any]]


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

    async def rows(self) -> Rows:
        """The whole log in its order."""
        rows: Rows = []
        while True:
            after = rows[-1]["merkle_leaf_index"] if rows else None
            page: Any = await self.store.call(
                "checkpoints", {"agent_id": self.agent_id, "after_index": after, "limit": 1000}
            )
            if not page:
                return rows
            rows += page


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
        yield Log(request.param, url, store, await new_agent(store), tmp_path)


def assert_linear(rows: Rows) -> None:
    """Every leaf index once and in line, every chain without fork or gap."""
    assert [row["merkle_leaf_index"] for row in rows] == list(range(len(rows)))
    ends: dict[str, tuple[str | None, int]] = {}
    for row in rows:
        previous, position = ends.get(row["session_id"], (None, -1))
        assert (row["prev_chain_hash"], row["chain_position"]) == (previous, position + 1), "a chain forked"
        assert row["chain_hash"] == digest("chain", previous, row["checkpoint_id"])
        ends[row["session_id"]] = (row["chain_hash"], position + 1)
    assert len({row["request_id"] for row in rows}) == len(rows)


def tree_of(rows: Rows) -> dict[tuple[int, int], str]:
    """Every complete subtree of the log's leaves."""
    nodes = {(0, index): row["merkle_leaf_hash"] for index, row in enumerate(rows)}
    count, level = len(rows), 0
    while count > 1:
        count, level = count // 2, level + 1
        for index in range(count):
            nodes[level, index] = digest(nodes[level - 1, 2 * index], nodes[level - 1, 2 * index + 1])
    return nodes


async def assert_tree_is_whole(log: Log, rows: Rows) -> None:
    """The stored nodes are those of the leaves, and the head is that of the log."""
    expected = tree_of(rows)
    places: list[Any] = [list(place) for place in expected]
    for start in range(0, len(places), 5000):
        wanted = places[start : start + 5000]
        found: Any = await log.store.call("merkle_nodes", {"agent_id": log.agent_id, "wanted": wanted})
        assert found == [[*place, expected[place[0], place[1]]] for place in wanted]
    head: Any = await log.store.call("log_head", {"agent_id": log.agent_id, "sessions": []})
    heads: Any = await log.store.call("signed_heads", {"agent_id": log.agent_id, "limit": 1})
    assert head["size"] == heads[0]["size"] == len(rows)
    assert head["root"] == heads[0]["root"]


async def test_a_hundred_writers_in_four_processes(log: Log) -> None:
    writers, appends = 100, scaled(20, 100)
    processes = [log.start(writers // PROCESSES, appends) for _ in range(PROCESSES)]
    began = time.monotonic()
    for process in processes:
        go(process)
    codes = [await asyncio.to_thread(ended, process) for process in processes]
    seconds = time.monotonic() - began
    assert codes == [0] * PROCESSES
    rows = await log.rows()
    assert len(rows) == writers * appends
    assert_linear(rows)
    assert sorted(row["request_id"] for row in rows) == sorted(log.acknowledged())
    await assert_tree_is_whole(log, rows)
    heads: Any = await log.store.call("signed_heads", {"agent_id": log.agent_id, "limit": 1000})
    figure(
        f"{log.name}: {writers} writers x {appends} appends from {PROCESSES} processes",
        f"{len(rows)} leaves, 0 forks, {len(rows) / seconds:.0f} appends/s in {len(heads)} batches",
    )
    assert len(rows) / seconds >= LEAST_PER_SECOND


async def test_killed_at_random_moments(log: Log) -> None:
    chance, kills = random.Random(11), scaled(8, 100)
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
    rows = await log.rows()
    assert_linear(rows)
    acknowledged = log.acknowledged()
    assert len(acknowledged) == len(set(acknowledged)) > 30
    lost = set(acknowledged) - {row["request_id"] for row in rows}
    assert lost == set()
    await assert_tree_is_whole(log, rows)
    figure(
        f"{log.name}: {kills} kill -9 during appends",
        f"{len(acknowledged)} acknowledged, 0 lost, 0 twice, {len(rows) - len(acknowledged)} more were stored",
    )
