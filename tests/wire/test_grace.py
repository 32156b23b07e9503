"""The end of the grace period: whoever does not end by then is cut off, and that is on record."""

from __future__ import annotations

import asyncio
from pathlib import Path

from smoltbot_worker.events import Event, ExchangeEnded
from tests.wire.raw import Message, RawClient
from tests.wire.stack import open_stack

_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_ASK = b"POST /anthropic/v1/messages HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\nContent-Length: 2\r\n\r\n{}"


class _Events:
    def __init__(self) -> None:
        self.seen: list[Event] = []

    def emit(self, event: Event) -> None:
        self.seen.append(event)


async def _endless(message: Message, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD)
    while True:
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()


async def test_the_end_of_the_grace_cuts_a_client_that_does_not_read(tmp_path: Path) -> None:
    async with open_stack(tmp_path) as stack:
        events = stack.wiring.env.telemetry = _Events()
        stack.upstream.respond = _endless
        client = await RawClient.connect(stack.port, receive_buffer=4096)
        await client.send(_ASK)
        await client.reader.readexactly(50)
        await asyncio.sleep(0.5)  # every buffer on the way is full
        stack.wiring.host.stop(0.1)
        try:
            await stack.upstream.until_closed(1.0)
        finally:
            client.reset()
        assert [event.outcome for event in events.seen if isinstance(event, ExchangeEnded)] == ["client-left"]
