"""A thread that owns one SQLite connection and serves the calls that wait for it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker_compat.errors import StoreUnavailable

from .connection import is_passing, unavailable


@dataclass(slots=True, eq=False)
class Call:
    """One function that waits for its turn, and the future of its caller; ``alone``: not in a group."""

    function: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    alone: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of a call: its result, or the error for its caller."""

    call: Call
    result: Any = None
    error: BaseException | None = None


Serve = Callable[[sqlite3.Connection, Sequence[Call]], list[Outcome]]
"""Runs calls; what it raises becomes a :class:`StoreUnavailable` for every one of them."""

Identity = tuple[int, int, int]
"""Device, inode and size of the database file."""


class Lane:
    """Takes up to ``most_at_once`` waiting calls at a time and hands them to ``serve`` on its own thread.

    The connection is opened when it is first needed and again after an error that spoiled it, or after the
    file was replaced or removed: SQLite itself would go on writing to a file that no longer has a name.
    Create it on the event loop to which the futures of its calls belong.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        open_connection: Callable[[], sqlite3.Connection],
        serve: Serve,
        most_at_once: int,
        last_act: str | None = None,
    ) -> None:
        self._path = path
        self._open_connection = open_connection
        self._serve = serve
        self._most_at_once = most_at_once
        self._last_act = last_act
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Call] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._connection: sqlite3.Connection | None = None
        self._identity: Identity | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()
        # A daemon, because a thread that hangs in a dead disk must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Call, limit: int) -> bool:
        """Let ``call`` wait for its turn; False when ``limit`` calls already wait."""
        with self._changed:
            if len(self._waiting) >= limit:
                return False
            self._waiting.append(call)
            self._changed.notify()
        return True

    async def end(self, timeout_s: float) -> None:
        """Serve what waits, close the connection, join the thread.

        Raises :class:`StoreUnavailable` when that takes longer than ``timeout_s``. Call it once.
        """
        with self._changed:
            self._ending = True
            self._changed.notify()
        done, _ = await asyncio.wait({self._ended}, timeout=timeout_s)
        if not done:
            raise StoreUnavailable(f"the SQLite database could not be closed within {timeout_s:g} s")
        self._thread.join()

    def _run(self) -> None:
        while calls := self._take():
            self._post(_settle, self._answer(calls))
            del calls  # or the last group's data would stay in memory until the next call
        self._close(self._last_act)
        self._post(_finish, self._ended)

    def _take(self) -> list[Call]:
        """Wait for calls; an empty list is the end. Calls that their callers gave up are left out."""
        with self._changed:
            while True:
                taken = self._pick()
                if taken:
                    return taken
                if self._ending:
                    return []
                self._changed.wait()

    def _pick(self) -> list[Call]:
        taken: list[Call] = []
        while self._waiting and len(taken) < self._most_at_once:
            if taken and self._waiting[0].alone:
                break
            call = self._waiting.popleft()
            if call.future.done():
                continue
            taken.append(call)
            if call.alone:
                break
        return taken

    def _answer(self, calls: Sequence[Call]) -> list[Outcome]:
        try:
            return self._serve(self._ready_connection(), calls)
        except BaseException as error:  # a thread that died would leave every later caller waiting
            self._recover(error)
            return [Outcome(call, error=unavailable(error)) for call in calls]

    def _ready_connection(self) -> sqlite3.Connection:
        if self._connection is not None and not self._same_file():
            self._close()
        if self._connection is None:
            self._connection = self._open_connection()
            self._identity = self._look()
        return self._connection

    def _same_file(self) -> bool:
        seen, known = self._look(), self._identity
        if seen is None or known is None or seen[:2] != known[:2]:
            return False
        self._identity = seen
        # A file that shrank was vacuumed by another process or overwritten: opening it again tells which.
        return seen[2] >= known[2]

    def _look(self) -> Identity | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size

    def _recover(self, error: BaseException) -> None:
        """Leave no transaction open, and keep the connection only after an error that passes by itself."""
        if self._connection is None:
            return
        if isinstance(error, sqlite3.Error) and is_passing(error):
            try:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                return
            except sqlite3.Error:
                pass
        self._close()

    def _close(self, last_act: str | None = None) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # What was acknowledged is durable already; a connection that cannot even end well is only let go.
        with suppress(sqlite3.Error):
            if last_act is not None and self._same_file():
                connection.execute(last_act).fetchall()
        with suppress(sqlite3.Error):
            connection.close()

    def _post(self, callback: Callable[[Any], None], argument: object) -> None:
        with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, argument)


def _settle(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        future = outcome.call.future
        if future.done():
            continue
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.result)


def _finish(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
