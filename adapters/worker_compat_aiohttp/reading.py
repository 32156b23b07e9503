"""What both halves share about reading: small pieces, nothing lost when a peer breaks off, time limits."""

from __future__ import annotations

import asyncio

from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import set_exception

from worker_compat.errors import FetchTimeout

READ_BUFFER = 32 * 1024
"""aiohttp pauses a peer once twice this many bytes wait to be read."""
SOCKET_READ = 64 * 1024
"""Bytes taken from a socket at once; asyncio's own 256 KiB would be held per stalled stream."""


def read_small(transport: asyncio.BaseTransport) -> None:
    """Make a transport read at most ``SOCKET_READ`` bytes at once."""
    if hasattr(transport, "max_size"):
        transport.max_size = SOCKET_READ


class Watchdog:
    """One timer for every wait on an upstream: a timer per wait would cost more than the wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._interval_s = min(1.0, limit_s / 4)
        self._waits: dict[ResponseHandler, tuple[float, str]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, protocol: ResponseHandler, phase: str) -> None:
        """Begin or restart the time limit of ``protocol``; ``phase`` is named in the error."""
        self._waits[protocol] = (self._loop.time() + self._limit_s, phase)
        if self._timer is None:
            self._timer = self._loop.call_later(self._interval_s, self._sweep)

    def unwatch(self, protocol: ResponseHandler) -> None:
        """The wait is over."""
        self._waits.pop(protocol, None)

    def stop(self) -> None:
        """Forget all waits."""
        self._waits.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now = self._loop.time()
        late = [(protocol, phase) for protocol, (deadline, phase) in self._waits.items() if deadline <= now]
        for protocol, phase in late:
            del self._waits[protocol]
            fail(protocol, FetchTimeout(phase, self._limit_s))
        self._timer = self._loop.call_later(self._interval_s, self._sweep) if self._waits else None


def fail(protocol: ResponseHandler, error: BaseException) -> None:
    """Make whoever waits for this upstream, for its head or its body, see ``error``."""
    protocol.set_exception(error)
    if protocol._payload is not None:
        set_exception(protocol._payload, error)
