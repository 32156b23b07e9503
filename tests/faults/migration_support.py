"""A database of its own for each test of ``smoltbot migrate``, and the command as a process."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import asyncpg

import smoltbot_records_postgres
import smoltbot_records_sqlite

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "smoltbot_cli", "migrate"]
ENVIRON = {"PATH": os.defpath, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"}
LIMIT_S = 60

_SQLITE_SHAPE = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
_POSTGRES_SHAPE = """
    SELECT 'column', attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull::text
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'smoltbot'::regnamespace AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), ''
        FROM pg_constraint WHERE connamespace = 'smoltbot'::regnamespace
    UNION ALL SELECT 'index', tablename, indexname, indexdef, '' FROM pg_indexes WHERE schemaname = 'smoltbot'
    UNION ALL SELECT 'function', oid::regprocedure::text, proacl::text, prosrc, array_to_string(proconfig, ',')
        FROM pg_proc WHERE pronamespace = 'smoltbot'::regnamespace
    ORDER BY 1, 2, 3
"""
_EXISTS = "SELECT 1 FROM pg_namespace WHERE nspname = 'smoltbot'"
_POSTGRES_TABLES = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'smoltbot'"
_SQLITE_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"

Rows = list[tuple[Any, ...]]


@dataclass
class Ran:
    """A run of the command that has ended."""

    code: int
    out: str
    err: str

    @property
    def applied(self) -> list[str]:
        """The files that it says it applied."""
        return [line.removeprefix("applied ") for line in self.out.splitlines() if line.startswith("applied ")]


@dataclass
class Database:
    """An empty database; ``folder`` is for whatever else the test writes."""

    kind: str
    url: str
    folder: Path

    @property
    def adapter(self) -> ModuleType:
        """``smoltbot_records_sqlite`` or ``smoltbot_records_postgres``."""
        return smoltbot_records_sqlite if self.kind == "sqlite" else smoltbot_records_postgres

    @property
    def schema(self) -> Path:
        """The folder of this version's files."""
        return ROOT / "schema" / self.kind

    @property
    def names(self) -> list[str]:
        """This version's files in order."""
        return sorted(path.name for path in self.schema.glob("*.sql"))

    @property
    def path(self) -> Path:
        """The file of a SQLite database."""
        return Path(self.url.removeprefix("sqlite:///"))

    async def rows(self, sql: str) -> Rows:
        """What a query answers."""
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.path)) as connection:
                return connection.execute(sql).fetchall()
        async with connected(self.url) as connection:
            return [tuple(row) for row in await connection.fetch(sql)]

    async def run(self, *statements: str) -> None:
        """Write, in one transaction."""
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute("PRAGMA foreign_keys=ON").close()
                for statement in statements:
                    connection.execute(statement)
            return
        async with connected(self.url) as connection, connection.transaction():
            for statement in statements:
                await connection.execute(statement)

    async def is_empty(self) -> bool:
        """Whether nothing was ever made in it."""
        return not self.path.exists() if self.kind == "sqlite" else not await self.rows(_EXISTS)

    async def applied(self) -> list[str]:
        """The files in the ledger."""
        if await self.is_empty() or "_schema_migrations" not in await self.tables():
            return []
        return [name for (name,) in await self.rows("SELECT filename FROM _schema_migrations ORDER BY filename")]

    async def tables(self) -> set[str]:
        """The names of all tables."""
        return {name for (name,) in await self.rows(_SQLITE_TABLES if self.kind == "sqlite" else _POSTGRES_TABLES)}

    async def shape(self) -> Rows:
        """Everything but the rows: what a database has that was migrated without trouble."""
        return await self.rows(_SQLITE_SHAPE if self.kind == "sqlite" else _POSTGRES_SHAPE)

    async def contents(self) -> dict[str, tuple[list[str], list[str]]]:
        """By table the names of its columns, and its rows as text; what was applied when is told by ``applied``."""
        found = {}
        for table in await self.tables() - {"_schema_migrations"}:
            columns = await self._columns(table)
            found[table] = columns, await self.texts(table, columns)
        return found

    async def texts(self, table: str, columns: Sequence[str]) -> list[str]:
        """The rows of a table as text, sorted."""
        named = ", ".join(f'"{column}"' for column in columns)
        return sorted(map(repr, await self.rows(f"SELECT {named} FROM {table}")))

    async def _columns(self, table: str) -> list[str]:
        if self.kind == "sqlite":
            return [row[1] for row in await self.rows(f"PRAGMA table_info({table})")]
        listed = f"SELECT attname::text FROM pg_attribute WHERE attrelid = 'smoltbot.{table}'::regclass"
        return [name for (name,) in await self.rows(f"{listed} AND attnum > 0 AND NOT attisdropped ORDER BY attnum")]

    async def state(self) -> tuple[Any, ...]:
        """All of it: two equal states are the same database."""
        if await self.is_empty():
            return ()
        return await self.applied(), await self.shape(), await self.contents()

    async def apply_first(self, count: int) -> None:
        """Bring an empty database to the version that had so many files."""
        earlier = self.folder / f"first-{count}"
        earlier.mkdir()
        for name in self.names[:count]:
            shutil.copy(self.schema / name, earlier / name)
        await self.adapter.migrate(self.url, earlier)

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """The command, running."""
        return start([*COMMAND, *arguments], self.environ(**environ))

    def environ(self, **others: str) -> dict[str, str]:
        """The command's whole environment."""
        return {**ENVIRON, "DATA_DIR": str(self.folder / "data"), "DATABASE_URL": self.url, **others}

    async def migrate(self, *arguments: str, **environ: str) -> Ran:
        """The command, from its start to its end."""
        return await ended(self.start(*arguments, **environ))


def start(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[str]:
    """A process with this environment and nothing else."""
    return subprocess.Popen(
        command, env=dict(environ), cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


async def ended(process: subprocess.Popen[str]) -> Ran:
    """What came of it; a command that does not end is killed and fails the test."""
    try:
        out, err = await asyncio.to_thread(process.communicate, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the command did not end:\n{out}{err}") from None
    return Ran(process.returncode, out, err)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """A connection that finds the schema's tables by their names."""
    connection = await asyncpg.connect(url, server_settings={"search_path": "smoltbot,public"})
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def new_database(server_url: str) -> AsyncIterator[str]:
    """The URL of an empty PostgreSQL database, dropped at exit."""
    name = f"d{uuid4().hex}"
    async with connected(server_url) as admin:
        await admin.execute(f"CREATE DATABASE {name}")
        try:
            yield f"{server_url.rpartition('/')[0]}/{name}"
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def new_role(server_url: str, options: str = "LOGIN") -> AsyncIterator[str]:
    """The name of a role that exists for so long and owns nothing at exit."""
    name = f"r{uuid4().hex}"
    async with connected(server_url) as admin:
        await admin.execute(f"CREATE ROLE {name} {options}")
        try:
            yield name
        finally:
            await admin.execute(f"DROP OWNED BY {name}")
            await admin.execute(f"DROP ROLE {name}")


def as_role(url: str, role: str, password: str = "") -> str:
    """The URL for another user."""
    return url.replace("postgres@", f"{role}:{password}@" if password else f"{role}@")


def files_below(folder: Path) -> Iterator[Path]:
    """Every file in a folder."""
    return (path for path in folder.rglob("*") if path.is_file())
