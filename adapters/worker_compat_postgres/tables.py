"""The tables of key-value stores and queues in a PostgreSQL database, made when they are first needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from worker_compat.errors import ConfigError

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

SCRIPT = Path(__file__).with_name("tables.sql")
VERSION = 1
"""Of the tables in ``SCRIPT``: a database with another number is refused, not guessed at."""

_NOT_ALLOWED = (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidSchemaNameError)


async def make_tables(connection: PoolConnectionProxy[asyncpg.Record]) -> None:
    """Make what is missing, in one transaction; tables that are there are used as they are.

    Raises :class:`ConfigError` when the role may not make them, and when another version has made them.
    """
    async with connection.transaction():
        if not await connection.fetchval("SELECT to_regclass('worker_compat_version') IS NOT NULL"):
            await _make(connection)
        version = await connection.fetchval("SELECT version FROM worker_compat_version")
    if version != VERSION:
        raise ConfigError(
            f"the PostgreSQL database has key-value and queue tables of version {version}, and this release knows"
            f" version {VERSION}: install the release that made them, or name another database"
        )


async def _make(connection: PoolConnectionProxy[asyncpg.Record]) -> None:
    try:
        await connection.execute(SCRIPT.read_text("utf-8"))
    except _NOT_ALLOWED:
        raise ConfigError(
            "the PostgreSQL database has no tables for key-value stores and queues, and this role may not make"
            f" them: as a role that may, run psql -f {SCRIPT}, and GRANT SELECT, INSERT, UPDATE, DELETE on them"
        ) from None
