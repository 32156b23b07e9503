"""A TCP proxy that cuts connections at an answer, which the client never gets although the server sent it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_CHUNK = 65536


@asynccontextmanager
async def cutting_proxy(port: int, cut_at: Callable[[bytes], bool]) -> AsyncIterator[int]:
    """The port of a proxy to ``port`` on the loopback.

    ``cut_at`` is asked about each chunk that the server sends; where it says True the chunk is dropped and the
    connection ends, on both sides.
    """
    open_now: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", port)
        ways = [
            asyncio.ensure_future(_pass_on(reader, back, lambda _: False)),
            asyncio.ensure_future(_pass_on(there, writer, cut_at)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            back.transport.abort()
            writer.transport.abort()
            open_now.discard(task)

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in open_now.copy():
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
        await server.wait_closed()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut_at: Callable[[bytes], bool]) -> None:
    """Until one side has ended or it is cut."""
    try:
        while data := await reader.read(_CHUNK):
            if cut_at(data):
                return
            writer.write(data)
    except ConnectionError:
        return
