"""The KV store in a PostgreSQL table: its janitor, short pages, and plans that stay walks along an index."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from tests.services.postgres import PostgresServer
from worker_compat.errors import StoreUnavailable
from worker_compat.ports import KVEntry
from worker_compat.testing import FakeClock
from worker_compat_postgres import PostgresKVStore, PostgresPool, open_pool, store_settings
from worker_compat_postgres.kv import _GET, _LIST, _PURGE, DEAD_PER_PAGE

SOON_S = 100


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def namespace() -> str:
    return uuid4().hex


@pytest.fixture(params=["on", "off"])
async def pool(request: pytest.FixtureRequest, postgres_service: PostgresServer) -> AsyncIterator[PostgresPool]:
    """With prepared statements and without."""
    settings, _ = store_settings(f"{postgres_service.url}?prepared={request.param}", "namespace")
    async with open_pool(settings) as pool:
        yield pool


@pytest.fixture
def store(pool: PostgresPool, namespace: str, clock: FakeClock) -> PostgresKVStore:
    return PostgresKVStore(pool, namespace, clock=clock)


@pytest.fixture
async def connection(postgres_service: PostgresServer, namespace: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres_service.url)
    yield connection
    await connection.execute("DELETE FROM worker_compat_kv WHERE namespace = $1", namespace)
    await connection.close()


async def rows(connection: asyncpg.Connection, namespace: str) -> int:
    counted = await connection.fetchval("SELECT count(*) FROM worker_compat_kv WHERE namespace = $1", namespace)
    return int(counted)


async def load(connection: asyncpg.Connection, namespace: str, number: int, expiration: int) -> None:
    await connection.copy_records_to_table(
        "worker_compat_kv",
        records=((namespace, b"k%07d" % i, expiration, b"") for i in range(number)),
        columns=["namespace", "name", "expiration", "value"],
    )


async def names(store: PostgresKVStore) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = await store.list("", 1000, cursor)
        found += [key.name for key in page.keys]
        cursor = page.cursor
        if cursor is None:
            return found


async def test_names_and_metadata_keep_what_text_columns_refuse(store: PostgresKVStore) -> None:
    odd = ["\x00", "a\x00b", "\ud800", "\udfff\U0001f600"]
    for name in odd:
        await store.put(name, KVEntry(name.encode("utf-8", "surrogatepass"), f'"{name}"'))
    assert await names(store) == odd
    for name in odd:
        assert await store.get(name) == KVEntry(name.encode("utf-8", "surrogatepass"), f'"{name}"')


async def test_a_name_longer_than_the_index_takes_says_so(store: PostgresKVStore) -> None:
    # Of random bytes, because the index compresses.
    name = "".join(uuid4().hex for _ in range(200))
    with pytest.raises(StoreUnavailable, match="keep names below 2,600 bytes"):
        await store.put(name, KVEntry(b""))
    await store.put(name[:2600], KVEntry(b""))
    assert await names(store) == [name[:2600]]


async def test_writes_remove_what_has_expired_in_their_namespace(
    store: PostgresKVStore, connection: asyncpg.Connection, namespace: str, clock: FakeClock
) -> None:
    await store.put("z", KVEntry(b""))
    for owner in (namespace, f"{namespace}-other"):
        await load(connection, owner, 600, int(clock.now) + SOON_S)
    clock.advance(SOON_S)
    counts = []
    for _ in range(100):
        await store.put("z", KVEntry(b""))
        counts.append(await rows(connection, namespace))
    assert counts[-1] == 1, "what has expired is gone after a while"
    assert max(before - after for before, after in zip([601, *counts], counts, strict=False)) <= 256
    assert await rows(connection, f"{namespace}-other") == 600, "another namespace may have another clock"
    await connection.execute("DELETE FROM worker_compat_kv WHERE namespace = $1", f"{namespace}-other")


async def test_pages_are_short_where_many_names_have_expired(
    store: PostgresKVStore, connection: asyncpg.Connection, namespace: str, clock: FakeClock
) -> None:
    await store.put("a", KVEntry(b""))
    await load(connection, namespace, 2 * DEAD_PER_PAGE, int(clock.now) + SOON_S)
    await store.put("z", KVEntry(b""))
    clock.advance(SOON_S)
    first = await store.list("", 1000, None)
    assert [key.name for key in first.keys] == ["a"]
    assert first.cursor is not None
    second = await store.list("", 1000, first.cursor)
    assert [key.name for key in second.keys] == ["z"], "the rest is within reach"
    assert second.cursor is None
    assert await names(store) == ["a", "z"]


@pytest.mark.parametrize("cursor", ["?", "Zg", "/w==", "gA==", "é", "Zm9v\n"])
async def test_a_cursor_that_no_page_gave_is_refused(store: PostgresKVStore, cursor: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the port promises no text
        await store.list("", 10, cursor)


async def test_every_plan_walks_along_an_index(
    pool: PostgresPool, store: PostgresKVStore, connection: asyncpg.Connection, namespace: str, clock: FakeClock
) -> None:
    """Also right after a load, when the planner has no statistics and would sort everything."""
    await store.put("k", KVEntry(b""))
    await load(connection, namespace, 20_000, int(clock.now) + SOON_S)
    for statement, arguments in (
        (_LIST, (b"k", b"k\xff", clock.now, 6001, 1001)),
        (_GET, (b"k0000001", clock.now)),
        (_PURGE, (clock.now, 256)),
    ):
        plan = [row[0] for row in await pool.fetch(f"EXPLAIN (COSTS OFF) {statement}", namespace, *arguments)]
        assert not [step for step in plan if "Sort" in step or "Seq Scan" in step or "Bitmap" in step], plan
        assert [step for step in plan if "Index" in step], plan
