"""The gateway's records in Supabase, over its REST API."""

from .migrate import migrate
from .records import SupabaseRecordStore, open_records

__all__ = ["SupabaseRecordStore", "migrate", "open_records"]
