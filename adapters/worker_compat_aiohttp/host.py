"""The server half: listens, bounds what it holds, and ends in order."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from worker_compat.ports import Handle
from worker_compat.response import Response

from .connection import Connection

log = logging.getLogger("worker_compat_aiohttp")

_SPARE_CONNECTIONS = 256
"""Connections accepted beyond the limit, so that they get an answer instead of silence."""

Refuse = Callable[[int, str], Response]


def _plain_refusal(status: int, sentence: str) -> Response:
    return Response(f"{sentence}\n", status)


class AiohttpHost:
    """The Host port over aiohttp.

    ``client_fin``: what a half-close of the client means, ``wait`` (it still reads) or ``abort`` (it is gone).
    ``max_connections`` and ``max_held_bytes``: beyond them requests carry ``overload``. ``refuse`` makes the answer
    to bytes that are no HTTP request, from a status and a sentence.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8787,
        *,
        client_fin: str = "wait",
        max_connections: int = 10_000,
        max_held_bytes: int = 256 * 1024 * 1024,
        keepalive_s: float = 75.0,
        refuse: Refuse = _plain_refusal,
    ) -> None:
        self._address = (host, port)
        self._keepalive_s = keepalive_s
        self._max_connections = max_connections
        self._open = 0
        self._in_flight = 0
        self._ended: asyncio.Event | None = None
        self._idle = asyncio.Event()
        self._draining = False
        self._deadline: asyncio.TimerHandle | None = None
        self.fin_aborts = client_fin == "abort"
        self.max_held_bytes = max_held_bytes
        self.held = 0
        self.refuse = refuse
        self.handle: Handle = _unserved
        self.addresses: list[tuple[str, int]] = []
        self.listening = asyncio.Event()

    async def serve(self, handle: Handle) -> None:
        """Serve until :meth:`stop`; see :class:`worker_compat.ports.Host`."""
        self.handle = handle
        self._ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        server = web.Server(_unused, handler_cancellation=True)

        def connect() -> Connection:
            return Connection(self, server, loop, keepalive_timeout=self._keepalive_s, max_headers=256)

        host, port = self._address
        listener = await loop.create_server(connect, host, port, backlog=4096, reuse_address=True)
        self.addresses = [_address(sock) for sock in listener.sockets]
        self.listening.set()
        try:
            await self._ended.wait()
        finally:
            listener.close()
            for connection in server.connections:
                # An orderly close would wait for a client that does not read; an abort cancels its handler now.
                transport = connection.transport
                connection.force_close()
                if transport is not None:
                    transport.abort()
            # Cancelled handlers need a turn of the loop to close what they hold.
            for _ in range(100):
                if not self._in_flight:
                    break
                await asyncio.sleep(0.01)

    def stop(self, grace_s: float) -> None:
        """Begin to end; see :class:`worker_compat.ports.Host`."""
        self._draining = True
        if self._deadline is not None:
            self._deadline.cancel()
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(grace_s, self._finish)
        if not self._in_flight:
            self._finish()

    @property
    def in_flight(self) -> int:
        """Requests being answered now."""
        return self._in_flight

    @property
    def connections(self) -> int:
        """Open client connections."""
        return self._open

    @property
    def draining(self) -> bool:
        """Whether :meth:`stop` was called: answers then close their connection."""
        return self._draining

    def admit(self) -> bool:
        """Count a new connection; whether it is one too many."""
        self._open += 1
        return self._open > self._max_connections

    def full(self) -> bool:
        """Whether not even a refusal has room."""
        return self._open > self._max_connections + _SPARE_CONNECTIONS

    def dismiss(self) -> None:
        """Count a connection that is gone."""
        self._open -= 1

    def begin(self) -> None:
        """Count a request that begins."""
        self._in_flight += 1

    def end(self) -> None:
        """Count a request that ended; the last one ends a host that drains."""
        self._in_flight -= 1
        if self._draining and not self._in_flight:
            self._finish()

    def _finish(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._in_flight:
            log.warning("%d requests were cut off at the end of the grace period", self._in_flight)
        if self._ended is not None:
            # One turn later, so that the last answer's bytes reach the socket first.
            asyncio.get_running_loop().call_soon(self._ended.set)


async def _unserved(request: object, send: object) -> None:
    raise RuntimeError("the host does not serve yet")


async def _unused(request: web.BaseRequest) -> web.StreamResponse:
    raise RuntimeError("Connection.start replaces aiohttp's handler")


def _address(sock: socket.socket) -> tuple[str, int]:
    name = sock.getsockname()
    return str(name[0]), int(name[1])


@asynccontextmanager
async def open_host(host: str = "127.0.0.1", port: int = 8787, **options: object) -> AsyncIterator[AiohttpHost]:
    """A host; options are those of :class:`AiohttpHost`."""
    yield AiohttpHost(host, port, **options)  # type: ignore[arg-type] # forwarded as they are
