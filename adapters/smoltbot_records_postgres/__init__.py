"""The gateway's records in a PostgreSQL database."""

from .migrate import migrate
from .records import PostgresRecordStore, open_records

__all__ = ["PostgresRecordStore", "migrate", "open_records"]
