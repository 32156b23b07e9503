"""The Redis adapter: key-value stores and queues on redis-py."""

from .kv import RedisKVStore, open_kv
from .queue import RedisQueueStore, open_queue

__all__ = ["RedisKVStore", "RedisQueueStore", "open_kv", "open_queue"]
