"""The databases that the records suites run on: each opened on a clock, with the schema of this version."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import smoltbot_records_postgres
import smoltbot_records_sqlite
import smoltbot_records_supabase
from smoltbot_worker.ports import RecordStore
from tests.services.least_privilege import as_gateway
from tests.services.rpc_bridge import KEY, rpc_bridge
from worker_compat.ports import Clock
from worker_compat.registry import open_fetcher

if TYPE_CHECKING:
    from tests.services.postgres import PostgresServer

SCHEMA = Path(__file__).parents[2] / "schema"
PATIENCE = "?connect_timeout=10&command_timeout=20"
"""What is judged here are the answers: a busy machine must not make it a test of speed."""

Opening = Callable[[pytest.FixtureRequest, Clock], AbstractAsyncContextManager[RecordStore]]


def sqlite_url(request: pytest.FixtureRequest) -> str:
    """One file for all tests of the process, migrated."""
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    return f"sqlite:///{factory.getbasetemp() / 'records.db'}"


def postgres_url(request: pytest.FixtureRequest) -> str:
    """The database of the test process."""
    server: PostgresServer = request.getfixturevalue("postgres_service")
    return server.url


@asynccontextmanager
async def _sqlite(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[RecordStore]:
    url = sqlite_url(request)
    await smoltbot_records_sqlite.migrate(url, SCHEMA / "sqlite")
    async with smoltbot_records_sqlite.open_records(url, clock=clock) as store:
        yield store


@asynccontextmanager
async def _postgres(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[RecordStore]:
    url = postgres_url(request)
    await smoltbot_records_postgres.migrate(url, SCHEMA / "postgres")
    async with smoltbot_records_postgres.open_records(url + PATIENCE, clock=clock) as store:
        yield store


@asynccontextmanager
async def _pgbouncer(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[RecordStore]:
    """Behind PgBouncer in transaction mode, as a user who may execute the functions and nothing else."""
    server: PostgresServer = request.getfixturevalue("postgres_service")
    port: int = request.getfixturevalue("pgbouncer_port")
    await smoltbot_records_postgres.migrate(server.url, SCHEMA / "postgres")
    url = (await as_gateway(server.url)).replace(f":{server.port}/", f":{port}/")
    async with smoltbot_records_postgres.open_records(f"{url}{PATIENCE}&prepared=off", clock=clock) as store:
        yield store


@asynccontextmanager
async def _supabase(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[RecordStore]:
    url = postgres_url(request)
    await smoltbot_records_postgres.migrate(url, SCHEMA / "postgres")
    async with rpc_bridge(url) as bridge, open_fetcher() as fetcher:
        yield smoltbot_records_supabase.SupabaseRecordStore(fetcher, bridge.url, KEY, clock=clock)


BACKENDS: dict[str, Opening] = {
    "sqlite": _sqlite, "postgres": _postgres, "pgbouncer": _pgbouncer, "supabase": _supabase,
}  # fmt: skip
"""A backend that cannot be started fails its tests; none is ever skipped."""
