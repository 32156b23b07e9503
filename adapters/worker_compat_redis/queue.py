"""An at-least-once queue in Redis: a stream with a consumer group, and leases by the clock of the callers.

Connection URL: as for the key-value store, with ``?queue=NAME`` (``default`` unless given) in place of ``namespace``.
Semantics: every call is one atomic step. Any number of processes may push and claim; leases and delays are judged by
the clock that each of them was given, so these should agree within a small part of a lease. A push that returned is as
durable as Redis is configured: with ``appendonly yes`` it survives the end of the process, with ``appendfsync always``
also a loss of power (``everysec`` may lose the last second); without either it is gone when Redis restarts. ``WAIT``
is not used: a fail-over of Sentinel or Cluster loses what the new master had not yet received, and may deliver again
what was acknowledged. A push that ends in ``StoreUnavailable`` may have happened. Errors and time limits are those of
the key-value store.
Limits: needs Redis 6.2 or later (or Valkey) and ``maxmemory-policy noeviction``. One claim gives about a MiB of bodies
at most. One queue lives on one node of a Cluster.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import quote
from uuid import uuid4

from worker_compat.ports import Claimed, Clock, QueueDepth

from .connection import Link, Word, open_link
from .queue_scripts import ACK, CLAIM, DEPTH, PUSH, RELEASE
from .settings import settings_of

_MIB = 1024 * 1024


@asynccontextmanager
async def open_queue(url: str, *, clock: Clock = time.time) -> AsyncIterator[RedisQueueStore]:
    """The queue at ``url``; connections are made when needed and closed at exit. ``ConfigError`` for a bad URL."""
    settings = settings_of(url, "queue")
    tag = f"wc:{{queue:{quote(settings.name, safe='')}}}".encode()
    async with open_link(settings, tag) as link:
        yield RedisQueueStore(link, tag, clock=clock)


class RedisQueueStore:
    """A :class:`worker_compat.ports.QueueStore`; ``tag`` begins the names of its keys."""

    def __init__(self, link: Link, tag: bytes, *, clock: Clock = time.time) -> None:
        self._link = link
        self._clock = clock
        self._keys = [tag + part for part in (b":stream", b":leases", b":returned", b":later", b":ages", b":holders")]
        self._holder = uuid4().hex

    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        """Append messages, due after ``delay_s`` seconds; durable as Redis is configured."""
        if not bodies:
            return
        now = self._clock()
        arguments: list[Word] = [repr(now), repr(now + delay_s) if delay_s > 0 else ""]
        for body in bodies:
            arguments += (uuid4().hex, body)
        await self._link.run(PUSH, self._keys, arguments, size=sum(map(len, bodies)))

    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        """Lease up to ``limit`` due messages for ``lease_s`` seconds, oldest first."""
        now = self._clock()
        found = await self._link.run(CLAIM, self._keys, [repr(now), limit, repr(now + lease_s), _MIB, self._holder])
        messages = [Claimed(name.decode(), body, float(pushed), attempts) for name, body, pushed, attempts in found]
        return sorted(messages, key=lambda message: message.timestamp)

    async def ack(self, ids: Sequence[str]) -> None:
        """Delete processed messages; an unknown id is no error."""
        if ids:
            await self._link.run(ACK, self._keys, _words(ids))

    async def release(self, ids: Sequence[str], delay_s: int) -> None:
        """Give back messages that this object has leased, due again after ``delay_s`` seconds.

        A lease that ran out, a message that somebody else has leased since and an unknown id are left alone.
        """
        if ids:
            now = self._clock()
            await self._link.run(RELEASE, self._keys, [repr(now), repr(now + delay_s), self._holder, *_words(ids)])

    async def depth(self) -> QueueDepth:
        """The backlog; messages that are not yet due wait too."""
        now = self._clock()
        waiting, leased, oldest = await self._link.run(DEPTH, self._keys, [repr(now)])
        return QueueDepth(waiting, leased, max(0.0, now - float(oldest)) if oldest is not None else 0.0)


def _words(ids: Sequence[str]) -> list[Word]:
    return [name.encode("utf-8", "surrogatepass") for name in ids]
