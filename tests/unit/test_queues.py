"""Queue, Message, MessageBatch: every rule of Workers Queues, with the texts that workerd gave to the same calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from worker_compat import Env, Message, MessageBatch, Queue, QueueError, Runtime, StoreUnavailable, WorkerEntrypoint
from worker_compat.context import ExecutionContext
from worker_compat.errors import ConfigError
from worker_compat.jsjson import JsDict
from worker_compat.memory import MemoryQueueStore, open_queue
from worker_compat.ports import Claimed
from worker_compat.testing import FakeClock, ScriptedFetcher

EURO = "\u20ac"  # three bytes of UTF-8
OUT_OF_RANGE = "Value out of range. Must be between -2147483648 and 2147483647 (inclusive)."
SEND = "Failed to execute 'send' on 'WorkerQueue': parameter 2 is not of type 'SendOptions'."
SEND_BATCH = "Failed to execute 'sendBatch' on 'WorkerQueue': parameter {} is not of type '{}'."


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryQueueStore:
    return MemoryQueueStore(clock=clock)


@pytest.fixture
def queue(store: MemoryQueueStore) -> Queue:
    return Queue(store)


async def received(store: MemoryQueueStore) -> list[Any]:
    """The bodies that are due, as a handler gets them."""
    return [Message.read(claimed).body for claimed in await store.claim(1000, 60)]


async def refused(call: Any, name: str, message: str) -> None:
    """The call raises a QueueError that looks as it does in a Python Worker, and nothing was sent."""
    with pytest.raises(QueueError) as caught:
        await call
    assert (caught.value.name, caught.value.message) == (name, message)
    assert str(caught.value) == f"{name}: {message}"


@pytest.mark.parametrize(
    "body",
    [None, True, 0, 123, 1.5, "", "hello queue", EURO, [1, 2, 3], {}, {"outer": {"inner": "deep"}, "list": [None]}],
)
async def test_json_is_the_default(queue: Queue, store: MemoryQueueStore, body: Any) -> None:
    await queue.send(body)
    await queue.send(body, {"contentType": "json"})
    await queue.send(body, contentType="v8")
    assert await received(store) == [body, body, body]


async def test_json_objects_come_as_dicts_with_attributes(queue: Queue, store: MemoryQueueStore) -> None:
    await queue.send({"outer": {"inner": "deep"}, "number": 1.0})
    (body,) = await received(store)
    assert isinstance(body, JsDict)
    assert body.outer.inner == "deep"
    assert body == {"outer": {"inner": "deep"}, "number": 1}


async def test_text_and_bytes(queue: Queue, store: MemoryQueueStore) -> None:
    every = bytes(range(256))
    await queue.send("\x00 text " + EURO, {"contentType": "text"})
    await queue.send("upper", contentType="TEXT")
    await queue.send(every, contentType="bytes")
    await queue.send(memoryview(every)[5:9], contentType="bytes")
    text, upper, whole, part = await received(store)
    assert (text, upper) == ("\x00 text " + EURO, "upper")
    assert isinstance(whole, memoryview)
    assert whole.readonly
    assert (bytes(whole), bytes(part)) == (every, every[5:9])


@pytest.mark.parametrize(
    ("body", "options", "name", "message"),
    [
        ("x", {"contentType": "blob"}, "TypeError", "Unsupported queue message content type: blob"),
        ("x", {"contentType": None}, "TypeError", "Unsupported queue message content type: null"),
        ({}, {"contentType": "text"}, "TypeError",
         'Content Type "text" requires a value of type string, but received: object'),
        (3, {"contentType": "text"}, "TypeError",
         'Content Type "text" requires a value of type string, but received: number'),
        (True, {"contentType": "text"}, "TypeError",
         'Content Type "text" requires a value of type string, but received: boolean'),
        ("x", {"contentType": "bytes"}, "TypeError",
         'Content Type "bytes" requires a value of type ArrayBufferView, but received: string'),
        (None, {"contentType": "bytes"}, "TypeError",
         'Content Type "bytes" requires a value of type ArrayBufferView, but received: object'),
        (b"x", {}, "TypeError", "bytes cannot be written as JSON"),
        ({1: 2}, {}, "TypeError", "JSON object keys must be str, not int"),
        ("x", "text", "TypeError", SEND),
        ("x", 5, "TypeError", SEND),
        ("x", {"delaySeconds": -1}, "Error",
         "Queue send failed: message delay -1 is invalid: it must be 0 to 43200 seconds"),
        ("x", {"delaySeconds": 43_201}, "Error",
         "Queue send failed: message delay 43201 is invalid: it must be 0 to 43200 seconds"),
        ("x", {"delaySeconds": 2**31}, "TypeError", OUT_OF_RANGE),
    ],
)  # fmt: skip
async def test_what_send_refuses(
    queue: Queue, store: MemoryQueueStore, body: Any, options: Any, name: str, message: str
) -> None:
    await refused(queue.send(body, options), name, message)
    assert await received(store) == []


@pytest.mark.parametrize("body", [(1,), bytearray(b"x"), [(1,)], {"a": (1,)}])
async def test_what_the_python_sdk_refuses(queue: Queue, body: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sent over RPC"):
        await queue.send(body, contentType="bytes" if isinstance(body, bytearray) else "json")


async def test_a_circular_body(queue: Queue) -> None:
    body: dict[str, Any] = {}
    body["self"] = body
    await refused(queue.send(body), "TypeError", "Converting circular structure to JSON")


async def test_options_in_another_spelling(queue: Queue, store: MemoryQueueStore) -> None:
    with pytest.raises(TypeError, match=r"^Queue send\(\) takes 'delaySeconds'; Cloudflare silently ignores 'delay_"):
        await queue.send("x", delay_seconds=5)
    with pytest.raises(TypeError, match="takes 'contentType'"):
        await queue.send("x", {"content_type": "text"})
    with pytest.raises(TypeError, match="takes 'contentType'"):
        await queue.sendBatch([{"body": "x", "contenttype": "text"}])
    with pytest.raises(TypeError, match="as an object or as keywords, not both"):
        await queue.send("x", {"delaySeconds": 5}, contentType="text")
    await queue.send("x", {"unknown": 1})
    assert await received(store) == ["x"]


async def test_a_message_has_at_most_128000_bytes(queue: Queue, store: MemoryQueueStore) -> None:
    await queue.send("x" * 128_000, contentType="text")
    await queue.send(b"x" * 128_000, contentType="bytes")
    await queue.send("x" * 127_998)  # JSON adds two quotation marks
    assert len(await received(store)) == 3
    text = "Queue send failed: message length of {} bytes exceeds limit of 128000"
    await refused(queue.send("x" * 128_001, contentType="text"), "Error", text.format(128_001))
    await refused(queue.send(EURO * 42_667, contentType="text"), "Error", text.format(128_001))
    await refused(queue.send("x" * 127_999), "Error", text.format(128_001))


async def test_a_binding_may_have_another_limit(store: MemoryQueueStore) -> None:
    queue = Queue(store, max_message_bytes=4 * 2**20)
    await queue.send(b"x" * 4 * 2**20, contentType="bytes")
    text = "Queue send failed: message length of 4194305 bytes exceeds limit of 4194304"
    await refused(queue.send(b"x" * (4 * 2**20 + 1), contentType="bytes"), "Error", text)
    await queue.sendBatch([{"body": b"x" * 4 * 2**20, "contentType": "bytes"}] * 2)
    small = Queue(store, max_message_bytes=1)
    await refused(
        small.send("xy", contentType="text"), "Error", "Queue send failed: message length of 2 bytes exceeds limit of 1"
    )


async def test_a_batch(queue: Queue, store: MemoryQueueStore) -> None:
    await queue.sendBatch([{"body": 1}, {"body": "t", "contentType": "text"}, JsDict(body=b"b", contentType="bytes")])
    assert await received(store) == [1, "t", memoryview(b"b")]


@pytest.mark.parametrize(
    ("messages", "name", "message"),
    [
        ([], "TypeError", "sendBatch() requires at least one message"),
        ([{}], "TypeError", "Message body cannot be undefined"),
        ([1], "TypeError", "Incorrect type: the provided value is not of type 'MessageSendRequest'."),
        ("abc", "TypeError", SEND_BATCH.format(1, "Sequence")),
        ({"body": 1}, "TypeError", SEND_BATCH.format(1, "Sequence")),
        ([{"body": 1}] * 101, "Error", "Queue sendBatch failed: batch message count of 101 exceeds limit of 100"),
        ([{"body": "x" * 128_000}], "Error",
         "Queue sendBatch failed: message in batch has length 128002 bytes which exceeds single message size limit"
         " of 128000"),
        ([{"body": "x" * 128_000, "contentType": "text"}] * 2 + [{"body": 1}], "Error",
         "Queue sendBatch failed: batch size of 256001 bytes exceeds limit of 256000"),
        ([{"body": 1}, {"body": 1, "delaySeconds": -1}], "Error",
         "Queue sendBatch failed: message delay -1 is invalid: it must be 0 to 43200 seconds"),
        ([{"body": 1}, {"body": 1, "contentType": "blob"}], "TypeError",
         "Unsupported queue message content type: blob"),
    ],
)  # fmt: skip
async def test_what_send_batch_refuses_whole(
    queue: Queue, store: MemoryQueueStore, messages: Any, name: str, message: str
) -> None:
    await refused(queue.sendBatch(messages), name, message)
    assert await received(store) == []


async def test_the_largest_batch(queue: Queue, store: MemoryQueueStore) -> None:
    await queue.sendBatch([{"body": n} for n in range(100)])
    await queue.sendBatch([{"body": "x" * 128_000, "contentType": "text"}] * 2)
    assert len(await received(store)) == 102
    await refused(queue.sendBatch([{"body": 1}], 5), "TypeError", SEND_BATCH.format(2, "SendBatchOptions"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be sent over RPC"):
        await queue.sendBatch(({"body": 1},))  # type: ignore[arg-type]


async def test_delays(store: MemoryQueueStore, clock: FakeClock) -> None:
    queue = Queue(store, delivery_delay_s=100)
    await queue.send("usual")
    await queue.send("own", delaySeconds=50)
    await queue.send("none", {"delaySeconds": 0})
    await queue.send("longest", {"delaySeconds": 43_200})
    await queue.sendBatch([{"body": "batch"}, {"body": "in batch", "delaySeconds": 60}], {"delaySeconds": 70})
    await queue.sendBatch([{"body": "usual batch"}])
    seen = {}
    for second in (0, 49, 50, 59, 60, 69, 70, 99, 100, 43_199, 43_200):
        clock.now = FakeClock().now + second
        seen[second] = await received(store)
        await store.ack([message for message in store._messages if store._messages[message].leased])
    assert {second: bodies for second, bodies in seen.items() if bodies} == {
        0: ["none"], 50: ["own"], 60: ["in batch"], 70: ["batch"], 100: ["usual", "usual batch"], 43_200: ["longest"],
    }  # fmt: skip


@pytest.mark.parametrize(("given", "seconds"), [(1.9, 1), ("5", 5), (None, 0), ("abc", 0), (float("nan"), 0), ({}, 0)])
async def test_a_delay_is_made_an_integer_as_the_binding_does(
    queue: Queue, store: MemoryQueueStore, clock: FakeClock, given: Any, seconds: int
) -> None:
    await queue.send("x", delaySeconds=given)
    if seconds:
        clock.advance(seconds - 0.5)
        assert await received(store) == []
        clock.advance(0.5)
    assert await received(store) == ["x"]


async def test_a_store_that_is_gone_shows() -> None:
    queue = Queue(MemoryQueueStore(max_messages=1))
    await queue.send(1)
    with pytest.raises(StoreUnavailable, match="full"):
        await queue.send(2)


async def test_a_full_memory_store_takes_all_or_nothing() -> None:
    store = MemoryQueueStore(max_messages=3, max_bytes=10)
    for bodies in ([b"1"] * 4, [b"x" * 11], [b"12345", b"123456"]):
        with pytest.raises(StoreUnavailable, match="holds at most 3 messages and 10 bytes"):
            await store.push(bodies, 0)
        assert (await store.depth()).waiting == 0
    await store.push([b"12345", b"12345"], 0)
    (first, _) = await store.claim(2, 60)
    await store.ack([first.id])
    await store.push([b"12345"], 0)
    with pytest.raises(ValueError, match="at least 1"):
        MemoryQueueStore(max_bytes=0)


async def test_a_memory_queue_does_not_grow_by_what_it_has_forgotten() -> None:
    store = MemoryQueueStore()
    for _ in range(2000):
        await store.push([b"x"], 0)
        await store.ack([message.id for message in await store.claim(1, 900)])
    assert len(store._later) + len(store._ready) < 100


async def test_a_memory_queue_survives_a_clock_that_goes_back(store: MemoryQueueStore, clock: FakeClock) -> None:
    await store.push([b"x", b"y"], 0)
    await store.claim(1, 60)
    clock.advance(-3600)
    await store.claim(10, 60)
    clock.advance(7300)
    assert len(await store.claim(10, 60)) == 2


async def test_a_release_after_the_lease_changes_nothing(store: MemoryQueueStore, clock: FakeClock) -> None:
    await store.push([b"x"], 0)
    (claimed,) = await store.claim(1, 60)
    clock.advance(61)
    await store.release([claimed.id], 100)
    assert len(await store.claim(1, 60)) == 1


@pytest.mark.parametrize("url", ["memory://", "memory://?queue=x", "MEMORY://?queue="])
async def test_memory_urls(url: str) -> None:
    async with open_queue(url) as one, open_queue(url) as other:
        await one.push([b"x"], 0)
        assert (await other.depth()).waiting == 0


@pytest.mark.parametrize("url", ["memory://host", "memory:///path", "memory://?namespace=x", "memory://?queue=x&y=1"])
async def test_memory_urls_that_are_wrong(url: str) -> None:
    with pytest.raises(ConfigError, match="queue"):
        async with open_queue(url):
            pass


async def test_what_a_message_shows(queue: Queue, store: MemoryQueueStore, clock: FakeClock) -> None:
    await queue.send("x")
    (claimed,) = await store.claim(1, 60)
    message = Message.read(claimed)
    assert message.timestamp == datetime.fromtimestamp(clock(), UTC)
    assert (message.id, message.body, message.attempts) == (claimed.id, "x", 1)


@pytest.mark.parametrize("body", [b"", b"x", b"j{", b"\xffabc", b'"x"'])
def test_a_body_that_no_queue_sent(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|not sent"):
        Message.read(Claimed("1", body, 0, 1))


def batch_of(*ids: str) -> MessageBatch:
    return MessageBatch("q", [Message(id, datetime.now(UTC), None, 1) for id in ids])


def marked(calls: str) -> MessageBatch:
    """A batch of messages a and b after calls such as ``a.retry:5 retryAll``."""
    batch = batch_of("a", "b")
    for call in calls.split():
        name, _, delay = call.partition(":")
        options = {"delaySeconds": int(delay)} if delay else None
        if name == "ackAll":
            batch.ackAll()
        elif name == "retryAll":
            batch.retryAll(options)
        elif name == "a.ack":
            batch.messages[0].ack()
        else:
            batch.messages[0].retry(options)
    return batch


@pytest.mark.parametrize(
    ("calls", "acked", "retried"),
    [
        ("", "ab", {}),
        ("a.ack", "ab", {}),
        ("a.ack a.ack", "ab", {}),
        ("a.retry", "b", {"a": 9}),
        ("a.retry:0", "b", {"a": 0}),
        ("a.retry:5", "b", {"a": 5}),
        ("a.retry:5 a.retry:7", "b", {"a": 7}),
        ("a.retry:5 a.retry", "b", {"a": 9}),
        ("a.ack a.retry", "ab", {}),
        ("a.retry a.ack", "b", {"a": 9}),
        ("ackAll", "ab", {}),
        ("retryAll", "", {"a": 9, "b": 9}),
        ("retryAll:3", "", {"a": 3, "b": 3}),
        ("retryAll:3 retryAll", "", {"a": 3, "b": 3}),
        ("retryAll:3 retryAll:4", "", {"a": 4, "b": 4}),
        ("ackAll retryAll", "ab", {}),
        ("retryAll ackAll", "", {"a": 9, "b": 9}),
        ("a.ack retryAll:3", "a", {"b": 3}),
        ("a.retry ackAll", "b", {"a": 9}),
        ("a.retry:4 retryAll:3", "", {"a": 4, "b": 3}),
        ("a.retry retryAll:3", "", {"a": 3, "b": 3}),
        ("retryAll a.retry:4", "", {"a": 4, "b": 9}),
        ("retryAll a.ack", "", {"a": 9, "b": 9}),
        ("ackAll a.retry", "ab", {}),
    ],
)
def test_the_first_call_counts_and_a_message_before_its_batch(calls: str, acked: str, retried: dict[str, int]) -> None:
    assert marked(calls)._verdict(False, 9) == (list(acked), retried)


@pytest.mark.parametrize(
    ("calls", "acked", "retried"),
    [
        ("", "", {"a": 9, "b": 9}),
        ("a.ack", "a", {"b": 9}),
        ("ackAll", "ab", {}),
        ("a.retry:4", "", {"a": 4, "b": 9}),
        ("retryAll:3", "", {"a": 3, "b": 3}),
        ("a.retry:4 ackAll", "b", {"a": 4}),
    ],
)
def test_a_handler_that_raises_retries_what_was_not_acknowledged(
    calls: str, acked: str, retried: dict[str, int]
) -> None:
    assert marked(calls)._verdict(True, 9) == (list(acked), retried)


@pytest.mark.parametrize(
    "calls",
    ["a.ack a.retry", "a.retry a.ack", "ackAll retryAll", "retryAll ackAll", "ackAll a.retry", "retryAll a.ack"],
)
def test_a_call_without_effect_is_logged(calls: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "worker_compat"):
        marked(calls)
    assert len(caplog.records) == 1
    assert "has no effect" in caplog.text


def test_options_of_retry() -> None:
    batch = batch_of("a", "b")
    batch.messages[0].retry(delaySeconds=5)
    batch.retryAll(delaySeconds=6)
    assert batch._verdict(False, 0) == ([], {"a": 5, "b": 6})
    wrong = "Failed to execute '{}' on '{}': parameter 1 is not of type 'QueueRetryOptions'."
    refusals: list[tuple[Callable[[], None], str]] = [
        (lambda: batch.messages[0].retry("x"), wrong.format("retry", "QueueMessage")),  # type: ignore[arg-type]
        (lambda: batch.retryAll(5), wrong.format("retryAll", "QueueController")),  # type: ignore[arg-type]
        (lambda: batch.messages[0].retry(delaySeconds=43_201),
         "Queue retry failed: message delay 43201 is invalid: it must be 0 to 43200 seconds"),
    ]  # fmt: skip
    for call, text in refusals:
        with pytest.raises(QueueError) as caught:
            call()
        assert caught.value.message == text
    with pytest.raises(TypeError, match="takes 'delaySeconds'"):
        batch.retryAll(delay_seconds=5)


async def dispatched(entrypoint: type[WorkerEntrypoint], batch: MessageBatch | None = None) -> None:
    await Runtime(ScriptedFetcher({})).queue(entrypoint, Env(NAME="value"), batch or batch_of("a"))


async def test_the_handler_gets_the_batch() -> None:
    seen: list[Any] = []

    class Default(WorkerEntrypoint):
        async def queue(self, batch: MessageBatch) -> None:
            seen.append((batch.queue, [message.id for message in batch.messages], self.env.NAME))
            assert isinstance(self.ctx, ExecutionContext)

    class WithThree(WorkerEntrypoint):
        async def queue(self, batch: MessageBatch, env: Any, ctx: Any) -> None:
            seen.append((env, ctx))

    class NotAsync(WorkerEntrypoint):
        def queue(self, batch: MessageBatch) -> None:
            seen.append(batch.queue)

    for entrypoint in (Default, WithThree, NotAsync):
        await dispatched(entrypoint)
    assert seen == [("q", ["a"], "value"), (None, None), "q"]


async def test_a_worker_without_a_queue_handler() -> None:
    with pytest.raises(ConfigError, match=r"Handler does not export a queue\(\) function; add"):
        await dispatched(WorkerEntrypoint)


async def test_the_event_lasts_until_its_wait_until_tasks_are_done() -> None:
    done: list[str] = []

    class Default(WorkerEntrypoint):
        async def queue(self, batch: MessageBatch) -> None:
            self.ctx.wait_until(self.later("first", 2))

        async def later(self, name: str, turns: int) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            if name == "first":
                self.ctx.wait_until(self.later("second", 5))
            done.append(name)

    await dispatched(Default)
    assert done == ["first", "second"]


@pytest.mark.parametrize("where", ["handler", "task", "both"])
async def test_the_event_fails_by_its_handler_or_a_task(where: str) -> None:
    done: list[str] = []

    class Default(WorkerEntrypoint):
        async def queue(self, batch: MessageBatch) -> None:
            self.ctx.wait_until(self.later())
            if where != "task":
                raise LookupError("handler")

        async def later(self) -> None:
            await asyncio.sleep(0)
            done.append("task")
            if where != "handler":
                raise LookupError("task")

    with pytest.raises(LookupError, match="task" if where == "task" else "handler"):
        await dispatched(Default)
    assert done == ["task"]


async def test_cancelling_the_event_cancels_its_tasks() -> None:
    ended: list[str] = []

    class Default(WorkerEntrypoint):
        async def queue(self, batch: MessageBatch) -> None:
            self.ctx.wait_until(self.later())
            await asyncio.sleep(60)

        async def later(self) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append("task")

    event = asyncio.ensure_future(dispatched(Default))
    for _ in range(5):
        await asyncio.sleep(0)
    event.cancel()
    with pytest.raises(asyncio.CancelledError):
        await event
    for _ in range(5):
        await asyncio.sleep(0)
    assert ended == ["task"]


async def test_a_cancelled_future_in_the_handler_is_a_failure() -> None:
    class Default(WorkerEntrypoint):
        async def queue(self, batch: MessageBatch) -> None:
            raise asyncio.CancelledError

    class InTask(WorkerEntrypoint):
        async def queue(self, batch: MessageBatch) -> None:
            task = asyncio.ensure_future(asyncio.sleep(60))
            self.ctx.wait_until(task)
            task.cancel()

    for entrypoint in (Default, InTask):
        with pytest.raises(RuntimeError, match="cancelled"):
            await dispatched(entrypoint)
