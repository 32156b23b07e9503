"""MemoryKVStore: the port's contract, its bounds, exact expiry, and listing against a plain dict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_compat.errors import ConfigError, StoreUnavailable
from worker_compat.memory import MemoryKVStore, open_kv
from worker_compat.ports import KVEntry, KVStore


class FakeClock:
    """Time that moves when told."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryKVStore:
    return MemoryKVStore(clock=clock)


async def names(store: KVStore, prefix: str = "", limit: int = 1000) -> list[str]:
    """All names, page by page."""
    found: list[str] = []
    cursor = None
    while True:
        page = await store.list(prefix, limit, cursor)
        assert len(page.keys) <= limit
        found += [key.name for key in page.keys]
        if page.cursor is None:
            return found
        cursor = page.cursor


async def test_it_is_a_store_and_keeps_what_it_is_given(store: MemoryKVStore) -> None:
    assert isinstance(store, KVStore)
    entry = KVEntry(b"\x00\xff", '{"a":1}', 2_000_000)
    assert await store.get("k") is None
    await store.put("k", entry)
    assert await store.get("k") == entry
    await store.put("k", KVEntry(b""))
    assert await store.get("k") == KVEntry(b"", None, None)
    await store.delete("k")
    await store.delete("k")
    assert await store.get("k") is None


async def test_an_entry_is_gone_exactly_at_its_expiration(store: MemoryKVStore, clock: FakeClock) -> None:
    await store.put("k", KVEntry(b"x", None, 1_000_060))
    clock.now = 1_000_059.999
    assert await store.get("k") is not None
    assert await names(store) == ["k"]
    clock.now = 1_000_060.0
    assert await names(store) == []
    assert await store.get("k") is None


async def test_list_rows_carry_metadata_and_expiration(store: MemoryKVStore) -> None:
    await store.put("k", KVEntry(b"x", "[1]", 1_000_060))
    (row,) = (await store.list("", 10, None)).keys
    assert (row.name, row.metadata, row.expiration) == ("k", "[1]", 1_000_060)


async def test_names_are_listed_by_utf8_bytes(store: MemoryKVStore) -> None:
    keys = ["b", "B", "a", "\U0001f600", "\uff01", "A", "é", "", "a/b", "a\x00"]
    for key in keys:
        await store.put(key, KVEntry(b""))
    assert await names(store) == sorted(keys, key=str.encode)
    assert await names(store, "a", 1) == ["a", "a\x00", "a/b"]


async def test_the_last_page_has_no_cursor_even_when_full(store: MemoryKVStore) -> None:
    for key in "abcd":
        await store.put(key, KVEntry(b""))
    first = await store.list("", 2, None)
    assert first.cursor is not None
    second = await store.list("", 2, first.cursor)
    assert [key.name for key in second.keys] == ["c", "d"]
    assert second.cursor is None


async def test_expired_entries_do_not_make_a_further_page(store: MemoryKVStore, clock: FakeClock) -> None:
    await store.put("a", KVEntry(b""))
    await store.put("b", KVEntry(b"", None, 1_000_060))
    clock.now += 60
    assert (await store.list("", 1, None)).cursor is None


async def test_a_cursor_survives_changes_between_pages(store: MemoryKVStore) -> None:
    for key in "bdf":
        await store.put(key, KVEntry(b""))
    first = await store.list("", 2, None)
    await store.delete("d")
    for key in "ae":
        await store.put(key, KVEntry(b""))
    second = await store.list("", 2, first.cursor)
    assert [key.name for key in second.keys] == ["e", "f"]


async def test_a_cursor_needs_its_prefix_again(store: MemoryKVStore) -> None:
    for key in ["a1", "a2", "b1"]:
        await store.put(key, KVEntry(b""))
    cursor = (await store.list("a", 1, None)).cursor
    assert [key.name for key in (await store.list("a", 9, cursor)).keys] == ["a2"]
    assert [key.name for key in (await store.list("", 9, cursor)).keys] == ["a2", "b1"]


