"""Consumer: batches, verdicts, retries, dead letters, leases, outages, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from worker_compat import Env, MessageBatch, Queue, Runtime, StoreUnavailable, WorkerEntrypoint
from worker_compat.consumer import Consumer, ConsumerSettings, WakingQueueStore
from worker_compat.errors import ConfigError
from worker_compat.memory import MemoryQueueStore
from worker_compat.ports import Claimed, QueueStore
from worker_compat.testing import FakeClock, ScriptedFetcher

LIMIT_S = 10.0


class Outcomes(Counter[str]):
    """What a consumer told, summed."""

    def __call__(self, outcome: str, count: int) -> None:
        self[outcome] += count


class Flaky(MemoryQueueStore):
    """A store whose methods fail while they are named in ``broken``, and that writes down its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[str] = set()
        self.calls: list[str] = []

    def _check(self, name: str) -> None:
        self.calls.append(name)
        if name in self.broken:
            raise StoreUnavailable("scripted")

    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        self._check("push")
        await super().push(bodies, delay_s)

    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        self._check("claim")
        return await super().claim(limit, lease_s)

    async def ack(self, ids: Sequence[str]) -> None:
        self._check("ack")
        await super().ack(ids)

    async def release(self, ids: Sequence[str], delay_s: int) -> None:
        self._check("release")
        await super().release(ids, delay_s)


Handler = Callable[[MessageBatch], Awaitable[None]]


class Seen:
    """A handler that keeps the bodies of each batch and then does what ``then`` says."""

    def __init__(self, then: Handler | None = None) -> None:
        self.batches: list[list[Any]] = []
        self.attempts: list[int] = []
        self._then = then

    async def __call__(self, batch: MessageBatch) -> None:
        self.batches.append([message.body for message in batch.messages])
        self.attempts += [message.attempts for message in batch.messages]
        if self._then is not None:
            await self._then(batch)


def settings(**changes: Any) -> ConsumerSettings:
    return ConsumerSettings("q", **{"max_batch_timeout_s": 0, **changes})


@asynccontextmanager
async def running(
    store: QueueStore, handler: Handler, with_settings: ConsumerSettings | None = None, **more: Any
) -> AsyncIterator[Consumer]:
    """A consumer that runs, and is stopped at the end."""
    consumer = Consumer(store, handler, with_settings or settings(), **more)
    task = asyncio.ensure_future(consumer.run())
    try:
        yield consumer
    finally:
        consumer.stop(1)
        async with asyncio.timeout(LIMIT_S):
            await task


async def until(happened: Callable[[], bool]) -> None:
    """Wait for it."""
    async with asyncio.timeout(LIMIT_S):
        while not happened():
            await asyncio.sleep(0.005)


async def empty(store: QueueStore) -> bool:
    depth = await store.depth()
    return depth.waiting + depth.leased == 0


async def raising(batch: MessageBatch) -> None:
    raise LookupError("scripted")


async def for_ever(batch: MessageBatch) -> None:
    await asyncio.sleep(3600)


async def test_what_returns_is_acknowledged() -> None:
    store, seen, told = MemoryQueueStore(), Seen(), Outcomes()
    await Queue(store).sendBatch([{"body": number} for number in range(25)])
    async with running(store, seen, on_event=told):
        await until(lambda: told["acked"] == 25)
    assert [len(batch) for batch in seen.batches] == [10, 10, 5]
    assert [body for batch in seen.batches for body in batch] == list(range(25))
    assert await empty(store)
    assert told == {"acked": 25}


async def test_a_whole_worker() -> None:
    got: list[Any] = []

    class Default(WorkerEntrypoint):
        async def queue(self, batch: MessageBatch) -> None:
            for message in batch.messages:
                got.append(message.body)
                if message.body == "again" and message.attempts == 1:
                    message.retry()

    store, told = MemoryQueueStore(), Outcomes()
    runtime, env = Runtime(ScriptedFetcher({})), Env(QUEUE=Queue(store))
    await env.QUEUE.send("once")
    await env.QUEUE.send("again")
    async with running(store, lambda batch: runtime.queue(Default, env, batch), on_event=told):
        await until(lambda: told["acked"] == 2)
    assert got == ["once", "again", "again"]
    assert told == {"acked": 2, "retried": 1}


