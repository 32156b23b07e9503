"""The queue in a SQLite file: many processes, messages that return, ids, and that its cost does not grow."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from worker_compat.errors import ConfigError
from worker_compat.ports import QueueDepth, QueueStore
from worker_compat.testing import FakeClock
from worker_compat_sqlite import SqliteQueueStore, SqliteWriter, open_queue, open_writer

REPO = Path(__file__).parents[2]
ENVIRON = {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{REPO / 'adapters'}"}

CONSUMER = """
import asyncio, sys
from worker_compat.registry import open_queue

async def main():
    async with open_queue(sys.argv[1]) as queue:
        while claimed := await queue.claim(7, 300):
            for message in claimed:
                print(message.body.decode(), flush=True)
            if sys.argv[2] == "hold":
                sys.stdin.readline()
            await queue.ack([message.id for message in claimed])

asyncio.run(main())
"""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
async def writer(path: Path) -> AsyncIterator[SqliteWriter]:
    async with open_writer(path, create=True) as writer:
        yield writer


@pytest.fixture
def queue(writer: SqliteWriter, clock: FakeClock) -> SqliteQueueStore:
    return SqliteQueueStore(writer, "jobs", clock=clock)


def consumer(path: Path, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CONSUMER, f"sqlite:///{path}?queue=jobs", how]
    return subprocess.Popen(command, env=ENVIRON, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("options", ["?namespace=a", "?queue=", "?queue=a&queue=b", "?queue=a&x=1", "?queue"])
async def test_the_one_option_is_the_queue(path: Path, options: str) -> None:
    with pytest.raises(ConfigError, match="queue=NAME"):
        async with open_queue(f"sqlite:///{path}{options}"):
            pass


async def test_queues_of_one_file_are_apart_and_survive_closing(path: Path) -> None:
    async with open_queue(f"sqlite:///{path}") as default, open_queue(f"sqlite:///{path}?queue=other") as other:
        assert isinstance(default, QueueStore)
        await default.push([b"\x00", b""], 0)
        assert await other.claim(10, 30) == []
        assert await other.depth() == QueueDepth(0, 0, 0.0)
    async with open_queue(f"sqlite:///{path}?queue=default") as again:
        assert [message.body for message in await again.claim(10, 30)] == [b"\x00", b""]


async def test_an_empty_file_has_an_empty_queue(queue: SqliteQueueStore) -> None:
    assert await queue.depth() == QueueDepth(0, 0, 0.0)
    assert await queue.claim(10, 30) == []
    await queue.push([], 0)
    assert await queue.depth() == QueueDepth(0, 0, 0.0)


async def test_an_id_never_belongs_to_another_message(path: Path) -> None:
    seen: list[str] = []
    for _ in range(3):
        async with open_queue(f"sqlite:///{path}") as queue:
            await queue.push([b"m"], 0)
            (message,) = await queue.claim(10, 30)
            await queue.ack([message.id])
            seen.append(message.id)
    assert len(set(seen)) == 3


async def test_ids_of_strangers_change_nothing(queue: SqliteQueueStore, writer: SqliteWriter) -> None:
    await queue.push([b"m"], 0)
    (message,) = await queue.claim(10, 30)
    others = ["", "x", f"{message.id}x", "-1", "0", "9" * 18, "9" * 40, "\u0661", f" {message.id}"]
    await queue.ack(others)
    await queue.release(others, 0)
    other = SqliteQueueStore(writer, "other")
    await other.ack([message.id])
    assert (await queue.depth()).leased == 1
    await queue.ack([*others, message.id, message.id])
    assert await queue.depth() == QueueDepth(0, 0, 0.0)


async def test_only_the_holder_gives_a_message_back(
    queue: SqliteQueueStore, writer: SqliteWriter, clock: FakeClock
) -> None:
    slow = SqliteQueueStore(writer, "jobs", clock=clock)
    await queue.push([b"m"], 0)
    (message,) = await slow.claim(1, 10)
    clock.advance(10)
    (again,) = await queue.claim(1, 10)
    assert (again.id, again.attempts) == (message.id, 2)
    await slow.release([message.id], 0)
    assert await slow.claim(1, 10) == [], "the lease of the other still runs"
    await queue.release([message.id], 0)
    assert [message.attempts for message in await slow.claim(1, 10)] == [3]


async def test_a_push_is_taken_whole_or_not_at_all(queue: SqliteQueueStore) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        await queue.push([b"good", "no bytes"], 0)  # type: ignore[list-item]
    await queue.push([b"after"], 0)
    assert [message.body for message in await queue.claim(10, 30)] == [b"after"]


async def test_processes_that_claim_at_once_share_the_messages(path: Path, queue: SqliteQueueStore) -> None:
    bodies = [str(number) for number in range(700)]
    now = SqliteQueueStore(queue._tables._writer, "jobs")
    await now.push([body.encode() for body in bodies], 0)
    consumers = [consumer(path, "go") for _ in range(2)]
    taken = [process.communicate(timeout=60)[0].split() for process in consumers]
    assert [process.returncode for process in consumers] == [0, 0]
    assert sorted(taken[0] + taken[1], key=int) == bodies, "each once, none lost"
    assert await now.depth() == QueueDepth(0, 0, 0.0)


async def test_a_killed_consumer_gives_its_messages_back_after_the_lease(path: Path) -> None:
    clock = FakeClock(time.time())
    async with open_queue(f"sqlite:///{path}?queue=jobs", clock=clock) as queue:
        await queue.push([b"m"], 0)
        process = consumer(path, "hold")
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "m\n"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        clock.now = time.time()
        assert await queue.claim(1, 30) == []
        assert (await queue.depth()).leased == 1
        clock.advance(300)
        assert (await queue.depth()).waiting == 1
        assert [(message.body, message.attempts) for message in await queue.claim(1, 30)] == [(b"m", 2)]


async def test_no_call_but_depth_looks_at_every_message(queue: SqliteQueueStore, path: Path) -> None:
    from worker_compat_sqlite import queue as module

    await queue.push([b"m"], 0)
    given = {"queue": "jobs", "holder": "h", "now": 1.0, "until": 2.0, "due": 2.0, "most": 1, "ids": "[]"}
    with closing(sqlite3.connect(path)) as connection:
        for statement in (module._ACK, module._RELEASE, module._CLAIM):
            steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)]
            used = [step for step in steps if "worker_compat_queue" in step]
            assert used[0].endswith("USING INTEGER PRIMARY KEY (rowid=?)"), steps
            assert all("(queue=? AND due<?)" in step for step in used[1:]), steps
