"""An event loop whose time is virtual: whoever sleeps wakes as soon as nobody else has anything to do."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Instead of waiting for files it lets the loop's time pass."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        events = super().select(0)
        if not events:
            self.passed += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """For code that waits by ``asyncio.sleep`` and time-outs only, not for other threads or processes."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Seconds since the loop was made, none of which anybody had to wait for."""
        return self._virtual.passed


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end in a virtual loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class LoopClock:
    """Seconds since the epoch by the running loop's time; ``offset`` may be changed, as by NTP."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self.offset = start

    def __call__(self) -> float:
        return self.offset + asyncio.get_running_loop().time()
