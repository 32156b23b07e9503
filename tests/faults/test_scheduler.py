"""The Scheduler in three processes that share a store and are killed at random: no tick is missed or doubled."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.faults.scheduled_runner import CRONS, LEASE_S, PERIOD_S, EveryFewSeconds
from tests.scale import figure, scaled
from tests.services.postgres import PostgresServer
from tests.services.process import wait_for
from tests.services.redis import RedisServer

Run = tuple[str, int]


class Runners:
    """Three living processes; ``killed`` has the ids of those that were."""

    def __init__(self, url: str, log: Path) -> None:
        self.log = log
        log.touch()
        self.killed: set[int] = set()
        self._command = [sys.executable, "-m", "tests.faults.scheduled_runner", url, str(log)]
        self._living = [self._start() for _ in range(3)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command)

    def kill_one(self) -> None:
        """SIGKILL any of them and start another; never so many that nobody is up, which would be a downtime."""
        assert wait_for(self.all_ready, 20)
        victim = self._living.pop(random.randrange(len(self._living)))
        victim.kill()
        victim.wait()
        self.killed.add(victim.pid)
        self._living.append(self._start())

    def end(self) -> list[int]:
        """SIGTERM to all, which must be up to take it; their exit codes."""
        wait_for(self.all_ready, 20)
        for process in self._living:
            process.send_signal(signal.SIGTERM)
        return [process.wait(20) for process in self._living]

    def kill_all(self) -> None:
        """Leave none behind, whatever has failed."""
        for process in self._living:
            process.kill()
            process.wait()

    def all_ready(self) -> bool:
        """Whether every living process has begun."""
        return {process.pid for process in self._living} <= {process for _, process in self.lines("ready")}

    def lines(self, what: str) -> list[tuple[Run, int]]:
        """The runs that began or ended, in order, each with its process."""
        rows = [line.split("\t") for line in self.log.read_text().splitlines()]
        return [((cron, int(tick)), int(process)) for kind, cron, tick, process in rows if kind == what]


@pytest.mark.proof
@pytest.mark.alone
def test_ticks_of_processes_that_are_killed(
    redis_service: RedisServer, postgres_service: PostgresServer, tmp_path: Path
) -> None:
    """On all shared stores at once: most of the time goes by waiting for ticks and leases."""
    urls = {"sqlite": f"sqlite:///{tmp_path}/state.db", "redis": redis_service.url, "postgres": postgres_service.url}
    fleets = {name: Runners(f"{url}?namespace=scheduler", tmp_path / name) for name, url in urls.items()}
    try:
        due = kill_for_a_while(fleets.values())
        for name, runners in fleets.items():
            every_tick_ran_once(name, runners, due)
    finally:
        for runners in fleets.values():
            runners.kill_all()


def kill_for_a_while(fleets: Collection[Runners]) -> set[Run]:
    """Kill at random in each; the ticks that came meanwhile."""
    assert all(wait_for(runners.all_ready, 20) for runners in fleets)
    first = int(time.time()) + 1
    last = first + scaled(2, 60)
    while time.time() < last:
        time.sleep(0.3 + random.random() * 0.5)
        for runners in fleets:
            runners.kill_one()
    return {
        (cron.text, tick)
        for cron in map(EveryFewSeconds, range(CRONS))
        for tick in range(cron.next_after(first), last + 1, PERIOD_S)
    }


def every_tick_ran_once(name: str, runners: Runners, due: set[Run]) -> None:
    """Wait for those that are due, and end the processes."""
    done = wait_for(lambda: due <= {run for run, _ in runners.lines("end")}, LEASE_S * 2 + PERIOD_S + 10)
    assert runners.end() == [0, 0, 0], name
    assert done, f"{name} missed: {sorted(due - {run for run, _ in runners.lines('end')})}"

    begun: dict[Run, list[int]] = defaultdict(list)
    for run, process in runners.lines("begin"):
        begun[run].append(process)
    for_nothing = {run: processes for run, processes in begun.items() if not set(processes[:-1]) <= runners.killed}
    assert for_nothing == {}, name
    again = sum(len(processes) - 1 for processes in begun.values())
    figure(
        f"ticks of 3 processes that share {name}, {len(runners.killed)} killed with SIGKILL",
        f"{len(begun)} ticks, {again} run again after their process was killed, 0 missed, 0 doubled",
    )
