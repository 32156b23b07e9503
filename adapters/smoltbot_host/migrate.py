"""``smoltbot migrate``: bring the database's schema up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from smoltbot_worker.env import read_variables
from worker_compat.errors import ConfigError

from . import data_dir, queue, records, settings


def migrate(environ: Mapping[str, str], *, dry_run: bool, wait_s: float) -> list[str]:
    """The names of the migrations applied, or that would be; waits up to ``wait_s`` seconds for the database.

    Raises ``EnvValidationError``, ``ConfigError`` or ``StoreUnavailable``; their texts are for the operator.
    """
    values, _ = read_variables(settings.load(environ, signs=False), signs=False)
    url = records.database_url(values)
    adapter = records.adapter(url)
    folder = records.schema_dir(url)
    if not folder.is_dir():
        raise ConfigError(f"the schema folder {folder} is missing; reinstall the package")
    if not dry_run and records.is_embedded(url) and not values["database_url"]:
        data_dir.prepare(values["data_dir"])
    names: list[str] = asyncio.run(adapter.migrate(url, folder, dry_run=dry_run, wait_s=wait_s))
    if not dry_run:
        asyncio.run(queue.share(values))
    return names
