"""The RecordStore port over PostgreSQL: each call is one statement that calls one function of the database.

Connection URL: ``postgresql://user:password@host:port/database``, with the options of the PostgreSQL KV store but
``namespace``; behind PgBouncer in transaction mode ``prepared=off``. A user that has the role ``smoltbot_gateway`` is
enough. Functions and tables are in the schema ``smoltbot``.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from smoltbot_worker.ports import Json, RecordsUnavailable
from smoltbot_worker.records.arguments import format_epoch
from smoltbot_worker.records.functions import checked_arguments
from smoltbot_worker.records.refusals import UNAVAILABLE, refusal
from worker_compat.errors import StoreUnavailable
from worker_compat.ports import Clock
from worker_compat_postgres import PostgresPool, Refused, database_settings, open_pool


class PostgresRecordStore:
    """A :class:`smoltbot_worker.ports.RecordStore` on ``pool``, which its opener closes.

    ``clock`` is the time by which the functions judge; for functions see ``schema/README.md``.
    """

    def __init__(self, pool: PostgresPool, *, clock: Clock = time.time) -> None:
        self._pool = pool
        self._clock = clock

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        """Run one database function; see :class:`smoltbot_worker.ports.RecordStore` for the errors."""
        values = checked_arguments(function, arguments)
        sent = json.dumps({**values, "now": format_epoch(self._clock())})
        try:
            rows = await self._pool.fetch(f"SELECT smoltbot.{function}($1::jsonb)", sent)
        except Refused as error:
            raise refusal(function, error.sqlstate, error.reason) from error
        except StoreUnavailable as error:
            raise RecordsUnavailable(UNAVAILABLE) from error
        result: Json = json.loads(rows[0][0])
        return result


@asynccontextmanager
async def open_records(url: str, *, clock: Clock = time.time) -> AsyncIterator[PostgresRecordStore]:
    """The records in the database that ``url`` names.

    A server that is not there fails calls, not the opening. Raises :class:`worker_compat.errors.ConfigError` for a
    URL that is not of this form, here or at the first call.
    """
    async with open_pool(database_settings(url), tables=False, sorts=True) as pool:
        yield PostgresRecordStore(pool, clock=clock)
