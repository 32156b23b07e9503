"""Applies the numbered SQL files of ``schema/sqlite`` to a SQLite file, each in one transaction, once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from worker_compat.errors import ConfigError
from worker_compat_sqlite import begin_immediate, connect, database_path, problem, require_sqlite, unavailable

from .arguments import format_epoch

_FILE_NAME = re.compile(r"\d{4}_[a-z0-9_]+\.sql")
_LEDGER = """
    CREATE TABLE IF NOT EXISTS _schema_migrations (
        filename text PRIMARY KEY NOT NULL, applied_at text NOT NULL, checksum text NOT NULL
    ) STRICT
"""
_LOOK_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class _Migration:
    name: str
    sql: str
    checksum: str


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
    migrations = _load(schema_dir)
    try:
        if dry_run:
            return [migration.name for migration in _missing(migrations, _look(path, wait_s))]
        _make_folder(path.parent)
        deadline = time.monotonic() + wait_s
        with closing(_open(path, deadline)) as connection:
            applied = []
            while (name := _apply_next(connection, migrations, deadline)) is not None:
                applied.append(name)
            return applied
    except (sqlite3.Error, OSError) as error:
        raise unavailable(error) from error


def _load(schema_dir: Path) -> list[_Migration]:
    try:
        contents = {file.name: file.read_bytes() for file in schema_dir.iterdir() if file.suffix == ".sql"}
    except OSError as error:
        raise ConfigError(f"the schema folder {schema_dir} cannot be read: name another") from error
    if not contents:
        raise ConfigError(f"the schema folder {schema_dir} holds no .sql file: name the folder that does")
    migrations = []
    for name, content in sorted(contents.items()):
        if not _FILE_NAME.fullmatch(name):
            raise ConfigError(f"{name} is no name for a migration: call it like 0001_what_it_makes.sql")
        migrations.append(_Migration(name, content.decode(), hashlib.sha256(content).hexdigest()))
    return migrations


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: make it, writable for this user") from error


def _open(path: Path, deadline: float) -> sqlite3.Connection:
    # SQLite would make the file by the umask; its journals take the file's mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
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


def _missing(migrations: Sequence[_Migration], applied: Mapping[str, str]) -> list[_Migration]:
    """What is still to apply, in order; raises when the database and the folder contradict each other."""
    unknown = sorted(applied.keys() - {migration.name for migration in migrations})
    if unknown:
        raise ConfigError(
            f"the database is newer than this version: it knows {unknown[-1]}; install the version that does"
        )
    for migration in migrations:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise ConfigError(
                f"{migration.name} was changed after it was applied: restore it, put the change in a new file"
            )
    return [migration for migration in migrations if migration.name not in applied]


def _apply_next(connection: sqlite3.Connection, migrations: Sequence[_Migration], deadline: float) -> str | None:
    """Apply the first missing file under the write lock, under which it was also found to be missing."""
    begin_immediate(connection, max(0.0, deadline - time.monotonic()))
    try:
        missing = _missing(migrations, _applied(connection))
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


def _apply(connection: sqlite3.Connection, migration: _Migration) -> None:
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
