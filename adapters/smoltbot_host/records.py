"""Which records adapter a database URL means, where its schema lies, and whether the database has that schema."""

from __future__ import annotations

import importlib
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

from smoltbot_worker.ports import RecordStore, RecordsUnavailable
from smoltbot_worker.records import locations
from smoltbot_worker.records.migrations import load_migrations
from smoltbot_worker.records.refusals import UNAVAILABLE
from worker_compat import registry
from worker_compat.errors import ConfigError, StoreUnavailable

_GROUP = "smoltbot.records"


def database_url(values: dict[str, Any]) -> str:
    """DATABASE_URL with the sizes of the pool, SUPABASE_URL, or the embedded file in DATA_DIR."""
    url: str = values["database_url"] or values["supabase_url"] or f"sqlite:///{values['data_dir']}/smoltbot.db"
    if locations.is_postgres(url):
        for option, field in (("pool_min", "db_pool_min"), ("pool_max", "db_pool_max")):
            url = registry.with_option(url, option, str(values[field]))
    return url


def is_embedded(url: str) -> bool:
    """Whether this process alone owns the database and migrates it by itself."""
    return locations.is_embedded(url)


def adapter(url: str) -> ModuleType:
    """The adapter package for a database URL: it has ``open_records`` and ``migrate``."""
    open_records = registry.find(_GROUP, locations.scheme(url))
    return importlib.import_module(open_records.__module__.partition(".")[0])


def opened(values: dict[str, Any]) -> AbstractAsyncContextManager[RecordStore]:
    """The records that the settings name, closed at exit; ``ConfigError`` for settings that no adapter takes."""
    url = database_url(values)
    options = {"key": values["supabase_key"]} if values["supabase_url"] else {}
    store: AbstractAsyncContextManager[RecordStore] = adapter(url).open_records(url, **options)
    return store


def schema_dir(url: str) -> Path:
    """The folder of migrations for a database URL: inside the wheel, or the repository's ``schema/``."""
    here = Path(__file__).parent
    packaged = here / "schema"
    root = packaged if packaged.is_dir() else here.parents[1] / "schema"
    return root / ("sqlite" if locations.is_embedded(url) else "postgres")


async def check_schema(store: RecordStore, url: str) -> None:
    """Whether the database answers and has this version's schema.

    Raises ``RecordsUnavailable`` while it does not answer or lacks a migration, ``ConfigError`` when it is newer.
    """
    names = [migration.name for migration in load_migrations(schema_dir(url))]
    answer = await store.call("ping", {})
    applied = str(answer["schema"]) if isinstance(answer, dict) else ""
    if applied not in names:
        raise ConfigError(f"the database is newer than this version: it knows {applied}; install the version that does")
    if applied != names[-1]:
        raise RecordsUnavailable(f"the database lacks {names[-1]}: run `smoltbot migrate`")


def reason(error: BaseException) -> str:
    """What to tell an operator of a database that cannot be used; where it says nothing, what the adapter found."""
    told = str(error)
    return str(error.__cause__) if told == UNAVAILABLE and isinstance(error.__cause__, StoreUnavailable) else told
