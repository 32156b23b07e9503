"""Writers of one agent's log as a process of their own: each appends one entry after the other.

``python -m tests.faults.append_process URL AGENT NAME WRITERS APPENDS FILE``; ``FILE`` gets the request ids that were
acknowledged, one line each, before the next entry of that writer begins. The entries of one process go in together.
"""

from __future__ import annotations

import asyncio
import os
import sys

import smoltbot_records_postgres
import smoltbot_records_sqlite
from smoltbot_worker.attestation.log import CheckpointLog
from tests.faults.evidence import append_surely, fresh
from tests.unit.attestation_support import CRYPTO


async def main(url: str, agent_id: str, name: str, writers: int, appends: int, path: str) -> None:
    """Append everything."""
    acknowledged = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    adapter = smoltbot_records_sqlite if url.startswith("sqlite:") else smoltbot_records_postgres

    async def write(number: int) -> None:
        for _ in range(appends):
            # Two processes share each session.
            entry = fresh(f"session-{number}-{name[-1] in '01'}")
            await append_surely(log, agent_id, entry)
            # One write, which the death of the process cannot take back.
            os.write(acknowledged, f"{entry.request_id}\n".encode())

    async with adapter.open_records(url) as store:
        log = CheckpointLog(store, CRYPTO)
        await store.call("log_head", {"agent_id": agent_id, "sessions": []})
        print("ready", flush=True)  # noqa: T201 - the test waits for it
        sys.stdin.readline()
        await asyncio.gather(*(write(number) for number in range(writers)))


if __name__ == "__main__":
    url, agent, name, writers, appends, file = sys.argv[1:]
    asyncio.run(main(url, agent, name, int(writers), int(appends), file))