@pytest.mark.parametrize("cursor", ["%%%", "a", "_w==", "é", "YQ"])
async def test_a_cursor_it_did_not_give_is_a_value_error(store: MemoryKVStore, cursor: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 # the class is the port's contract, the text is not
        await store.list("", 1, cursor)


async def test_the_least_recently_used_entry_is_evicted(clock: FakeClock) -> None:
    store = MemoryKVStore(clock=clock, max_entries=3)
    for key in "abc":
        await store.put(key, KVEntry(b""))
    await store.get("a")
    await store.put("b", KVEntry(b"again"))
    await store.list("", 10, None)
    await store.put("d", KVEntry(b""))
    assert await names(store) == ["a", "b", "d"]


async def test_bytes_are_bounded_by_names_values_and_metadata(clock: FakeClock) -> None:
    store = MemoryKVStore(clock=clock, max_bytes=30)
    await store.put("é", KVEntry(b"x" * 8))
    await store.put("b", KVEntry(b"x" * 7, '"é"'))
    await store.put("c", KVEntry(b"x" * 7))
    assert await names(store) == ["b", "c", "é"]
    await store.put("d", KVEntry(b""))
    assert await names(store) == ["b", "c", "d"]


async def test_replacing_an_entry_evicts_nobody_else(clock: FakeClock) -> None:
    store = MemoryKVStore(clock=clock, max_entries=2, max_bytes=22)
    for key in "ab":
        await store.put(key, KVEntry(b"x" * 10))
    for _ in range(50):
        await store.put("b", KVEntry(b"y" * 10))
    assert await names(store) == ["a", "b"]


async def test_an_entry_that_cannot_fit_changes_nothing(clock: FakeClock) -> None:
    store = MemoryKVStore(clock=clock, max_bytes=10)
    await store.put("a", KVEntry(b"1"))
    with pytest.raises(StoreUnavailable, match="11 bytes does not fit"):
        await store.put("a", KVEntry(b"x" * 10))
    assert await store.get("a") == KVEntry(b"1")


async def test_expired_entries_are_evicted_before_live_ones(clock: FakeClock) -> None:
    store = MemoryKVStore(clock=clock, max_entries=100)
    await store.put("live", KVEntry(b""))
    for number in range(99):
        await store.put(f"short{number}", KVEntry(b"", None, 1_000_060))
    clock.now += 60
    for number in range(99):
        await store.put(f"new{number}", KVEntry(b""))
    assert await store.get("live") is not None
    assert len(await names(store)) == 100


async def test_writes_sweep_what_expired(store: MemoryKVStore, clock: FakeClock) -> None:
    for number in range(100):
        await store.put(f"short{number}", KVEntry(b"", None, 1_000_060))
    clock.now += 60
    for _ in range(4):
        await store.put("k", KVEntry(b""))
    assert len(store._entries) == len(store._names) == 1


async def test_rewriting_one_key_does_not_grow_the_bookkeeping(store: MemoryKVStore) -> None:
    for number in range(1000):
        await store.put("k", KVEntry(b"", None, 1_000_060 + number))
    assert len(store._expirations) < 100
    assert (len(store._names), store._bytes) == (1, 1)


async def test_a_longer_ttl_outlives_the_first_one(store: MemoryKVStore, clock: FakeClock) -> None:
    await store.put("k", KVEntry(b"", None, 1_000_060))
    await store.put("k", KVEntry(b"", None, 1_000_120))
    clock.now += 60
    await store.put("other", KVEntry(b""))
    assert await store.get("k") is not None


@pytest.mark.parametrize(("max_entries", "max_bytes"), [(0, 1), (1, 0), (-1, -1)])
def test_bounds_are_positive(max_entries: int, max_bytes: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        MemoryKVStore(max_entries=max_entries, max_bytes=max_bytes)


async def test_open_kv_gives_a_fresh_store_on_the_given_clock(clock: FakeClock) -> None:
    async with open_kv("memory://", clock=clock) as first, open_kv("memory://") as second:
        await first.put("k", KVEntry(b"", None, 1_000_060))
        assert await first.get("k") is not None
        assert await second.get("k") is None
        clock.now += 60
        assert await first.get("k") is None


@pytest.mark.parametrize("url", ["memory://host", "memory://?size=1", "redis://secret@host"])
async def test_open_kv_refuses_another_url_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with open_kv(url):
            pass
    assert "memory://" in str(caught.value)
    assert "host" not in str(caught.value).replace("without host", "")


_keys = st.text(alphabet="ab\u00e9\uff01\U0001f600", max_size=3)


@given(st.dictionaries(_keys, st.booleans(), max_size=30), _keys, st.integers(1, 7))
async def test_listing_agrees_with_a_dict(entries: dict[str, bool], prefix: str, limit: int) -> None:
    store = MemoryKVStore()
    for key, kept in entries.items():
        await store.put(key, KVEntry(b""))
        if not kept:
            await store.delete(key)
    expected = sorted((k for k, kept in entries.items() if kept and k.startswith(prefix)), key=str.encode)
    assert await names(store, prefix, limit) == expected
