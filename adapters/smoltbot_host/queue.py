"""Where exchanges wait for their check: the database of the records, unless QUEUE_URL names another place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from smoltbot_records_sqlite import SqliteRecordStore
from smoltbot_worker.ports import RecordStore
from smoltbot_worker.records import locations
from smoltbot_worker.relay.exchanges import NAME
from worker_compat import registry
from worker_compat.consumer import WakingQueueStore
from worker_compat.errors import ConfigError
from worker_compat.ports import QueueStore
from worker_compat_sqlite import SqliteQueueStore, database_path, open_writer

from . import records

DEAD = "-dead"
"""Ends the name of the queue where those go that could never be checked."""


@dataclass(frozen=True, slots=True)
class Stores:
    """The records, the queue of exchanges, and the queue of those that could never be checked."""

    records: RecordStore
    exchanges: WakingQueueStore
    dead_letters: QueueStore


@asynccontextmanager
async def opened(values: dict[str, Any]) -> AsyncIterator[Stores]:
    """The stores that the settings name, closed at exit; in one SQLite file they share its writer.

    ``ConfigError`` for settings that no adapter takes.
    """
    database = records.database_url(values)
    if records.is_embedded(database) and not values["queue_url"]:
        async with open_writer(database_path(database)) as writer:
            exchanges, dead = (SqliteQueueStore(writer, name) for name in (NAME, NAME + DEAD))
            yield Stores(SqliteRecordStore(writer), WakingQueueStore(exchanges), dead)
        return
    async with AsyncExitStack() as stack:
        url = queue_url(values)
        store = await stack.enter_async_context(records.opened(values))
        exchanges_store = await stack.enter_async_context(registry.open_queue(url))
        dead_letters = await stack.enter_async_context(registry.open_queue(_dead(url)))
        yield Stores(store, WakingQueueStore(exchanges_store), dead_letters)


def queue_url(values: dict[str, Any]) -> str:
    """QUEUE_URL, else the server of DATABASE_URL, with a queue's name; ``ConfigError`` if others cannot reach it."""
    url: str = values["queue_url"]
    if not url:
        url = registry.with_option(values["database_url"], "pool_max", str(values["db_pool_max"]))
    if locations.scheme(url) == "memory" and values["smoltbot_role"] != "all":
        raise ConfigError(
            f"QUEUE_URL is in memory, which no process shares with the one that has SMOLTBOT_ROLE="
            f"{values['smoltbot_role']}: name a redis:// server, or unset it to use the database"
        )
    return registry.with_option(url, "queue", NAME)


async def share(values: dict[str, Any]) -> None:
    """As a role that may: make the queue's tables in a PostgreSQL database, for the role of the gateway."""
    url = records.database_url(values)
    if locations.is_postgres(url) and not values["queue_url"]:
        await records.adapter(url).share_queue(url)


async def check(values: dict[str, Any]) -> None:
    """Whether a PostgreSQL database has a queue that this user may use; ``StoreUnavailable`` otherwise."""
    url = records.database_url(values)
    if locations.is_postgres(url) and not values["queue_url"]:
        await records.adapter(url).check_queue(url)


def _dead(url: str) -> str:
    """The URL of the queue of dead letters beside the queue that ``url`` names."""
    base, _, query = url.partition("?")
    options = [f"{option}{DEAD}" if option.startswith("queue=") else option for option in query.split("&")]
    return f"{base}?{'&'.join(options)}"