async def test_a_batch_is_delivered_when_it_is_full() -> None:
    store, seen = MemoryQueueStore(), Seen()
    await Queue(store).sendBatch([{"body": number} for number in range(6)])
    async with running(store, seen, settings(max_batch_size=3, max_batch_timeout_s=30)):
        await until(lambda: len(seen.batches) == 2)
    assert seen.batches == [[0, 1, 2], [3, 4, 5]]


async def test_a_batch_waits_for_more_from_its_first_message_on() -> None:
    store, seen = MemoryQueueStore(), Seen()
    loop = asyncio.get_running_loop()
    async with running(store, seen, settings(max_batch_timeout_s=0.4)):
        began = loop.time()
        for number in range(3):
            await Queue(store).send(number)
            await asyncio.sleep(0.05)
        await until(lambda: bool(seen.batches))
        waited = loop.time() - began
    assert seen.batches == [[0, 1, 2]]
    assert 0.4 <= waited < 2


async def test_a_batch_that_waits_is_delivered_when_the_consumer_stops() -> None:
    store, seen = MemoryQueueStore(), Seen()
    await Queue(store).send("x")
    async with running(store, seen, settings(max_batch_timeout_s=60)):
        await until(lambda: any(held.leased for held in store._messages.values()))
    assert seen.batches == [["x"]]
    assert await empty(store)


async def test_max_concurrency() -> None:
    store, now, most = MemoryQueueStore(), [0], [0]

    async def handler(batch: MessageBatch) -> None:
        now[0] += 1
        most[0] = max(most[0], now[0])
        await asyncio.sleep(0.02)
        now[0] -= 1

    await Queue(store).sendBatch([{"body": number} for number in range(12)])
    told = Outcomes()
    async with running(store, handler, settings(max_batch_size=1, max_concurrency=3), on_event=told):
        await until(lambda: told["acked"] == 12)
    assert most == [3]


async def test_one_that_raises_is_retried_until_it_is_dead(caplog: pytest.LogCaptureFixture) -> None:
    store, dead, seen, told = MemoryQueueStore(), MemoryQueueStore(), Seen(raising), Outcomes()
    await Queue(store).send({"poison": True})
    with caplog.at_level(logging.ERROR, "worker_compat"):
        async with running(store, seen, settings(max_retries=2), dead_letters=dead, on_event=told):
            await until(lambda: told["dead"] == 1)
    assert seen.attempts == [1, 2, 3]
    assert await empty(store)
    assert told == {"retried": 2, "dead": 1}
    assert [record.exc_info is not None for record in caplog.records] == [True] * 3
    letters = Seen()
    async with running(dead, letters):
        await until(lambda: bool(letters.batches))
    assert letters.batches == [[{"poison": True}]]


async def test_without_a_dead_letter_queue_it_is_dropped_with_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    store, told = MemoryQueueStore(), Outcomes()
    await Queue(store).send("secret text")
    with caplog.at_level(logging.WARNING, "worker_compat"):
        async with running(store, raising, settings(max_retries=0), on_event=told):
            await until(lambda: told["dropped"] == 1)
    assert await empty(store)
    assert "1 messages dropped after their last retry" in caplog.text
    assert "secret text" not in caplog.text


async def test_what_was_acknowledged_before_the_handler_raised_is_done() -> None:
    async def handler(batch: MessageBatch) -> None:
        for message in batch.messages:
            if message.body == "bad":
                raise LookupError("scripted")
            message.ack()

    store, dead, seen, told = MemoryQueueStore(), MemoryQueueStore(), Seen(handler), Outcomes()
    await Queue(store).sendBatch([{"body": "good"}, {"body": "bad"}, {"body": "after"}])
    async with running(store, seen, settings(max_retries=1), dead_letters=dead, on_event=told):
        await until(lambda: told["dead"] == 2)
    assert seen.batches == [["good", "bad", "after"], ["bad", "after"]]
    assert told == {"acked": 1, "retried": 2, "dead": 2}


async def test_delays_of_retries() -> None:
    clock = FakeClock()

    async def handler(batch: MessageBatch) -> None:
        first, second, third = batch.messages
        first.retry(delaySeconds=10)
        second.retry(delaySeconds=5)
        third.retry()

    store, told = MemoryQueueStore(clock=clock), Outcomes()
    await Queue(store).sendBatch([{"body": number} for number in range(3)])
    consumer = Consumer(store, handler, settings(retry_delay_s=20), on_event=told)
    task = asyncio.ensure_future(consumer.run())
    await until(lambda: bool(told))
    consumer.stop(1)
    await task
    due = sorted(held.due - clock() for held in store._messages.values())
    assert due == [5, 10, 20]
    assert told == {"retried": 3}


