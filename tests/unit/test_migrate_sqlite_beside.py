"""A migration in a process that already uses the file: what is written afterwards stays."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import smoltbot_records_sqlite
from tests.conformance.records_backends import SCHEMA
from worker_compat_sqlite import SqliteQueueStore, open_writer

_VISITOR = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM worker_compat_queue").fetchone()[0])
connection.close()
"""


async def seen_by_another_process(path: Path) -> int:
    """It opens the file and closes it again, as every process that ends does."""
    command = [sys.executable, "-c", _VISITOR, str(path)]
    ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    return int(ran.stdout)


async def test_what_is_written_after_it_is_on_the_disk(tmp_path: Path) -> None:
    """Closing any descriptor of a file releases all locks that the process has on it: SQLite's too."""
    path = tmp_path / "records.db"
    await smoltbot_records_sqlite.migrate(f"sqlite:///{path}", SCHEMA / "sqlite")
    async with open_writer(path) as writer:
        queue = SqliteQueueStore(writer, "exchanges")
        await queue.push([b"before"], 0)
        assert await smoltbot_records_sqlite.migrate(f"sqlite:///{path}", SCHEMA / "sqlite") == []
        assert await seen_by_another_process(path) == 1
        assert path.with_name("records.db-wal").exists()
        await queue.push([b"after"], 0)
        assert await seen_by_another_process(path) == 2
