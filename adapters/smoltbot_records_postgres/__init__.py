"""The gateway's records in a PostgreSQL database."""

from .migrate import migrate
from .queue import check_queue, share_queue
from .records import PostgresRecordStore, open_records

__all__ = ["PostgresRecordStore", "check_queue", "migrate", "open_records", "share_queue"]
