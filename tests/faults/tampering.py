"""An attacker with write access to the database and without the key: a log, copies of it, and what is written there."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from click.testing import CliRunner

from smoltbot_cli.main import main
from smoltbot_host.crypto import HostCrypto
from smoltbot_worker.attestation.append import Draft, prepare
from smoltbot_worker.attestation.chain import LogHead
from smoltbot_worker.attestation.heads import SignedHead
from smoltbot_worker.attestation.retention import prune
from smoltbot_worker.attestation.stored import read_heads
from smoltbot_worker.ports import RecordStore
from smoltbot_worker.testing.records_area import call, first_request
from tests.faults.evidence import export
from tests.faults.migration_support import Database, connected
from tests.unit.attestation_support import CRYPTO, TIMESTAMP

DIGITS = "0badcafe12345678"
"""Of the agent's key, so that its id is the same in every database."""

KEYS = {"keys": [{"key_id": CRYPTO.key_id, "public_key": CRYPTO.public_key}]}
"""What a verifier pinned."""


@dataclass(frozen=True)
class Verdict:
    """What ``smoltbot verify`` said: its exit code, its first line, and the others as entry, check and text."""

    code: int
    summary: str
    lines: list[tuple[str, str, str]]

    def checks_of(self, entry: str) -> set[str]:
        """The checks that found something in an entry, named by its leaf."""
        return {check for named, check, _ in self.lines if named == entry or named.startswith(f"{entry} (")}

    @property
    def blamed(self) -> set[int]:
        """The leaves that are named."""
        return {int(named.split()[1]) for named, _, _ in self.lines if named.startswith("leaf ")}


@dataclass
class Evidence(Database):
    """A database with the log of one agent."""

    agent_id: str = ""

    async def copied(self) -> Evidence:
        """The same in a database of its own."""
        name = f"d{uuid4().hex}"
        if self.kind == "sqlite":
            path = self.folder / name
            shutil.copy(self.path, path)
            return Evidence("sqlite", f"sqlite:///{path}", self.folder, self.agent_id)
        server, _, template = self.url.rpartition("/")
        async with connected(f"{server}/postgres") as admin:
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return Evidence("postgres", f"{server}/{name}", self.folder, self.agent_id)

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[Evidence]:
        """The same in a database that is gone at exit."""
        copy = await self.copied()
        yield copy
        if copy.kind == "sqlite":
            copy.path.unlink()
            return
        server, _, name = copy.url.rpartition("/")
        async with connected(f"{server}/postgres") as admin:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def columns(self, table: str) -> list[str]:
        """The names of a table's columns."""
        return await self._columns(table)

    @asynccontextmanager
    async def attacker(self) -> AsyncIterator[Attacker]:
        """Someone who may write everything, past foreign keys and checks."""
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute("PRAGMA ignore_check_constraints=ON")
                yield Attacker(connection)
            return
        async with connected(self.url) as connection, connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            yield Attacker(connection)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[RecordStore]:
        """As the gateway has it."""
        patience = "" if self.kind == "sqlite" else "?connect_timeout=10&command_timeout=20"
        async with self.adapter.open_records(self.url + patience) as store:
            yield store

    async def append(self, drafts: Sequence[Draft], crypto: HostCrypto = CRYPTO, batch: int = 25) -> None:
        """Go on with the log, as whoever has the key does."""
        async with self.opened() as store:
            for start in range(0, len(drafts), batch):
                part = drafts[start : start + batch]
                sessions = sorted({each.session_id for each in part})
                head = LogHead.from_json(await call(store, "log_head", agent_id=self.agent_id, sessions=sessions))
                answer = await call(
                    store, "append_checkpoints", **await prepare(self.agent_id, head, part, crypto, TIMESTAMP)
                )
                assert answer["status"] == "appended"

    async def prune(self, limit: int) -> None:
        """Delete so many of the oldest entries, as the gateway does."""
        async with self.opened() as store:
            await prune(store, CRYPTO, self.agent_id, "9999-12-31T23:59:59.999Z", limit, TIMESTAMP)

    async def head(self) -> SignedHead:
        """The newest signed head, as ``smoltbot head`` saves it."""
        async with self.opened() as store:
            return (await read_heads(store, self.agent_id, 1))[0]

    async def verified(self, head: SignedHead | None = None) -> Verdict:
        """What ``smoltbot verify`` says of the export, with the keys that were pinned and a head that was saved."""
        async with self.opened() as store:
            bundle = await export(store, self.agent_id)
        return await asyncio.to_thread(verify, self.folder, bundle, head)


