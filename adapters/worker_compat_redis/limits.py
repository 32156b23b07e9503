"""A time limit that does not blame the server for a loop that was busy elsewhere."""

from __future__ import annotations

import asyncio
from types import TracebackType

_LATE_S = 0.01
_GRACE_S = 0.05


class TimeLimit:
    """``asyncio.timeout``, but a limit that the loop comes to late is 50 ms longer.

    When something else held the loop, the answer may have been there for long and only not been read.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._over = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelled_before = task, task.cancelling()
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(self._seconds, self._reached)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._handle.cancel()
        if self._over and self._task.uncancel() <= self._cancelled_before and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error

    def _reached(self) -> None:
        if self._loop.time() - self._handle.when() > _LATE_S:
            self._handle = self._loop.call_later(_GRACE_S, self._end)
        else:
            self._end()

    def _end(self) -> None:
        self._over = True
        self._task.cancel()
