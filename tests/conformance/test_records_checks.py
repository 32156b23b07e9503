"""What the reads of every check and of every list cost: the same in a short session and in one of 100,000 entries."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

import smoltbot_records_postgres
import smoltbot_records_sqlite
import smoltbot_records_sqlite.integrity
from tests.conformance.records_backends import SCHEMA
from tests.scale import figure, scaled
from tests.services.postgres import PostgresServer

MANY = scaled(5_000, 100_000)
FEW = 400
pytestmark = pytest.mark.proof

MOST_GROWTH = 1.6
"""A deeper index costs a page more for each look at it."""

SHAPES = {
    "mixed": "CASE WHEN n % 7 = 0 THEN 'review_needed' WHEN n % 11 = 0 THEN 'skipped' ELSE 'clear' END",
    "clear": "'clear'",
    "skipped": "CASE WHEN n < 30 THEN 'clear' WHEN n < 33 THEN 'boundary_violation' ELSE 'skipped' END",
    "run": "CASE WHEN n < 30 THEN 'clear' WHEN n % 2 = 0 THEN 'boundary_violation' ELSE 'review_needed' END",
    "ended": "CASE WHEN n < 30 OR n = {count} - 1 THEN 'clear' ELSE 'boundary_violation' END",
    "nothing": "'error'",
}
"""By the name of a session: the verdict of its entry number ``n``."""

_SPELLING = {
    "sqlite": ("zeroblob(32)", "zeroblob(64)", "0", "(WITH RECURSIVE line (n) AS (SELECT 0 UNION ALL"
               " SELECT n + 1 FROM line WHERE n < {count} - 1) SELECT n FROM line)"),
    "postgres": ("decode(repeat('ab', 32), 'hex')", "decode(repeat('cd', 64), 'hex')", "false",
                 "generate_series(0, {count} - 1) AS line (n)"),
}  # fmt: skip
_TIME = "'2026-05-10T08:00:00.000Z'"
_ENTRIES = """
    INSERT INTO integrity_checkpoints (checkpoint_id, request_id, agent_id, session_id, "timestamp", created_at,
        verdict, thinking_block_hash, provider, concerns, reasoning_summary, source, synthetic, input_commitment,
        card_hash, values_hash, context_hash, prompt_template_version, chain_hash, prev_chain_hash, chain_position,
        merkle_leaf_index, merkle_leaf_hash, certificate_id, issuer_signature, signing_key_id, claims_hash,
        claims_signature)
    SELECT 'ic-' || id, 'rq-' || id, {agent}, {session}, {time}, {time}, {verdict}, {h32}, 'anthropic',
        '[{{"category": "prompt_injection", "severity": "medium"}}]', 'x', 'gateway', {no}, {h32}, {h32}, {h32}, {h32},
        '1.0.0', {h32}, CASE WHEN {place} = 0 THEN NULL ELSE {h32} END, {place}, n, {h32}, 'ce-' || id, {h64}, 'key-1',
        {h32}, {h64}
    FROM (SELECT n, {agent} || '-' || n AS id FROM {numbers}) AS given
"""


def loading(kind: str, count: int) -> list[str]:
    """Statements that make an agent for each shape, with one session of so many entries."""
    h32, h64, no, numbers = _SPELLING[kind]
    made = []
    for shape, verdict in SHAPES.items():
        agent = f"'smolt-{shape}-{count}'"
        made += [
            f"INSERT INTO agents (id, agent_hash, created_at) VALUES ({agent}, '{uuid4().hex[:16]}', {_TIME})",
            "INSERT INTO agent_merkle_trees (agent_id, leaf_count, merkle_root, frontier)"
            f" VALUES ({agent}, {count}, {h32}, '[]')",
            _ENTRIES.format(
                agent=agent, session="'session-1'", time=_TIME, verdict=verdict.format(count=count), h32=h32, h64=h64,
                no=no, place="n", numbers=numbers.format(count=count),
            ),
        ]  # fmt: skip
    return made


def misleading(kind: str) -> list[str]:
    """An agent each of whose 2,000 sessions has one entry, which is clear."""
    h32, h64, no, numbers = _SPELLING[kind]
    agent = "'smolt-other'"
    return [
        f"INSERT INTO agents (id, agent_hash, created_at) VALUES ({agent}, '{uuid4().hex[:16]}', {_TIME})",
        _ENTRIES.format(
            agent=agent, session="'session-' || n", time=_TIME, verdict="'clear'", h32=h32, h64=h64, no=no, place="0",
            numbers=numbers.format(count=2000),
        ),
    ]  # fmt: skip


ASKED: Mapping[str, Mapping[str, Any]] = {
    "session_checks": {"session_id": "session-1", "limit": 10, "upto": None},
    "list_checkpoints": {"limit": 20, "offset": 0, "verdict": None, "session_id": None},
}

Work = Callable[[str, Mapping[str, Any]], tuple[int, Any]]
"""What a call of a function costs, whatever the machine does meanwhile, and its answer."""


def assert_flat(kind: str, work: Work) -> None:
    for function, asked in ASKED.items():
        most = 0
        for shape in SHAPES:
            short, _ = work(function, {"agent_id": f"smolt-{shape}-{FEW}", **asked})
            long, answer = work(function, {"agent_id": f"smolt-{shape}-{MANY}", **asked})
            most = max(most, long)
            assert long <= short * MOST_GROWTH, (function, shape)
            if function == "session_checks":
                assert_right(shape, answer)
            else:
                assert (answer["total"], len(answer["checkpoints"])) == (MANY, 20)
        figure(f"{kind} of {function}", f"at most {most} with {MANY:,} entries, as with {FEW:,}")


def assert_right(shape: str, answer: Any) -> None:
    """The sessions are what they are called."""
    begins = f"ic-smolt-{shape}-{MANY}-30"
    runs = {"skipped": (begins, 3), "run": (begins, 100)}
    streak = answer["streak"]
    assert shape == "mixed" or (streak["first"], streak["length"]) == runs.get(shape, (None, 0))
    assert answer["ended"] == (f"ic-smolt-ended-{MANY}-30" if shape == "ended" else None)
    assert len(answer["checks"]) == (0 if shape == "nothing" else 10)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with statistics of a time when every session had one entry."""
    file = tmp_path_factory.mktemp("checks") / "records.db"
    asyncio.run(smoltbot_records_sqlite.migrate(f"sqlite:///{file}", SCHEMA / "sqlite"))
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in (*misleading("sqlite"), "ANALYZE", *loading("sqlite", FEW), *loading("sqlite", MANY)):
            connection.execute(statement)
    return file


