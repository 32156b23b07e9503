"""ExecutionContext: the life of one event beyond its response, and the tasks that it leaves behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

log = logging.getLogger("worker_compat")

WAIT_UNTIL_LIMIT_S = 30.0
"""How long work may go on after the response was sent or the client left."""

_MISSING = object()
_NOT_A_PROMISE = "Failed to execute 'waitUntil' on 'ExecutionContext': parameter 1 is not of type 'Promise'."
_CANCELLED = "waitUntil() tasks did not complete within the allowed time after invocation end and have been cancelled."


class BackgroundTasks:
    """Every ``wait_until`` task of a process: kept alive, counted, drained at the end."""

    __slots__ = ("_tasks", "on_done")

    def __init__(self, on_done: Callable[[str, BaseException | None], None] | None = None) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()
        self.on_done = on_done

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: asyncio.Future[Any]) -> None:
        """Keep ``task`` until it is done; its error is logged and goes no further."""
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def drain(self, timeout_s: float) -> int:
        """Wait for all tasks, those that they start included; cancel and count what is left at the end."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._tasks:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await asyncio.wait(self._tasks, timeout=left)
        lost = list(self._tasks)
        for task in lost:
            task.cancel()
        if lost:
            log.warning("%d background tasks did not finish within %g s and were cancelled", len(lost), timeout_s)
            await asyncio.wait(lost, timeout=1)
        return len(lost)

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None and not task.cancelled():
            log.error("a background task failed", exc_info=error)
        if self.on_done is not None:
            # The coroutine's name: a small, fixed set, unlike the names of tasks.
            coroutine = task.get_coro() if isinstance(task, asyncio.Task) else None
            self.on_done(getattr(coroutine, "__name__", "future").strip("_"), error)


class ExecutionContext:
    """``ctx`` of one event.

    https://developers.cloudflare.com/workers/runtime-apis/context/
    """

    # A handler may set attributes of its own; the dict is made only then.
    __slots__ = ("__dict__", "_background", "_deadline", "_limit_s", "_tasks", "_timer", "pass_through", "props")

    def __init__(
        self,
        background: BackgroundTasks,
        props: Mapping[str, Any] | None = None,
        limit_s: float = WAIT_UNTIL_LIMIT_S,
    ) -> None:
        self._background = background
        self._tasks: set[asyncio.Future[Any]] | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._limit_s = limit_s
        self.pass_through = False
        self.props = {} if props is None else props

    def wait_until(self, awaitable: Any = _MISSING) -> None:
        """Keep the event alive until ``awaitable`` is done; its error never reaches the response.

        A coroutine becomes a task, which starts at the next turn of the loop. A value that cannot be awaited is
        accepted and ignored, as on Workers. After the response the event's tasks together have 30 s; then they
        are cancelled.
        """
        if awaitable is _MISSING:
            raise TypeError(_NOT_A_PROMISE)
        if not isinstance(awaitable, Awaitable):
            return
        task = asyncio.ensure_future(awaitable)
        tasks = self._tasks
        if tasks is None:
            tasks = self._tasks = set()
        tasks.add(task)
        task.add_done_callback(self._done)
        self._background.add(task)
        if self._deadline is not None:
            self._start_limit(self._deadline)

    waitUntil = wait_until

    def pass_through_on_exception(self) -> None:
        """Arm fail-open: when the handler raises before it answered, the request goes to the origin instead."""
        self.pass_through = True

    passThroughOnException = pass_through_on_exception

    def finish(self) -> None:
        """The response was sent or the client left: from now on the time limit runs."""
        deadline = self._deadline = asyncio.get_running_loop().time() + self._limit_s
        if self._tasks:
            self._start_limit(deadline)

    def _start_limit(self, deadline: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _done(self, task: asyncio.Future[Any]) -> None:
        tasks = self._tasks
        if tasks is not None:
            tasks.discard(task)
        if not tasks and self._timer is not None:
            # A timer that stays would keep this event in memory for the rest of the limit.
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        if self._tasks:
            log.warning(_CANCELLED)
            for task in list(self._tasks):
                task.cancel()
