"""ExecutionContext: the life of one event beyond its response, and the tasks that it leaves behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

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
    __slots__ = (
        "__dict__", "_background", "_deadline", "_env", "_failure", "_limit_s", "_loose", "_tasks", "_timer",
        "pass_through", "props",
    )  # fmt: skip

    def __init__(
        self,
        background: BackgroundTasks,
        props: Mapping[str, Any] | None = None,
        limit_s: float = WAIT_UNTIL_LIMIT_S,
        env: Any = None,
    ) -> None:
        self._background = background
        self._env = env
        self._tasks: set[asyncio.Future[Any]] | None = None
        self._loose: set[asyncio.Task[Any]] | None = None
        self._deadline: float | None = None
        self._failure: BaseException | None = None
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

    def abort(self, reason: Any = None) -> NoReturn:
        """Stop the event: a request that has no response yet gets a 500, the event's other tasks are cancelled.

        ``reason`` is logged. Raises ``asyncio.CancelledError``, which ends the task that calls it.
        """
        log.error("the event was aborted: %s", reason)
        self.pass_through = False
        current = asyncio.current_task()
        for task in (*(self._tasks or ()), *(self._loose or ())):
            if task is not current:
                task.cancel()
        raise asyncio.CancelledError(reason)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """``task`` ends with this event, as soon as no ``wait_until`` task is left: nobody registered it."""
        loose = self._loose
        if loose is None:
            loose = self._loose = set()
        loose.add(task)
        task.add_done_callback(loose.discard)
        self._drop_soon()

    async def settled(self) -> BaseException | None:
        """Wait for every ``wait_until`` task, those that they start included; the first error among them."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        return self._failure

    def cancel(self) -> None:
        """Cancel every ``wait_until`` task."""
        for task in list(self._tasks or ()):
            task.cancel()

    def finish(self) -> None:
        """The response was sent or the client left: from now on the time limit runs."""
        deadline = self._deadline = asyncio.get_running_loop().time() + self._limit_s
        if self._tasks:
            self._start_limit(deadline)
        elif self._loose:
            self._drop_soon()

    def _start_limit(self, deadline: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _done(self, task: asyncio.Future[Any]) -> None:
        tasks = self._tasks
        if tasks is not None:
            tasks.discard(task)
        if self._failure is None:
            self._failure = RuntimeError("a waitUntil() task was cancelled") if task.cancelled() else task.exception()
        if not tasks:
            if self._timer is not None:
                # A timer that stays would keep this event in memory for the rest of the limit.
                self._timer.cancel()
                self._timer = None
            if self._loose:
                self._drop_soon()

    def _drop_soon(self) -> None:
        # Not at once: what waits for the last task may have more to give to wait_until, what was started last begins.
        if self._loose and not self._tasks and self._deadline is not None:
            asyncio.get_running_loop().call_soon(self._drop_loose)

    def _drop_loose(self) -> None:
        if self._loose and not self._tasks:
            log.warning("tasks that were not given to wait_until and ended with their event: %d", len(self._loose))
            for task in list(self._loose):
                task.cancel()

    def _expire(self) -> None:
        self._timer = None
        if self._tasks:
            log.warning(_CANCELLED)
            self.cancel()