async def test_a_message_whose_process_died_each_time_is_dead_without_delivery() -> None:
    clock = FakeClock()
    store, dead, seen, told = MemoryQueueStore(clock=clock), MemoryQueueStore(), Seen(), Outcomes()
    await Queue(store).send("kills")
    for _ in range(3):
        assert len(await store.claim(1, 1)) == 1
        clock.advance(2)
    await Queue(store).send("fine")
    async with running(store, seen, settings(max_retries=2), dead_letters=dead, on_event=told):
        await until(lambda: told["dead"] == 1 and told["acked"] == 1)
    assert seen.batches == [["fine"]]
    assert (await dead.depth()).waiting == 1
    assert await empty(store)


async def test_the_last_delivery_of_a_message_whose_process_died() -> None:
    clock = FakeClock()
    store, seen, told = MemoryQueueStore(clock=clock), Seen(), Outcomes()
    await Queue(store).send("x")
    for _ in range(2):
        await store.claim(1, 1)
        clock.advance(2)
    async with running(store, seen, settings(max_retries=2), on_event=told):
        await until(lambda: told["acked"] == 1)
    assert seen.attempts == [3]


async def test_a_message_that_cannot_be_read_is_dead_and_stops_nobody() -> None:
    store, dead, seen, told = MemoryQueueStore(), MemoryQueueStore(), Seen(), Outcomes()
    await store.push([b"\xff nobody knows", b"j{"], 0)
    await Queue(store).send("fine")
    async with running(store, seen, dead_letters=dead, on_event=told):
        await until(lambda: told["acked"] == 1)
    assert seen.batches == [["fine"]]
    assert told == {"dead": 2, "acked": 1}
    assert sorted(message.body for message in await dead.claim(10, 1)) == [b"j{", b"\xff nobody knows"]


async def test_the_handler_is_cancelled_before_its_lease_ends(caplog: pytest.LogCaptureFixture) -> None:
    store, told, loop = MemoryQueueStore(), Outcomes(), asyncio.get_running_loop()
    began: list[float] = []
    running_now = [0]

    async def handler(batch: MessageBatch) -> None:
        began.append(loop.time())
        running_now[0] += 1
        assert running_now == [1], "two deliveries of one message at a time"
        try:
            await asyncio.sleep(3600)
        finally:
            running_now[0] -= 1

    await Queue(store).send("slow")
    with caplog.at_level(logging.WARNING, "worker_compat"):
        async with running(store, handler, settings(lease_s=1, max_retries=1, max_concurrency=5), on_event=told):
            await until(lambda: told["dropped"] == 1)
    assert len(began) == 2
    assert 0.5 < began[1] - began[0] < 1
    assert "cancelled because its lease ends" in caplog.text


async def test_nothing_is_released_after_its_lease() -> None:
    clock = FakeClock()
    store = Flaky()
    told = Outcomes()

    async def handler(batch: MessageBatch) -> None:
        clock.advance(60)  # the process was stopped for a minute
        raise LookupError("scripted")

    await Queue(store).send("x")
    async with running(store, handler, settings(lease_s=60), clock=clock, on_event=told):
        await until(lambda: told["retried"] == 1)
    assert "release" not in store.calls
    assert (await store.depth()).leased == 1


async def test_a_late_acknowledgement_still_counts() -> None:
    clock = FakeClock()
    store, told = MemoryQueueStore(), Outcomes()

    async def handler(batch: MessageBatch) -> None:
        clock.advance(61)

    await Queue(store).send("x")
    async with running(store, handler, settings(lease_s=60), clock=clock, on_event=told):
        await until(lambda: told["acked"] == 1)
    assert await empty(store)


async def test_a_handler_that_ignores_its_cancellation_keeps_its_lease(caplog: pytest.LogCaptureFixture) -> None:
    store, told, release = Flaky(), Outcomes(), asyncio.Event()

    async def handler(batch: MessageBatch) -> None:
        batch.messages[0].ack()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    await Queue(store).sendBatch([{"body": 1}, {"body": 2}])
    with caplog.at_level(logging.ERROR, "worker_compat"):
        async with running(store, handler, settings(lease_s=30), on_event=told) as consumer:
            await until(lambda: "claim" in store.calls and (store._messages != {}))
            await until(lambda: any(held.leased for held in store._messages.values()))
            consumer.stop(0)
            await until(lambda: told["retried"] == 1)
    release.set()
    assert "goes on though cancelled" in caplog.text
    assert told == {"acked": 1, "retried": 1}
    assert "release" not in store.calls


