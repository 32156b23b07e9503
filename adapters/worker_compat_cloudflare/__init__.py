"""Cloudflare from both sides: its KV over the REST API, and handlers of this runtime inside its Python Workers."""

from .kv import CloudflareKVStore as CloudflareKVStore
from .kv import open_kv as open_kv

__all__ = ("CloudflareKVStore", "open_kv")
