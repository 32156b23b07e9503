"""PostgreSQL URLs, the tables that are made or found, and what one call costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import pytest

from tests.services.delay_proxy import delay_proxy
from tests.services.postgres import PostgresServer
from worker_compat.errors import ConfigError, StoreUnavailable
from worker_compat.ports import KVCompareAndPut, KVEntry, KVStore, QueueStore
from worker_compat_postgres import Settings, database_settings, open_kv, open_pool, open_queue, store_settings
from worker_compat_postgres.connection import _PROBLEMS

SECRET = "s3cret-word"


@asynccontextmanager
async def administrator(server: PostgresServer, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url_of(server, database))
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def database(postgres_service: PostgresServer) -> AsyncIterator[str]:
    """The name of a database of its own, without tables."""
    name = f"test_{uuid4().hex}"
    async with administrator(postgres_service) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
        yield name
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def url_of(server: PostgresServer, database: str, user: str = "postgres") -> str:
    return f"postgresql://{user}@127.0.0.1:{server.port}/{database}"


@pytest.mark.parametrize(
    ("url", "settings", "name"),
    [
        ("postgresql://h/d", Settings("postgresql://h/d"), "default"),
        ("postgres://u:p%40@h:1/d?namespace=a%20b%26", Settings("postgres://u:p%40@h:1/d"), "a b&"),
        ("postgresql://a:1,b,[::1]:3/d", Settings("postgresql://a:1,b,[::1]:3/d"), "default"),
        ("postgresql:///d?host=/run/postgresql", Settings("postgresql:///d?host=%2Frun%2Fpostgresql"), "default"),
        (
            "postgresql://h/d?connect_timeout=0.5&sslmode=verify-full&namespace=n&prepared=off&command_timeout=30",
            Settings("postgresql://h/d?sslmode=verify-full", 0.5, 30.0, False),
            "n",
        ),
        ("postgresql://h/d?pool_min=2&pool_max=3", Settings("postgresql://h/d", pool_min=2, pool_max=3), "default"),
        ("postgresql://h/d?pool_max=1", Settings("postgresql://h/d", pool_max=1), "default"),
    ],
)
def test_a_url_is_taken_apart(url: str, settings: Settings, name: str) -> None:
    assert store_settings(url, "namespace") == (settings, name)


def test_the_usual_limits_are_short() -> None:
    settings, _ = store_settings("postgresql://h/d", "queue")
    assert (settings.connect_timeout_s, settings.command_timeout_s, settings.prepared) == (1.0, 2.0, True)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"postgresql://u:{SECRET}@x@h/d", "percent-encoded"),
        (f"postgresql://u:{SECRET}#x@h/d", "percent-encoded"),
        (f"postgresql://u:{SECRET}/x@h/d", "percent-encoded"),
        (f"postgresql://h:{SECRET}/d", "percent-encoded"),
        (f"postgresql://u:1?{SECRET}=x@h/d", "password as %3F"),
        ("postgresql://h:123456/d", "percent-encoded"),
        ("postgresql://h/d/e", "percent-encoded"),
        ("mysql://h/d", "not the URL of a PostgreSQL server"),
        ("postgresql://h/d?schema=x", "unknown or given twice: schema; the options are namespace, prepared,"),
        ("postgresql://h/d?queue=x", "unknown or given twice: queue"),
        (f"postgresql://h/d?password={SECRET}&password={SECRET}", "given twice: password"),
        (f"postgresql://h/d?{SECRET}", "malformed option"),
        ("postgresql://h/d?namespace=%ff", "malformed option"),
        ("postgresql://h/d?namespace=", "names no namespace"),
        ("postgresql://h/d?namespace=a%00", "names no namespace"),
        ("postgresql://h/d?prepared=maybe", "prepared of a PostgreSQL URL is on or off"),
        (f"postgresql://h/d?connect_timeout={SECRET}", "connect_timeout of a PostgreSQL URL is a number"),
        ("postgresql://h/d?command_timeout=0", "command_timeout of a PostgreSQL URL is a number"),
        ("postgresql://h/d?command_timeout=-1", "command_timeout of a PostgreSQL URL is a number"),
        ("postgresql://h/d?pool_max=0", "pool_min and pool_max of a PostgreSQL URL are whole numbers"),
        ("postgresql://h/d?pool_min=11", "the first at most the second"),
        ("postgresql://h/d?pool_min=3&pool_max=2", "the first at most the second"),
        (f"postgresql://h/d?pool_min={SECRET}", "pool_min and pool_max of a PostgreSQL URL are whole numbers"),
        ("postgresql://h/d?pool_max=-1", "pool_min and pool_max of a PostgreSQL URL are whole numbers"),
    ],
)
async def test_a_url_that_is_wrong_says_how_to_write_it(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        async with open_kv(url):
            pass
    assert SECRET not in str(caught.value)


async def test_an_option_that_asyncpg_refuses_is_a_matter_of_the_url(postgres_service: PostgresServer) -> None:
    async with open_queue(f"{postgres_service.url}?sslmode={SECRET}") as queue:
        with pytest.raises(ConfigError, match="asyncpg does not accept") as caught:
            await queue.depth()
    assert SECRET not in str(caught.value)


async def _connected(server: PostgresServer, name: str) -> int:
    """How many connections call themselves ``name``."""
    async with administrator(server) as connection:
        count = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", name)
    return int(count)


@pytest.mark.parametrize(("least", "most"), [(0, 2), (1, 1), (3, 4)])
async def test_the_sizes_of_the_pool(postgres_service: PostgresServer, least: int, most: int) -> None:
    name = f"pool-{uuid4().hex}"
    url = f"{postgres_service.url}?application_name={name}&pool_min={least}&pool_max={most}"
    async with open_pool(database_settings(url), tables=False) as pool:
        assert await _connected(postgres_service, name) == least
        await asyncio.gather(*(pool.fetch("SELECT pg_sleep(0.05)") for _ in range(2 * most)))
        assert await _connected(postgres_service, name) == most


async def test_a_server_that_is_not_there_fails_calls_and_not_the_opening() -> None:
    async with open_pool(database_settings("postgresql://postgres@127.0.0.1:1/d?pool_min=2"), tables=False) as pool:
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await pool.fetch("SELECT 1")


@pytest.mark.parametrize("code", ["08P01", "26000", "42P05"])
async def test_a_pooler_in_between_is_named(code: str, postgres_service: PostgresServer) -> None:
    """What asyncpg gets from one that keeps no session, raised here by the server itself."""
    settings, _ = store_settings(postgres_service.url, "namespace")
    async with open_pool(settings) as pool:
        with pytest.raises(StoreUnavailable, match=r"pooler in transaction mode .* prepared=off"):
            await pool.fetch(f"DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$")


def test_settings_do_not_show_the_password() -> None:
    settings, _ = store_settings(f"postgresql://u:{SECRET}@h/d", "namespace")
    assert SECRET in settings.dsn
    assert SECRET not in repr(settings)


async def test_both_spellings_and_a_list_of_hosts_lead_there(postgres_service: PostgresServer) -> None:
    port = postgres_service.port
    key = uuid4().hex
    async with open_kv(f"postgres://postgres@127.0.0.1:1,127.0.0.1:{port}/postgres") as store:
        assert isinstance(store, KVStore)
        assert isinstance(store, KVCompareAndPut)
        await store.put(key, KVEntry(b"v"))
    async with open_kv(f"{postgres_service.url}?application_name=mine&target_session_attrs=read-write") as again:
        assert await again.get(key) == KVEntry(b"v")
        await again.delete(key)
    async with open_queue(postgres_service.url) as queue:
        assert isinstance(queue, QueueStore)


async def test_many_that_start_at_once_make_the_tables_once(postgres_service: PostgresServer, database: str) -> None:
    url = url_of(postgres_service, database)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_kv(url)) for _ in range(8)]
        queues = [await stack.enter_async_context(open_queue(url)) for _ in range(4)]
        puts = [store.put(f"k{number}", KVEntry(b"")) for number, store in enumerate(stores)]
        await asyncio.gather(*puts, *(queue.push([b"m"], 0) for queue in queues))
        assert len((await stores[0].list("", 100, None)).keys) == 8
        assert (await queues[0].depth()).waiting == 4


async def test_a_role_that_may_not_make_tables_uses_those_that_are_there(
    postgres_service: PostgresServer, database: str
) -> None:
    user = f"user_{uuid4().hex}"
    url = url_of(postgres_service, database, user)
    async with administrator(postgres_service, database) as connection:
        await connection.execute(f"CREATE ROLE {user} LOGIN")
        async with open_kv(url) as store:
            with pytest.raises(ConfigError, match=r"may not make them: .* psql -f \S+tables\.sql, and GRANT SELECT"):
                await store.put("k", KVEntry(b"v"))
            async with open_queue(url_of(postgres_service, database)) as privileged:
                await privileged.depth()
            with pytest.raises(StoreUnavailable, match=r"42501.*lacks rights: GRANT it SELECT, INSERT"):
                await store.put("k", KVEntry(b"v"))
            await connection.execute(
                "GRANT SELECT, INSERT, UPDATE, DELETE ON worker_compat_version, worker_compat_kv, worker_compat_queue"
                f" TO {user}"
            )
            await store.put("k", KVEntry(b"v"))
            assert await store.get("k") == KVEntry(b"v")
        async with open_queue(url) as queue:
            await queue.push([b"m"], 0)
            (message,) = await queue.claim(1, 30)
            await queue.ack([message.id])
        await connection.execute(f"DROP OWNED BY {user}")
        await connection.execute(f"DROP ROLE {user}")


async def test_tables_of_another_version_are_refused(postgres_service: PostgresServer, database: str) -> None:
    url = url_of(postgres_service, database)
    async with open_kv(url) as store:
        await store.put("k", KVEntry(b"v"))
    async with administrator(postgres_service, database) as connection:
        await connection.execute("UPDATE worker_compat_version SET version = 7")
    async with open_kv(url) as store:
        with pytest.raises(ConfigError, match="version 7, and this release knows version 1"):
            await store.get("k")


async def test_tables_that_were_lost_are_made_again(postgres_service: PostgresServer, database: str) -> None:
    async with open_kv(url_of(postgres_service, database)) as store:
        await store.put("k", KVEntry(b"v"))
        async with administrator(postgres_service, database) as connection:
            await connection.execute("DROP TABLE worker_compat_version, worker_compat_kv, worker_compat_queue")
        with pytest.raises(StoreUnavailable, match="tables were removed"):
            await store.get("k")
        assert await store.get("k") is None


async def test_a_call_is_one_round_trip(postgres_service: PostgresServer) -> None:
    heard: list[bytes] = []
    option = uuid4().hex
    async with delay_proxy(postgres_service.port, 0.001, heard.append) as port:
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        async with open_kv(f"{url}?namespace={option}") as store, open_queue(f"{url}?queue={option}") as queue:
            await store.put("a", KVEntry(b""))
            for call in (
                lambda: store.put("k", KVEntry(b"v")),
                lambda: store.get("k"),
                lambda: store.list("", 10, None),
                lambda: store.compare_and_put("k", b"v", KVEntry(b"v")),
                lambda: store.compare_and_put("l", None, KVEntry(b"w")),
                lambda: store.delete("k"),
                lambda: queue.push([b"m", b"n"], 0),
                lambda: queue.claim(10, 30),
                lambda: queue.release(["1"], 0),
                lambda: queue.ack(["1"]),
                lambda: queue.depth(),
            ):
                await call()  # prepares the statement
                heard.clear()
                await call()
                assert len(heard) == 1, "whoever waits for an answer before the next message sends several"


async def test_without_prepared_statements_nothing_is_left_behind(postgres_service: PostgresServer) -> None:
    url = f"{postgres_service.url}?prepared=off"
    async with open_kv(f"{url}&namespace={uuid4().hex}") as store:
        await store.put("k", KVEntry(b"v"))
        assert await store.get("k") == KVEntry(b"v")
        assert [key.name for key in (await store.list("", 10, None)).keys] == ["k"]
    async with open_queue(f"{url}&queue={uuid4().hex}") as queue:
        await queue.push([b"m"], 0)
        assert [message.body for message in await queue.claim(10, 30)] == [b"m"]
    for option, left in (("prepared=off", 0), ("prepared=on", 2)):
        settings, _ = store_settings(f"{postgres_service.url}?{option}", "namespace")
        async with open_pool(settings) as pool:
            await pool.fetch("SELECT 1")
            counted = "SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql AND name <> ''"
            ((number,),) = await pool.fetch(counted)
            assert min(number, 2) == left
            ((bitmaps,),) = await pool.fetch("SELECT current_setting('enable_bitmapscan')")
            assert bitmaps == "off", "the plans are the same either way"


async def test_names_may_hold_what_a_url_encodes(postgres_service: PostgresServer) -> None:
    name = f"{uuid4().hex} /?&=é"
    async with open_kv(f"{postgres_service.url}?namespace={quote(name)}") as store:
        await store.put("k", KVEntry(b"v"))
    async with administrator(postgres_service) as connection:
        assert (
            await connection.fetchval("DELETE FROM worker_compat_kv WHERE namespace = $1 RETURNING name", name) == b"k"
        )


def test_every_problem_names_a_remedy() -> None:
    assert [words for words in _PROBLEMS.values() if ": " not in words] == []
