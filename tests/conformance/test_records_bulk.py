"""PostgreSQL functions over many rows: each answers within the time that a process waits for one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

import smoltbot_records_postgres
import smoltbot_records_sqlite
from smoltbot_worker.ports import RecordStore
from smoltbot_worker.testing.records_area import call
from smoltbot_worker.testing.records_cards import account_row
from tests.conformance.records_backends import SCHEMA
from tests.services.postgres import PostgresServer
from worker_compat.testing import FakeClock
from worker_compat_postgres import database_settings, open_pool

AGENTS = 10_000
OLD = 25_000
MOST_DELETED = 10_000

LOAD = f"""
    SET search_path = smoltbot; SET session_replication_role = replica;
    INSERT INTO agents (id, agent_hash, created_at, billing_account_id)
    SELECT 'smolt-' || n, lpad(to_hex(n), 16, '0'), now(), 'acc-many' FROM generate_series(1, {AGENTS}) AS n;
    INSERT INTO aip_webhook_registrations (
        registration_id, agent_id, callback_url, sealed_secret, events, created_at)
    SELECT 'wh-' || n, 'smolt-' || n, 'https://a.example', 'sealed', '["*"]', now()
    FROM generate_series(1, {AGENTS}) AS n;
    INSERT INTO aip_webhook_deliveries (
        id, registration_id, delivery_key, event_type, payload, status, settled_at, created_at)
    SELECT 'del-' || n, 'wh-' || CASE WHEN n % 20 = 0 THEN n / 2 ELSE 1 END, n, 'x', '{{}}',
        CASE WHEN n % 20 = 0 THEN 'pending' ELSE 'delivered' END, CASE WHEN n % 20 <> 0 THEN now() END, now()
    FROM generate_series(1, 20000) AS n;
    INSERT INTO changes SELECT n, '2020-01-01', NULL, 'account' FROM generate_series(1, {OLD}) AS n;
    UPDATE change_counter SET seq = {OLD};
    ANALYZE;
"""


@pytest.fixture(scope="module")
def url(postgres_service: PostgresServer) -> Iterator[str]:
    """A database of its own with many rows."""
    name = f"bulk_{uuid4().hex}"
    url = postgres_service.url.rpartition("/")[0] + f"/{name}"
    asyncio.run(executed(postgres_service.url, f"CREATE DATABASE {name}"))
    asyncio.run(smoltbot_records_postgres.migrate(url, SCHEMA / "postgres"))
    asyncio.run(executed(url, LOAD))
    yield url
    asyncio.run(executed(postgres_service.url, f"DROP DATABASE {name} WITH (FORCE)"))


async def executed(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statements)
    await connection.close()


@pytest.fixture
async def store(url: str, clock: FakeClock) -> AsyncIterator[RecordStore]:
    """Records with the time limits of the product."""
    async with smoltbot_records_postgres.open_records(url, clock=clock) as opened:
        yield opened


async def test_deliveries_are_claimed_among_many_registrations(store: RecordStore) -> None:
    claimed = await call(store, "claim_webhooks", claimed_by="w-1", limit=1000, lease_s=60)
    assert len(claimed) == 1000, "one of each registration that waits"
    assert await call(store, "claim_webhooks", claimed_by="w-2", limit=1000, lease_s=60) == []


async def test_deliveries_are_listed_among_many(store: RecordStore) -> None:
    listed = await call(store, "webhook_deliveries", agent_id="smolt-1", registration_id=None, limit=3)
    assert [row["delivery_id"] for row in listed] == ["del-19999", "del-19998", "del-19997"]


async def test_an_account_of_many_agents(store: RecordStore) -> None:
    seq = (await call(store, "changes_since", seq=None))["seq"]
    await call(store, "put_account", **{**account_row(), "account_id": "acc-many"})
    assert (await call(store, "changes_since", seq=seq))["seq"] == seq + AGENTS, "each agent is told of"


async def test_housekeeping_deletes_some_at_a_time(store: RecordStore, url: str) -> None:
    connection = await asyncpg.connect(url)
    old = "SELECT count(*) FROM smoltbot.changes WHERE created_at < '2021-01-01'"
    left = []
    for _ in range(3):
        await call(store, "housekeeping")
        left.append(await connection.fetchval(old))
    await connection.close()
    assert left == [OLD - MOST_DELETED, OLD - 2 * MOST_DELETED, 0]


async def test_housekeeping_waits_for_nobody(store: RecordStore, url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("INSERT INTO smoltbot.changes VALUES (-1, '2019-01-01', NULL, 'account')")
    async with connection.transaction():
        await connection.execute("SELECT FROM smoltbot.changes WHERE seq = -1 FOR UPDATE")
        await call(store, "housekeeping")
    await call(store, "housekeeping")
    assert await connection.fetchval("SELECT count(*) FROM smoltbot.changes WHERE seq = -1") == 0
    await connection.close()


async def test_housekeeping_of_sqlite_too(tmp_path: Path, clock: FakeClock) -> None:
    file = tmp_path / "records.db"
    await smoltbot_records_sqlite.migrate(f"sqlite:///{file}", SCHEMA / "sqlite")
    many: list[tuple[Any, ...]] = [(n, "2020-01-01T00:00:00.000Z", "account") for n in range(1, OLD + 1)]
    with closing(connect(file)) as connection, connection:
        connection.executemany("INSERT INTO changes (seq, created_at, kind) VALUES (?, ?, ?)", many)
    async with smoltbot_records_sqlite.open_records(f"sqlite:///{file}", clock=clock) as store:
        await call(store, "housekeeping")
    with closing(connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM changes").fetchone() == (OLD - MOST_DELETED,)


@pytest.mark.parametrize("options", ["", "?prepared=off"])
async def test_rows_are_locked_without_a_walk_through_the_table(url: str, options: str) -> None:
    """Locking some rows in an order sorts those; the KV's own settings would read all by the primary key instead."""
    asked = "SELECT FROM smoltbot.agents WHERE id = ANY ($1::text[]) ORDER BY agent_hash FOR NO KEY UPDATE"
    async with open_pool(database_settings(url + options), tables=False, sorts=True) as pool:
        plan = [row[0] for row in await pool.fetch(f"EXPLAIN {asked}", ["smolt-1", "smolt-2"])]
    assert any("Sort" in line for line in plan), plan
    assert any("agents_pkey" in line for line in plan), plan


async def test_a_trace_is_found_along_an_index(url: str) -> None:
    """With the settings of the records' pool, under which a condition with OR reads the whole table."""
    trace = {"trace_id": "tr-1", "agent_id": "smolt-1", "timestamp": "2026-05-10T08:00:00.000Z", "action": {}}
    given = {"trace": {**trace, "decision": {}, "trace_json": {}, "gateway_log_id": "log-1"}, "usage": None}
    settings = {"enable_seqscan": "off", "enable_bitmapscan": "off"}
    connection = await asyncpg.connect(url, server_settings=settings)
    async with connection.transaction():
        await connection.fetchval("SELECT smoltbot.record_trace($1::jsonb)", json.dumps(given))
        read = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'traces'"
        assert await connection.fetchval(read) == 0
    await connection.close()
