"""The conformance kits of KV stores: what every adapter must do, one case for each rule of the port.

A kit is safe on a live store that holds other data: each case works below a prefix of its own, lists nothing
else, and deletes its names at the end. The clock must be the one that the store was opened with.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from worker_compat.ports import Clock, KVCompareAndPut, KVEntry, KVKey, KVStore

from .fakes import FakeClock
from .kit import Subjects
from .kv_area import LATER_S, LIFE_S, area_of, same, shown
from .kv_calls import KVCallRules
from .kv_lists import KVListRules
from .kv_values import KVValueRules


class KVStoreConformance(KVCallRules, KVListRules, KVValueRules):
    """Every rule of :class:`worker_compat.ports.KVStore`."""


class ComparingKVStore(KVStore, KVCompareAndPut, Protocol):
    """A KV store that can compare and put."""


def kv_subjects(open_store: Callable[[Clock], AbstractAsyncContextManager[KVStore]]) -> Subjects:
    """Subjects for :func:`worker_compat.testing.kit.run`: a fake clock and, on it, what ``open_store`` opens.

    The clock starts at the present whole second, so that a store's native expiry never comes before the clock's.
    """

    @asynccontextmanager
    async def subjects() -> AsyncIterator[Mapping[str, Any]]:
        clock = FakeClock(float(int(time.time())))
        async with open_store(clock) as store:
            yield {"store": store, "clock": clock}

    return subjects


class KVCompareAndPutConformance:
    """The rules of :class:`worker_compat.ports.KVCompareAndPut`, for stores that have this capability."""

    async def test_none_puts_where_nothing_is(self, store: ComparingKVStore) -> None:
        """With None it puts a key that is missing or deleted."""
        async with area_of(store) as area:
            key = area.full("k")
            assert await store.compare_and_put(key, None, KVEntry(b"1", '"m"')), "a missing key was not put"
            same(await store.get(key), KVEntry(b"1", '"m"'), "the entry that was put")
            same((await area.list()).keys, [KVKey("k", '"m"')], "the row that was put")
            await store.delete(key)
            assert await store.compare_and_put(key, None, KVEntry(b"2")), "a deleted key was not put"
            same(await store.get(key), KVEntry(b"2"), "the entry that was put after a delete")

    async def test_none_leaves_a_live_entry(self, store: ComparingKVStore) -> None:
        """With None it changes nothing where an entry is, even an empty one."""
        async with area_of(store) as area:
            key = area.full("k")
            for value in (b"", b"held"):
                await store.put(key, KVEntry(value, '"m"'))
                assert not await store.compare_and_put(key, None, KVEntry(b"new")), f"it replaced {value!r}, not None"
                same(await store.get(key), KVEntry(value, '"m"'), "the entry that was there")

    async def test_the_seen_value_is_replaced(self, store: ComparingKVStore, clock: FakeClock) -> None:
        """With the present value it replaces everything: value, metadata and expiration."""
        later = int(clock()) + LATER_S
        entries = [KVEntry(b"1", '"m"', later), KVEntry(bytes(range(256))), KVEntry(b""), KVEntry(b"", None, later)]
        async with area_of(store) as area:
            key = area.full("k")
            seen = None
            for entry in entries:
                assert await store.compare_and_put(key, seen, entry), f"{shown(seen)} was there and not replaced"
                same(await store.get(key), entry, "the entry that was put")
                seen = entry.value

    async def test_another_value_is_left(self, store: ComparingKVStore, clock: FakeClock) -> None:
        """With any other value than the present one it changes nothing."""
        held = KVEntry(b"held\x00", '"m"', int(clock()) + LATER_S)
        async with area_of(store) as area:
            key = area.full("k")
            await store.put(key, held)
            for seen in (b"held", b"held\x00\x00", b"HELD\x00", b"", b"other"):
                assert not await store.compare_and_put(key, seen, KVEntry(b"new")), f"{seen!r} is not the present value"
                same(await store.get(key), held, "the entry that was there")
            missing = area.full("missing")
            for seen in (b"", b"other"):
                assert not await store.compare_and_put(missing, seen, KVEntry(b"new")), "a missing key is not a value"
            same(await store.get(missing), None, "a key that was not put")

    async def test_expired_counts_as_none(self, store: ComparingKVStore, clock: FakeClock) -> None:
        """At its expiration an entry is None, and its old value does not match any more."""
        expiration = int(clock()) + LIFE_S
        async with area_of(store) as area:
            key = area.full("k")
            await store.put(key, KVEntry(b"old", '"m"', expiration))
            clock.now = expiration - 0.25
            assert not await store.compare_and_put(key, None, KVEntry(b"new")), "the entry lives until its expiration"
            clock.now = float(expiration)
            assert not await store.compare_and_put(key, b"old", KVEntry(b"new")), "an expired value is not there"
            assert await store.compare_and_put(key, None, KVEntry(b"new")), "an expired entry is None"
            clock.advance(LATER_S)
            same(await store.get(key), KVEntry(b"new"), "the entry that was put over an expired one")

    async def test_one_winner(self, store: ComparingKVStore) -> None:
        """Of fifty that have seen the same at the same time exactly one puts."""
        async with area_of(store) as area:
            key = area.full("k")
            seen = None
            for turn in range(3):
                entries = [KVEntry(b"%d-%d" % (turn, number)) for number in range(50)]
                won = await asyncio.gather(*(store.compare_and_put(key, seen, entry) for entry in entries))
                winners = [entry for entry, put in zip(entries, won, strict=True) if put]
                assert len(winners) == 1, f"{len(winners)} of 50 have put: expected one"
                same(await store.get(key), winners[0], "the entry of the winner")
                seen = winners[0].value

    async def test_no_step_is_lost(self, store: ComparingKVStore) -> None:
        """A counter that ten writers raise by read and compare loses no step."""
        async with area_of(store) as area:
            key = area.full("k")

            async def raise_by(steps: int) -> None:
                while steps:
                    entry = await store.get(key)
                    seen = None if entry is None else entry.value
                    steps -= await store.compare_and_put(key, seen, KVEntry(b"%d" % (int(seen or b"0") + 1)))

            await asyncio.gather(*(raise_by(4) for _ in range(10)))
            same(await store.get(key), KVEntry(b"40"), "a counter that ten writers raised four times each")