@pytest.mark.parametrize("statistics", ["old", "none", "new"])
def test_sqlite(file: Path, statistics: str) -> None:
    """Counted in steps of SQLite's virtual machine."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    def work(function: str, arguments: Mapping[str, Any]) -> tuple[int, Any]:
        nonlocal steps
        steps = 0
        answer = getattr(smoltbot_records_sqlite.integrity, function)(connection, "", **arguments)
        return steps, answer

    with closing(sqlite3.connect(file)) as connection, connection:
        if statistics != "old":
            connection.execute("ANALYZE" if statistics == "new" else "DELETE FROM sqlite_stat1")
    with closing(sqlite3.connect(file)) as connection:
        connection.set_progress_handler(step, 1)
        assert_flat(f"sqlite, {statistics} statistics, steps", work)


_REPLICA = "SET search_path = smoltbot; SET session_replication_role = replica"
_TABLE = "smoltbot.integrity_checkpoints"


@pytest.fixture(scope="module")
def url(postgres_service: PostgresServer) -> Iterator[str]:
    """A PostgreSQL database without statistics."""
    name = f"checks_{uuid4().hex}"
    url = postgres_service.url.rpartition("/")[0] + f"/{name}"
    asyncio.run(executed(postgres_service.url, f"CREATE DATABASE {name}"))
    asyncio.run(smoltbot_records_postgres.migrate(url, SCHEMA / "postgres"))
    quiet = f"ALTER TABLE {_TABLE} SET (autovacuum_enabled = off)"
    asyncio.run(executed(url, _REPLICA, quiet, *loading("postgres", FEW), *loading("postgres", MANY)))
    yield url
    asyncio.run(executed(postgres_service.url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.mark.parametrize("statistics", ["none", "old", "new"])
async def test_postgres(url: str, statistics: str) -> None:
    """Counted in pages, with the planner as our pool sets it, and as it is when Supabase calls."""
    await prepare(url, statistics)
    for planner in ({"enable_seqscan": "off", "enable_bitmapscan": "off", "jit": "off"}, {}):
        connection = await asyncpg.connect(url, server_settings=planner)
        found: dict[tuple[str, str], tuple[int, Any]] = {}
        for function, asked in ASKED.items():
            for agent in (f"smolt-{shape}-{count}" for shape in SHAPES for count in (FEW, MANY)):
                found[function, agent] = await pages(connection, function, {"agent_id": agent, **asked})
        await connection.close()
        name = f"postgres, {statistics} statistics, {'pool' if planner else 'server'}, pages"
        assert_flat(name, lambda function, given, found=found: found[function, given["agent_id"]])  # type: ignore[misc]


async def prepare(url: str, statistics: str) -> None:
    """``old``: those of a time when every session had one entry."""
    if statistics == "new":
        await executed(url, f"ANALYZE {_TABLE}")
    elif statistics == "old":
        aside = f"CREATE TEMPORARY TABLE aside AS SELECT * FROM {_TABLE}"
        back = f"INSERT INTO {_TABLE} SELECT * FROM aside"
        emptied = f"TRUNCATE {_TABLE} CASCADE"
        await executed(url, _REPLICA, aside, emptied, *misleading("postgres"), f"ANALYZE {_TABLE}", back)


async def pages(connection: asyncpg.Connection, function: str, arguments: Mapping[str, Any]) -> tuple[int, Any]:
    """How many pages a call reads, and its answer; what it reads of the catalogue is read before."""
    call = f"SELECT smoltbot.{function}('{json.dumps(arguments)}'::jsonb)"
    answer = json.loads(await connection.fetchval(call))
    plan = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {call}"))[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], answer


async def executed(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()
