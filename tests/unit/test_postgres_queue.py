"""The queue in a PostgreSQL table: many that claim at once, messages that return, ids, and its plans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import asyncpg
import pytest

from tests.services.postgres import PostgresServer
from worker_compat.errors import StoreUnavailable
from worker_compat.ports import QueueDepth
from worker_compat.registry import open_queue
from worker_compat.testing import FakeClock
from worker_compat_postgres import PostgresPool, PostgresQueueStore, open_pool, store_settings
from worker_compat_postgres.queue import _ACK, _CLAIM, _RELEASE


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def name() -> str:
    return uuid4().hex


@pytest.fixture
async def pool(postgres_service: PostgresServer) -> AsyncIterator[PostgresPool]:
    settings, _ = store_settings(postgres_service.url, "queue")
    async with open_pool(settings) as pool:
        yield pool


@pytest.fixture
def queue(pool: PostgresPool, name: str, clock: FakeClock) -> PostgresQueueStore:
    return PostgresQueueStore(pool, name, clock=clock)


async def test_ids_of_strangers_change_nothing(queue: PostgresQueueStore, pool: PostgresPool) -> None:
    await queue.push([b"m"], 0)
    (message,) = await queue.claim(10, 30)
    others = ["", "x", f"{message.id}x", "-1", "0", "9" * 18, "9" * 40, "\u0661", f" {message.id}"]
    await queue.ack(others)
    await queue.release(others, 0)
    await PostgresQueueStore(pool, uuid4().hex).ack([message.id])
    assert (await queue.depth()).leased == 1
    await queue.ack([*others, message.id, message.id])
    assert await queue.depth() == QueueDepth(0, 0, 0.0)


async def test_only_the_holder_gives_a_message_back(
    queue: PostgresQueueStore, pool: PostgresPool, name: str, clock: FakeClock
) -> None:
    slow = PostgresQueueStore(pool, name, clock=clock)
    await queue.push([b"m"], 0)
    (message,) = await slow.claim(1, 10)
    clock.advance(10)
    (again,) = await queue.claim(1, 10)
    assert (again.id, again.attempts) == (message.id, 2)
    await slow.release([message.id], 0)
    assert await slow.claim(1, 10) == [], "the lease of the other still runs"
    await queue.release([message.id], 0)
    assert [message.attempts for message in await slow.claim(1, 10)] == [3]


async def test_a_push_is_taken_whole_or_not_at_all(queue: PostgresQueueStore) -> None:
    with pytest.raises(StoreUnavailable, match=r"22000.*a value that its column cannot hold"):
        await queue.push([b"good", "no bytes"], 0)  # type: ignore[list-item]
    await queue.push([b"after"], 0)
    assert [message.body for message in await queue.claim(10, 30)] == [b"after"]


async def test_many_that_claim_at_once_share_the_messages(postgres_service: PostgresServer, name: str) -> None:
    bodies = [b"%03d" % number for number in range(300)]
    taken: list[bytes] = []
    async with AsyncExitStack() as stack:
        url = f"{postgres_service.url}?queue={name}"
        queues = [await stack.enter_async_context(open_queue(url)) for _ in range(3)]

        async def consume(number: int) -> None:
            queue = queues[number % len(queues)]
            while len(taken) < len(bodies):
                claimed = await queue.claim(7, 300)
                taken.extend(message.body for message in claimed)
                await queue.ack([message.id for message in claimed])

        await queues[0].push(bodies, 0)
        async with asyncio.timeout(30):
            await asyncio.gather(*map(consume, range(12)))
        assert sorted(taken) == bodies, "each once, none lost"
        assert await queues[0].depth() == QueueDepth(0, 0, 0.0)


async def test_a_claim_does_not_wait_for_another(
    queue: PostgresQueueStore, name: str, postgres_service: PostgresServer
) -> None:
    await queue.push([b"first", b"second"], 0)
    other = await asyncpg.connect(postgres_service.url)
    try:
        async with other.transaction():
            await other.execute("SELECT FROM worker_compat_queue WHERE queue = $1 ORDER BY id LIMIT 1 FOR UPDATE", name)
            assert [message.body for message in await queue.claim(10, 30)] == [b"second"]
    finally:
        await other.close()
    assert [message.body for message in await queue.claim(10, 30)] == [b"first"]


async def test_no_call_but_depth_looks_at_every_message(queue: PostgresQueueStore, pool: PostgresPool) -> None:
    """Whatever the statistics say: here, that the table is nearly empty."""
    await queue.push([b"m"], 0)
    for statement, arguments in (
        (_ACK, ("q", [1, 2])),
        (_RELEASE, ("q", [1, 2], 2.0, "h", 1.0)),
        (_CLAIM, ("q", 1.0, 2.0, "h", 10)),
    ):
        plan = [row[0] for row in await pool.fetch(f"EXPLAIN (COSTS OFF) {statement}", *arguments)]
        assert not [step for step in plan if "Sort" in step or "Seq Scan" in step or "Bitmap" in step], plan
        used = {step.split(" using ")[1].split()[0] for step in plan if " using " in step}
        due = {"worker_compat_queue_due"} if statement is _CLAIM else set()
        assert used == {"worker_compat_queue_pkey"} | due, plan
