"""Key-value stores in a SQLite file, any number of them, told apart by their namespace.

Connection URL: ``sqlite:///relative/path.db?namespace=NAME`` or ``sqlite:////absolute/path.db?namespace=NAME``;
the namespace is ``default`` when none is named. The file is made when it is missing, its folder is not.
Semantics: a write is on the disk when the call returns, and every process that uses the file sees it at once.
Exact order; expiry by the clock, exactly. What has expired is removed by and by, with later writes.
Limits: one machine and a local disk; 2 s for a call, 1 s of them for another process's lock. A cancelled write
may have been done.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker_compat.names import cursor_after, name_before, to_bytes, to_text
from worker_compat.ports import Clock, KVEntry, KVKey, KVPage

from .connection import store_path
from .tables import SqliteTables
from .writer import SqliteWriter, open_writer

DEAD_PER_PAGE = 5000
"""So many expired rows are stepped over by one listing call, about a millisecond's work."""

_WRITES_PER_PURGE = 32
_ROWS_PER_PURGE = 256

_LIVE = "(expiration IS NULL OR expiration > :now)"
_GET = f"""
    SELECT value, metadata, expiration FROM worker_compat_kv
    WHERE namespace = :namespace AND name = :name AND {_LIVE}
"""
_PUT = """
    INSERT INTO worker_compat_kv (namespace, name, expiration, metadata, value)
    VALUES (:namespace, :name, :expiration, :metadata, :value)
    ON CONFLICT (namespace, name)
    DO UPDATE SET expiration = excluded.expiration, metadata = excluded.metadata, value = excluded.value
"""
_DELETE = "DELETE FROM worker_compat_kv WHERE namespace = :namespace AND name = :name"
_PURGE = """
    DELETE FROM worker_compat_kv WHERE id IN (
        SELECT id FROM worker_compat_kv WHERE namespace = :namespace AND expiration <= :now LIMIT :rows
    )
"""
_RANGE = "FROM worker_compat_kv WHERE namespace = :namespace AND name >= :first AND name < :end ORDER BY name"
# One row for the whole page: the interpreter lock changes hands with each row that SQLite gives.
_PAGE = f"""
    SELECT json_group_array(json_array(hex(name), iif(metadata IS NULL, NULL, hex(metadata)), expiration)) FROM (
        SELECT name, metadata, expiration FROM (SELECT name, metadata, expiration {_RANGE} LIMIT :most)
        WHERE {_LIVE} LIMIT :wanted
    )
"""
_LAST_SEEN = f"SELECT name {_RANGE} LIMIT 1 OFFSET :most - 1"


@asynccontextmanager
async def open_kv(url: str, *, clock: Clock = time.time) -> AsyncIterator[SqliteKVStore]:
    """The store that ``url`` names, over a writer of its own; the file is opened by the first call.

    Raises :class:`worker_compat.errors.ConfigError` for a bad URL or a missing folder.
    """
    path, namespace = store_path(url, "namespace")
    async with open_writer(path, create=True) as writer:
        yield SqliteKVStore(writer, namespace, clock=clock)


class SqliteKVStore:
    """A :class:`worker_compat.ports.KVStore` with ``compare_and_put``: one namespace of ``writer``'s file.

    Every method raises :class:`worker_compat.errors.StoreUnavailable` as :class:`SqliteWriter` does.
    """

    def __init__(self, writer: SqliteWriter, namespace: str, *, clock: Clock = time.time) -> None:
        self._tables = SqliteTables(writer)
        self._namespace = namespace
        self._clock = clock
        self._writes = 0

    async def get(self, key: str) -> KVEntry | None:
        """The live entry, or None when missing or expired."""
        return await self._tables.read(lambda connection: self._get(connection, key), None)

    async def put(self, key: str, entry: KVEntry) -> None:
        """Replace everything stored under ``key``."""
        await self._tables.write(lambda connection: self._put(connection, key, entry))

    async def delete(self, key: str) -> None:
        """Remove ``key``; a missing key is no error."""
        given = {"namespace": self._namespace, "name": to_bytes(key)}
        await self._tables.write(lambda connection: connection.execute(_DELETE, given).rowcount)

    async def compare_and_put(self, key: str, seen: bytes | None, entry: KVEntry) -> bool:
        """Put ``entry`` if the live value is still ``seen``; see :class:`worker_compat.ports.KVCompareAndPut`."""

        def function(connection: sqlite3.Connection) -> bool:
            held = self._get(connection, key)
            if (None if held is None else held.value) != seen:
                return False
            self._put(connection, key, entry)
            return True

        return await self._tables.write(function)

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        """Up to ``limit`` live names with ``prefix``, ascending by UTF-8 bytes, after ``cursor``.

        A page is short where more than ``DEAD_PER_PAGE`` expired names lie in between. ``ValueError`` for a
        cursor that no page gave.
        """
        start = to_bytes(prefix)
        # Nothing lies between a name and that name with a zero byte; no UTF-8 has the byte 255.
        first = start if cursor is None else max(start, name_before(cursor) + b"\x00")
        given: dict[str, str | bytes] = {"namespace": self._namespace, "first": first, "end": start + b"\xff"}
        return await self._tables.read(lambda connection: self._list(connection, given, limit), KVPage([]))

    def _get(self, connection: sqlite3.Connection, key: str) -> KVEntry | None:
        given = {"namespace": self._namespace, "name": to_bytes(key), "now": self._clock()}
        for value, metadata, expiration in connection.execute(_GET, given).fetchall():
            return KVEntry(value, None if metadata is None else to_text(metadata), expiration)
        return None

    def _put(self, connection: sqlite3.Connection, key: str, entry: KVEntry) -> None:
        if self._writes % _WRITES_PER_PURGE == 0:
            rows = {"namespace": self._namespace, "now": self._clock(), "rows": _ROWS_PER_PURGE}
            connection.execute(_PURGE, rows)
        self._writes += 1
        given = {
            "namespace": self._namespace,
            "name": to_bytes(key),
            "expiration": entry.expiration,
            "metadata": None if entry.metadata is None else to_bytes(entry.metadata),
            "value": entry.value,
        }
        connection.execute(_PUT, given)

    def _list(self, connection: sqlite3.Connection, given: dict[str, str | bytes], limit: int) -> KVPage:
        bounds = {"now": self._clock(), "most": limit + 1 + DEAD_PER_PAGE, "wanted": limit + 1}
        ((text,),) = connection.execute(_PAGE, given | bounds).fetchall()
        keys = [_key(*row) for row in json.loads(text)]
        if len(keys) > limit:
            return KVPage(keys[:limit], cursor_after(to_bytes(keys[limit - 1].name)))
        for (name,) in connection.execute(_LAST_SEEN, given | bounds).fetchall():
            return KVPage(keys, cursor_after(name))
        return KVPage(keys)


def _key(name: str, metadata: str | None, expiration: int | None) -> KVKey:
    text = None if metadata is None else to_text(bytes.fromhex(metadata))
    return KVKey(to_text(bytes.fromhex(name)), text, expiration)
