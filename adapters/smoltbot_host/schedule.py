"""The schedule: runs the observer at every full minute."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from smoltbot_worker import observer
from smoltbot_worker.env import Env
from smoltbot_worker.ports import RecordsUnavailable
from worker_compat.runtime import Runtime

log = logging.getLogger("smoltbot")


@dataclass(slots=True)
class ScheduledController:
    """What a scheduled handler is told; ``scheduledTime`` in milliseconds since the epoch."""

    scheduledTime: int  # noqa: N815 - Cloudflare's spelling
    cron: str


async def run(runtime: Runtime, env: Env, sleep: Callable[[float], object] = asyncio.sleep) -> None:
    """Run for ever; a failed run is logged and the next one comes a minute later."""
    last = 0
    while True:
        env.state.last_tick = time.monotonic()
        now = env.clock()
        due = (int(now) // 60 + 1) * 60
        if due == last:
            due += 60  # by this clock the sleep ended a little early, and this minute had its run
        last = due
        await sleep(due - now)  # type: ignore[misc] # asyncio.sleep, or a fake clock's
        try:
            await runtime.scheduled(observer.Default, env, ScheduledController(due * 1000, observer.CRON))
        except RecordsUnavailable:
            log.warning("the scheduled run of %s was skipped: the database is unavailable", observer.CRON)
        except Exception as error:
            log.error("the scheduled run of %s failed", observer.CRON, exc_info=error)
