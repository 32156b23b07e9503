"""The observer's entrypoint: housekeeping on a schedule."""

from __future__ import annotations

from typing import Any

from worker_compat.entrypoint import WorkerEntrypoint

from . import records
from .env import Env
from .events import CronRan

CRON = "* * * * *"
"""Every minute."""


class Default(WorkerEntrypoint):
    """Runs beside the gateway or in a process of its own (``SMOLTBOT_ROLE=scheduler``)."""

    env: Env

    async def scheduled(self, controller: Any, env: None = None, ctx: None = None) -> None:
        """Let the database tidy up."""
        try:
            await records.housekeeping(self.env.records)
        except Exception:
            self.env.telemetry.emit(CronRan("observer", "error"))
            raise
        self.env.telemetry.emit(CronRan("observer", "success"))