def verify(folder: Path, bundle: bytes, head: SignedHead | None) -> Verdict:
    """``smoltbot verify --keys ... [--head ...] bundle``."""
    files = {"bundle": bundle, "keys": json.dumps(KEYS).encode()}
    words = ["verify", "--keys", str(folder / "keys"), str(folder / "bundle")]
    if head is not None:
        files["head"] = json.dumps(head.to_json()).encode()
        words[1:1] = ["--head", str(folder / "head")]
    for name, data in files.items():
        (folder / name).write_bytes(data)
    result = CliRunner().invoke(main, words)
    found = [line.strip().split(": ", 2) for line in result.output.splitlines()[1:] if ": " in line]
    assert result.exit_code == 0 or found, result.output
    summary = result.output.splitlines()[0]
    return Verdict(result.exit_code, summary, [(entry, check, text) for entry, check, text in found])


@dataclass
class Attacker:
    """Reads and writes; placeholders are ``$1``, ``$2``, ..."""

    connection: Any

    async def read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        if isinstance(self.connection, sqlite3.Connection):
            return self.connection.execute(sql, _numbered(values)).fetchall()
        return [tuple(row) for row in await self.connection.fetch(sql, *values)]

    async def write(self, sql: str, *values: Any) -> None:
        """Run a statement."""
        if isinstance(self.connection, sqlite3.Connection):
            self.connection.execute(sql, _numbered(values))
        else:
            await self.connection.execute(sql, *values)

    async def duplicate(
        self, table: str, columns: Sequence[str], changes: Mapping[str, str], where: str, *values: Any
    ) -> None:
        """Insert a copy of a row; ``changes`` are the expressions of what is another in it."""
        names = ", ".join(f'"{column}"' for column in columns)
        copied = ", ".join(changes.get(column, f'"{column}"') for column in columns)
        await self.write(f"INSERT INTO {table} ({names}) SELECT {copied} FROM {table} WHERE {where}", *values)

    async def flip(self, table: str, column: str, where: str, *values: Any) -> None:
        """Change one value into another that the column can hold."""
        ((value,),) = await self.read(f'SELECT "{column}" FROM {table} WHERE {where}', *values)
        place = f"${len(values) + 1}"
        await self.write(f'UPDATE {table} SET "{column}" = {place} WHERE {where}', *values, flipped(column, value))


def _numbered(values: Sequence[Any]) -> dict[str, Any]:
    return {str(number): value for number, value in enumerate(values, 1)}


FAR = 10**6
"""A place beyond the end of every log here."""

_INSTEAD = {
    "verdict": ("review_needed", "boundary_violation"), "source": ("hybrid_api", "gateway"),
    "kind": ("redaction", "nudge"), "key_id": ("key-002", ""), "signing_key_id": ("key-002", ""),
    "agent_id": ("smolt-ffffffff", ""), "merkle_leaf_index": (FAR, 0), "chain_position": (FAR, 0),
    "index": (FAR, 0), "level": (50, 49),
}  # fmt: skip
"""What a column is changed to, or to the second where it is that already."""
_ABSENT: dict[str, Any] = {"cross_validation_warnings": "[]", "prev_chain_hash": bytes(32), "before_sha256": bytes(32)}


def flipped(column: str, value: Any) -> Any:
    """Another value of the same type; something where there was nothing."""
    if column in _INSTEAD:
        first, second = _INSTEAD[column]
        return second if value == first else first
    match value:
        case None:
            return _ABSENT.get(column, "x")
        case bytes():
            return value[:-1] + bytes([value[-1] ^ 1])
        case bool():
            return not value
        case datetime():
            return value + timedelta(milliseconds=1)
        case int():
            return 1 - value if column == "synthetic" else value + 1
    if value.endswith(".000Z"):
        return value.replace(".000Z", ".001Z")
    return _other_json(json.loads(value)) if value[:1] in ("{", "[") else value + "x"


def _other_json(value: Any) -> str:
    """Something deep inside is another."""
    if isinstance(value, list):
        value[0]["evidence"] = "nothing"
    else:
        value[min(value)] = 7
    return json.dumps(value)


async def new_database(server_url: str) -> str:
    """The address of an empty database on a PostgreSQL server."""
    name = f"d{uuid4().hex}"
    async with connected(server_url) as admin:
        await admin.execute(f"CREATE DATABASE {name}")
    return f"{server_url.rpartition('/')[0]}/{name}"


async def new_evidence(kind: str, url: str, folder: Path, crypto: HostCrypto = CRYPTO) -> Evidence:
    """An empty log in an empty database, to be signed with this key."""
    evidence = Evidence(kind, url, folder)
    await evidence.adapter.migrate(url, evidence.schema)
    async with evidence.opened() as store:
        await call(store, "put_signing_key", key_id=crypto.key_id, public_key=crypto.public_key)
        answer = await call(store, "get_or_create_agent", **first_request(DIGITS))
    evidence.agent_id = answer["agent"]["id"]
    return evidence
