"""The reference adapter: a bounded key-value store and a bounded queue in the memory of this process.

Connection URL: ``memory://``, ``memory://?namespace=NAME``, for a queue ``memory://?queue=NAME``; each opening is
a store of its own, whatever its name.
Semantics: exact expiry, exact order; least recently used entries go when a bound is reached, while a full queue
refuses to take more.
Limits: nothing is shared between processes and nothing survives a restart.
"""

from __future__ import annotations

import heapq
import time
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl
from uuid import uuid4

from .errors import ConfigError, StoreUnavailable
from .names import cursor_after, name_before, to_bytes, to_text
from .ports import Claimed, Clock, KVEntry, KVKey, KVPage, QueueDepth

_MIB = 1024 * 1024
_SWEEP_PER_WRITE = 32


@asynccontextmanager
async def open_kv(url: str, *, clock: Clock = time.time) -> AsyncIterator[MemoryKVStore]:
    """A fresh store for ``memory://``; its entries are dropped at exit. ``ConfigError`` for another URL."""
    _check_url(url, "namespace")
    yield MemoryKVStore(clock=clock)


@asynccontextmanager
async def open_queue(url: str, *, clock: Clock = time.time) -> AsyncIterator[MemoryQueueStore]:
    """A fresh queue for ``memory://``; its messages are dropped at exit. ``ConfigError`` for another URL."""
    _check_url(url, "queue")
    yield MemoryQueueStore(clock=clock)


def _check_url(url: str, option: str) -> None:
    """``memory://`` or ``memory://?<option>=NAME``: the name is accepted so that URLs can be swapped."""
    address, _, query = url.partition("?")
    if address.lower() != "memory://" or not {name for name, _ in parse_qsl(query, keep_blank_values=True)} <= {option}:
        raise ConfigError(f"a memory store is opened by 'memory://', without host or path; its one option is {option}")


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

    async def compare_and_put(self, key: str, seen: bytes | None, entry: KVEntry) -> bool:
        """Put ``entry`` if the live value is ``seen``; one step, as nothing here waits between look and write."""
        held = self._entries.get(key)
        if held is not None and _expired(held, self._clock()):
            held = None
        if (None if held is None else held.value) != seen:
            return False
        await self.put(key, entry)
        return True

    async def delete(self, key: str) -> None:
        """Remove ``key``; a missing key is no error."""
        self._drop(key)

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        """Up to ``limit`` live names with ``prefix``, ascending by UTF-8 bytes, after ``cursor``."""
        start = bisect_left(self._names, prefix)
        if cursor is not None:
            start = max(start, bisect_right(self._names, to_text(name_before(cursor))))
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
                return KVPage(keys, cursor_after(to_bytes(keys[-1].name)))
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
    return len(text) if text.isascii() else len(to_bytes(text))


@dataclass(slots=True)
class _Held:
    """A message in memory; it can be claimed from ``due`` on, which is the end of its lease while it has one."""

    id: str
    number: int
    body: bytes
    timestamp: float
    due: float
    attempts: int = 0
    leased: bool = False
    turn: int = 0


class MemoryQueueStore:
    """A :class:`worker_compat.ports.QueueStore` of at most ``max_messages`` messages and ``max_bytes`` bytes of bodies.

    Messages that can be claimed come in the order of their pushes. A push that does not fit is
    ``StoreUnavailable`` and adds nothing: unlike a cache, a queue must not drop what it took.
    """

    def __init__(self, *, clock: Clock = time.time, max_messages: int = 100_000, max_bytes: int = 64 * _MIB) -> None:
        if max_messages < 1 or max_bytes < 1:
            raise ValueError("max_messages and max_bytes must be at least 1")
        self._clock = clock
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pushed = 0
        self._messages: dict[str, _Held] = {}
        # A row counts only while its last number is the message's turn; _wait drops what has piled up.
        self._later: list[tuple[float, int, str, int]] = []
        self._ready: list[tuple[int, str, int]] = []

    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        """Append messages; all of them fit, or none is taken."""
        size = sum(map(len, bodies))
        if len(self._messages) + len(bodies) > self._max_messages or self._bytes + size > self._max_bytes:
            limits = f"{self._max_messages} messages and {self._max_bytes} bytes"
            raise StoreUnavailable(f"the memory queue is full: it holds at most {limits}; consume faster or use a file")
        now = self._clock()
        for body in bodies:
            self._pushed += 1
            message = _Held(uuid4().hex, self._pushed, bytes(body), now, now + delay_s)
            self._messages[message.id] = message
            self._wait(message)
        self._bytes += size

    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        """Lease up to ``limit`` due messages, in the order of their pushes."""
        now = self._clock()
        claimed: list[Claimed] = []
        while len(claimed) < limit and (message := self._claimable(now)) is not None:
            message.attempts += 1
            message.leased = True
            message.due = now + lease_s
            self._wait(message)
            claimed.append(Claimed(message.id, message.body, message.timestamp, message.attempts))
        return claimed

    async def ack(self, ids: Sequence[str]) -> None:
        """Delete messages, leased or not."""
        for id in ids:
            message = self._messages.pop(id, None)
            if message is not None:
                self._bytes -= len(message.body)

    async def release(self, ids: Sequence[str], delay_s: int) -> None:
        """End leases; a message whose lease ran out is left as it is."""
        now = self._clock()
        for id in ids:
            message = self._messages.get(id)
            if message is not None and message.leased and message.due > now:
                message.leased = False
                message.due = now + delay_s
                self._wait(message)

    async def depth(self) -> QueueDepth:
        """The backlog; looks at every message."""
        now = self._clock()
        waiting = [held.timestamp for held in self._messages.values() if not held.leased or held.due <= now]
        oldest_s = max(0.0, now - min(waiting)) if waiting else 0.0
        return QueueDepth(len(waiting), len(self._messages) - len(waiting), oldest_s)

    def _wait(self, message: _Held) -> None:
        message.turn += 1
        heapq.heappush(self._later, (message.due, message.number, message.id, message.turn))
        # Acknowledged messages must not stay until the lease that they had would have ended.
        if len(self._later) + len(self._ready) > 2 * len(self._messages) + 64:
            self._ready = []
            self._later = [(held.due, held.number, held.id, held.turn) for held in self._messages.values()]
            heapq.heapify(self._later)

    def _claimable(self, now: float) -> _Held | None:
        """The first message that is due, taken out; None when there is none."""
        while self._later and self._later[0][0] <= now:
            _, number, id, turn = heapq.heappop(self._later)
            heapq.heappush(self._ready, (number, id, turn))
        while self._ready:
            _, id, turn = heapq.heappop(self._ready)
            message = self._messages.get(id)
            if message is not None and message.turn == turn:
                return message
        return None
