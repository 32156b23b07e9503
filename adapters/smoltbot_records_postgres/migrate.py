"""Applies the numbered SQL files of ``schema/postgres`` to a PostgreSQL database, each in one transaction, once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from smoltbot_worker.records.migrations import Migration, load_migrations, missing_migrations
from worker_compat.errors import ConfigError, StoreUnavailable
from worker_compat_postgres import Settings, database_settings

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_LOOK_AGAIN_S = 0.2
_GRACE_S = 1.0
_LOCK = 0x736D6F6C74  # any number that nobody else takes for an advisory lock of this database
_LEDGER = """
    CREATE SCHEMA IF NOT EXISTS smoltbot;
    CREATE TABLE IF NOT EXISTS smoltbot._schema_migrations (
        filename text PRIMARY KEY, applied_at timestamptz NOT NULL, checksum text NOT NULL
    );
    -- A COMMIT in a file would keep half of it when the other half fails: in a function there is none.
    CREATE OR REPLACE FUNCTION pg_temp.smoltbot_apply(statements text) RETURNS void LANGUAGE plpgsql AS
        'BEGIN EXECUTE statements; END';
"""
# What passes by itself, or with another server: everything else is the fault of the file or of the role.
_PASSING = ("08", "53", "55P03", "57", "40", "25006", "58", "XX")


async def migrate(url: str, schema_dir: Path, *, dry_run: bool = False, wait_s: float = 30.0) -> list[str]:
    """Bring the database up to the files of ``schema_dir``; the names applied (``dry_run``: still to apply).

    May run in several processes at once and again after a kill: each file is applied once, wholly or not at all. A
    server that does not answer yet and another runner are waited for ``wait_s`` seconds in all. ``dry_run`` writes
    nothing. Raises :class:`ConfigError` for a bad URL, folder or file, for a role that may not, for a file that
    changed after it was applied, and for a database newer than the folder; :class:`StoreUnavailable` when the
    database cannot be used.
    """
    settings = database_settings(url)
    migrations = load_migrations(schema_dir)
    deadline = time.monotonic() + wait_s
    async with _connected(settings, deadline) as connection:
        if dry_run:
            with _cut_after(connection, deadline):
                return [migration.name for migration in missing_migrations(migrations, await _applied(connection))]
        names = []
        while (name := await _apply_next(connection, migrations, deadline)) is not None:
            names.append(name)
        return names


@asynccontextmanager
async def _connected(settings: Settings, deadline: float) -> AsyncIterator[Connection]:
    connection = await _connect(settings, deadline)
    try:
        yield connection
    except asyncpg.PostgresError as error:
        raise _unavailable(error) from None
    except (asyncpg.InterfaceError, OSError) as error:
        raise StoreUnavailable(f"the connection to PostgreSQL broke ({type(error).__name__}): try again") from None
    finally:
        with suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await connection.close(timeout=settings.command_timeout_s)


async def _connect(settings: Settings, deadline: float) -> Connection:
    """A connection as soon as the server takes one."""
    while True:
        try:
            # A pooler knows no prepared statements, and one connection needs no cache of them.
            return await asyncpg.connect(settings.dsn, timeout=settings.connect_timeout_s, statement_cache_size=0)
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            problem = _unavailable(error)
            if isinstance(problem, ConfigError) or time.monotonic() >= deadline:
                raise problem from None
        except (ValueError, TypeError, asyncpg.InterfaceError):  # the text may quote a part of the URL
            raise ConfigError("asyncpg does not accept the options of this PostgreSQL URL: see its manual") from None
        await asyncio.sleep(_LOOK_AGAIN_S)


def _unavailable(error: BaseException) -> StoreUnavailable | ConfigError:
    """What to say of an error that no file is to blame for; the server's text may quote names."""
    code = getattr(error, "sqlstate", None) or ""
    kind = type(error).__name__
    if not code:
        return StoreUnavailable(f"PostgreSQL cannot be reached ({kind}): check that it runs, host and port")
    if code == "55P03":
        return StoreUnavailable("PostgreSQL is locked by another runner of migrations: try again")
    if code == "42501":
        return ConfigError("this role may not change the schema: run `smoltbot migrate` as the database's owner")
    if code.startswith(_PASSING):
        return StoreUnavailable(f"PostgreSQL cannot be used ({kind}, {code}): try again")
    return ConfigError(f"PostgreSQL refuses ({kind}, {code}): check user, password and database in the URL")


async def _applied(connection: Connection) -> dict[str, str]:
    known = await connection.fetchval("SELECT to_regclass('smoltbot._schema_migrations') IS NOT NULL")
    rows = await connection.fetch("SELECT filename, checksum FROM smoltbot._schema_migrations") if known else []
    return {row["filename"]: row["checksum"] for row in rows}


async def _apply_next(connection: Connection, migrations: Sequence[Migration], deadline: float) -> str | None:
    """Apply the first missing file under the lock, under which it was also found to be missing."""
    with _cut_after(connection, deadline) as cut:
        async with connection.transaction():
            # Of the transaction, not of the session: a pooler gives the next transaction to another session.
            patience_ms = max(1, int((deadline - time.monotonic()) * 1000))
            await connection.execute(f"SET LOCAL lock_timeout = {patience_ms}; SET LOCAL statement_timeout = 0")
            await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
            missing = missing_migrations(migrations, await _applied(connection))
            if missing:
                cut.cancel()  # from here it takes as long as it takes
                await connection.execute(_LEDGER)
                await _apply(connection, missing[0])
                return missing[0].name
    return None


@contextmanager
def _cut_after(connection: Connection, deadline: float) -> Iterator[asyncio.TimerHandle]:
    """Ends the connection when the deadline is over: a server that hangs does not answer its own time limit."""
    wait_s = max(0.0, deadline - time.monotonic()) + _GRACE_S
    cut = asyncio.get_running_loop().call_later(wait_s, connection.terminate)
    try:
        yield cut
    finally:
        cut.cancel()


async def _apply(connection: Connection, migration: Migration) -> None:
    try:
        await connection.execute("SET LOCAL search_path = smoltbot, pg_catalog, pg_temp")
        await connection.fetchval("SELECT pg_temp.smoltbot_apply($1)", migration.sql)
        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "").startswith(_PASSING):
            raise
        raise ConfigError(f"{migration.name} cannot be applied: {error}") from error
    await connection.execute(
        "INSERT INTO smoltbot._schema_migrations VALUES ($1, clock_timestamp(), $2)",
        migration.name,
        migration.checksum,
    )
