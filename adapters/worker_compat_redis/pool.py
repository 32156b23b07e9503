"""The open connections to one server: as few as are needed at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from redis.asyncio.connection import Connection

from .limits import TimeLimit

_OPENED_AT_ONCE = 4


class Pool:
    """Connections that ``make`` makes, each opened and passed by ``check`` within ``limit_s``.

    How many are used at once is up to the caller.

    Only four are being opened at a time, so that a burst of first calls neither runs into its own time limit nor
    leaves dozens of connections behind: who waits takes one that has become free meanwhile.
    """

    def __init__(
        self, make: Callable[[], Connection], limit_s: float, check: Callable[[Connection], Awaitable[None]]
    ) -> None:
        self._make = make
        self._check = check
        self._limit_s = limit_s
        self._idle: list[Connection] = []
        self._opening = asyncio.Semaphore(_OPENED_AT_ONCE)
        self._closed = False

    async def take(self) -> Connection:
        """A connection for one caller alone. What it raises is of redis-py or an ``OSError``: nothing was sent then."""
        while True:
            if not self._idle:
                async with self._opening:
                    if not self._idle:
                        return await self._opened()
            connection = self._idle.pop()
            if not await connection.can_read():
                return connection
            # The server has closed it.
            await connection.disconnect(nowait=True)

    async def give_back(self, connection: Connection) -> None:
        """Let others use it. Every answer that was asked for must have been read, or the connection be closed."""
        if self._closed or not connection.is_connected:
            await connection.disconnect(nowait=True)
        else:
            self._idle.append(connection)

    async def close(self, *, nowait: bool = False) -> None:
        """Close what is idle now, and the others when they are given back; ``nowait`` for a server that may hang."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(connection.disconnect(nowait) for connection in idle), return_exceptions=True)

    async def _opened(self) -> Connection:
        connection = self._make()
        try:
            async with TimeLimit(self._limit_s):
                await connection.connect()  # type: ignore[no-untyped-call]
                await self._check(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection
