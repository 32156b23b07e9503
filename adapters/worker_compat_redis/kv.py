"""A key-value store in Redis, with names in order.

Connection URL: ``redis://[user:password@]host:port/db?namespace=NAME`` (``default`` unless given); ``rediss://`` for
TLS, with the options ``ca``, ``cert`` and ``key``; ``redis+sentinel://host:26379,host2:26379/service/db``, with the
option ``sentinel_password``; ``redis+cluster://host:port,host2:port``; both also with ``rediss``. Limits:
``connect_timeout_ms`` (100), ``timeout_ms`` (150), ``max_connections`` (32).
Semantics: every call is one atomic step; expiration is judged by the clock of the caller, and Redis itself drops an
entry only an hour later. What has expired is removed in the background, a few hundred names at a time. An outage is
``StoreUnavailable`` within a quarter of a second, at once after five in a row, and is over within half a second after
the server is back. After a fail-over of Sentinel or Cluster the writes that the new master had not yet received are
lost, as replication is asynchronous.
Limits: needs Redis 6.2 or later (or Valkey), and scripts that reach keys which they do not declare. One namespace
lives on one node of a Cluster. Set ``maxmemory-policy`` to ``noeviction`` or a ``volatile`` policy: an entry that was
evicted is a missing one, and the policies ``allkeys`` may evict the list of all names. A put of a large value may take
a tenth of a second longer for each MiB.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import quote

from worker_compat.errors import StoreUnavailable
from worker_compat.names import cursor_after, name_before, to_bytes, to_text
from worker_compat.ports import Clock, KVEntry, KVKey, KVPage

from .connection import Link, Word, open_link
from .kv_scripts import COMPARE_AND_PUT, DELETE, FORGET, GET, LIST, PUT, SWEEP
from .settings import settings_of

_MIB = 1024 * 1024
_PAGE = 1000
_LOOKED_AT = 2000
_SWEEP_STEP = 250
_SWEEP_PAUSE_S = 0.004
_JANITOR_S = 3600
_LONGEST_LIFE_S = 10 * 366 * 86400


@asynccontextmanager
async def open_kv(url: str, *, clock: Clock = time.time) -> AsyncIterator[RedisKVStore]:
    """The namespace at ``url``; connections are made when needed and closed at exit. ``ConfigError`` for a bad URL."""
    settings = settings_of(url, "namespace")
    tag = f"wc:{{kv:{quote(settings.name, safe='')}}}".encode()
    async with open_link(settings, tag) as link:
        store = RedisKVStore(link, tag, clock=clock)
        try:
            yield store
        finally:
            await store.close()


class RedisKVStore:
    """A :class:`worker_compat.ports.KVStore` that can compare and put; ``tag`` begins the names of its keys."""

    def __init__(self, link: Link, tag: bytes, *, clock: Clock = time.time) -> None:
        self._link = link
        self._clock = clock
        self._names = tag + b":names"
        self._expirations = tag + b":expirations"
        self._entries = tag + b":v:"
        self._sweeping: asyncio.Task[None] | None = None

    async def get(self, key: str) -> KVEntry | None:
        """The live entry, or None."""
        entry = self._entries + to_bytes(key)
        found = await self._link.run(GET, [entry], [_MIB])
        if isinstance(found, int):
            found = await self._link.call("HMGET", entry, "v", "e", "m", size=found)
        value, expiration, metadata = found
        if value is None or (expiration and int(expiration) <= self._clock()):
            return None
        return KVEntry(value, _text(metadata), int(expiration) if expiration else None)

    async def put(self, key: str, entry: KVEntry) -> None:
        """Replace everything stored under ``key``."""
        name = to_bytes(key)
        self._sweep_if(await self._link.run(PUT, self._keys(name), self._written(name, entry), size=len(entry.value)))

    async def compare_and_put(self, key: str, seen: bytes | None, entry: KVEntry) -> bool:
        """Put ``entry`` if the live value is ``seen``."""
        name = to_bytes(key)
        expected = b"" if seen is None else b"=" + seen
        size = len(entry.value) + len(expected)
        arguments = (*self._written(name, entry), expected)
        due: int = await self._link.run(COMPARE_AND_PUT, self._keys(name), arguments, size=size)
        self._sweep_if(due)
        return due >= 0

    async def delete(self, key: str) -> None:
        """Remove ``key``; a missing key is no error."""
        name = to_bytes(key)
        await self._link.run(DELETE, self._keys(name), [name])

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        """Up to ``limit`` live names with ``prefix``, ascending by UTF-8 bytes, after ``cursor``; 1000 at most.

        A page is short when very many names have expired just now.
        """
        start = to_bytes(prefix)
        low, high = (b"[" + start, b"(" + start[:-1] + bytes([start[-1] + 1])) if start else (b"-", b"+")
        if cursor is not None and (after := name_before(cursor)) >= start:
            low = b"(" + after
        arguments = (self._entries, low, high, min(limit, _PAGE), repr(self._clock()), _LOOKED_AT)
        index = (self._names, self._expirations)
        due, last, rows, lost = await self._link.run(LIST, index, arguments)
        if lost:
            # These were evicted; or their slot is on its way to another node of a Cluster, which only a call that
            # declares their keys is told.
            await self._link.run(FORGET, [*index, *(self._entries + name for name in lost)], lost)
        self._sweep_if(due)
        keys = [
            KVKey(to_text(rows[at]), _text(rows[at + 2]), int(rows[at + 1]) if rows[at + 1] else None)
            for at in range(0, len(rows), 3)
        ]
        return KVPage(keys, None if last is None else cursor_after(last))

    async def close(self) -> None:
        """End what runs in the background."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])

    def _keys(self, name: bytes) -> Sequence[bytes]:
        return (self._entries + name, self._names, self._expirations)

    def _written(self, name: bytes, entry: KVEntry) -> Sequence[Word]:
        now = self._clock()
        expiration: Word = "" if entry.expiration is None else entry.expiration
        metadata = "" if entry.metadata is None else "+" + entry.metadata
        life_ms: Word = ""
        # Redis refuses a life that ends after the end of its calendar.
        if entry.expiration is not None and entry.expiration - now < _LONGEST_LIFE_S:
            life_ms = int((max(entry.expiration - now, 0) + _JANITOR_S) * 1000)
        return (name, entry.value, expiration, to_bytes(metadata), life_ms, repr(now))

    def _sweep_if(self, due: int) -> None:
        if due > 0 and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        """Remove what has expired, in steps that are short for everybody else."""
        removed = _SWEEP_STEP
        try:
            while removed == _SWEEP_STEP:
                arguments = (self._entries, repr(self._clock()), _SWEEP_STEP)
                removed = await self._link.run(SWEEP, [self._names, self._expirations], arguments)
                await asyncio.sleep(_SWEEP_PAUSE_S)
        except StoreUnavailable:
            # Whoever calls next is told; the sweep begins again with the first call that finds something expired.
            return


def _text(text: bytes | None) -> str | None:
    return None if text is None else to_text(text)
