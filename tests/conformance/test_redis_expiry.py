"""Very many names that expire at once on Redis: no call holds the server long, and the names are removed meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scale import figure, scaled
from tests.services.redis import RedisServer, redis_server
from worker_compat.ports import KVEntry, KVStore
from worker_compat.registry import open_kv
from worker_compat.testing import FakeClock

HOLD_LIMIT_S = 0.02
LIFE_S = 60


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may fill."""
    with redis_server(tmp_path) as running:
        yield running


async def put_all(store: KVStore, names: Iterator[str], expiration: int | None) -> None:
    """Put them, fifty at a time."""

    async def putter() -> None:
        for name in names:
            await store.put(name, KVEntry(b"v" * 50, None, expiration))

    await asyncio.gather(*(putter() for _ in range(50)))


def worked_s(server: RedisServer) -> float:
    """How long the server's main thread has run so far, which on a busy machine is less than it took."""
    return int(Path(f"/proc/{server.process.pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.mark.proof
@pytest.mark.alone
@pytest.mark.timeout(600)
async def test_a_mass_expiry(server: RedisServer) -> None:
    expiring, living = scaled(10_000, 200_000), 500
    clock = FakeClock(float(int(time.time())))
    async with open_kv(f"{server.url}?timeout_ms=5000", clock=clock) as store:
        begun = time.monotonic()
        await put_all(store, (f"{number:06}" for number in range(expiring)), int(clock()) + LIFE_S)
        puts = expiring / (time.monotonic() - begun)
        alive = [f"{number * (expiring // living):06}+" for number in range(living)]
        await put_all(store, iter(alive), None)
        clock.advance(LIFE_S)
        begun, longest, slowest, pages = time.monotonic(), 0.0, 0.0, 0
        while server.command("DBSIZE") > living + 1:  # the list of names is a key too
            cursor: str | None = None
            found: list[str] = []
            while cursor or not found:
                asked, worked = time.monotonic(), worked_s(server)
                page = await store.list("", 1000, cursor)
                longest, slowest = max(longest, worked_s(server) - worked), max(slowest, time.monotonic() - asked)
                found += [key.name for key in page.keys]
                cursor, pages = page.cursor, pages + 1
            assert found == alive
        swept = time.monotonic() - begun
    assert longest <= HOLD_LIMIT_S
    figure(
        f"Redis, {expiring} names expire at once: most work in one of {pages} list calls, slowest page, all removed",
        f"{longest * 1000:.1f} ms, {slowest * 1000:.0f} ms, {swept:.1f} s ({puts:.0f} puts/s before)",
    )


async def test_evicted_entries_are_forgotten(server: RedisServer) -> None:
    """An entry that Redis evicted is missing everywhere, and its name goes when it is listed."""
    async with open_kv(server.url) as store:
        await put_all(store, (f"{number:02}" for number in range(20)), None)
        for number in range(0, 20, 2):
            server.command("DEL", f"wc:{{kv:default}}:v:{number:02}")
        assert await store.get("00") is None
        page = await store.list("", 4, None)
        assert [key.name for key in page.keys] == ["01", "03", "05", "07"]
        await store.list("", 100, None)
        assert int(server.command("ZCARD", "wc:{kv:default}:names")) == 10


async def test_what_nobody_removes_ends_by_itself(server: RedisServer) -> None:
    """Redis drops an entry an hour after its expiration, and never one without expiration or with a far one."""
    now = int(time.time())
    async with open_kv(server.url) as store:
        for name, expiration in (("soon", now + 60), ("never", None), ("far", 10**15), ("again", now + 60)):
            await store.put(name, KVEntry(b"v", None, expiration))
        await store.put("again", KVEntry(b"v"))
    left = {name: server.command("TTL", f"wc:{{kv:default}}:v:{name}") for name in ("soon", "never", "far", "again")}
    assert 3600 < left.pop("soon") <= 3661
    assert left == {"never": -1, "far": -1, "again": -1}
