"""The PostgreSQL adapter: key-value stores and queues on asyncpg."""

from .connection import PostgresPool, Refused, Settings, database_settings, open_pool, store_settings
from .kv import PostgresKVStore, open_kv
from .queue import PostgresQueueStore, open_queue

__all__ = [
    "PostgresKVStore",
    "open_kv",
    "PostgresQueueStore",
    "open_queue",
    "PostgresPool",
    "open_pool",
    "Settings",
    "store_settings",
    "database_settings",
    "Refused",
]
