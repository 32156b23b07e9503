"""A circuit breaker: a service that keeps failing is left alone for a while."""

from __future__ import annotations

from smoltbot_worker.events import BreakerChanged
from smoltbot_worker.ports import Telemetry
from worker_compat.ports import Clock

FAILURES = 5
OPEN_S = 60.0


class Breaker:
    """Opens at the fifth failure in a row, and closes 60 seconds after the last one, or with a success.

    Calls may run at the same time: each tells its own end, in whatever order. What is neither (the caller gave up, the
    request itself was at fault) is not told.
    """

    def __init__(self, telemetry: Telemetry, clock: Clock) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._failures = 0
        self._last = 0.0
        self._open = False

    def allows(self) -> bool:
        """Whether a call may be made now."""
        # A clock that was set back must not keep it open.
        if self._open and not 0 <= self._clock() - self._last < OPEN_S:
            self.succeeded()
        return not self._open

    def failed(self) -> None:
        """A call failed."""
        self._failures += 1
        self._last = self._clock()
        if self._failures >= FAILURES and not self._open:
            self._open = True
            self._telemetry.emit(BreakerChanged(open=True))

    def succeeded(self) -> None:
        """A call succeeded."""
        self._failures = 0
        if self._open:
            self._open = False
            self._telemetry.emit(BreakerChanged(open=False))
