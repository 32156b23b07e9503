"""The schedule: the observer's cron, run by one of all processes that share the store at KV_URL."""

from __future__ import annotations

import logging
import time

from smoltbot_worker import observer
from smoltbot_worker.env import Env
from smoltbot_worker.ports import RecordsUnavailable
from worker_compat import registry
from worker_compat.cron import Cron
from worker_compat.runtime import Runtime
from worker_compat.scheduled import ScheduledController, ScheduledResult, Scheduler

log = logging.getLogger("smoltbot")

NAMESPACE = "smoltbot-schedule"
"""Where the state of the schedule is kept, apart from the handler's KV."""


async def run(runtime: Runtime, env: Env) -> None:
    """Run until cancelled; a failed run is logged and the next one comes a minute later."""

    def turned() -> None:
        env.state.last_tick = time.monotonic()

    turned()
    async with registry.open_kv(registry.with_option(env.kv_url, "namespace", NAMESPACE)) as state:
        scheduler = Scheduler(
            [Cron.parse(observer.CRON)],
            lambda controller: runtime.scheduled(observer.Default, env, controller),
            state=state,
            clock=env.clock,
            prefix=f"{NAMESPACE}/",
            on_turn=turned,
            on_result=_log,
        )
        await scheduler.run()


def _log(controller: ScheduledController, result: ScheduledResult) -> None:
    if isinstance(result.error, RecordsUnavailable):
        log.warning("the scheduled run of %s was skipped: the database is unavailable", controller.cron)
    elif result.outcome != "ok":
        log.error("the scheduled run of %s failed", controller.cron, exc_info=result.error)
