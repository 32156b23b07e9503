"""Queues in a SQLite file, any number of them, told apart by their name.

Connection URL: ``sqlite:///relative/path.db?queue=NAME`` or ``sqlite:////absolute/path.db?queue=NAME``; the queue
is ``default`` when none is named. The file is made when it is missing, its folder is not.
Semantics: ``push`` returns when the messages are on the disk. Any number of processes may push and claim. Messages
come by the time they are due. A lease that runs out, its holder killed or not, makes its message due again.
Limits: one machine and a local disk; 2 s for a call, 1 s of them for another process's lock. A push that was
cancelled or failed may have been done. ``depth`` looks at every message of the queue.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

from worker_compat.ports import Claimed, Clock, QueueDepth

from .connection import store_path
from .tables import SqliteTables
from .writer import SqliteWriter, open_writer

_PUSH = "INSERT INTO worker_compat_queue (queue, due, pushed, body) VALUES (?, ?, ?, ?)"
_CLAIM = """
    UPDATE worker_compat_queue SET attempts = attempts + 1, due = :until, holder = :holder WHERE id IN (
        SELECT id FROM worker_compat_queue WHERE queue = :queue AND due <= :now ORDER BY due, id LIMIT :most
    )
    RETURNING id, body, pushed, attempts
"""
# The plus sign keeps the index of the queue out of it, which leads to every message.
_ACK = "DELETE FROM worker_compat_queue WHERE +queue = :queue AND id IN (SELECT value FROM json_each(:ids))"
# Only the holder gives a message back: somebody else may have leased it since.
_RELEASE = """
    UPDATE worker_compat_queue SET due = :due, holder = NULL
    WHERE +queue = :queue AND holder = :holder AND due > :now AND id IN (SELECT value FROM json_each(:ids))
"""
_DEPTH = """
    SELECT count(*) FILTER (WHERE NOT leased), count(*) FILTER (WHERE leased), min(pushed) FILTER (WHERE NOT leased)
    FROM (SELECT pushed, holder IS NOT NULL AND due > :now AS leased FROM worker_compat_queue WHERE queue = :queue)
"""


@asynccontextmanager
async def open_queue(url: str, *, clock: Clock = time.time) -> AsyncIterator[SqliteQueueStore]:
    """The queue that ``url`` names, over a writer of its own; the file is opened by the first call.

    Raises :class:`worker_compat.errors.ConfigError` for a bad URL or a missing folder.
    """
    path, queue = store_path(url, "queue")
    async with open_writer(path, create=True) as writer:
        yield SqliteQueueStore(writer, queue, clock=clock)


class SqliteQueueStore:
    """A :class:`worker_compat.ports.QueueStore`: one queue of ``writer``'s file.

    Every method raises :class:`worker_compat.errors.StoreUnavailable` as :class:`SqliteWriter` does.
    """

    def __init__(self, writer: SqliteWriter, queue: str, *, clock: Clock = time.time) -> None:
        self._tables = SqliteTables(writer)
        self._queue = queue
        self._clock = clock
        self._holder = uuid4().hex

    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        """Append messages, due after ``delay_s`` seconds: all of them or none, on the disk on return."""
        bodies = list(bodies)

        def function(connection: sqlite3.Connection) -> None:
            now = self._clock()
            connection.executemany(_PUSH, [(self._queue, now + delay_s, now, body) for body in bodies])

        if bodies:
            await self._tables.write(function)

    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        """Lease up to ``limit`` due messages for ``lease_s`` seconds; at once, and empty when none is due."""

        def function(connection: sqlite3.Connection) -> Sequence[Claimed]:
            now = self._clock()
            given = {"queue": self._queue, "holder": self._holder, "now": now, "until": now + lease_s, "most": limit}
            # RETURNING promises no order.
            rows = sorted(connection.execute(_CLAIM, given).fetchall())
            return [Claimed(str(id_), body, pushed, attempts) for id_, body, pushed, attempts in rows]

        return await self._tables.write(function)

    async def ack(self, ids: Sequence[str]) -> None:
        """Delete processed messages, also after their lease ran out; an unknown id is no error."""
        given = {"queue": self._queue, "ids": _known_form(ids)}
        await self._tables.write(lambda connection: connection.execute(_ACK, given).rowcount)

    async def release(self, ids: Sequence[str], delay_s: int) -> None:
        """Give back messages that this object has leased, due again after ``delay_s`` seconds.

        A lease that ran out, a message that somebody else has leased since and an unknown id are left alone.
        """

        def function(connection: sqlite3.Connection) -> None:
            now = self._clock()
            given = {"queue": self._queue, "holder": self._holder, "now": now, "due": now + delay_s}
            connection.execute(_RELEASE, {**given, "ids": _known_form(ids)})

        await self._tables.write(function)

    async def depth(self) -> QueueDepth:
        """The backlog; a message that is not due yet waits, one whose lease ran out waits again."""

        def function(connection: sqlite3.Connection) -> QueueDepth:
            now = self._clock()
            ((waiting, leased, oldest),) = connection.execute(_DEPTH, {"queue": self._queue, "now": now}).fetchall()
            return QueueDepth(waiting, leased, 0.0 if oldest is None else max(0.0, now - oldest))

        return await self._tables.read(function, QueueDepth(0, 0, 0.0))


def _known_form(ids: Sequence[str]) -> str:
    """Those of ``ids`` that could be ours, as the JSON array of numbers that SQLite takes."""
    return json.dumps([int(id_) for id_ in ids if len(id_) < 19 and id_.isascii() and id_.isdecimal()])
