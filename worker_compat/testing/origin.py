"""A scripted HTTP/1.1 server for tests of fetchers: it answers with given bytes and keeps what it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from worker_compat.headers import RawHeaders

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@dataclass(slots=True)
class ReceivedRequest:
    """A request as it stood on the wire; ``body`` without chunked framing, ``chunks`` as they were framed."""

    method: str
    target: str
    headers: RawHeaders
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        return next((value for other, value in self.headers if other.lower() == name), None)


class Peer:
    """One connection to the origin, for scripts that answer step by step."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: ReceivedRequest) -> None:
        self._reader = reader
        self._writer = writer
        self.request = request

    async def read_chunk(self) -> bytes:
        """The next chunk of a chunked request body; ``b""`` at its end."""
        size = int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16)
        chunk = (await self._reader.readexactly(size + 2))[:-2]
        self.request.body += chunk
        if chunk:
            self.request.chunks.append(chunk)
        return chunk

    async def read_body(self) -> bytes:
        """The whole request body."""
        if self.request.header(b"transfer-encoding") is not None:
            while await self.read_chunk():
                continue
        elif (length := self.request.header(b"content-length")) is not None:
            self.request.body = await self._reader.readexactly(int(length))
        return self.request.body

    async def send(self, data: bytes) -> None:
        """Write ``data`` at once."""
        self._writer.write(data)
        await self._writer.drain()

    async def closed(self) -> None:
        """Wait until the other side has closed or broken the connection."""
        try:
            while await self._reader.read(65536):
                continue
        except ConnectionError:
            return

    def close(self) -> None:
        """Close the connection in order."""
        self._writer.close()

    def abort(self) -> None:
        """Break the connection off."""
        self._writer.transport.abort()


Script: TypeAlias = "Callable[[Peer], Awaitable[None]]"
"""Answers one request; its body is unread."""


class Origin:
    """What answers at ``url``: ``routes`` by path, bytes or a :data:`Script`. ``requests`` is what came, in order."""

    def __init__(self) -> None:
        self.url = ""
        self.routes: dict[str, bytes | Script] = {}
        self.requests: list[ReceivedRequest] = []
        self.connections = 0
        self.open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        self.connections += 1
        self.open[writer] = asyncio.current_task()
        try:
            while await self._answer(reader, writer):
                continue
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open.pop(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = _parsed(await reader.readuntil(b"\r\n\r\n"))
        self.requests.append(request)
        peer = Peer(reader, writer, request)
        route = self.routes.get(request.target.partition("?")[0], NOT_FOUND)
        if not isinstance(route, bytes):
            await route(peer)
            return not writer.is_closing()
        await peer.read_body()
        await peer.send(route)
        return b"\r\nconnection: close\r\n" not in route.lower()


@asynccontextmanager
async def open_origin() -> AsyncIterator[Origin]:
    """An origin on a free port of loopback; connections still open at the end are broken off."""
    origin = Origin()
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0, limit=1024 * 1024)
    host, port = server.sockets[0].getsockname()[:2]
    origin.url = f"http://{host}:{port}"
    try:
        yield origin
    finally:
        server.close()
        tasks = [task for task in origin.open.values() if task is not None]
        for writer in origin.open:
            writer.transport.abort()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=1)
            for task in stuck:
                task.cancel()


def _parsed(head: bytes) -> ReceivedRequest:
    start, *lines = head[:-4].split(b"\r\n")
    method, target, _ = start.decode("latin-1").split(" ")
    pairs = [line.split(b":", 1) for line in lines]
    return ReceivedRequest(method, target, [(name, value.strip()) for name, value in pairs])
