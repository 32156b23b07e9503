"""One database opened twice, as by two processes, and a third connection that stands in their way."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from smoltbot_worker.ports import RecordStore
from smoltbot_worker.testing.records_area import head_of
from smoltbot_worker.testing.samples import extension
from tests.faults.migration_support import ENVIRON, Database, connected
from worker_compat.testing import FakeClock

PATIENCE = "?connect_timeout=10&command_timeout=20"
MOST_BLOCKED = 2
"""So many sessions are waited for: more than one of each store need not come to run at the same time."""

_BLOCKED = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = ANY (SELECT pid FROM pg_stat_activity"


@dataclass
class Pair:
    """Two stores with pools or files of their own, on one clock."""

    database: Database
    clock: FakeClock
    stores: tuple[RecordStore, RecordStore]

    async def at_once(self, function: str, requests: Iterable[dict[str, Any]]) -> list[Any]:
        """The answers to many calls of one function, made by both stores at the same time."""
        return list(await asyncio.gather(
            *(store.call(function, request) for store, request in zip(cycle(self.stores), requests, strict=False))
        ))  # fmt: skip

    async def append(self, number: int, agent_id: str, *rows: dict[str, Any]) -> dict[str, Any]:
        """Append by one of the stores beside others, again until it is done; the answer."""
        store = self.stores[number % 2]
        head = await head_of(store, agent_id, *sorted({row["session_id"] for row in rows}))
        while True:
            answer: Any = await store.call("append_checkpoints", extension(agent_id, head, rows))
            if answer["status"] == "appended":
                return dict(answer)
            assert answer["status"] == "conflict"
            head = answer

    @asynccontextmanager
    async def held(self, *statements: str, commit: bool = False) -> AsyncIterator[None]:
        """A transaction of a third connection that has done ``statements`` and ends with the block.

        On SQLite it holds the write lock of the file, whatever the statements.
        """
        if self.database.kind == "sqlite":
            with closing(sqlite3.connect(self.database.path, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                for statement in statements:
                    connection.execute(statement)
                yield
                connection.execute("COMMIT" if commit else "ROLLBACK")
            return
        async with connected(self.database.url) as connection:
            transaction = connection.transaction()
            await transaction.start()
            for statement in statements:
                await connection.execute(statement)
            yield
            await (transaction.commit() if commit else transaction.rollback())

    async def blocked(self, sessions: int = MOST_BLOCKED) -> None:
        """Return once so many sessions wait for a lock; SQLite's writers are in line once they have been asked."""
        if self.database.kind == "sqlite":
            await asyncio.sleep(0)
            return
        deadline = time.monotonic() + 10
        query = f"{_BLOCKED} WHERE datname = '{self.database.url.rpartition('/')[2]}')"
        while not (await self.database.rows(query))[0][0] >= sessions:
            assert time.monotonic() < deadline, "nobody waits"
            await asyncio.sleep(0.01)


@asynccontextmanager
async def opened_twice(database: Database) -> AsyncIterator[Pair]:
    """The database with this version's schema, opened twice."""
    await database.adapter.migrate(database.url, database.schema)
    clock = FakeClock()
    url = database.url + (PATIENCE if database.kind == "postgres" else "")
    opened = database.adapter.open_records
    async with opened(url, clock=clock) as first, opened(url, clock=clock) as second:
        yield Pair(database, clock, (first, second))


@contextmanager
def poller(database: Database) -> Iterator[subprocess.Popen[str]]:
    """A process that has the records open: it prints the latest change, and a poll from there on for each line."""
    program = f"""
import asyncio, json, sys
from smoltbot_records_{database.kind} import open_records

async def main():
    async with open_records(sys.argv[1]) as store:
        seq = (await store.call("changes_since", {{"seq": None}}))["seq"]
        print(seq, flush=True)
        for _ in sys.stdin:
            found = await store.call("changes_since", {{"seq": seq}})
            seq = found["seq"]
            print(json.dumps(found), flush=True)

asyncio.run(main())
"""
    command = [sys.executable, "-c", program, database.url]
    with subprocess.Popen(command, env=ENVIRON, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin
        process.stdin.close()
        assert process.wait(10) == 0
