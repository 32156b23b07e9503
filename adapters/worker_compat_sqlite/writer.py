"""The one writer of a SQLite file: calls of many tasks, committed in groups, answered once they are durable.

Every process that uses the file has one :class:`SqliteWriter`; everything in that process that keeps data in
the file (records, queues) shares it. The file must be on a local disk: write-ahead logging needs memory that
the processes share, and on a network file system (NFS, SMB, most ReadWriteMany volumes) it corrupts the
database. To restore a backup, stop every process first and remove the files ``-wal`` and ``-shm``.

Each SQL statement gives Python's interpreter lock up and takes it back. An event loop that never rests makes
the writer wait up to ``sys.getswitchinterval()`` (5 ms) each time, hundreds of times per commit: a program
that must record under full load calls ``sys.setswitchinterval(0.0005)`` once, at its start.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar, cast

from worker_compat.errors import StoreUnavailable

from .connection import begin_immediate, connect, problem, require_sqlite
from .lane import Call, Lane, Outcome

T = TypeVar("T")
Query = Callable[[sqlite3.Connection], T]
"""Runs on another thread; returns plain data (no cursor), and keeps no reference to the connection."""

MOST_WAITING = 10_000
MOST_PER_COMMIT = 256
CLOSE_TIMEOUT_S = 10.0


class SqliteWriter:
    """Runs functions on a SQLite file; made by :func:`open_writer`, used on the event loop that made it.

    Every method raises :class:`StoreUnavailable` when the database is locked, missing, full, damaged or
    read-only, when no answer came within ``call_timeout_s``, when too many calls wait, or after closing. The
    next call tries again, on a fresh connection where the old one was spoiled.

    A call whose caller gave up (cancelled, or out of time) before it began is not run; one that had begun may
    be committed. So after :class:`StoreUnavailable` or a cancellation look the row up, or write idempotently.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float, call_timeout_s: float, create: bool) -> None:
        self._path = path.absolute()
        self._busy_timeout_s = busy_timeout_s
        self._call_timeout_s = call_timeout_s
        self._may_create = create
        self._closing: asyncio.Task[None] | None = None
        self._writing = Lane(
            "sqlite-writer",
            self._path,
            open_connection=lambda: self._connect(query_only=False),
            serve=self._write,
            most_at_once=MOST_PER_COMMIT,
            last_act="PRAGMA wal_checkpoint(TRUNCATE)",
        )
        self._reading = Lane(
            "sqlite-reader",
            self._path,
            open_connection=lambda: self._connect(query_only=True),
            serve=_read,
            most_at_once=1,
        )

    async def run(self, function: Query[T]) -> T:
        """Run ``function`` inside the current group's transaction; return its result once that is committed.

        What it raises is raised here and undoes its own changes only. It must neither begin nor end a
        transaction (a ``SAVEPOINT`` is fine), nor leave a deferred constraint unmet: that fails the group.
        """
        return await self._call(self._writing, function)

    async def run_alone(self, function: Query[T]) -> T:
        """Run ``function`` between groups, in autocommit mode: for what cannot run inside a transaction.

        Every other write waits meanwhile. A transaction that it leaves open is rolled back.
        """
        return await self._call(self._writing, function, alone=True)

    async def read(self, function: Query[T]) -> T:
        """Run ``function`` on one snapshot of everything committed so far, beside the writes.

        A statement that writes fails with ``sqlite3.OperationalError``, or with :class:`StoreUnavailable`.
        """
        return await self._call(self._reading, function)

    async def close(self) -> None:
        """Finish what waits, checkpoint, close both connections, join both threads; may be called again.

        Raises :class:`StoreUnavailable` when a disk hangs for more than ``CLOSE_TIMEOUT_S``.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            # The reader ends first, so that it does not hold the checkpoint up.
            await self._reading.end(CLOSE_TIMEOUT_S)
        finally:
            await self._writing.end(CLOSE_TIMEOUT_S)

    async def _call(self, lane: Lane, function: Query[T], *, alone: bool = False) -> T:
        if self._closing is not None:
            raise StoreUnavailable("the SQLite database was closed by this process")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not lane.submit(Call(function, future, alone), MOST_WAITING):
            raise StoreUnavailable(
                "the SQLite database cannot be used: too many calls wait for it: check the disk, or write less often"
            )
        timer = loop.call_later(self._call_timeout_s, _expire, future, self._call_timeout_s)
        try:
            return await future
        finally:
            timer.cancel()
            if future.done() and not future.cancelled():
                future.exception()  # a caller cancelled at this very moment has no use for it

    def _connect(self, *, query_only: bool) -> sqlite3.Connection:
        connection = connect(
            self._path, busy_timeout_s=self._busy_timeout_s, create=self._may_create, query_only=query_only
        )
        if not query_only:
            _set_busy_timeout(connection, 0)  # begin_immediate does the waiting
        # From now on a missing file is a loss to report, not a database to begin.
        self._may_create = False
        return connection

    def _write(self, connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Outcome]:
        if calls[0].alone:
            _set_busy_timeout(connection, self._busy_timeout_s)
            try:
                return [_outside_transaction(connection, calls[0])]
            finally:
                _set_busy_timeout(connection, 0)
        begin_immediate(connection, self._busy_timeout_s)
        # A caller may have given up while the lock was waited for.
        outcomes = [_in_savepoint(connection, call) for call in calls if not call.future.done()]
        connection.execute("COMMIT")
        return outcomes


@asynccontextmanager
async def open_writer(
    path: Path | str, *, busy_timeout_s: float = 1.0, call_timeout_s: float = 2.0, create: bool = False
) -> AsyncIterator[SqliteWriter]:
    """A :class:`SqliteWriter` for the file ``path``, closed on exit.

    The file is opened at the first call, so a database that is not there yet fails calls and not the start.
    ``busy_timeout_s`` is how long another process's lock is waited for; ``call_timeout_s`` bounds each call.
    ``create`` makes an empty database when the file is missing at the first call. Raises
    :class:`worker_compat.errors.ConfigError` when Python's SQLite library is too old.
    """
    require_sqlite()
    writer = SqliteWriter(Path(path), busy_timeout_s=busy_timeout_s, call_timeout_s=call_timeout_s, create=create)
    try:
        yield writer
    finally:
        await writer.close()


def _expire(future: asyncio.Future[T], limit_s: float) -> None:
    if not future.done():
        future.set_exception(
            StoreUnavailable(f"the SQLite database did not answer within {limit_s:g} s: check the disk")
        )


def _set_busy_timeout(connection: sqlite3.Connection, seconds: float) -> None:
    connection.execute(f"PRAGMA busy_timeout={int(seconds * 1000)}")


def _in_savepoint(connection: sqlite3.Connection, call: Call) -> Outcome:
    """Run one call of a group; raises when the whole group is lost."""
    connection.execute("SAVEPOINT one_call")
    try:
        outcome = Outcome(call, result=call.function(connection))
    except BaseException as error:
        if not connection.in_transaction or _is_problem(error):
            raise
        connection.execute("ROLLBACK TO one_call")
        outcome = Outcome(call, error=_for_caller(error))
    connection.execute("RELEASE one_call")
    return outcome


def _outside_transaction(connection: sqlite3.Connection, call: Call) -> Outcome:
    try:
        return Outcome(call, result=call.function(connection))
    except BaseException as error:
        if _is_problem(error):
            raise
        return Outcome(call, error=_for_caller(error))
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _read(connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Outcome]:
    outcomes = []
    for call in calls:
        connection.execute("BEGIN")
        outcomes.append(_outside_transaction(connection, call))
    return outcomes


def _is_problem(error: BaseException) -> bool:
    return isinstance(error, sqlite3.Error) and problem(error) is not None


def _for_caller(error: BaseException) -> BaseException:
    # A future refuses StopIteration; SystemExit in a thread is only an odd way to fail.
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return cast(Exception, RuntimeError(f"the function raised {type(error).__name__}"))
