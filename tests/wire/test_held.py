"""Answers that wait for their check, ends of streams that wait for their record: no byte changes, nothing is left."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from smoltbot_worker.relay.message import ExchangeMessage
from tests.integrity.planted import Asked, Plan, Planted
from tests.integrity.planting import CLEAR, document, says
from worker_compat.queues import Message as QueueMessage

from .raw import Message, RawClient, Respond, answer
from .stack import Stack, open_stack

_ASK = b"POST /anthropic/v1/messages HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\nContent-Length: 2\r\n\r\n{}"
_DOCUMENT = document()
_EVENT = b"event: ping\ndata: {}\n\n"
_LIMIT_S = 1.0
"""How long what a client left behind may stay."""


def _framed(body: bytes, framing: str, *lines: bytes) -> tuple[bytes, bytes]:
    """Head and body of an answer."""
    if framing == "length":
        lines = (*lines, b"Content-Length: %d" % len(body))
    if framing == "chunked":
        lines = (*lines, b"Transfer-Encoding: chunked")
        pieces = [body[at : at + 4096] for at in range(0, len(body), 4096)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""]), body


class _Judge:
    """An analyser that takes its time."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.goes_on = threading.Event()

    def plan(self, asked: Asked) -> Plan:
        self.asked.set()
        self.goes_on.wait(10)
        return says(CLEAR)


