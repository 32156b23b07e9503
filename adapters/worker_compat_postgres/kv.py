"""Key-value stores in a PostgreSQL table, any number of them, told apart by their namespace.

Connection URL: ``postgresql://user:password@host:port/database?namespace=NAME``; the namespace is ``default`` when
none is named. More hosts are separated by commas. Further options are those of asyncpg (``sslmode``,
``target_session_attrs``, ...), ``connect_timeout`` (1) and ``command_timeout`` (2) in seconds, ``pool_min`` (0)
connections opened at once and at most ``pool_max`` (10), and ``prepared=off`` for a pooler in transaction mode.
Semantics: one round trip for a call, and every process sees at once what was written. Exact order; expiry by the
clock, exactly. What has expired is removed by and by, with later writes. The tables are made when they are missing.
Limits: names below 2,600 bytes. The clocks of all hosts must agree. A cancelled write may have been done.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker_compat.names import cursor_after, name_before, to_bytes, to_text
from worker_compat.ports import Clock, KVEntry, KVKey, KVPage

from .connection import PostgresPool, open_pool, store_settings

DEAD_PER_PAGE = 5000
"""So many expired rows are stepped over by one listing call, a few milliseconds' work."""

_WRITES_PER_PURGE = 32
_ROWS_PER_PURGE = 256

_GET = """
    SELECT value, metadata, expiration FROM worker_compat_kv
    WHERE namespace = $1 AND name = $2 AND (expiration IS NULL OR expiration > $3::float8)
"""
_INSERT = """
    INSERT INTO worker_compat_kv AS held (namespace, name, value, metadata, expiration) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (namespace, name)
    DO UPDATE SET value = excluded.value, metadata = excluded.metadata, expiration = excluded.expiration
"""
_INSERT_IF_MISSING = f"{_INSERT} WHERE held.expiration <= $6::float8 RETURNING true"
_UPDATE_IF_SEEN = """
    UPDATE worker_compat_kv SET value = $3, metadata = $4, expiration = $5
    WHERE namespace = $1 AND name = $2 AND (expiration IS NULL OR expiration > $6::float8) AND value = $7
    RETURNING true
"""
_DELETE = "DELETE FROM worker_compat_kv WHERE namespace = $1 AND name = $2"
_PURGE = """
    DELETE FROM worker_compat_kv WHERE namespace = $1 AND name = ANY(ARRAY(
        SELECT name FROM worker_compat_kv WHERE namespace = $1 AND expiration <= $2::float8
        LIMIT $3 FOR UPDATE SKIP LOCKED
    ))
"""
# The last row that may be looked at is given also when it is dead: the next page begins behind it.
_LIST = """
    SELECT name, metadata, expiration, live, place FROM (
        SELECT name, metadata, expiration, expiration IS NULL OR expiration > $4::float8 AS live,
            row_number() OVER (ORDER BY name) AS place
        FROM worker_compat_kv WHERE namespace = $1 AND name >= $2 AND name < $3 ORDER BY name LIMIT $5
    ) AS seen
    WHERE live OR place = $5 ORDER BY name LIMIT $6
"""


@asynccontextmanager
async def open_kv(url: str, *, clock: Clock = time.time) -> AsyncIterator[PostgresKVStore]:
    """The store that ``url`` names; the first call connects.

    Raises :class:`worker_compat.errors.ConfigError` for a bad URL.
    """
    settings, namespace = store_settings(url, "namespace")
    async with open_pool(settings) as pool:
        yield PostgresKVStore(pool, namespace, clock=clock)


class PostgresKVStore:
    """A :class:`worker_compat.ports.KVStore` with ``compare_and_put``: one namespace of ``pool``'s database.

    Every method raises :class:`worker_compat.errors.StoreUnavailable` as :meth:`PostgresPool.fetch` does.
    """

    def __init__(self, pool: PostgresPool, namespace: str, *, clock: Clock = time.time) -> None:
        self._pool = pool
        self._namespace = namespace
        self._clock = clock
        self._writes = 0

    async def get(self, key: str) -> KVEntry | None:
        """The live entry, or None when missing or expired."""
        for row in await self._pool.fetch(_GET, self._namespace, to_bytes(key), self._clock()):
            return KVEntry(row["value"], _to_text(row["metadata"]), row["expiration"])
        return None

    async def put(self, key: str, entry: KVEntry) -> None:
        """Replace everything stored under ``key``."""
        await self._purge()
        await self._pool.fetch(_INSERT, *self._row(key, entry))

    async def delete(self, key: str) -> None:
        """Remove ``key``; a missing key is no error."""
        await self._pool.fetch(_DELETE, self._namespace, to_bytes(key))

    async def compare_and_put(self, key: str, seen: bytes | None, entry: KVEntry) -> bool:
        """Put ``entry`` if the live value is still ``seen``; see :class:`worker_compat.ports.KVCompareAndPut`."""
        row = self._row(key, entry)
        if seen is None:
            return bool(await self._pool.fetch(_INSERT_IF_MISSING, *row, self._clock()))
        return bool(await self._pool.fetch(_UPDATE_IF_SEEN, *row, self._clock(), seen))

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        """Up to ``limit`` live names with ``prefix``, ascending by UTF-8 bytes, after ``cursor``.

        A page is short where more than ``DEAD_PER_PAGE`` expired names lie in between. ``ValueError`` for a
        cursor that no page gave.
        """
        start = to_bytes(prefix)
        # Nothing lies between a name and that name with a zero byte; no UTF-8 has the byte 255.
        first = start if cursor is None else max(start, name_before(cursor) + b"\x00")
        most = limit + 1 + DEAD_PER_PAGE
        rows = await self._pool.fetch(_LIST, self._namespace, first, start + b"\xff", self._clock(), most, limit + 1)
        live = [row for row in rows if row["live"]]
        keys = [KVKey(to_text(row["name"]), _to_text(row["metadata"]), row["expiration"])
                for row in live[:limit]]  # fmt: skip
        if len(live) > limit:
            return KVPage(keys, cursor_after(live[limit - 1]["name"]))
        if rows and rows[-1]["place"] == most:
            return KVPage(keys, cursor_after(rows[-1]["name"]))
        return KVPage(keys)

    async def _purge(self) -> None:
        """Every now and then, remove some of what has expired."""
        turn = self._writes % _WRITES_PER_PURGE
        self._writes += 1
        if turn == 0:
            await self._pool.fetch(_PURGE, self._namespace, self._clock(), _ROWS_PER_PURGE)

    def _row(self, key: str, entry: KVEntry) -> tuple[str, bytes, bytes, bytes | None, int | None]:
        metadata = None if entry.metadata is None else to_bytes(entry.metadata)
        return self._namespace, to_bytes(key), entry.value, metadata, entry.expiration


def _to_text(content: bytes | None) -> str | None:
    return None if content is None else to_text(content)
