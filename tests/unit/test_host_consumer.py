"""The host's consumer: how long it holds an exchange, that it hears of pushes at once, and that it ends in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from smoltbot_host import consumer
from smoltbot_host.queue import Stores
from smoltbot_worker import observer
from tests.gateway.support import Gateway
from worker_compat.consumer import WakingQueueStore
from worker_compat.errors import StoreUnavailable
from worker_compat.memory import MemoryQueueStore
from worker_compat.queues import MessageBatch, Queue


class Events:
    """A runtime that gives batches to ``handle`` instead of the observer; ``seen`` has their bodies."""

    def __init__(self, handle: Callable[[MessageBatch], Awaitable[None]] | None = None) -> None:
        self.seen: list[Any] = []
        self._handle = handle

    async def queue(self, entrypoint: type, env: Any, batch: MessageBatch) -> None:
        assert entrypoint is observer.Default
        self.seen += [message.body for message in batch.messages]
        if self._handle is not None:
            await self._handle(batch)


class World:
    """A consumer over queues in memory."""

    def __init__(self, events: Events, **variables: str) -> None:
        self.events = events
        self.gateway = Gateway(None, **variables)
        self.memory = MemoryQueueStore()
        self.queue, self.dead = WakingQueueStore(self.memory), MemoryQueueStore()
        self.stores = Stores(self.gateway.records, self.queue, self.dead)
        self.begin()

    def begin(self) -> None:
        runtime: Any = self.events
        self.task = asyncio.create_task(consumer.consume(runtime, self.gateway.env, self.stores))

    async def send(self, *texts: str) -> None:
        await Queue(self.queue).sendBatch([{"body": text} for text in texts])

    async def until_seen(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.events.seen) < count:
                await asyncio.sleep(0.005)

    async def end(self) -> float:
        """Cancel it; how long its end took."""
        began = time.monotonic()
        self.task.cancel()
        await asyncio.wait({self.task})
        assert self.task.cancelled()
        return time.monotonic() - began


@pytest.mark.parametrize(
    ("variables", "lease_s"),
    [
        ({}, 120),
        ({"OBSERVER_BATCH": "1"}, 30),
        ({"OBSERVER_BATCH": "16"}, 30),
        ({"OBSERVER_BATCH": "17"}, 60),
        ({"OBSERVER_BATCH": "100", "ANALYSIS_TIMEOUT_MS": "600000"}, 4340),
    ],
)
def test_a_lease_is_as_long_as_a_batch_may_take(variables: dict[str, str], lease_s: int) -> None:
    settings = consumer._settings(Gateway(None, **variables).env)
    assert settings.lease_s == lease_s


def test_its_settings_are_those_of_the_variables() -> None:
    settings = consumer._settings(Gateway(OBSERVER_BATCH="7", OBSERVER_MAX_ATTEMPTS="3").env)
    assert (settings.max_batch_size, settings.max_retries, settings.retry_delay_s) == (7, 2, 2)
    assert (settings.queue, settings.dead_letter_queue) == ("exchanges", "exchanges-dead")


async def test_a_push_of_this_process_is_heard_at_once() -> None:
    world = World(Events())
    await asyncio.sleep(2.5)  # by now it looks once a second only
    began = time.monotonic()
    await world.send("now")
    await world.until_seen(1)
    assert time.monotonic() - began < 0.4
    await world.end()
    assert (await world.memory.depth()).leased == 0


async def test_it_ends_with_what_it_has_begun() -> None:
    async def handle(_: MessageBatch) -> None:
        await asyncio.sleep(0.3)

    world = World(Events(handle), DRAIN_TIMEOUT_S="5")
    await world.send("begun")
    await world.until_seen(1)
    ending = asyncio.create_task(world.end())
    await asyncio.sleep(0.05)
    await world.send("too late")
    assert 0.1 < await ending < 2
    depth = await world.memory.depth()
    assert (depth.waiting, depth.leased, world.events.seen) == (1, 0, ["begun"])


async def test_it_ends_within_its_time_and_gives_back_what_is_not_done() -> None:
    async def handle(batch: MessageBatch) -> None:
        batch.messages[0].ack()
        await asyncio.sleep(60)

    world = World(Events(handle), DRAIN_TIMEOUT_S="0.2")
    await world.send("done", "not done")
    await world.until_seen(2)
    assert await world.end() < 2
    depth = await world.memory.depth()
    assert (depth.waiting, depth.leased) == (1, 0)


async def test_poison_ends_in_the_dead_letters() -> None:
    async def handle(batch: MessageBatch) -> None:
        batch.retryAll(delaySeconds=0)

    world = World(Events(handle), OBSERVER_MAX_ATTEMPTS="3")
    await world.send("poison")
    await world.until_seen(3)
    async with asyncio.timeout(5):
        while not (await world.dead.depth()).waiting:
            await asyncio.sleep(0.01)
    await world.end()
    assert world.events.seen == ["poison"] * 3


async def test_an_outage_is_waited_out() -> None:
    world = World(Events())
    claim = world.memory.claim

    async def away(limit: int, lease_s: int) -> Any:
        raise StoreUnavailable("away")

    world.memory.claim = away  # type: ignore[method-assign]
    await world.send("later")
    await asyncio.sleep(0.2)
    assert world.events.seen == []
    world.memory.claim = claim  # type: ignore[method-assign]
    await world.until_seen(1)
    await world.end()


async def test_begun_again_after_a_defect_it_hears_of_pushes() -> None:
    world = World(Events())
    claim = world.memory.claim

    async def defect(limit: int, lease_s: int) -> Any:
        raise RuntimeError("a defect of the store")

    world.memory.claim = defect  # type: ignore[method-assign]
    await asyncio.wait({world.task})
    assert str(world.task.exception()) == "a defect of the store"
    world.memory.claim = claim  # type: ignore[method-assign]
    world.begin()
    await world.send("x")
    await world.until_seen(1)
    assert len(world.queue.on_push) == 1
    await world.end()
