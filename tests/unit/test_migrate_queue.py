"""The queue's tables in PostgreSQL: ``smoltbot migrate`` makes them, and the role of the gateway uses them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smoltbot_host import queue
from smoltbot_host.doctor import examine
from smoltbot_host.migrate import migrate
from smoltbot_worker.env import read_variables
from tests.faults.migration_support import as_role, connected, new_database, new_role
from tests.services.postgres import PostgresServer
from worker_compat.errors import ConfigError, StoreUnavailable
from worker_compat_postgres import open_queue

TABLES = ("worker_compat_version", "worker_compat_kv", "worker_compat_queue")
MADE = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'worker_compat_%'"
KEYS = {"ED25519_SIGNING_KEY": "5c" * 32, "QUEUE_ENCRYPTION_KEY": "7a" * 32}
REMEDY = "the database lacks the queue's tables for this user: run `smoltbot migrate`"


@pytest.fixture
async def url(postgres_service: PostgresServer) -> AsyncIterator[str]:
    """An empty database of its own."""
    async with new_database(postgres_service.url) as url:
        yield url


@pytest.fixture
async def user(url: str) -> AsyncIterator[str]:
    """A user who will be given the role of the gateway, and nothing else."""
    async with new_role(url) as name:
        yield name


async def migrated(url: str, **more: str) -> list[str]:
    return await asyncio.to_thread(migrate, {"DATABASE_URL": url, **more}, dry_run=False, wait_s=30)


async def run(url: str, *statements: str) -> None:
    async with connected(url) as connection:
        for statement in statements:
            await connection.execute(statement)


async def value(url: str, sql: str) -> object:
    async with connected(url) as connection:
        return await connection.fetchval(sql)


def values_of(url: str) -> dict[str, object]:
    return read_variables({"DATABASE_URL": url, **KEYS})[0]


async def works(url: str) -> None:
    """Everything that a queue does, by the user of ``url``."""
    await queue.check(values_of(url))
    async with open_queue(queue.queue_url(values_of(url))) as store:
        await store.push([b"one", b"two"], 0)
        first, second = await store.claim(2, 60)
        await store.ack([first.id])
        await store.release([second.id], 0)
        assert (await store.depth()).waiting == 1
        await store.ack([second.id])


async def test_the_role_of_the_gateway_is_enough(url: str, user: str) -> None:
    with pytest.raises(StoreUnavailable, match=REMEDY):
        await queue.check(values_of(as_role(url, user)))
    await migrated(url)
    with pytest.raises(StoreUnavailable, match=REMEDY):
        await queue.check(values_of(as_role(url, user)))
    await run(url, f"GRANT smoltbot_gateway TO {user}")
    await works(as_role(url, user))
    for statement in ("CREATE TABLE mine (x text)", "TRUNCATE worker_compat_queue", "DROP TABLE worker_compat_queue"):
        with pytest.raises(Exception, match=r"permission denied|must be owner"):
            await run(as_role(url, user), statement)


async def test_a_user_who_may_make_tables_needs_no_migration(url: str) -> None:
    await works(url)


async def test_again_and_several_at_once(url: str, user: str) -> None:
    await migrated(url)
    await run(url, f"REVOKE ALL ON {', '.join(TABLES)} FROM smoltbot_gateway")
    assert await asyncio.gather(*(migrated(url) for _ in range(4)), migrated(f"{url}?prepared=off")) == [[]] * 5
    await run(url, f"GRANT smoltbot_gateway TO {user}")
    await works(as_role(url, user))


async def test_a_database_of_an_earlier_version_gets_them(url: str, user: str) -> None:
    """Its schema is up to date, and there was no queue yet."""
    await migrated(url, QUEUE_URL="redis://127.0.0.1:1")
    assert await value(url, MADE) == 0
    await run(url, f"GRANT smoltbot_gateway TO {user}")
    findings = await asyncio.to_thread(examine, {"DATABASE_URL": as_role(url, user), **KEYS}, network=False)
    assert [finding.text for finding in findings if finding.subject == "QUEUE_URL"] == [REMEDY]
    assert await value(url, MADE) == 0
    assert await migrated(url) == []
    await works(as_role(url, user))


async def test_a_dry_run_makes_nothing(url: str) -> None:
    await asyncio.to_thread(migrate, {"DATABASE_URL": url}, dry_run=True, wait_s=30)
    assert await value(url, MADE) == 0


async def test_a_schema_that_others_may_not_enter(url: str, user: str) -> None:
    await run(url, "REVOKE ALL ON SCHEMA public FROM PUBLIC")
    await migrated(url)
    await run(url, f"GRANT smoltbot_gateway TO {user}")
    await works(as_role(url, user))


async def test_strangers_of_supabase_get_no_rights(url: str) -> None:
    """There every new table of the schema public is open to everybody who has the public key."""
    await run(
        url,
        "DO $$ BEGIN CREATE ROLE anon; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon",
    )
    try:
        await migrated(url)
        for table in TABLES:
            allowed = f"SELECT has_table_privilege('anon', '{table}', 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')"
            assert await value(url, allowed) is False
    finally:
        await run(url, "DROP OWNED BY anon", "DROP ROLE anon")


async def test_a_role_that_may_not_make_them(url: str, user: str) -> None:
    await run(url, f"GRANT CREATE ON DATABASE {url.rpartition('/')[2]} TO {user}", f"GRANT smoltbot_gateway TO {user}")
    with pytest.raises(ConfigError, match="may not make the queue's tables: run `smoltbot migrate` as the data"):
        await migrated(as_role(url, user))
    assert await migrated(as_role(url, user), QUEUE_URL="redis://127.0.0.1:1") == []


def test_other_databases_need_none(tmp_path: Path) -> None:
    migrate({"DATA_DIR": str(tmp_path)}, dry_run=False, wait_s=5)
    asyncio.run(queue.check(read_variables({"DATA_DIR": str(tmp_path)})[0]))
