"""The queue of exchanges: each one sealed and stored before its answer ends, kept in memory while the store is away."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from smoltbot_worker.events import ExchangesDelayed
from smoltbot_worker.ports import Crypto, Telemetry
from worker_compat.errors import ConfigError, QueueError, StoreUnavailable
from worker_compat.queues import Queue

from .message import ExchangeMessage

log = logging.getLogger("smoltbot")

NAME = "exchanges"
"""Of the queue, unless its URL names another."""

_MIB = 1024 * 1024
# What a batch may hold, whatever the queue: the limits of Cloudflare's.
_GROUP = 100
_GROUP_BYTES = 250_000
_FIRST_PAUSE_S = 0.1


def longest_message(capture_bytes: int) -> int:
    """The size of the largest exchange: what is kept of request and answer, and a MiB for all the rest."""
    return 2 * capture_bytes + _MIB


@dataclass(slots=True, eq=False)
class _Waiting:
    sealed: bytes
    stored: asyncio.Future[bool]
    kept: bool = False
    """Nobody waits for it any more: it is in memory because the store is away."""


class ExchangeQueue:
    """Seals exchanges and pushes them into ``queue``, those that come together with one call.

    While the store is away at most ``most_kept`` exchanges of ``most_bytes`` in all are kept in memory; the oldest is
    lost then. They are stored in their order once the store is back. An exchange may be stored twice: a call that
    failed may have been done.
    """

    def __init__(
        self,
        queue: Queue,
        crypto: Crypto,
        telemetry: Telemetry,
        *,
        most_kept: int = 1000,
        most_bytes: int = 64 * _MIB,
        longest_pause_s: float = 5.0,
    ) -> None:
        self._queue = queue
        self._crypto = crypto
        self._telemetry = telemetry
        self._most_kept = most_kept
        self._most_bytes = most_bytes
        self._longest_pause_s = longest_pause_s
        self._line: deque[_Waiting] = deque()
        self._bytes = 0
        self._group: list[_Waiting] = []
        self._sender: asyncio.Task[None] | None = None
        self._away = False
        self._ending = asyncio.Event()
        self._kept = self._told = self._lost = 0

    @property
    def waiting(self) -> int:
        """How many exchanges are not stored yet."""
        return len(self._line) + len(self._group)

    async def push(self, message: ExchangeMessage) -> bool:
        """Store an exchange: True once it is durable, False when it is kept in memory until the store is back.

        Also when this call is cancelled it is stored.
        """
        sealed = await self._crypto.seal(message.to_bytes())
        mine = _Waiting(sealed, asyncio.get_running_loop().create_future())
        self._line.append(mine)
        self._bytes += len(sealed)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        if self._away:
            self._keep()
        return await mine.stored

    async def open(self, body: object) -> ExchangeMessage:
        """The exchange that a message of the queue carries; ``ValueError``, which says nothing of it, for any other."""
        if not isinstance(body, bytes | memoryview):
            raise ValueError("this is no sealed message")
        return ExchangeMessage.from_bytes(await self._crypto.open(bytes(body)))

    async def again(self, body: bytes | memoryview, delay_s: int) -> None:
        """Push what a message of the queue carries as a new message; ``StoreUnavailable`` when it cannot be."""
        await self._queue.send(bytes(body), contentType="bytes", delaySeconds=delay_s)

    async def drain(self, timeout_s: float) -> int:
        """Before the process ends: wait until all is stored; how many are given up after ``timeout_s`` seconds."""
        self._ending.set()
        if self._sender is not None:
            sender = self._sender
            await asyncio.wait({sender}, timeout=timeout_s)
            sender.cancel()
            await asyncio.wait({sender})
        lost = self._lose(self.waiting)
        self._tell()
        return lost

    async def _send_all(self) -> None:
        pause_s = _FIRST_PAUSE_S
        try:
            while self._line:
                self._take()
                if await self._send():
                    pause_s = _FIRST_PAUSE_S
                    continue
                self._keep()
                await self._rest(pause_s)
                pause_s = min(2 * pause_s, self._longest_pause_s)
        finally:
            self._sender = None
            self._put_back()
            self._keep()

    def _take(self) -> None:
        """The next group: as many as a batch may hold, one of any size at least."""
        size = 0
        while self._line and len(self._group) < _GROUP:
            size += len(self._line[0].sealed)
            if self._group and size > _GROUP_BYTES:
                break
            self._group.append(self._line.popleft())

    async def _send(self) -> bool:
        """Store the group; whether the store could be used."""
        try:
            await self._queue.sendBatch([{"body": each.sealed, "contentType": "bytes"} for each in self._group])
        except (StoreUnavailable, ConfigError) as error:
            if not self._away:
                log.error("exchanges wait in memory because their queue cannot be used: %s", error)
            self._away = True
            self._put_back()
            return False
        except QueueError as error:
            # It is alone: a group is never too large for a queue.
            log.error("an exchange is lost: %s", error)
            self._lost += len(self._group)
            self._settle(False)
        else:
            self._settle(True)
        self._away = False
        self._tell()
        return True

    def _settle(self, stored: bool) -> None:
        for each in self._group:
            self._forget(each)
            _answer(each, stored)
        self._group.clear()

    def _put_back(self) -> None:
        self._line.extendleft(reversed(self._group))
        self._group.clear()

    def _forget(self, each: _Waiting) -> None:
        self._bytes -= len(each.sealed)
        self._kept -= each.kept

    def _keep(self) -> None:
        """Let nobody wait for a store that is away, and lose the oldest of what goes over the bounds."""
        for each in self._line:
            self._kept += not each.kept
            each.kept = True
            _answer(each, False)
        while self._line and (self.waiting > self._most_kept or self._bytes > self._most_bytes):
            self._lose(1)
        self._tell()

    def _lose(self, count: int) -> int:
        """Give up so many of the oldest, which are in nobody's hands; their number."""
        for _ in range(count):
            each = self._line.popleft()
            self._forget(each)
            _answer(each, False)
        self._lost += count
        return count

    def _tell(self) -> None:
        if self._kept != self._told or self._lost:
            self._telemetry.emit(ExchangesDelayed(self._kept, self._lost))
            self._told, self._lost = self._kept, 0

    async def _rest(self, seconds: float) -> None:
        if self._ending.is_set():
            await asyncio.sleep(_FIRST_PAUSE_S)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()


def _answer(each: _Waiting, stored: bool) -> None:
    if not each.stored.done():
        each.stored.set_result(stored)
