"""Workers KV in a folder of files."""

from .kv import open_kv

__all__ = ["open_kv"]
