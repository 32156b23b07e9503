"""Queues in a PostgreSQL table, any number of them, told apart by their name.

Connection URL: ``postgresql://user:password@host:port/database?queue=NAME``; the queue is ``default`` when none is
named. The further options are those of a key-value store (``kv.py``).
Semantics: ``push`` returns when the messages are committed. Any number of processes may push and claim, and none
waits for another. Messages come by the time they are due. A lease that runs out, its holder killed or not, makes its
message due again. The tables are made when they are missing.
Limits: as durable as the server's ``synchronous_commit``. The clocks of all hosts must agree. A push that was
cancelled or failed may have been done. ``depth`` looks at every message of the queue. A transaction that another
program holds open for long keeps the server from removing what was acknowledged, which slows ``claim``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

from worker_compat.ports import Claimed, Clock, QueueDepth

from .connection import PostgresPool, open_pool, store_settings

_PUSH = """
    INSERT INTO worker_compat_queue (queue, pushed, due, body)
    SELECT $1, $2, $3, body FROM unnest($4::bytea[]) WITH ORDINALITY AS given (body, place) ORDER BY place
"""
_CLAIM = """
    UPDATE worker_compat_queue SET attempts = attempts + 1, due = $3, holder = $4 WHERE id = ANY(ARRAY(
        SELECT id FROM worker_compat_queue WHERE queue = $1 AND due <= $2
        ORDER BY due, id LIMIT $5 FOR UPDATE SKIP LOCKED
    ))
    RETURNING id, body, pushed, attempts
"""
# IS TRUE keeps the index of the queue out of it, which leads to every message.
_ACK = "DELETE FROM worker_compat_queue WHERE (queue = $1) IS TRUE AND id = ANY($2::bigint[])"
# Only the holder gives a message back: somebody else may have leased it since.
_RELEASE = """
    UPDATE worker_compat_queue SET due = $3, holder = NULL
    WHERE (queue = $1) IS TRUE AND id = ANY($2::bigint[]) AND holder = $4 AND due > $5
"""
_DEPTH = """
    SELECT count(*) FILTER (WHERE NOT leased) AS waiting, count(*) FILTER (WHERE leased) AS leased,
        min(pushed) FILTER (WHERE NOT leased) AS oldest
    FROM (SELECT pushed, holder IS NOT NULL AND due > $2 AS leased FROM worker_compat_queue WHERE queue = $1) AS held
"""


@asynccontextmanager
async def open_queue(url: str, *, clock: Clock = time.time) -> AsyncIterator[PostgresQueueStore]:
    """The queue that ``url`` names; the first call connects.

    Raises :class:`worker_compat.errors.ConfigError` for a bad URL.
    """
    settings, queue = store_settings(url, "queue")
    async with open_pool(settings) as pool:
        yield PostgresQueueStore(pool, queue, clock=clock)


class PostgresQueueStore:
    """A :class:`worker_compat.ports.QueueStore`: one queue of ``pool``'s database.

    Every method raises :class:`worker_compat.errors.StoreUnavailable` as :meth:`PostgresPool.fetch` does.
    """

    def __init__(self, pool: PostgresPool, queue: str, *, clock: Clock = time.time) -> None:
        self._pool = pool
        self._queue = queue
        self._clock = clock
        self._holder = uuid4().hex

    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        """Append messages, due after ``delay_s`` seconds: all of them or none, committed on return."""
        if not bodies:
            return
        now = self._clock()
        await self._pool.fetch(_PUSH, self._queue, now, now + delay_s, list(bodies))

    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        """Lease up to ``limit`` due messages for ``lease_s`` seconds; at once, and empty when none is due."""
        now = self._clock()
        rows = await self._pool.fetch(_CLAIM, self._queue, now, now + lease_s, self._holder, limit)
        # RETURNING promises no order.
        rows = sorted(rows, key=lambda row: int(row["id"]))
        return [Claimed(str(row["id"]), row["body"], row["pushed"], row["attempts"]) for row in rows]

    async def ack(self, ids: Sequence[str]) -> None:
        """Delete processed messages, also after their lease ran out; an unknown id is no error."""
        if numbers := _numbers(ids):
            await self._pool.fetch(_ACK, self._queue, numbers)

    async def release(self, ids: Sequence[str], delay_s: int) -> None:
        """Give back messages that this object has leased, due again after ``delay_s`` seconds.

        A lease that ran out, a message that somebody else has leased since and an unknown id are left alone.
        """
        now = self._clock()
        if numbers := _numbers(ids):
            await self._pool.fetch(_RELEASE, self._queue, numbers, now + delay_s, self._holder, now)

    async def depth(self) -> QueueDepth:
        """The backlog; a message that is not due yet waits, one whose lease ran out waits again."""
        now = self._clock()
        (row,) = await self._pool.fetch(_DEPTH, self._queue, now)
        oldest_s = 0.0 if row["oldest"] is None else max(0.0, now - row["oldest"])
        return QueueDepth(row["waiting"], row["leased"], oldest_s)


def _numbers(ids: Sequence[str]) -> Sequence[int]:
    """Those of ``ids`` that could be ours."""
    return [int(id_) for id_ in ids if len(id_) < 19 and id_.isascii() and id_.isdecimal()]
