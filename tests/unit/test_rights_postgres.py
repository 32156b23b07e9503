"""What a PostgreSQL user with the role smoltbot_gateway may do: call the functions, and nothing else at all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from smoltbot_records_postgres import migrate, open_records
from smoltbot_worker.records.functions import FUNCTIONS
from smoltbot_worker.testing.records_area import append, first_request, new_agent
from smoltbot_worker.testing.samples import entry
from tests.conformance.records_backends import SCHEMA
from tests.services.least_privilege import USER, as_gateway
from tests.services.postgres import PostgresServer

TABLES = """
    SELECT oid, relname::text AS name FROM pg_class
    WHERE relnamespace = 'smoltbot'::regnamespace AND relkind = ANY ('{r,v,m,p}')
"""
ROUTINES = """
    SELECT oid::regprocedure::text AS name, proname, prosecdef, proconfig FROM pg_proc
    WHERE pronamespace = 'smoltbot'::regnamespace
"""
PINNED = ["search_path=smoltbot, pg_catalog, pg_temp"]


@pytest.fixture
async def url(postgres_service: PostgresServer) -> AsyncIterator[str]:
    """A migrated database of its own."""
    name = f"d{uuid4().hex}"
    admin = await asyncpg.connect(postgres_service.url)
    await admin.execute(f"CREATE DATABASE {name}")
    url = f"{postgres_service.url.rpartition('/')[0]}/{name}"
    await migrate(url, SCHEMA / "postgres")
    yield url
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def admin(url: str) -> AsyncIterator[Any]:
    """A connection of the database's owner."""
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


@pytest.fixture
async def caller(url: str) -> AsyncIterator[Any]:
    """A connection of the user with the role."""
    connection = await asyncpg.connect(await as_gateway(url))
    yield connection
    await connection.close()


async def test_it_may_call_every_function(caller: Any) -> None:
    for name in FUNCTIONS:
        try:
            await caller.fetchval(f"SELECT smoltbot.{name}('{{}}')")
        except asyncpg.InsufficientPrivilegeError as error:
            pytest.fail(f"{name}: {error}")
        except asyncpg.PostgresError:
            pass  # the arguments are missing


async def test_it_may_call_nothing_else(admin: Any, caller: Any) -> None:
    routines = [routine for routine in await admin.fetch(ROUTINES) if routine["proname"] not in FUNCTIONS]
    assert len(routines) > 5
    allowed = "SELECT has_function_privilege($1::name, $2::regprocedure, 'EXECUTE')"
    assert [row["name"] for row in routines if await admin.fetchval(allowed, USER, row["name"])] == []
    for sql in ("SELECT smoltbot._now('{}')", "CALL smoltbot._share_functions()"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await caller.execute(sql)


async def test_it_may_neither_read_nor_write_a_table(admin: Any, caller: Any) -> None:
    tables = await admin.fetch(TABLES)
    assert len(tables) > 5
    kinds = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
    allowed = """
        SELECT has_table_privilege($1::name, $2::oid, $3)
            OR has_any_column_privilege($1::name, $2::oid, 'SELECT, INSERT, UPDATE')
    """
    for table in tables:
        assert not await admin.fetchval(allowed, USER, table["oid"], kinds), table["name"]
        for sql in (
            "SELECT FROM {}",
            "DELETE FROM {}",
            "INSERT INTO {} DEFAULT VALUES",
            "TRUNCATE {}",
            "COPY {} TO STDOUT",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await caller.execute(sql.format(f"smoltbot.{table['name']}"))
    sequences = "SELECT oid FROM pg_class WHERE relnamespace = 'smoltbot'::regnamespace AND relkind = 'S'"
    allowed = "SELECT has_sequence_privilege($1::name, $2::oid, 'USAGE, SELECT, UPDATE')"
    assert not any([await admin.fetchval(allowed, USER, row["oid"]) for row in await admin.fetch(sequences)])


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE smoltbot.mine (x text)",
        "CREATE FUNCTION smoltbot.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE OPERATOR smoltbot.<!> (FUNCTION = textcat, LEFTARG = text, RIGHTARG = text)",
        "CREATE TYPE smoltbot.mine AS ENUM ()",
        "CREATE OR REPLACE FUNCTION smoltbot.ping(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1'",
        "ALTER FUNCTION smoltbot.ping(jsonb) RESET search_path",
        "DROP FUNCTION smoltbot.ping(jsonb)",
        "DROP SCHEMA smoltbot CASCADE",
        "CREATE SCHEMA mine",
        "GRANT smoltbot_gateway TO postgres",
        "GRANT SELECT ON smoltbot.agents TO smoltbot_gateway",
        "CREATE ROLE mine",
    ],
)
async def test_it_may_make_and_change_nothing(caller: Any, sql: str) -> None:
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidGrantOperationError)):
        await caller.execute(sql)


async def test_nobody_else_may_call_a_function(admin: Any) -> None:
    open_to_all = "SELECT has_function_privilege('public', $1::regprocedure, 'EXECUTE')"
    assert [row["name"] for row in await admin.fetch(ROUTINES) if await admin.fetchval(open_to_all, row["name"])] == []


class TestTricks:
    """Functions run with their owner's rights: what the caller makes must not run in them."""

    async def test_every_function_pins_its_search_path(self, admin: Any) -> None:
        routines = await admin.fetch(ROUTINES)
        public = [row for row in routines if not row["proname"].startswith("_")]
        assert sorted(row["proname"] for row in public) == sorted(FUNCTIONS)
        assert [row["name"] for row in public if not row["prosecdef"] or row["proconfig"] != PINNED] == []
        # A helper takes rights and path from the function that calls it.
        assert [row["name"] for row in routines if row["prosecdef"] and row["proname"].startswith("_")] == []

    async def test_the_traps_are_set(self, caller: Any) -> None:
        for sql in (
            "SELECT '{}'::jsonb ->> 'a'",
            "SELECT clock_timestamp()",
            "SELECT 'a'::text = 'b'::text",
            "SELECT _now('{}')",
        ):
            with pytest.raises(asyncpg.RaiseError, match="tricked"):
                await caller.execute(sql)

    async def test_functions_and_operators_that_come_first(self, url: str) -> None:
        # The records kit runs as this user too: tests/conformance/records_backends.py.
        async with open_records(await as_gateway(url)) as store:
            agent_id = await new_agent(store)
            await append(store, agent_id, entry(), entry())
            assert len(await rows_of(store, agent_id)) == 2

    async def test_temporary_tables_of_the_same_names(self, admin: Any, caller: Any) -> None:
        tables = [row["name"] for row in await admin.fetch(TABLES)]
        await caller.execute("SET search_path = pg_temp, tricks, pg_catalog, smoltbot")
        for table in tables:
            await caller.execute(f"CREATE TEMPORARY TABLE {table} (LIKE pg_catalog.pg_class)")
        request = first_request()
        made = await call(caller, "get_or_create_agent", request)
        assert made["is_new"]
        assert (await call(caller, "get_or_create_agent", request))["agent"] == made["agent"]
        assert await call(caller, "signing_keys", {}) == []
        assert await admin.fetchval("SELECT count(*) FROM smoltbot.agents") == 1
        for table in tables:
            assert await caller.fetchval(f"SELECT count(*) FROM pg_temp.{table}") == 0


async def rows_of(store: Any, agent_id: str) -> Any:
    return await store.call("checkpoints", {"agent_id": agent_id, "after_index": None, "limit": 10})


async def call(connection: Any, function: str, arguments: Any) -> Any:
    return json.loads(await connection.fetchval(f"SELECT smoltbot.{function}($1)", json.dumps(arguments)))
