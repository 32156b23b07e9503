"""KVNamespace: listing and reading in bulk, and a store that is late, slow or gone."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.kv_support import NOW, clock_of_kv, kv_at, refused
from worker_compat.errors import StoreUnavailable
from worker_compat.kv import KVNamespace
from worker_compat.ports import KVEntry, KVKey, KVPage
from worker_compat.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return clock_of_kv()


@pytest.fixture
def kv(clock: FakeClock) -> KVNamespace:
    return kv_at(clock)


async def test_bulk_get(kv: KVNamespace) -> None:
    for key, value in [("b", "1"), ("a", '{"x": 2}'), ("10", "3"), ("__proto__", "4")]:
        await kv.put(key, value, metadata=key)
    found = await kv.get(["b", "missing", "a", "10", "b", "__proto__"])
    assert isinstance(found, dict)
    assert list(found.items()) == [
        *(("b", "1"), ("missing", None), ("a", '{"x": 2}'), ("10", "3"), ("__proto__", "4")),
    ]
    assert (await kv.get(["a", "missing"], "json")) == {"a": {"x": 2}, "missing": None}
    assert await kv.get(["b"], "") == await kv.get(["b"], {}) == await kv.get(["b"], type="text") == {"b": "1"}
    assert await kv.get([10, "\ud800"]) == {"10": "3", "\ufffd\ufffd\ufffd": None}  # type: ignore[list-item]


async def test_bulk_get_with_metadata(kv: KVNamespace) -> None:
    await kv.put("a", "null", metadata=[1])
    await kv.put("b", "2")
    assert await kv.getWithMetadata(["a", "b", "missing"], "json") == {
        "a": {"value": None, "metadata": [1]},
        "b": {"value": 2, "metadata": None},
        "missing": None,
    }


async def test_list_pages(kv: KVNamespace) -> None:
    for key in ("b", "a", "B", "A", "\U0001f600", "\uff01"):
        await kv.put(key, "v")
    everything = ["A", "B", "a", "b", "\uff01", "\U0001f600"]
    whole = await kv.list()
    assert [entry.name for entry in whole["keys"]] == everything
    assert (whole.list_complete, whole.cacheStatus) == (True, None)
    assert "cursor" not in whole
    first = await kv.list(limit=3)
    assert (first.list_complete, type(first.cursor)) == (False, str)
    last = await kv.list({"limit": "3", "cursor": first.cursor})
    assert [entry.name for entry in first["keys"] + last["keys"]] == everything
    assert last.list_complete is True
    assert "cursor" not in last
    start: str | None
    for start in ("", None):
        assert len((await kv.list(cursor=start))["keys"]) == 6


async def test_a_cursor_nobody_gave_is_refused(kv: KVNamespace) -> None:
    await refused(kv.list(cursor="%%%"), "Error", "KV GET failed: 400 Invalid cursor.")


class LateStore:
    """A store that expires late, pages through nothing, counts its readers, and fails on request."""

    def __init__(self) -> None:
        self.reading = self.most_reading = self.reads = 0
        self.failure: Exception | None = None

    async def get(self, key: str) -> KVEntry | None:
        self.reads += 1
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        try:
            await asyncio.sleep(0 if self.failure else 0.001)
            if self.failure and key == "k3":
                raise self.failure
            await asyncio.sleep(0.001)
        finally:
            self.reading -= 1
        return KVEntry(b"v", None, NOW)

    async def put(self, key: str, entry: KVEntry) -> None:
        raise StoreUnavailable("gone")

    async def delete(self, key: str) -> None:
        raise StoreUnavailable("gone")

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        if self.failure:
            raise self.failure
        return KVPage([KVKey("old", None, NOW)], "more")


async def test_a_late_store_is_not_seen(clock: FakeClock) -> None:
    kv = KVNamespace(LateStore(), clock=clock)
    assert await kv.get("k") is None
    assert await kv.get(["k"]) == {"k": None}
    assert await kv.list() == {"keys": [], "list_complete": False, "cursor": "more", "cacheStatus": None}


async def test_a_bulk_get_reads_six_at_a_time_and_each_key_once(clock: FakeClock) -> None:
    store = LateStore()
    keys = [f"k{number}" for number in range(20)]
    assert list(await KVNamespace(store, clock=clock).get(keys * 2)) == keys
    assert (store.reads, store.most_reading) == (20, 6)


async def test_failures_of_the_store_pass_through(clock: FakeClock) -> None:
    store = LateStore()
    kv = KVNamespace(store, clock=clock)
    for call in (kv.put("k", "v"), kv.delete("k")):
        with pytest.raises(StoreUnavailable, match="gone"):
            await call
    store.failure = StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable, match="gone"):
        await kv.get([f"k{number}" for number in range(20)])
    with pytest.raises(StoreUnavailable, match="gone"):
        await kv.list()
    await asyncio.sleep(0)
    assert (store.reading, store.reads) == (0, 6)
    store.failure = ValueError("a bug, no cursor was given")
    with pytest.raises(ValueError, match="a bug"):
        await kv.list()
