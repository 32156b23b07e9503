"""The gateway's KV: counting, and the memory store that stands in during an outage."""

from __future__ import annotations

import asyncio
import logging

import pytest

from smoltbot_host import kv
from smoltbot_host.kv import CountedKVStore, FallbackKVStore
from worker_compat.errors import StoreUnavailable
from worker_compat.memory import MemoryKVStore
from worker_compat.ports import KVEntry, KVPage

OLD, NEW = KVEntry(b"old"), KVEntry(b"new")


class Unsteady(MemoryKVStore):
    """A store that can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.calls = 0

    def _arrive(self) -> None:
        self.calls += 1
        if self.away:
            raise StoreUnavailable("it is away")

    async def get(self, key: str) -> KVEntry | None:
        self._arrive()
        return await super().get(key)

    async def put(self, key: str, entry: KVEntry) -> None:
        self._arrive()
        await super().put(key, entry)

    async def delete(self, key: str) -> None:
        self._arrive()
        await super().delete(key)

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        self._arrive()
        return await super().list(prefix, limit, cursor)


class Telemetry:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.operations: list[tuple[str, str]] = []
        self.changes: list[bool] = []

    def cache_operation(self, operation: str, result: str) -> None:
        self.operations.append((operation, result))

    def kv_changed(self, available: bool) -> None:
        self.changes.append(available)


def fallback(primary: Unsteady) -> tuple[FallbackKVStore, Telemetry]:
    telemetry = Telemetry()
    counted = CountedKVStore(primary, telemetry.cache_operation)
    return FallbackKVStore(counted, MemoryKVStore(), telemetry.kv_changed), telemetry


async def names(store: FallbackKVStore | MemoryKVStore) -> list[str]:
    return [row.name for row in (await store.list("", 100, None)).keys]


async def test_every_operation_is_counted_by_its_result() -> None:
    primary = Unsteady()
    telemetry = Telemetry()
    store = CountedKVStore(primary, telemetry.cache_operation)
    await store.get("a")
    await store.put("a", OLD)
    await store.get("a")
    await store.list("", 10, None)
    await store.delete("a")
    primary.away = True
    for call in (store.get("a"), store.put("a", OLD), store.list("", 10, None), store.delete("a")):
        with pytest.raises(StoreUnavailable):
            await call
    assert telemetry.operations == [
        ("get", "miss"), ("put", "ok"), ("get", "hit"), ("list", "ok"), ("delete", "ok"),
        ("get", "error"), ("put", "error"), ("list", "error"), ("delete", "error"),
    ]  # fmt: skip


async def test_an_outage_is_bridged_and_told_once_each_way(caplog: pytest.LogCaptureFixture) -> None:
    primary = Unsteady()
    store, telemetry = fallback(primary)
    await store.put("a", OLD)
    primary.away = True
    assert await store.get("a") is None
    await store.put("b", NEW)
    assert await store.get("b") == NEW
    assert await names(store) == ["b"]
    assert telemetry.changes == [False]
    primary.away = False
    assert await store.get("b") == NEW
    assert telemetry.changes == [False, True]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


async def test_what_changed_during_an_outage_is_written_before_anything_is_read() -> None:
    primary = Unsteady()
    store, _ = fallback(primary)
    for name in ("deleted", "replaced", "kept"):
        await store.put(name, OLD)
    primary.away = True
    await store.delete("deleted")
    await store.put("replaced", NEW)
    await store.put("made", NEW)
    await store.put("made and deleted", NEW)
    await store.delete("made and deleted")
    primary.away = False
    assert await store.get("deleted") is None
    assert {name: await MemoryKVStore.get(primary, name) for name in await names(primary)} == {
        "kept": OLD, "made": NEW, "replaced": NEW,
    }  # fmt: skip


async def test_a_second_outage_in_the_middle_of_the_return_loses_nothing() -> None:
    primary = Unsteady()
    store, _ = fallback(primary)
    primary.away = True
    for number in range(10):
        await store.put(str(number), NEW)
    primary.away = False
    primary.calls = 0
    arrive = primary._arrive

    def leaves_again() -> None:
        primary.away = primary.calls >= 4
        arrive()

    primary._arrive = leaves_again  # type: ignore[method-assign]
    assert await store.get("9") == NEW
    primary._arrive = arrive  # type: ignore[method-assign]
    primary.away = False
    assert await store.get("0") == NEW
    assert await names(primary) == [str(number) for number in range(10)]


async def test_writes_beside_the_return_are_not_overwritten_by_it() -> None:
    primary = Unsteady()
    store, _ = fallback(primary)
    primary.away = True
    for number in range(50):
        await store.put(str(number), OLD)
    primary.away = False
    await asyncio.gather(*(store.put(str(number), NEW) for number in range(50)))
    assert {(await store.get(str(number))) for number in range(50)} == {NEW}


class Slow(Unsteady):
    """A store whose puts wait, once it is ``slow``, until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = False
        self.waiting = 0
        self.let_go = asyncio.Event()

    async def put(self, key: str, entry: KVEntry) -> None:
        if self.slow:
            self.waiting += 1
            await self.let_go.wait()
        await super().put(key, entry)


async def turns(count: int = 100) -> None:
    """Let the tasks get as far as they can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_return_does_not_write_one_name_after_the_other() -> None:
    primary = Slow()
    store, _ = fallback(primary)
    primary.away = True
    for number in range(50):
        await store.put(f"{number:02}", NEW)
    primary.away, primary.slow = False, True
    reading = asyncio.ensure_future(store.get("49"))
    await turns()
    assert primary.waiting >= 10
    assert not reading.done()
    primary.let_go.set()
    assert await reading == NEW
    assert len(await names(primary)) == 50


async def test_a_delete_that_fails_beside_the_return_is_not_lost() -> None:
    """It was under way when the outage began, and its error comes while an older value is being written."""
    primary = Slow()
    store, _ = fallback(primary)
    late = asyncio.Event()
    delete = primary.delete

    async def delete_fails_late(key: str) -> None:
        await late.wait()
        raise StoreUnavailable("at last")

    primary.delete = delete_fails_late  # type: ignore[method-assign]
    deleting = asyncio.ensure_future(store.delete("a"))
    await turns()
    primary.away = True
    await store.put("a", OLD)
    primary.away, primary.slow = False, True
    reading = asyncio.ensure_future(store.get("b"))
    await turns()
    late.set()
    await deleting
    primary.delete = delete  # type: ignore[method-assign]
    primary.let_go.set()
    await reading
    assert await store.get("a") is None
    assert await names(primary) == []


async def test_what_is_remembered_of_an_outage_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kv, "MOST_CHANGED", 3)
    primary = Unsteady()
    store, _ = fallback(primary)
    primary.away = True
    for name in "abcde":
        await store.put(name, NEW)
    assert await names(store) == ["c", "d", "e"]
    primary.away = False
    assert await names(store) == ["c", "d", "e"]
    assert "2 changes of KV entries during the outage were forgotten" in caplog.text


async def test_a_store_that_comes_and_goes_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    primary = Unsteady()
    store, telemetry = fallback(primary)
    for _ in range(20):
        primary.away = True
        await store.get("a")
        primary.away = False
        await store.get("a")
    assert telemetry.changes == [False, True] * 20
    assert len(caplog.records) == 2  # gone, and back: once in ten seconds


async def test_memory_has_no_second_memory_behind_it() -> None:
    async with kv.open_kv("memory://", Telemetry()) as opened:
        assert opened.store is opened.primary
