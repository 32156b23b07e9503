"""Writers of one agent's log as a process of their own: each appends one entry after the other.

``python -m tests.faults.append_process URL AGENT NAME WRITERS APPENDS FILE``; ``FILE`` gets the request ids that were
acknowledged, one line each, before the next entry of that writer begins. The entries of one process go in together.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import smoltbot_records_postgres
import smoltbot_records_sqlite
from smoltbot_worker.ports import RecordStore, RecordsUnavailable
from smoltbot_worker.testing import entry, extension

MOST_TOGETHER = 64


class Appender:
    """Collects what the writers of this process have, and appends it by compare-and-swap."""

    def __init__(self, store: RecordStore, agent_id: str) -> None:
        self._store = store
        self._agent_id = agent_id
        self._waiting: asyncio.Queue[tuple[dict[str, Any], asyncio.Future[None]]] = asyncio.Queue()

    async def append(self, given: dict[str, Any]) -> None:
        """Returns once the entry is in the log."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((given, done))
        await done

    async def run(self) -> None:
        """Append until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty() and len(batch) < MOST_TOGETHER:
                batch.append(self._waiting.get_nowait())
            await self._append([given for given, _ in batch])
            for _, done in batch:
                done.set_result(None)

    async def _append(self, left: list[dict[str, Any]]) -> None:
        sessions: list[Any] = sorted({given["session_id"] for given in left})
        head: Any = None
        while left:
            try:
                # A conflict and a duplicate bring the head along.
                head = head or await self._store.call("log_head", {"agent_id": self._agent_id, "sessions": sessions})
                head = await self._store.call("append_checkpoints", extension(self._agent_id, head, left))
            except RecordsUnavailable:  # it may be done: asked again, the database says so
                head = None
                await asyncio.sleep(0.01)
                continue
            if head["status"] == "appended":
                return
            stored = set(head.get("stored", ()))
            left = [given for given in left if given["request_id"] not in stored]


async def main(url: str, agent_id: str, name: str, writers: int, appends: int, path: str) -> None:
    """Append everything."""
    acknowledged = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    adapter = smoltbot_records_sqlite if url.startswith("sqlite:") else smoltbot_records_postgres

    async def write(number: int) -> None:
        for _ in range(appends):
            # Two processes share each session.
            given = entry(f"session-{number}-{name[-1] in '01'}")
            await appender.append(given)
            # One write, which the death of the process cannot take back.
            os.write(acknowledged, f"{given['request_id']}\n".encode())

    async with adapter.open_records(url) as store:
        appender = Appender(store, agent_id)
        running = asyncio.create_task(appender.run())
        print("ready", flush=True)  # noqa: T201 - the test waits for it
        sys.stdin.readline()
        done = asyncio.gather(*(write(number) for number in range(writers)))
        ending: list[asyncio.Future[Any]] = [running, done]
        await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        await done
        running.cancel()


if __name__ == "__main__":
    url, agent, name, writers, appends, file = sys.argv[1:]
    asyncio.run(main(url, agent, name, int(writers), int(appends), file))
