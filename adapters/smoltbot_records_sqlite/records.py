"""The RecordStore port over a SQLite file: a table of database functions, run by the one writer."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

from smoltbot_worker.ports import Json, RecordsUnavailable
from smoltbot_worker.records.arguments import format_epoch
from smoltbot_worker.records.functions import checked_arguments
from smoltbot_worker.records.refusals import NOT_MIGRATED, UNAVAILABLE
from worker_compat.errors import StoreUnavailable
from worker_compat.ports import Clock
from worker_compat_sqlite import SqliteWriter, database_path, open_writer

from . import (
    accounts,
    agents,
    cards,
    containment,
    context,
    events,
    gateway_keys,
    integrity,
    keys,
    log,
    metering,
    nudges,
    retention,
    reviews,
    settings,
    traces,
    webhooks,
)

_TABLES = ("agents", "alignment_cards", "integrity_checkpoints")

_AREAS = (
    agents, log, keys, settings, cards, containment, accounts, gateway_keys, context, events, webhooks, nudges, traces,
    reviews, metering, retention, integrity,
)  # fmt: skip

_WRITES: Mapping[str, Callable[..., Json]] = {body.__name__: body for area in _AREAS for body in area.WRITES}
"""``body(connection, now, **arguments)``, each inside a transaction of its own."""

_READS: Mapping[str, Callable[..., Json]] = {body.__name__: body for area in _AREAS for body in area.READS}
"""The same on a snapshot, beside the writes."""


class SqliteRecordStore:
    """A :class:`smoltbot_worker.ports.RecordStore` on ``writer``, which its opener closes.

    ``clock`` gives ``created_at``, ``updated_at`` and ``issued_at``; for functions see ``schema/README.md``.
    """

    def __init__(self, writer: SqliteWriter, *, clock: Clock = time.time) -> None:
        self._writer = writer
        self._clock = clock
        self._upkeep: Mapping[str, Callable[[], Awaitable[Json]]] = {
            "ping": self._ping,
            "housekeeping": self._housekeeping,
        }

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        """Run one database function; see :class:`smoltbot_worker.ports.RecordStore` for the errors."""
        work = self._prepare(function, arguments)
        try:
            return await work()
        except StoreUnavailable as error:
            raise RecordsUnavailable(UNAVAILABLE) from error
        except (sqlite3.IntegrityError, sqlite3.DataError) as error:
            raise ValueError(f"{function}: the database refuses these values") from error
        except sqlite3.OperationalError as error:
            raise RecordsUnavailable(NOT_MIGRATED) from error

    def _prepare(self, name: str, arguments: Mapping[str, Json]) -> Callable[[], Awaitable[Json]]:
        values = checked_arguments(name, arguments)
        upkeep = self._upkeep.get(name)
        if upkeep is not None:
            return upkeep
        run, bodies = (self._writer.read, _READS) if name in _READS else (self._writer.run, _WRITES)
        return partial(run, partial(bodies[name], now=format_epoch(self._clock()), **values))

    async def _ping(self) -> Json:
        schema = await self._writer.read(_last_migration)
        if schema is None:
            raise RecordsUnavailable(NOT_MIGRATED)
        # An empty transaction takes the write lock and gives it back: a reader alone would not notice a
        # database that is locked or read-only.
        await self._writer.run(lambda connection: None)
        return {"ok": True, "schema": schema}

    async def _housekeeping(self) -> Json:
        await self._writer.run(partial(events.forget, now=format_epoch(self._clock())))
        return await self._writer.run_alone(_optimize_and_checkpoint)


@asynccontextmanager
async def open_records(url: str, *, clock: Clock = time.time) -> AsyncIterator[SqliteRecordStore]:
    """The records in the file that ``url`` names (``sqlite:///relative`` or ``sqlite:////absolute``).

    A database that is missing or locked fails calls, not the opening. Raises
    :class:`worker_compat.errors.ConfigError` for a URL that is not of this form.
    """
    async with open_writer(database_path(url)) as writer:
        yield SqliteRecordStore(writer, clock=clock)


def _last_migration(connection: sqlite3.Connection) -> str | None:
    for table in _TABLES:
        connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchall()
    (last,) = connection.execute("SELECT max(filename) FROM _schema_migrations").fetchone()
    return None if last is None else str(last)


def _optimize_and_checkpoint(connection: sqlite3.Connection) -> Json:
    connection.execute("PRAGMA optimize").fetchall()
    busy, in_log, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return {"busy": bool(busy), "wal_pages": int(in_log), "checkpointed_pages": int(moved)}
