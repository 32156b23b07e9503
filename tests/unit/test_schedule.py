"""The schedule: one run at every full minute, whatever a run does."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from smoltbot_host import schedule
from smoltbot_worker import observer
from smoltbot_worker.events import CronRan
from smoltbot_worker.ports import RecordsUnavailable
from tests.gateway.support import Gateway


class Ended(Exception):
    """The clock has no more sleeps to give."""


class World:
    """A gateway whose clock passes when the schedule sleeps; ``runs`` has the time of each run."""

    def __init__(self, start: float, *, sleeps: int, early: float = 0.0, takes: float = 0.0) -> None:
        self.gateway = Gateway()
        self.gateway.clock.now = start
        self.gateway.records.call = self._call  # type: ignore[method-assign] # a database that takes its time
        self.runs: list[float] = []
        self.slept: list[float] = []
        self.failing: BaseException | None = None
        self._sleeps = sleeps
        self._early = early
        self._takes = takes

    async def _call(self, function: str, arguments: Any) -> None:
        assert (function, arguments) == ("housekeeping", {})
        self.runs.append(self.gateway.clock.now)
        self.gateway.clock.advance(self._takes)
        if self.failing is not None:
            raise self.failing

    async def _sleep(self, seconds: float) -> None:
        if len(self.slept) == self._sleeps:
            raise Ended
        self.slept.append(seconds)
        self.gateway.clock.advance(seconds - (self._early if len(self.slept) == 1 else 0.0))

    async def run(self) -> None:
        with pytest.raises(Ended):
            await schedule.run(self.gateway.runtime, self.gateway.env, self._sleep)


def about(times: list[float]) -> Any:
    """To the millisecond: by default the tolerance grows with the value, and these are large."""
    return pytest.approx(times, rel=0, abs=0.001)


@pytest.mark.parametrize("start", [1_700_000_000.0, 1_700_000_039.999, 1_700_000_040.0, 1_700_000_040.001])
async def test_at_every_full_minute(start: float) -> None:
    world = World(start, sleeps=5)
    await world.run()
    first = (int(start) // 60 + 1) * 60
    assert world.runs == about([first + 60 * number for number in range(5)])
    assert world.gateway.telemetry.events == [CronRan("observer", "success")] * 5


async def test_it_sleeps_in_between() -> None:
    world = World(1_700_000_000.0, sleeps=4, takes=10)
    await world.run()
    assert world.slept == [40, 50, 50, 50]


async def test_a_long_run_leaves_minutes_out() -> None:
    world = World(1_700_000_000.0, sleeps=3, takes=130)
    await world.run()
    assert world.runs == [1_700_000_040, 1_700_000_220, 1_700_000_400]


@pytest.mark.parametrize("early", [0.001, 0.5, 59.0])
async def test_a_sleep_that_ends_early_does_not_double_a_run(early: float) -> None:
    world = World(1_699_999_980.0, sleeps=3, early=early)
    await world.run()
    assert world.runs[1:] == about([1_700_000_100, 1_700_000_160])


async def test_what_a_run_is_told() -> None:
    world = World(1_700_000_000.0, sleeps=2)
    told: list[Any] = []

    async def scheduled(entrypoint: Any, env: Any, controller: Any) -> None:
        assert (entrypoint, env) == (observer.Default, world.gateway.env)
        told.append(controller)

    world.gateway.runtime.scheduled = scheduled  # type: ignore[method-assign]
    await world.run()
    assert told == [
        schedule.ScheduledController(1_700_000_040_000, "* * * * *"),
        schedule.ScheduledController(1_700_000_100_000, "* * * * *"),
    ]


@pytest.mark.parametrize(
    ("error", "said", "level"),
    [
        (RecordsUnavailable("locked"), "was skipped: the database is unavailable", logging.WARNING),
        (ValueError("odd"), "failed", logging.ERROR),
    ],
)
async def test_a_failure_is_logged_and_the_next_run_comes(
    error: Exception, said: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(1_700_000_000.0, sleeps=3)
    world.failing = error
    with caplog.at_level(logging.WARNING):
        await world.run()
    assert len(world.runs) == 3
    assert world.gateway.telemetry.events == [CronRan("observer", "error")] * 3
    mine = [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "smoltbot"]
    assert mine == [(level, f"the scheduled run of * * * * * {said}")] * 3


async def test_ending_is_no_failure() -> None:
    gateway = Gateway()
    running = asyncio.create_task(schedule.run(gateway.runtime, gateway.env))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert gateway.records.calls == []


@pytest.mark.parametrize(("role", "schedules"), [("gateway", False), ("scheduler", True), ("all", True)])
def test_which_role_runs_it(role: str, schedules: bool) -> None:
    assert Gateway(SMOLTBOT_ROLE=role).env.schedules is schedules
