"""One of several processes that run the same crons: ``python -m tests.faults.scheduled_runner URL LOG``."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

from worker_compat.cron import Cron
from worker_compat.registry import open_kv
from worker_compat.scheduled import ScheduledController, ScheduledResult, Scheduler

CRONS = 40
PERIOD_S = 4
LEASE_S = 1.0


class EveryFewSeconds(Cron):
    """A cron with a tick every ``PERIOD_S`` seconds, so that many pass in a short time."""

    __slots__ = ("_offset",)

    def __init__(self, number: int) -> None:
        super().__init__(f"cron {number}", 0, 0, 0, lambda length, first: 0)
        self._offset = number % PERIOD_S

    def next_after(self, seconds: float) -> int:
        """The next second with our remainder."""
        return int((seconds - self._offset) // PERIOD_S + 1) * PERIOD_S + self._offset


async def main(url: str, log: Path) -> None:
    """Note in ``log`` when each run begins and ends; end on SIGTERM."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(what: str, controller: ScheduledController) -> None:
        os.write(file, f"{what}\t{controller.cron}\t{controller.scheduledTime // 1000}\t{os.getpid()}\n".encode())

    async def dispatch(controller: ScheduledController) -> ScheduledResult:
        note("begin", controller)
        await asyncio.sleep(random.random() * 0.3)
        note("end", controller)
        return ScheduledResult("ok", False)

    async with open_kv(url) as state:
        crons = [EveryFewSeconds(number) for number in range(CRONS)]
        scheduler = Scheduler(crons, dispatch, state=state, lease_s=LEASE_S)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, scheduler.stop)
        os.write(file, f"ready\t\t0\t{os.getpid()}\n".encode())
        await scheduler.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
