"""The KV store in a SQLite file: its URL, its tables, what it leaves behind, and what a listing costs."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from worker_compat.errors import ConfigError, StoreUnavailable
from worker_compat.ports import KVCompareAndPut, KVEntry, KVStore
from worker_compat.testing import FakeClock
from worker_compat_sqlite import (
    SqliteKVStore,
    SqliteQueueStore,
    SqliteWriter,
    database_path,
    open_kv,
    open_queue,
    open_writer,
)
from worker_compat_sqlite.kv import DEAD_PER_PAGE

SOON_S = 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kv.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def writer(path: Path) -> AsyncIterator[SqliteWriter]:
    async with open_writer(path, create=True) as writer:
        yield writer


@pytest.fixture
def store(writer: SqliteWriter, clock: FakeClock) -> SqliteKVStore:
    return SqliteKVStore(writer, "default", clock=clock)


async def names(store: KVStore, prefix: str = "") -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = await store.list(prefix, 1000, cursor)
        found += [key.name for key in page.keys]
        cursor = page.cursor
        if cursor is None:
            return found


def rows(path: Path, namespace: str = "default") -> int:
    with closing(sqlite3.connect(path)) as connection:
        counted = connection.execute("SELECT count(*) FROM worker_compat_kv WHERE namespace = ?", (namespace,))
        (number,) = counted.fetchone()
    return int(number)


def load(path: Path, number: int, expiration: int | None, namespace: str = "default") -> None:
    """Many rows at once; the tables are there."""
    insert = "INSERT INTO worker_compat_kv (namespace, name, expiration, value) VALUES (?, ?, ?, x'')"
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany(insert, ((namespace, b"k%07d" % i, expiration) for i in range(number)))
        connection.commit()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///{}?queue=a", "namespace=NAME"),
        ("sqlite:///{}?namespace=a&mode=ro", "namespace=NAME"),
        ("sqlite:///{}?namespace=a&namespace=b", "namespace=NAME"),
        ("sqlite:///{}?namespace=", "namespace=NAME"),
        ("sqlite:///{}?namespace", "malformed option"),
        ("sqlite:///{}?namespace=%ff", "malformed option"),
        ("sqlite:///{}#part", "takes no options"),
        ("sqlite://host/kv.db", "no host"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
async def test_a_url_that_is_wrong_says_how_to_write_it(url: str, says: str, path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        async with open_kv(url.format(path)):
            pass
    assert not path.exists()


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    for opened in (open_kv(f"sqlite:///{tmp_path}/no/kv.db"), open_queue(f"sqlite:///{tmp_path}/no/kv.db")):
        with pytest.raises(ConfigError, match=f"the folder {tmp_path}/no of"):
            async with opened:
                pass


def test_the_url_of_records_still_takes_no_option(path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no options"):
        database_path(f"sqlite:///{path}?namespace=a")


async def test_a_file_is_made_and_keeps_namespaces_apart(path: Path) -> None:
    url = f"sqlite:///{path}"
    async with open_kv(url) as default, open_kv(f"{url}?namespace=a%20b%C3%A9") as named:
        assert isinstance(default, KVStore)
        assert isinstance(default, KVCompareAndPut)
        await default.put("k", KVEntry(b"1"))
        await named.put("k", KVEntry(b"2", "{}", 2_000_000_000))
        await named.delete("other")
    assert rows(path) == rows(path, "a bé") == 1
    async with open_kv(f"{url}?namespace=default") as again, open_kv(f"{url}?namespace=a+b%C3%A9") as named:
        assert await again.get("k") == KVEntry(b"1")
        assert await named.get("k") == KVEntry(b"2", "{}", 2_000_000_000)
        await named.delete("k")
        assert await names(again) == ["k"]
        assert await names(named) == []


async def test_a_writer_is_shared_with_others(writer: SqliteWriter, store: SqliteKVStore, clock: FakeClock) -> None:
    queue = SqliteQueueStore(writer, "jobs", clock=clock)
    await asyncio.gather(store.put("k", KVEntry(b"v")), queue.push([b"m"], 0))
    await writer.run(lambda connection: connection.execute("CREATE TABLE records (id)").rowcount)
    assert [message.body for message in await queue.claim(10, 30)] == [b"m"]
    assert await store.get("k") == KVEntry(b"v")


async def test_reading_makes_no_tables(store: SqliteKVStore, path: Path) -> None:
    assert await store.get("k") is None
    assert await names(store) == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == []


async def test_tables_of_another_version_are_refused(path: Path, store: SqliteKVStore) -> None:
    await store.put("k", KVEntry(b"v"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE worker_compat_version SET version = 7")
        connection.commit()
    async with open_kv(f"sqlite:///{path}") as other:
        with pytest.raises(ConfigError, match="version 7, and this release knows version 1"):
            await other.put("k", KVEntry(b"w"))
        with pytest.raises(ConfigError, match="version 7"):
            await other.get("k")
    async with open_queue(f"sqlite:///{path}") as queue:
        with pytest.raises(ConfigError, match="version 7"):
            await queue.claim(1, 30)


async def test_tables_that_were_lost_are_made_again(store: SqliteKVStore, writer: SqliteWriter) -> None:
    await store.put("k", KVEntry(b"v"))
    await writer.run(lambda connection: connection.execute("DROP TABLE worker_compat_kv").rowcount)
    assert await store.get("k") is None
    await store.put("k", KVEntry(b"w"))
    assert await store.get("k") == KVEntry(b"w")


async def test_writes_remove_what_has_expired_in_their_namespace(
    store: SqliteKVStore, path: Path, clock: FakeClock
) -> None:
    await store.put("z", KVEntry(b""))
    for namespace in ("default", "other"):
        load(path, 1000, int(clock.now) + SOON_S, namespace)
    clock.advance(SOON_S)
    counts = []
    for _ in range(200):
        await store.put("z", KVEntry(b""))
        counts.append(rows(path))
    steps = {before - after for before, after in zip([1001, *counts], counts, strict=False)}
    assert counts[-1] == 1, "what has expired is gone after a while"
    assert max(steps) <= 256, "a write removes a bounded number"
    assert rows(path, "other") == 1000, "another namespace may have another clock"
    assert await names(store) == ["z"]


async def test_a_put_over_an_expired_name_survives_the_janitor(store: SqliteKVStore, clock: FakeClock) -> None:
    await store.put("k", KVEntry(b"old", None, int(clock.now) + SOON_S))
    clock.advance(SOON_S)
    for _ in range(64):
        await store.put("k", KVEntry(b"new"))
        assert await store.get("k") == KVEntry(b"new")


async def test_pages_are_short_where_many_names_have_expired(
    store: SqliteKVStore, path: Path, clock: FakeClock
) -> None:
    await store.put("a", KVEntry(b""))
    load(path, 2 * DEAD_PER_PAGE, int(clock.now) + SOON_S)
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
async def test_a_cursor_that_no_page_gave_is_refused(store: SqliteKVStore, cursor: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the port promises no text
        await store.list("", 10, cursor)


async def test_a_full_disk_is_said_and_loses_nothing(store: SqliteKVStore, writer: SqliteWriter) -> None:
    await store.put("before", KVEntry(b"kept"))

    async def limit(pages: int) -> None:
        await writer.run_alone(lambda connection: connection.execute(f"PRAGMA max_page_count={pages}").fetchall())

    await limit(20)
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await store.put("big", KVEntry(bytes(1_000_000)))
    assert await store.get("before") == KVEntry(b"kept")
    assert await store.get("big") is None
    await limit(4_294_967_294)
    await store.put("big", KVEntry(bytes(1_000_000)))
    assert await names(store) == ["before", "big"]


async def test_a_listing_does_not_read_values(store: SqliteKVStore, path: Path, writer: SqliteWriter) -> None:
    """Whatever else a value needs is on pages of its own: when those are damaged, the listing does not notice."""
    await store.put("k", KVEntry(b"v" * 100_000, '"m"'))
    await writer.run_alone(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    content = path.read_bytes()
    page_size = 4096
    overflow = [at for at in range(0, len(content), page_size) if content.count(b"v", at, at + page_size) > 4000]
    assert overflow
    # The number of the page that comes next, and that there is none.
    with path.open("r+b") as file:
        for at in overflow:
            file.seek(at)
            file.write(b"\x7f\xff\xff\xff")
    async with open_kv(f"sqlite:///{path}") as other:
        assert [key.name for key in (await other.list("", 10, None)).keys] == ["k"]
        with pytest.raises(StoreUnavailable):
            await other.get("k")


@pytest.mark.alone
async def test_a_page_comes_in_time_beside_a_busy_event_loop(store: SqliteKVStore, path: Path) -> None:
    """Each row that SQLite hands over costs a change of the interpreter lock, 5 ms each while the loop is busy."""
    await store.put("z", KVEntry(b""))
    load(path, 1000, None)
    listing = asyncio.create_task(store.list("", 1000, None))
    begun = time.monotonic()
    while not listing.done() and time.monotonic() < begun + 10:
        spin_until = time.perf_counter() + 0.02
        while time.perf_counter() < spin_until:
            pass
        await asyncio.sleep(0)
    assert len((await listing).keys) == 1000
    assert time.monotonic() - begun < 1.0
