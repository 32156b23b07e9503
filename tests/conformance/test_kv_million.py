"""Listing a million names: a page costs the same everywhere, also after many names have expired at once."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from statistics import median

import asyncpg
import pytest

from tests.scale import figure, scaled
from tests.services.postgres import postgres_server
from tests.services.redis import redis_server
from worker_compat.ports import KVEntry, KVPage, KVStore
from worker_compat.registry import open_kv, with_option
from worker_compat.testing import FakeClock

NAMES = scaled(20_000, 1_000_000)
PAGE = 1000
SAMPLES = 31
AT_ONCE = 8
MOST_RATIO = 2.0
LONGEST_IN_PAGES = 10
"""How long a call may take, in usual pages: 4 were seen, and 20 to 50 when it stepped over all that expired."""

VALUE = b"v" * 100
METADATA = '{"n":1}'
Load = Callable[[KVStore, int], Awaitable[None]]
Opened = Callable[[Path], AbstractAsyncContextManager[tuple[str, Load]]]


def name(number: int) -> str:
    return f"user/{number:08d}"


def expires(number: int) -> bool:
    """A fifth of the names, side by side: the worst case for a listing."""
    return 2 * NAMES <= 5 * number < 3 * NAMES


def rows(expiration: int) -> Iterator[tuple[str, bytes, int | None, bytes, bytes]]:
    for number in range(NAMES):
        yield "million", name(number).encode(), expiration if expires(number) else None, METADATA.encode(), VALUE


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[tuple[str, Load]]:
    path = folder / "kv.db"
    insert = "INSERT INTO worker_compat_kv (namespace, name, expiration, metadata, value) VALUES (?, ?, ?, ?, ?)"

    async def load(_store: KVStore, expiration: int) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.executemany(insert, rows(expiration))
            connection.commit()

    yield f"sqlite:///{path}", load


@asynccontextmanager
async def postgres(_folder: Path) -> AsyncIterator[tuple[str, Load]]:
    columns = ["namespace", "name", "expiration", "metadata", "value"]
    # Not below pytest's own folder, which other users may not enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with postgres_server(Path(folder)) as server:

            async def load(_store: KVStore, expiration: int) -> None:
                connection = await asyncpg.connect(server.url)
                await connection.copy_records_to_table("worker_compat_kv", records=rows(expiration), columns=columns)
                await connection.close()

            yield f"{server.url}?connect_timeout=10&command_timeout=30", load


@asynccontextmanager
async def redis(folder: Path) -> AsyncIterator[tuple[str, Load]]:
    async def load(store: KVStore, expiration: int) -> None:
        numbers = iter(range(NAMES))

        async def put_some() -> None:
            for number in numbers:
                await store.put(name(number), KVEntry(VALUE, METADATA, expiration if expires(number) else None))

        await asyncio.gather(*(put_some() for _ in range(AT_ONCE)))

    # A pause of the machine must not end a million calls: how long a call holds the server is judged elsewhere.
    with redis_server(folder) as server:
        yield f"{server.url}?connect_timeout_ms=10000&timeout_ms=30000", load


OPENED: dict[str, Opened] = {"sqlite": sqlite, "redis": redis, "postgres": postgres}


async def timed(store: KVStore, cursor: str | None) -> tuple[KVPage, float]:
    begun = time.perf_counter()
    page = await store.list("", PAGE, cursor)
    return page, time.perf_counter() - begun


async def walk(store: KVStore, longest_s: float) -> tuple[list[str], list[str | None], list[float]]:
    """All names, the cursor that led to each page, and how long each page took.

    A page that took too long is asked for again: its own cost comes again, a pause of the machine does not.
    """
    found: list[str] = []
    cursors: list[str | None] = [None]
    times: list[float] = []
    while True:
        page, took = await timed(store, cursors[-1])
        for _ in range(2):
            if took > longest_s:
                page, took = await timed(store, cursors[-1])
        found += [key.name for key in page.keys]
        times.append(took)
        if page.cursor is None:
            return found, cursors, times
        cursors.append(page.cursor)


async def medians(store: KVStore, cursors: list[str | None]) -> list[float]:
    """The median time of a page at each cursor; they take turns, so that what else runs hits all."""
    times: list[list[float]] = [[] for _ in cursors]
    for _ in range(SAMPLES):
        for seen, cursor in zip(times, cursors, strict=True):
            page, took = await timed(store, cursor)
            assert len(page.keys) == PAGE
            seen.append(took)
    return [median(seen) for seen in times]


@pytest.mark.proof
@pytest.mark.alone
@pytest.mark.parametrize("kind", OPENED)
async def test_a_page_costs_the_same_everywhere(kind: str, tmp_path: Path) -> None:
    clock = FakeClock(float(int(time.time())))
    expiration = int(clock.now) + 7200
    async with (
        OPENED[kind](tmp_path) as (base, load),
        open_kv(with_option(base, "namespace", "million"), clock=clock) as store,
    ):
        await store.put(name(0), KVEntry(b""))  # makes the tables
        await store.delete(name(0))
        await load(store, expiration)
        assert await store.get(name(NAMES // 2)) == KVEntry(VALUE, METADATA, expiration)
        found, cursors, _ = await walk(store, math.inf)
        assert found == [name(number) for number in range(NAMES)]

        seen = await medians(store, [cursors[0], cursors[len(cursors) // 2], cursors[NAMES // PAGE - 1]])
        ratio = max(seen) / min(seen)
        shown = ", ".join(f"{took * 1e3:.2f}" for took in seen)
        figure(
            f"KV list, {kind}, a page of {PAGE} of {NAMES:,} names at start, middle, end", f"{shown} ms, {ratio:.2f}"
        )
        assert ratio <= MOST_RATIO

        clock.now = float(expiration)
        longest_s = LONGEST_IN_PAGES * median(seen)
        found, cursors, times = await walk(store, longest_s)
        assert found == [name(number) for number in range(NAMES) if not expires(number)]
        figure(
            f"KV list, {kind}, after {NAMES // 5:,} of {NAMES:,} names expired at once",
            f"{len(cursors)} calls, median {median(times) * 1e3:.2f} ms, longest {max(times) * 1e3:.1f} ms",
        )
        assert max(times) <= longest_s