async def test_an_outage_is_waited_out_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    store, seen, told = Flaky(), Seen(), Outcomes()
    await Queue(store).send("x")
    store.broken = {"claim"}
    with caplog.at_level(logging.WARNING, "worker_compat"):
        async with running(store, seen, on_event=told):
            await until(lambda: store.calls.count("claim") >= 3)
            store.broken = set()
            await until(lambda: told["acked"] == 1)
    assert [record.getMessage() for record in caplog.records] == [
        "queue q is unavailable, trying on: scripted",
        "queue q is available again",
    ]


@pytest.mark.parametrize("broken", ["ack", "release"])
async def test_a_verdict_survives_a_short_outage(broken: str) -> None:
    store, told = Flaky(), Outcomes()
    handler = Seen(raising if broken == "release" else None)
    await Queue(store).send("x")
    store.broken = {broken}
    async with running(store, handler, on_event=told):
        await until(lambda: store.calls.count(broken) >= 2)
        store.broken = set()
        await until(lambda: bool(told))
        assert handler.attempts[0] == 1
    assert told["acked" if broken == "ack" else "retried"] >= 1


async def test_an_acknowledgement_that_never_arrives_means_another_delivery() -> None:
    clock = FakeClock()
    store, told = Flaky(), Outcomes()
    await Queue(store).send("x")
    store.broken = {"ack"}

    async def handler(batch: MessageBatch) -> None:
        asyncio.get_running_loop().call_later(0.2, clock.advance, 100)

    async with running(store, handler, settings(lease_s=60), clock=clock, on_event=told):
        await until(lambda: told["retried"] == 1)
    assert "acked" not in told
    assert not await empty(store)


async def test_a_dead_letter_that_cannot_be_stored_is_kept() -> None:
    store, dead, told = Flaky(), Flaky(), Outcomes()
    await Queue(store).send("x")
    dead.broken = {"push"}
    async with running(store, raising, settings(max_retries=0, lease_s=1), dead_letters=dead, on_event=told):
        await until(lambda: told["retried"] >= 1)
        assert "ack" not in store.calls
        dead.broken = set()
        await until(lambda: told["dead"] == 1)
    assert dead.calls.count("push") >= 2
    assert [message.body for message in await dead.claim(10, 1)] == [b'j"x"']
    assert await empty(store)


async def test_a_local_push_wakes_a_consumer_that_sleeps() -> None:
    store, seen = WakingQueueStore(MemoryQueueStore()), Seen()
    loop = asyncio.get_running_loop()
    assert isinstance(store, QueueStore)
    async with running(store, seen) as consumer:
        store.on_push.append(consumer.wake)
        await asyncio.sleep(1.5)  # by now it polls once a second
        began = loop.time()
        await Queue(store).send("x")
        await until(lambda: bool(seen.batches))
    assert loop.time() - began < 0.1


async def test_an_idle_consumer_polls_about_once_a_second() -> None:
    store = Flaky()
    async with running(store, Seen()):
        await asyncio.sleep(2.5)
        assert 5 <= store.calls.count("claim") <= 12


async def test_a_running_batch_may_end_within_the_grace() -> None:
    store, told, go_on = MemoryQueueStore(), Outcomes(), asyncio.Event()

    async def handler(batch: MessageBatch) -> None:
        await go_on.wait()

    await Queue(store).sendBatch([{"body": number} for number in range(2)])
    consumer = Consumer(store, handler, settings(max_batch_size=1), on_event=told)
    task = asyncio.ensure_future(consumer.run())
    await until(lambda: any(held.leased for held in store._messages.values()))
    consumer.stop(30)
    await asyncio.sleep(0.05)
    assert not task.done()
    go_on.set()
    async with asyncio.timeout(LIMIT_S):
        await task
    assert told == {"acked": 1}
    assert (await store.depth()).waiting == 1


