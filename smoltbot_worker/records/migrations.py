"""The numbered SQL files that make a database's schema: reading them, and telling which are still to apply."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker_compat.errors import ConfigError

_FILE_NAME = re.compile(r"\d{4}_[a-z0-9_]+\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file, and the SHA-256 of its bytes in hex."""

    name: str
    sql: str
    checksum: str


def load_migrations(schema_dir: Path) -> list[Migration]:
    """The files of ``schema_dir`` in order; raises :class:`ConfigError` for a bad folder or name."""
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
        migrations.append(Migration(name, content.decode(), hashlib.sha256(content).hexdigest()))
    return migrations


def missing_migrations(migrations: Sequence[Migration], applied: Mapping[str, str]) -> list[Migration]:
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
