"""A circuit breaker: during an outage callers fail at once, and one call at a time looks whether it is over."""

from __future__ import annotations

import time
from collections.abc import Callable

_FAILURES = 5
_PAUSE_S = 0.1


class Breaker:
    """Opens after five failures in a row; from then on one call at a time, a tenth of a second after
    the last failure, is let through as a probe.

    Any success closes it. ``now`` is a clock that never jumps, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures = 0
        self._problem = ""
        self._probe_at = 0.0
        self._probing = False

    @property
    def refusal(self) -> str | None:
        """The words of the last failure when no call may be made now."""
        if self._failures < _FAILURES or not (self._probing or self._now() < self._probe_at):
            return None
        return self._problem

    def begin(self) -> None:
        """A call begins. It ends with exactly one of the methods below."""
        self._probing = self._failures >= _FAILURES

    def succeeded(self) -> None:
        """The server answered."""
        self._failures = 0
        self._probing = False

    def failed(self, problem: str) -> None:
        """The server could not be reached or did not answer."""
        self._failures += 1
        self._problem = problem
        self._probe_at = self._now() + _PAUSE_S
        self._probing = False

    def abandoned(self) -> None:
        """The call ended without saying anything about the server."""
        self._probing = False