async def test_after_the_grace_the_handler_is_cancelled_and_its_messages_released() -> None:
    store, told = MemoryQueueStore(), Outcomes()
    await Queue(store).sendBatch([{"body": number} for number in range(3)])
    consumer = Consumer(store, for_ever, settings(), on_event=told)
    task = asyncio.ensure_future(consumer.run())
    await until(lambda: any(held.leased for held in store._messages.values()))
    consumer.stop(60)
    consumer.stop(0.05)
    async with asyncio.timeout(LIMIT_S):
        await task
    assert told == {"retried": 3}
    assert (await store.depth()).waiting == 3


async def test_a_cancelled_consumer_leaves_nothing_running() -> None:
    store, told = MemoryQueueStore(), Outcomes()
    await Queue(store).send("x")
    task = asyncio.ensure_future(Consumer(store, for_ever, settings(), on_event=told).run())
    await until(lambda: any(held.leased for held in store._messages.values()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == {"retried": 1}
    assert (await store.depth()).waiting == 1
    assert len(asyncio.all_tasks()) == 1


async def test_cancelled_while_a_batch_fills_it_gives_the_messages_back() -> None:
    store = Flaky()
    await Queue(store).send("x")
    task = asyncio.ensure_future(Consumer(store, for_ever, settings(max_batch_timeout_s=60)).run())
    await until(lambda: any(held.leased for held in store._messages.values()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.calls[-1] == "release"
    assert (await store.depth()).waiting == 1


@pytest.mark.parametrize("broken", ["ack", "release"])
async def test_stopping_does_not_wait_for_a_store_that_is_away(broken: str) -> None:
    """The lease is 15 minutes; what could not be told to the store returns when it ends."""
    store, told = Flaky(), Outcomes()
    store.broken = {broken}
    await Queue(store).send("x")
    handler = raising if broken == "release" else Seen()
    task = asyncio.ensure_future(Consumer(store, handler, settings(), on_event=told).run())
    await until(lambda: store.calls.count(broken) >= 2)
    task.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert told == {"retried": 1}
    assert (await store.depth()).leased == 1
    assert len(asyncio.all_tasks()) == 1


async def test_stopped_before_it_runs_it_takes_nothing() -> None:
    store = Flaky()
    consumer = Consumer(store, for_ever, settings())
    consumer.stop(0)
    await consumer.run()
    assert store.calls == []


@pytest.mark.parametrize("broken", ["claim", "ack"])
async def test_a_defect_of_the_store_ends_the_consumer(broken: str) -> None:
    class Defect(MemoryQueueStore):
        async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
            return await super().claim(limit, lease_s) if broken != "claim" else [][1]

        async def ack(self, ids: Sequence[str]) -> None:
            [][1]

    store = Defect()
    await Queue(store).send("x")
    with pytest.raises(IndexError):
        async with asyncio.timeout(LIMIT_S):
            await Consumer(store, Seen(), settings()).run()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"max_batch_size": 0}, "queue q: max_batch_size must be 1 to 100, not 0"),
        ({"max_batch_size": 101}, "queue q: max_batch_size must be 1 to 100, not 101"),
        ({"max_batch_timeout_s": -1}, "queue q: max_batch_timeout must be 0 to 60, not -1"),
        ({"max_batch_timeout_s": 61}, "queue q: max_batch_timeout must be 0 to 60, not 61"),
        ({"max_retries": -1}, "queue q: max_retries must be 0 to 100, not -1"),
        ({"max_retries": 101}, "queue q: max_retries must be 0 to 100, not 101"),
        ({"retry_delay_s": 43_201}, "queue q: retry_delay must be 0 to 43200, not 43201"),
        ({"max_concurrency": 0}, "queue q: max_concurrency must be 1 to 250, not 0"),
        ({"max_concurrency": 251}, "queue q: max_concurrency must be 1 to 250, not 251"),
        ({"lease_s": 0}, "queue q: the lease must be 1 to 43200, not 0"),
        ({"lease_s": 9, "max_batch_timeout_s": 5}, "queue q: the lease must be 10 to 43200, not 9"),
        ({"dead_letter_queue": "q"}, "queue q: dead_letter_queue must be another queue"),
    ],
)
def test_settings_that_are_wrong(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    assert str(caught.value) == text


def test_settings_have_the_defaults_of_cloudflare() -> None:
    given = ConsumerSettings("q")
    assert (given.max_batch_size, given.max_batch_timeout_s, given.max_retries) == (10, 5, 3)
    assert (given.retry_delay_s, given.dead_letter_queue) == (0, None)
    ConsumerSettings("q", 100, 60, 100, 43_200, 250, "dead", 900)
