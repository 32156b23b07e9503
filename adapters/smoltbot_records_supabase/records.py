"""The RecordStore port over Supabase: each call is ``POST {SUPABASE_URL}/rest/v1/rpc/<function>``.

Connection URL: ``https://PROJECT.supabase.co``; the key is given beside it. The functions are those of
``schema/postgres``, in the schema ``smoltbot``, which the project's API settings must expose.

https://docs.postgrest.org/en/stable/references/api/functions.html
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from smoltbot_worker.ports import Json
from smoltbot_worker.records.arguments import format_epoch
from smoltbot_worker.records.functions import checked_arguments
from worker_compat import registry
from worker_compat.ports import Clock, Fetcher

from .connection import RestApi, api_root, checked_key


class SupabaseRecordStore:
    """A :class:`smoltbot_worker.ports.RecordStore` over ``fetcher``, which its opener closes.

    ``clock`` is the time by which the functions judge; for functions see ``schema/README.md``. Made directly where
    there is no registry, as inside Cloudflare. Raises :class:`worker_compat.errors.ConfigError` for a bad ``url`` or
    ``key``.
    """

    def __init__(self, fetcher: Fetcher, url: str, key: str, *, clock: Clock = time.time) -> None:
        self._api = RestApi(fetcher, api_root(url), checked_key(key))
        self._clock = clock

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        """Run one database function; see :class:`smoltbot_worker.ports.RecordStore` for the errors."""
        values = checked_arguments(function, arguments)
        answer: Json = await self._api.call(function, json.dumps({**values, "now": format_epoch(self._clock())}))
        return answer


@asynccontextmanager
async def open_records(url: str, *, key: str = "", clock: Clock = time.time) -> AsyncIterator[SupabaseRecordStore]:
    """The records in the project that ``url`` names, through the installed fetcher; ``key`` is its secret key.

    Raises :class:`worker_compat.errors.ConfigError` for a bad URL or key; a project that cannot be reached fails
    calls, not the opening.
    """
    api_root(url)
    checked = checked_key(key)
    async with registry.open_fetcher() as fetcher:
        yield SupabaseRecordStore(fetcher, url, checked, clock=clock)
