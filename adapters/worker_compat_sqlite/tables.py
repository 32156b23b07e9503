"""The tables of key-value stores and queues in a SQLite file, made when they are first written to."""

from __future__ import annotations

import sqlite3
from typing import TypeVar

from worker_compat.errors import ConfigError

from .writer import Query, SqliteWriter

T = TypeVar("T")

VERSION = 1
"""Of the tables below: a file with another number is refused, not guessed at."""

# Not WITHOUT ROWID: looking for a name would read the whole values of the names that it is compared with. The value
# is the last column, so that what stands before it can be read alone.
_MAKE = (
    """
    CREATE TABLE IF NOT EXISTS worker_compat_version (version INTEGER NOT NULL) STRICT
    """,
    """
    CREATE TABLE IF NOT EXISTS worker_compat_kv (
        id INTEGER PRIMARY KEY,
        namespace TEXT NOT NULL,
        name BLOB NOT NULL,
        expiration INTEGER,
        metadata BLOB,
        value BLOB NOT NULL,
        UNIQUE (namespace, name)
    ) STRICT
    """,
    """
    CREATE INDEX IF NOT EXISTS worker_compat_kv_expiration ON worker_compat_kv (namespace, expiration)
    WHERE expiration IS NOT NULL
    """,
    # AUTOINCREMENT: an id that was acknowledged never belongs to another message.
    """
    CREATE TABLE IF NOT EXISTS worker_compat_queue (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        due REAL NOT NULL,
        pushed REAL NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        holder TEXT,
        body BLOB NOT NULL
    ) STRICT
    """,
    """
    CREATE INDEX IF NOT EXISTS worker_compat_queue_due ON worker_compat_queue (queue, due, id, holder, pushed)
    """,
    f"""
    INSERT INTO worker_compat_version SELECT {VERSION} WHERE NOT EXISTS (SELECT * FROM worker_compat_version)
    """,
)


class SqliteTables:
    """Runs functions on the tables of ``writer``'s file, which need not be there before the first write.

    Both methods raise what :class:`SqliteWriter` raises, and :class:`ConfigError` for tables that another
    version has made.
    """

    def __init__(self, writer: SqliteWriter) -> None:
        self._writer = writer
        self._known = False

    async def write(self, function: Query[T]) -> T:
        """Run ``function`` in a transaction; its result, once that is durable."""
        return await self._writer.run(lambda connection: self._written(connection, function))

    async def read(self, function: Query[T], empty: T) -> T:
        """Run ``function`` beside the writes; ``empty`` as long as nothing was ever written."""
        return await self._writer.read(lambda connection: self._seen(connection, function, empty))

    def _written(self, connection: sqlite3.Connection, function: Query[T]) -> T:
        if self._known:
            try:
                return function(connection)
            except sqlite3.OperationalError as error:
                if not _is_missing(error):
                    raise
        # The file is new, or took the place of the one that had the tables.
        for statement in _MAKE:
            connection.execute(statement)
        self._check_version(connection)
        return function(connection)

    def _seen(self, connection: sqlite3.Connection, function: Query[T], empty: T) -> T:
        try:
            if not self._known:
                self._check_version(connection)
            return function(connection)
        except sqlite3.OperationalError as error:
            if not _is_missing(error):
                raise
            return empty

    def _check_version(self, connection: sqlite3.Connection) -> None:
        ((version,),) = connection.execute("SELECT version FROM worker_compat_version").fetchall()
        if version != VERSION:
            raise ConfigError(
                f"the SQLite file has key-value and queue tables of version {version}, and this release knows"
                f" version {VERSION}: install the release that made them, or name another file"
            )
        self._known = True


def _is_missing(error: sqlite3.OperationalError) -> bool:
    return str(error).startswith("no such table: worker_compat_")
