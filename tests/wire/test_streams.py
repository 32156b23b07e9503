"""Event streams: any split, any cut, each event as it comes."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from .raw import CutOff, Message, RawClient, Respond
from .stack import Stack

_REQUEST = b"POST /anthropic/v1/messages HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\nContent-Length: 2\r\n\r\n{}"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _events(size: int) -> list[bytes]:
    """Events of several shapes, pings and comments among them, ``size`` bytes in all."""
    shapes = [
        b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"h\xc3\xa9llo"}}\n\n',
        b"event: ping\ndata: {}\n\n",
        b": comment\r\n\r\n",
        b"data: [DONE]\r\rdata:\n\n",
    ]
    events: list[bytes] = []
    while sum(map(len, events)) < size:
        events.append(shapes[len(events) % len(shapes)])
    return events


def _chunked(events: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"


def _payload(raw: bytes) -> bytes:
    """The body bytes inside a possibly incomplete chunked body."""
    body = b""
    while raw:
        size, mark, rest = raw.partition(b"\r\n")
        if not mark or int(size, 16) == 0:
            break
        body += rest[: int(size, 16)]
        raw = rest[int(size, 16) + 2 :]
    return body


async def test_every_split_of_a_stream_arrives_at_once_and_whole(stack: Stack) -> None:
    events = _events(5_000)
    raw, whole = _chunked(events), b"".join(events)
    go_on = asyncio.Event()
    split = 0

    async def respond(message: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD + raw[:split])
        await go_on.wait()
        writer.write(raw[split:])

    stack.upstream.respond = respond
    async with await RawClient.connect(stack.port) as client:
        for split in range(len(raw)):
            go_on.clear()
            stack.upstream.requests.clear()
            await client.send(_REQUEST)
            async with asyncio.timeout(5):
                head = await client.reader.readuntil(b"\r\n\r\n")
                assert b"chunked" in head
                # The first part is here although the provider holds the second one back.
                first = _payload(raw[:split])
                got = b""
                while len(_payload(got)) < len(first):
                    got += await client.reader.read(65_536)
                assert _payload(got) == first
                go_on.set()
                while not got.endswith(b"0\r\n\r\n"):
                    got += await client.reader.read(65_536)
            assert _payload(got) == whole


def _cut(raw: bytes, how: str) -> Respond:
    async def respond(message: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        if how == "rst":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    return respond


@pytest.mark.parametrize(
    ("framing", "how"), [("length", "fin"), ("length", "rst"), ("chunked", "fin"), ("chunked", "rst")]
)
async def test_a_cut_after_any_byte_is_an_error_and_never_an_end(stack: Stack, framing: str, how: str) -> None:
    body = b"".join(_events(2_000))
    if framing == "length":
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        raw = head + body
    else:
        head, raw = _HEAD, _HEAD + _chunked(_events(2_000))
    for cut in range(0, len(raw), 1 if how == "fin" else 3):
        stack.upstream.respond = _cut(raw[:cut], how)
        async with asyncio.timeout(5), await RawClient.connect(stack.port) as client:
            await client.send(_REQUEST)
            if cut < len(head):
                assert (await client.response()).status == 502, cut
                continue
            with pytest.raises(CutOff) as broken:
                await client.response()
            sent = raw[len(head) : cut]
            assert broken.value.so_far is not None, cut
            assert broken.value.so_far.body == (sent if framing == "length" else _payload(sent)), cut


async def test_a_body_until_close_ends_where_the_provider_closed(stack: Stack) -> None:
    stack.upstream.respond = _cut(b"HTTP/1.1 200 OK\r\n\r\nhello", "fin")
    async with await RawClient.connect(stack.port) as client:
        got = await client.request(_REQUEST)
        assert (got.body, got.get(b"transfer-encoding")) == (b"hello", b"chunked")


async def test_a_silent_provider_is_given_up_after_the_limit(stack: Stack) -> None:
    fetcher = stack.wiring.runtime.fetcher
    fetcher.watchdog._limit_s, fetcher.watchdog._interval_s = 0.3, 0.05  # type: ignore[attr-defined] # not 300 s

    async def silent(message: Message, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def stalls(message: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD + b"2\r\nok\r\n")
        await asyncio.sleep(60)

    stack.upstream.respond = silent
    async with asyncio.timeout(3), await RawClient.connect(stack.port) as client:
        got = await client.request(_REQUEST)
        assert (got.status, got.body) == (504, b'{"error":"Upstream provider unavailable","type":"upstream_timeout"}')
    stack.upstream.respond = stalls
    async with asyncio.timeout(3), await RawClient.connect(stack.port) as client:
        with pytest.raises(CutOff) as cut:
            await client.request(_REQUEST)
        assert cut.value.so_far is not None
        assert cut.value.so_far.body == b"ok"
    await stack.upstream.until_closed(1)


async def test_a_provider_that_refuses_is_502(stack: Stack) -> None:
    stack.wiring.env.upstream_openai_url = "http://127.0.0.1:1"
    async with await RawClient.connect(stack.port) as client:
        got = await client.request(b"GET /openai/v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: bearer k\r\n\r\n")
    assert (got.status, got.body) == (502, b'{"error":"Upstream provider unavailable","type":"upstream_error"}')
    assert got.get(b"x-aip-reason") == b"upstream-status"
