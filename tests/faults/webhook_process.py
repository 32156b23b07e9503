"""The webhook worker as a process of its own.

``python -m tests.faults.webhook_process FILE OFFSET``: the outbox is in the SQLite file; the process lives ``OFFSET``
seconds in the future, so that leases of a killed one are over.
"""

from __future__ import annotations

import asyncio
import sys
import time

from smoltbot_records_sqlite import open_records
from smoltbot_worker.control.webhooks import run
from tests.unit.webhook_support import env_of
from worker_compat_aiohttp.egress import open_egress


async def main(path: str, offset: float) -> None:
    """Deliver for ever."""

    def clock() -> float:
        return time.time() + offset

    async with open_records(f"sqlite:///{path}", clock=clock) as store, open_egress(allow_private=True) as egress:
        await run(env_of(store, egress, clock))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
