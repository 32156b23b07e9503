"""Says how the schema of a Supabase project is brought up to date: its REST API cannot."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from worker_compat.errors import ConfigError


async def migrate(url: str, schema_dir: Path, *, dry_run: bool = False, wait_s: float = 30.0) -> NoReturn:
    """Raises :class:`ConfigError` with what to do instead."""
    del url, schema_dir, dry_run, wait_s
    raise ConfigError(
        "Supabase's REST API cannot change the schema: run `smoltbot migrate` with DATABASE_URL set to the project's"
        " connection string (postgresql://...), and add smoltbot to the exposed schemas in the project's API settings"
    )
