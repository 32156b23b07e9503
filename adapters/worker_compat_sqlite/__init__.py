"""SQLite for the runtime: one file, one writer thread with group commit, one reader thread."""

from .connection import begin_immediate, connect, database_path, problem, require_sqlite, unavailable
from .writer import SqliteWriter, open_writer

__all__ = [
    "SqliteWriter",
    "open_writer",
    "database_path",
    "connect",
    "begin_immediate",
    "require_sqlite",
    "problem",
    "unavailable",
]
