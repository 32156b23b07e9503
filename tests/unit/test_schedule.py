"""The schedule: one run at every full minute, whatever a run does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from smoltbot_host import schedule
from smoltbot_worker import observer
from smoltbot_worker.events import CronRan
from smoltbot_worker.ports import RecordsUnavailable
from tests.gateway.support import Gateway
from tests.virtual import LoopClock, run
from worker_compat.scheduled import ScheduledController, ScheduledResult


class World:
    """A gateway in virtual time; ``runs`` has the time of each run, which takes ``takes`` seconds."""

    def __init__(self, start: float, *, takes: float = 0.0) -> None:
        self.clock = LoopClock(start)
        self.gateway = Gateway()
        self.gateway.env.clock = self.clock
        self.gateway.records.call = self._call  # type: ignore[method-assign] # a database that takes its time
        self.runs: list[float] = []
        self.failing: BaseException | None = None
        self._takes = takes

    async def _call(self, function: str, arguments: Any) -> None:
        assert arguments == {}
        if function != "housekeeping":  # its first job
            return
        self.runs.append(self.clock())
        await asyncio.sleep(self._takes)
        if self.failing is not None:
            raise self.failing

    async def run(self, seconds: float) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await schedule.run(self.gateway.runtime, self.gateway.env)


def about(times: Sequence[float]) -> Any:
    """To the millisecond: by default the tolerance grows with the value, and these are large."""
    return pytest.approx(times, rel=0, abs=0.001)


@pytest.mark.parametrize("start", [1_700_000_000.0, 1_700_000_039.999, 1_700_000_040.0, 1_700_000_040.001])
def test_at_every_full_minute(start: float) -> None:
    world = World(start)
    run(world.run(330))
    first = (int(start) // 60 + 1) * 60
    assert world.runs == about([first + 60 * number for number in range(len(world.runs))])
    assert world.gateway.telemetry.events == [CronRan("observer", "success")] * len(world.runs)
    assert len(world.runs) in (5, 6)


def test_a_long_run_leaves_minutes_out() -> None:
    world = World(1_700_000_000.0, takes=130)
    run(world.run(700))
    # The latest minute that was missed is made up for at once.
    assert world.runs == about(
        [1_700_000_040, 1_700_000_170, 1_700_000_300, 1_700_000_430, 1_700_000_560, 1_700_000_690]
    )


@pytest.mark.parametrize("slow", [0.001, 0.5, 59.0])
def test_a_clock_that_is_set_back_does_not_double_a_run(slow: float) -> None:
    world = World(1_699_999_980.0)

    async def main() -> None:
        running = asyncio.create_task(world.run(200))
        await asyncio.sleep(60.1)
        world.clock.offset -= slow
        await running

    run(main())
    assert world.runs == about([1_700_000_040, 1_700_000_100] + ([1_700_000_160] if slow < 1 else []))


def test_it_turns_at_least_once_a_minute() -> None:
    world = World(1_700_000_000.0)

    async def main() -> None:
        running = asyncio.create_task(world.run(300))
        await asyncio.sleep(41)
        world.clock.offset -= 86_000  # nothing is due for a day
        for _ in range(4):
            world.gateway.state.last_tick = None
            await asyncio.sleep(61)
            assert world.gateway.state.last_tick is not None
        await running

    run(main())
    assert len(world.runs) == 1


def test_what_a_run_is_told() -> None:
    world = World(1_700_000_000.0)
    told: list[Any] = []

    async def scheduled(entrypoint: Any, env: Any, controller: Any) -> ScheduledResult:
        assert (entrypoint, env) == (observer.Default, world.gateway.env)
        told.append(controller)
        return ScheduledResult("ok", False)

    world.gateway.runtime.scheduled = scheduled  # type: ignore[method-assign]
    run(world.run(110))
    assert told == [
        ScheduledController(1_700_000_040_000, "* * * * *"),
        ScheduledController(1_700_000_100_000, "* * * * *"),
    ]


@pytest.mark.parametrize(
    ("error", "said", "level"),
    [
        (RecordsUnavailable("locked"), "was skipped: the database is unavailable", logging.WARNING),
        (ValueError("odd"), "failed", logging.ERROR),
    ],
)
def test_a_failure_is_logged_and_the_next_run_comes(
    error: Exception, said: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(1_700_000_000.0)
    world.failing = error
    with caplog.at_level(logging.WARNING):
        run(world.run(170))
    assert len(world.runs) == 3
    assert world.gateway.telemetry.events == [CronRan("observer", "error")] * 3
    mine = [(record.levelno, record.getMessage()) for record in caplog.records if record.module == "schedule"]
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
