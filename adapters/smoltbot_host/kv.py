"""The gateway's KV: the store of KV_URL, counted, with a bounded memory store in its place while it is out of reach."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import islice, starmap
from typing import Protocol

from worker_compat import registry
from worker_compat.errors import StoreUnavailable
from worker_compat.memory import MemoryKVStore
from worker_compat.ports import KVEntry, KVPage, KVStore

log = logging.getLogger("smoltbot")

NAMESPACE = "smoltbot"
"""The namespace of a ``KV_URL`` that names none, so that a shared server stays shareable."""

MOST_CHANGED = 1000
"""How many names that changed during an outage are remembered, to be written when it ends."""

_WRITTEN_AT_ONCE = 16
_QUIET_S = 10.0


class KVTelemetry(Protocol):
    """Takes note of what the store does."""

    def cache_operation(self, operation: str, result: str) -> None:
        """``operation`` is get, put, delete or list; ``result`` hit, miss, ok or error."""
        ...

    def kv_changed(self, available: bool) -> None:
        """The store came back or went away."""
        ...


@dataclass(frozen=True, slots=True)
class KV:
    """``store`` never fails with an outage; ``primary`` is the one of the URL and does: health asks that one."""

    store: KVStore
    primary: KVStore


@asynccontextmanager
async def open_kv(url: str, telemetry: KVTelemetry) -> AsyncIterator[KV]:
    """Both views of the store at ``url``; errors as for :func:`worker_compat.registry.open_kv`."""
    async with registry.open_kv(registry.with_option(url, "namespace", NAMESPACE)) as opened:
        primary = CountedKVStore(opened, telemetry.cache_operation)
        if isinstance(opened, MemoryKVStore):
            yield KV(primary, primary)
        else:
            yield KV(FallbackKVStore(primary, MemoryKVStore(), telemetry.kv_changed), primary)


class CountedKVStore:
    """A store whose calls are counted: a get is a hit or a miss, the others are ok; an outage is an error."""

    def __init__(self, store: KVStore, count: Callable[[str, str], None]) -> None:
        self._store = store
        self._count = count

    async def get(self, key: str) -> KVEntry | None:
        """See :class:`worker_compat.ports.KVStore`."""
        with self._counting_errors("get"):
            entry = await self._store.get(key)
        self._count("get", "miss" if entry is None else "hit")
        return entry

    async def put(self, key: str, entry: KVEntry) -> None:
        """See :class:`worker_compat.ports.KVStore`."""
        with self._counting_errors("put"):
            await self._store.put(key, entry)
        self._count("put", "ok")

    async def delete(self, key: str) -> None:
        """See :class:`worker_compat.ports.KVStore`."""
        with self._counting_errors("delete"):
            await self._store.delete(key)
        self._count("delete", "ok")

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        """See :class:`worker_compat.ports.KVStore`."""
        with self._counting_errors("list"):
            page = await self._store.list(prefix, limit, cursor)
        self._count("list", "ok")
        return page

    @contextmanager
    def _counting_errors(self, operation: str) -> Iterator[None]:
        try:
            yield
        except StoreUnavailable:
            self._count(operation, "error")
            raise


class FallbackKVStore:
    """``primary``; while that is out of reach ``memory``, which holds what was written meanwhile.

    For a cache: during an outage older entries are missing, not wrong. Names that changed meanwhile are written to
    ``primary``, or deleted there, before it is used again, so that no stale entry comes back; beyond
    ``MOST_CHANGED`` of them the oldest are forgotten, which is logged. A cursor of one store is not known to the
    other: a listing that an outage interrupts ends with ``ValueError``, as for any foreign cursor.
    """

    def __init__(self, primary: KVStore, memory: MemoryKVStore, changed: Callable[[bool], None]) -> None:
        self._primary = primary
        self._memory = memory
        self._tell = changed
        self._available = True
        self._warned: float | None = None
        self._announced = False
        self._changed: dict[str, object] = {}
        self._forgotten = 0
        self._replaying = asyncio.Lock()

    async def get(self, key: str) -> KVEntry | None:
        """The live entry, or None."""
        try:
            await self._replay()
            entry = await self._primary.get(key)
        except StoreUnavailable as error:
            self._lost(error)
            return await self._memory.get(key)
        self._found()
        return entry

    async def put(self, key: str, entry: KVEntry) -> None:
        """Replace everything stored under ``key``."""
        try:
            await self._replay()
            await self._primary.put(key, entry)
        except StoreUnavailable as error:
            self._lost(error)
            await self._remember(key)
            await self._memory.put(key, entry)
        else:
            self._found()

    async def delete(self, key: str) -> None:
        """Remove ``key``."""
        try:
            await self._replay()
            await self._primary.delete(key)
        except StoreUnavailable as error:
            self._lost(error)
            await self._remember(key)
            await self._memory.delete(key)
        else:
            self._found()

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        """One page of names."""
        try:
            await self._replay()
            page = await self._primary.list(prefix, limit, cursor)
        except StoreUnavailable as error:
            self._lost(error)
            return await self._memory.list(prefix, limit, cursor)
        self._found()
        return page

    async def _remember(self, key: str) -> None:
        self._changed.pop(key, None)
        self._changed[key] = object()
        if len(self._changed) > MOST_CHANGED:
            oldest = next(iter(self._changed))
            del self._changed[oldest]
            self._forgotten += 1
            await self._memory.delete(oldest)

    async def _replay(self) -> None:
        """Write what changed during an outage; raises ``StoreUnavailable`` while it lasts."""
        if not self._changed:
            return
        async with self._replaying:
            while self._changed:
                # Every call waits for all of this: one after the other, names on a slow network would take minutes.
                some = list(islice(self._changed.items(), _WRITTEN_AT_ONCE))
                outcomes = await asyncio.gather(*starmap(self._write, some), return_exceptions=True)
                for error in outcomes:
                    if error is not None:
                        raise error

    async def _write(self, key: str, change: object) -> None:
        entry = await self._memory.get(key)
        if entry is None:
            await self._primary.delete(key)
        else:
            await self._primary.put(key, entry)
        # A call that was under way when the outage began may have failed meanwhile, and changed it once more.
        if self._changed.get(key) is change:
            del self._changed[key]
            await self._memory.delete(key)

    def _lost(self, error: StoreUnavailable) -> None:
        if not self._available:
            return
        self._available = False
        self._tell(False)
        # A store that comes and goes must not fill the log.
        if self._warned is None or time.monotonic() - self._warned >= _QUIET_S:
            self._warned = time.monotonic()
            self._announced = True
            log.warning("KV is out of reach, a bounded store in memory stands in: %s", error)

    def _found(self) -> None:
        if self._available:
            return
        self._available = True
        self._tell(True)
        if self._announced:
            self._announced = False
            log.warning("KV is available again")
        if self._forgotten:
            log.warning("%d changes of KV entries during the outage were forgotten", self._forgotten)
            self._forgotten = 0
