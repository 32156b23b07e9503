"""Applies the numbered SQL files of ``schema/sqlite`` to a SQLite file, each in one transaction, once."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from smoltbot_worker.records.arguments import format_epoch
from smoltbot_worker.records.migrations import Migration, load_migrations, missing_migrations
from worker_compat.errors import ConfigError
from worker_compat_sqlite import begin_immediate, connect, database_path, problem, require_sqlite, unavailable

_LEDGER = """
    CREATE TABLE IF NOT EXISTS _schema_migrations (
        filename text PRIMARY KEY NOT NULL, applied_at text NOT NULL, checksum text NOT NULL
    ) STRICT
"""
_LOOK_AGAIN_S = 0.05


async def migrate(url: str, schema_dir: Path, *, dry_run: bool = False, wait_s: float = 30.0) -> list[str]:
    """Bring the database up to the files of ``schema_dir``; the names applied (``dry_run``: still to apply).

    Makes the file and its folder when they are missing. May run in several processes at once and again after
    a kill: each file is applied once, wholly or not at all. A locked database is waited for ``wait_s``
    seconds in all. ``dry_run`` writes nothing. Raises :class:`ConfigError` for a bad URL, folder or file,
    for a file that changed after it was applied, and for a database newer than the folder;
    :class:`worker_compat.errors.StoreUnavailable` when the database cannot be used.
    """
    require_sqlite()
    path = database_path(url)
    return await asyncio.to_thread(_migrate, path, schema_dir, dry_run, wait_s)


def split_statements(sql: str) -> Iterator[str]:
    """The statements of ``sql`` in order; a ``;`` in a string, a comment or a trigger's body ends none."""
    statement = ""
    for piece in re.split(r"(?<=;)", sql):
        statement += piece
        if statement.endswith(";") and sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


def _migrate(path: Path, schema_dir: Path, dry_run: bool, wait_s: float) -> list[str]:
    migrations = load_migrations(schema_dir)
    try:
        if dry_run:
            return [migration.name for migration in missing_migrations(migrations, _look(path, wait_s))]
        _make_folder(path.parent)
        deadline = time.monotonic() + wait_s
        with closing(_open(path, deadline)) as connection:
            applied = []
            while (name := _apply_next(connection, migrations, deadline)) is not None:
                applied.append(name)
            return applied
    except (sqlite3.Error, OSError) as error:
        raise unavailable(error) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: make it, writable for this user") from error


def _open(path: Path, deadline: float) -> sqlite3.Connection:
    # SQLite would make the file by the umask; its journals take the file's mode. One that is there is not opened: to
    # close it would release every lock of this process on it, and another process would then delete a log in use.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    while True:
        try:
            connection = connect(path, busy_timeout_s=0, create=True)
            break
        except sqlite3.OperationalError as error:
            # Two processes that begin the same file at once get in each other's way here.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_LOOK_AGAIN_S)
    # A migration may rebuild a table that others refer to; what it leaves is checked before the commit.
    connection.execute("PRAGMA foreign_keys=OFF")
    return connection


def _look(path: Path, wait_s: float) -> dict[str, str]:
    """What is applied, without leaving a trace: opening a WAL database that nobody uses would make files."""
    if not path.exists():
        return {}
    how = "mode=ro" if path.with_name(path.name + "-wal").exists() else "mode=ro&immutable=1"
    uri = f"{path.as_uri()}?{how}"
    with closing(sqlite3.connect(uri, uri=True, timeout=wait_s, isolation_level=None)) as connection:
        return _applied(connection)


def _applied(connection: sqlite3.Connection) -> dict[str, str]:
    known = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_schema_migrations'"
    if not connection.execute(known).fetchall():
        return {}
    return dict(connection.execute("SELECT filename, checksum FROM _schema_migrations").fetchall())


def _apply_next(connection: sqlite3.Connection, migrations: Sequence[Migration], deadline: float) -> str | None:
    """Apply the first missing file under the write lock, under which it was also found to be missing."""
    begin_immediate(connection, max(0.0, deadline - time.monotonic()))
    try:
        missing = missing_migrations(migrations, _applied(connection))
        if not missing:
            connection.execute("ROLLBACK")
            return None
        _apply(connection, missing[0])
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return missing[0].name


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    connection.execute(_LEDGER)
    # A COMMIT in the file would keep half of it when the other half fails.
    connection.set_authorizer(_refuse_transactions)
    try:
        for statement in split_statements(migration.sql):
            connection.execute(statement)
        orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
    except sqlite3.Error as error:
        if problem(error) is not None:
            raise
        raise ConfigError(f"{migration.name} cannot be applied: {error}") from error
    finally:
        connection.set_authorizer(None)
    if orphans:
        raise ConfigError(f"{migration.name} leaves rows that refer to none: mend the data or the file")
    connection.execute(
        "INSERT INTO _schema_migrations VALUES (?, ?, ?)",
        (migration.name, format_epoch(time.time()), migration.checksum),
    )


def _refuse_transactions(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK
