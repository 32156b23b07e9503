"""A TCP proxy that passes every byte on a little later, so that calls are still in flight when a test cancels them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_CHUNK = 65536

Heard = Callable[[bytes], None]


def _nobody(_data: bytes) -> None:
    """Who does not listen."""


@asynccontextmanager
async def delay_proxy(port: int, delay_s: float, heard: Heard = _nobody) -> AsyncIterator[int]:
    """The port of a proxy to ``port`` on the loopback that holds each chunk for ``delay_s`` seconds, both ways.

    ``heard`` is told each chunk of a client when it arrives here.
    """
    open_now: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_pass_on(reader, back, delay_s, heard))
                    both.create_task(_pass_on(there, writer, delay_s, _nobody))
            finally:
                back.close()
        finally:
            open_now.discard(task)
            writer.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in open_now.copy():
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
        await server.wait_closed()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float, heard: Heard) -> None:
    """Until one side has ended; the delay is per chunk and does not add up over chunks."""
    loop = asyncio.get_running_loop()
    try:
        while data := await reader.read(_CHUNK):
            heard(data)
            loop.call_later(delay_s, writer.write, data)
        loop.call_later(delay_s, writer.close)
    except ConnectionError:
        writer.close()
