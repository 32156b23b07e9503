"""SQLite for the runtime: one file, one writer thread with group commit, one reader thread; KV stores and queues."""

from .connection import begin_immediate, connect, database_path, problem, require_sqlite, unavailable
from .kv import SqliteKVStore, open_kv
from .queue import SqliteQueueStore, open_queue
from .writer import SqliteWriter, open_writer

__all__ = [
    "SqliteKVStore",
    "open_kv",
    "SqliteQueueStore",
    "open_queue",
    "SqliteWriter",
    "open_writer",
    "database_path",
    "connect",
    "begin_immediate",
    "require_sqlite",
    "problem",
    "unavailable",
]
