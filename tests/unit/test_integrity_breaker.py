"""The circuit breaker: when it opens, for how long, and what it tells."""

from __future__ import annotations

from smoltbot_worker.events import BreakerChanged
from smoltbot_worker.integrity.breaker import Breaker
from tests.unit.integrity_support import Told
from worker_compat.testing import FakeClock


def breaker() -> tuple[Breaker, FakeClock, Told]:
    clock, told = FakeClock(), Told()
    return Breaker(told, clock), clock, told


def fail(switch: Breaker, times: int) -> None:
    for _ in range(times):
        switch.failed()


def test_it_opens_at_the_fifth_failure_in_a_row() -> None:
    switch, _, told = breaker()
    fail(switch, 4)
    assert switch.allows()
    switch.succeeded()
    fail(switch, 4)
    assert switch.allows()
    assert told.events == []
    fail(switch, 1)
    assert not switch.allows()
    assert told.events == [BreakerChanged(open=True)]


def test_it_closes_sixty_seconds_after_the_last_failure_and_counts_from_zero() -> None:
    switch, clock, told = breaker()
    fail(switch, 5)
    clock.advance(30)
    fail(switch, 2)
    clock.advance(59.9)
    assert not switch.allows()
    assert len(told.events) == 1
    clock.advance(0.1)
    assert switch.allows()
    assert told.events == [BreakerChanged(open=True), BreakerChanged(open=False)]
    fail(switch, 4)
    assert switch.allows()
    fail(switch, 1)
    assert not switch.allows()


def test_a_late_success_closes_it() -> None:
    switch, _, told = breaker()
    fail(switch, 5)
    switch.succeeded()
    assert switch.allows()
    switch.succeeded()
    assert told.events == [BreakerChanged(open=True), BreakerChanged(open=False)]
    fail(switch, 4)
    assert switch.allows()


def test_a_clock_that_is_set_back_does_not_keep_it_open() -> None:
    switch, clock, _ = breaker()
    fail(switch, 5)
    clock.advance(-3600)
    assert switch.allows()
