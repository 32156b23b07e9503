"""The gateway's records in a SQLite file: the embedded default."""

from .migrate import migrate
from .records import SqliteRecordStore, open_records

__all__ = ["SqliteRecordStore", "migrate", "open_records"]