@pytest.fixture
async def judge(tmp_path: Path) -> AsyncIterator[tuple[_Judge, Stack]]:
    judge = _Judge()
    with Planted(judge.plan) as server:
        async with open_stack(tmp_path, ANTHROPIC_API_KEY="sk-judge", ANALYSIS_BASE_URL=server.url) as stack:
            yield judge, stack
            judge.goes_on.set()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Nothing can be put on record."""
    with closing(sqlite3.connect(folder / "smoltbot.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


async def _pushed(stack: Stack) -> ExchangeMessage:
    """The exchange in the queue, once it is there."""
    async with asyncio.timeout(5):
        while not (claimed := await stack.wiring.stores.exchanges.claim(10, 60)):
            await asyncio.sleep(0.01)
    [only] = claimed
    await stack.wiring.stores.exchanges.ack([only.id])
    return await stack.wiring.env.exchanges.open(QueueMessage.read(only).body)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("coding", [b"", b"gzip"])
async def test_nothing_leaves_before_the_verdict_and_then_every_byte(
    judge: tuple[_Judge, Stack], framing: str, coding: bytes
) -> None:
    analyser, stack = judge
    body = gzip.compress(_DOCUMENT) if coding else _DOCUMENT
    head, rest = _framed(body, framing, *([b"Content-Encoding: gzip"] if coding else []))
    stack.upstream.respond = answer(head + rest, close=framing == "close")
    async with asyncio.timeout(10), await RawClient.connect(stack.port) as client:
        await client.send(_ASK)
        assert await asyncio.to_thread(analyser.asked.wait, 10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.reader.read(1)
        analyser.goes_on.set()
        got = await client.response()
    assert (got.body, got.get(b"x-aip-verdict"), got.get(b"content-encoding") or b"") == (body, b"clear", coding)
    assert got.get(b"content-length") == (b"%d" % len(body) if framing == "length" else None)
    assert got.get(b"transfer-encoding") == (None if framing == "length" else b"chunked")


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_an_answer_larger_than_what_is_kept_passes_unchanged(tmp_path: Path, framing: str) -> None:
    body = bytes(range(256)) * 4096
    async with open_stack(tmp_path, MAX_CAPTURE_BYTES="10000") as stack:
        stack.upstream.respond = answer(b"".join(_framed(body, framing)), close=framing == "close")
        async with asyncio.timeout(10), await RawClient.connect(stack.port) as client:
            got = await client.request(_ASK)
        assert (got.get(b"x-aip-verdict"), got.get(b"x-aip-reason")) == (b"error", b"too-large")
        assert got.body == body
        assert got.get(b"content-length") == (b"%d" % len(body) if framing == "length" else None)
        message = await _pushed(stack)
        assert (message.response_body, message.body_truncated) == (body[:10_000], True)


def _then_silence(data: bytes) -> Respond:
    async def respond(message: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await asyncio.sleep(3600)

    return respond


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_client_that_leaves_a_half_held_answer_frees_its_provider(stack: Stack, framing: str) -> None:
    head, rest = _framed(_DOCUMENT, framing)
    stack.upstream.respond = _then_silence(head + rest[:100])
    client = await RawClient.connect(stack.port)
    await client.send(_ASK)
    await asyncio.wait_for(stack.upstream.arrived.wait(), 5)
    await asyncio.sleep(0.05)
    client.reset()
    await stack.upstream.until_closed(_LIMIT_S)
    await stack.idle(_LIMIT_S)
    message = await _pushed(stack)
    assert (message.status, message.cut) == (200, True)


async def test_a_client_that_leaves_while_its_answer_is_judged(judge: tuple[_Judge, Stack]) -> None:
    analyser, stack = judge
    head, rest = _framed(_DOCUMENT, "chunked")
    stack.upstream.respond = answer(head + rest)
    client = await RawClient.connect(stack.port)
    await client.send(_ASK)
    assert await asyncio.to_thread(analyser.asked.wait, 10)
    client.reset()
    await stack.idle(_LIMIT_S)
    message = await _pushed(stack)
    assert (message.response_body, message.cut) == (_DOCUMENT, False)


def _paced(framing: str) -> Respond:
    """A stream of three events, each of which comes by itself."""
    head, _ = _framed(_EVENT * 3, framing, b"Content-Type: text/event-stream")
    event = _EVENT if framing != "chunked" else b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)

    async def respond(message: Message, writer: asyncio.StreamWriter) -> None:
        for piece in (head, event, event, event + (b"0\r\n\r\n" if framing == "chunked" else b"")):
            writer.write(piece)
            await asyncio.sleep(0.05)
        if framing == "close":
            writer.close()

    return respond


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_the_end_of_a_stream_waits_for_its_record_and_nothing_else_does(
    stack: Stack, tmp_path: Path, framing: str
) -> None:
    stack.upstream.respond = _paced(framing)
    async with asyncio.timeout(5), await RawClient.connect(stack.port) as client:
        got = await client.request(_ASK)  # from now on the agent is known
    assert (got.body, got.get(b"x-aip-verdict")) == (_EVENT * 3, b"pending")
    assert (await _pushed(stack)).response_body == _EVENT * 3
    async with asyncio.timeout(5), await RawClient.connect(stack.port) as client:
        with _locked(tmp_path):
            await client.send(_ASK)
            for _ in range(2 if framing == "length" else 3):
                await client.reader.readuntil(_EVENT)
            ending = asyncio.ensure_future(client.reader.readuntil(_EVENT if framing == "length" else b"0\r\n\r\n"))
            await asyncio.wait({ending}, timeout=0.3)
            assert not ending.done()
        await ending
    assert (await _pushed(stack)).response_body == _EVENT * 3


async def test_a_client_that_leaves_while_the_end_waits(stack: Stack, tmp_path: Path) -> None:
    stack.upstream.respond = _paced("close")
    async with asyncio.timeout(5), await RawClient.connect(stack.port) as client:
        await client.request(_ASK)
        await _pushed(stack)
    client = await RawClient.connect(stack.port)
    with _locked(tmp_path):
        await client.send(_ASK)
        for _ in range(3):
            await client.reader.readuntil(_EVENT)
        await stack.upstream.until_closed(_LIMIT_S)
        assert stack.wiring.host.in_flight == 1
        client.reset()
        await stack.idle(_LIMIT_S)
    message = await _pushed(stack)
    assert (message.response_body, message.cut) == (_EVENT * 3, False)


@asynccontextmanager
async def _answering_early(stack: Stack, *lines: bytes) -> AsyncIterator[RawClient]:
    """A client whose chunked request, of which 100 bytes may pass, is answered with "ok" after the first five."""
    stack.wiring.env.max_body_bytes = 100
    answered = asyncio.Event()

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"hello\r\n")
        head, _ = _framed(b"", "chunked", *lines)
        writer.write(head + b"2\r\nok\r\n")
        answered.set()
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(early, "127.0.0.1", 0)
    stack.wiring.env.upstream_anthropic_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    head = b"POST /anthropic/v1/messages HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with asyncio.timeout(5), await RawClient.connect(stack.port) as client:
        await client.send(head + b"5\r\nhello\r\n")
        await answered.wait()
        yield client
    server.close()


_TOO_MUCH = b"c8\r\n" + b"x" * 200 + b"\r\n"


async def test_too_large_after_an_early_answer_is_a_cut_and_no_traceback(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    async with _answering_early(stack, b"Content-Type: text/event-stream") as client:
        await client.reader.readuntil(b"ok\r\n")
        await client.send(_TOO_MUCH)
        assert await client.reader.read(-1) == b""
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_too_large_while_the_answer_is_held_is_413(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    async with _answering_early(stack) as client:
        got = await client.request(_TOO_MUCH)
        assert (got.status, json.loads(got.body)["error"]) == (413, "Request body too large")
        assert (got.get(b"x-aip-verdict"), got.get(b"x-aip-reason")) == (b"skipped", b"too-large")
        assert await client.at_end()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
