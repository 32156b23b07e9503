"""The reference adapter: a bounded key-value store in the memory of this process.

Connection URL: ``memory://``, without host, path or options.
Semantics: exact expiry, exact order; least recently used entries go when a bound is reached.
Limits: nothing is shared between processes and nothing survives a restart.
"""

from __future__ import annotations

import base64
import heapq
import time
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import ConfigError, StoreUnavailable
from .ports import Clock, KVEntry, KVKey, KVPage

_MIB = 1024 * 1024
_SWEEP_PER_WRITE = 32


@asynccontextmanager
async def open_kv(url: str, *, clock: Clock = time.time) -> AsyncIterator[MemoryKVStore]:
    """A fresh store for ``memory://``; its entries are dropped at exit. ``ConfigError`` for another URL."""
    if url.lower() != "memory://":
        raise ConfigError("the memory store is opened by 'memory://', without host, path or options")
    yield MemoryKVStore(clock=clock)


class MemoryKVStore:
    """A :class:`worker_compat.ports.KVStore` of at most ``max_entries`` entries and ``max_bytes`` bytes.

    Bytes are those of names, values and metadata. A put over a bound drops first what has expired, then the
    least recently used entries; listing is no use. An entry that could never fit is ``StoreUnavailable`` and
    changes nothing. ``list`` raises ``ValueError`` for a cursor that it did not give out.
    """

    def __init__(self, *, clock: Clock = time.time, max_entries: int = 10_000, max_bytes: int = 64 * _MIB) -> None:
        if max_entries < 1 or max_bytes < 1:
            raise ValueError("max_entries and max_bytes must be at least 1")
        self._clock = clock
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, KVEntry] = OrderedDict()
        # Python orders str by code points, which is the order of their UTF-8 bytes.
        self._names: list[str] = []
        # May hold times of entries that were replaced or deleted since; _sweep and _remember deal with them.
        self._expirations: list[tuple[int, str]] = []

    async def get(self, key: str) -> KVEntry | None:
        """The live entry, or None; it becomes the most recently used one."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if _expired(entry, self._clock()):
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    async def put(self, key: str, entry: KVEntry) -> None:
        """Replace everything stored under ``key``, dropping other entries when a bound is reached."""
        size = _size(key, entry)
        if size > self._max_bytes:
            raise StoreUnavailable(f"an entry of {size} bytes does not fit a memory store of {self._max_bytes} bytes")
        now = self._clock()
        self._sweep(now, _SWEEP_PER_WRITE)
        self._drop(key)
        while self._entries and self._is_full(size):
            if not self._sweep(now, 1):
                self._drop(next(iter(self._entries)))
        self._entries[key] = entry
        self._bytes += size
        insort(self._names, key)
        self._remember(key, entry)

    async def delete(self, key: str) -> None:
        """Remove ``key``; a missing key is no error."""
        self._drop(key)

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        """Up to ``limit`` live names with ``prefix``, ascending by UTF-8 bytes, after ``cursor``."""
        start = bisect_left(self._names, prefix)
        if cursor is not None:
            start = max(start, bisect_right(self._names, _name_of(cursor)))
        now = self._clock()
        keys: list[KVKey] = []
        for index in range(start, len(self._names)):
            name = self._names[index]
            if not name.startswith(prefix):
                break
            entry = self._entries[name]
            if _expired(entry, now):
                continue
            if len(keys) == limit:
                return KVPage(keys, _cursor_after(keys[-1].name))
            keys.append(KVKey(name, entry.metadata, entry.expiration))
        return KVPage(keys)

    def _is_full(self, incoming: int) -> bool:
        return len(self._entries) >= self._max_entries or self._bytes + incoming > self._max_bytes

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= _size(key, entry)
            del self._names[bisect_left(self._names, key)]

    def _sweep(self, now: float, limit: int) -> int:
        """Drop up to ``limit`` expired entries; how many were dropped."""
        dropped = 0
        while dropped < limit and self._expirations and self._expirations[0][0] <= now:
            _, name = heapq.heappop(self._expirations)
            entry = self._entries.get(name)
            if entry is not None and _expired(entry, now):
                self._drop(name)
                dropped += 1
        return dropped

    def _remember(self, key: str, entry: KVEntry) -> None:
        if entry.expiration is None:
            return
        heapq.heappush(self._expirations, (entry.expiration, key))
        # Rewriting one key for ever must not grow the heap for ever.
        if len(self._expirations) > 2 * len(self._entries) + 64:
            self._expirations = [
                (held.expiration, name) for name, held in self._entries.items() if held.expiration is not None
            ]
            heapq.heapify(self._expirations)


def _expired(entry: KVEntry, now: float) -> bool:
    return entry.expiration is not None and entry.expiration <= now


def _size(key: str, entry: KVEntry) -> int:
    metadata = entry.metadata or ""
    return _utf8_length(key) + len(entry.value) + _utf8_length(metadata)


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _cursor_after(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode("utf-8", "surrogatepass")).decode()


def _name_of(cursor: str) -> str:
    return base64.b64decode(cursor, altchars=b"-_", validate=True).decode("utf-8", "surrogatepass")
