"""The rules of a KV store about calls at the same time and calls that are cancelled."""

from __future__ import annotations

import asyncio

from worker_compat.ports import KVEntry, KVKey, KVStore

from .fakes import FakeClock
from .kv_area import LATER_S, area_of, for_each, same, shown, some_way


class KVCallRules:
    """What must hold when calls overlap or end early."""

    async def test_parallel_puts_of_many_keys(self, store: KVStore) -> None:
        """A hundred puts at the same time all arrive."""
        names = [f"{number:03}" for number in range(100)]
        async with area_of(store) as area:
            await asyncio.gather(*(area.put(name, name.encode()) for name in names))
            entries = await asyncio.gather(*map(area.get, names))
            same(entries, [KVEntry(name.encode()) for name in names], "entries put at the same time")
            same(await area.names(), names, "names put at the same time")

    async def test_parallel_puts_of_one_key(self, store: KVStore, clock: FakeClock) -> None:
        """Of a hundred puts of one key at the same time one stays, whole; readers see only whole ones."""
        later = int(clock()) + LATER_S
        written = [KVEntry(b"%d" % number * 500, f'"{number}"', later + number) for number in range(100)]
        async with area_of(store) as area:
            key = area.full("k")
            await store.put(key, written[0])
            calls = [call for entry in written for call in (store.put(key, entry), store.get(key))]
            seen = (await asyncio.gather(*calls))[1::2]
            last = await store.get(key)
            for entry in (*seen, last):
                assert entry in written, f"a reader saw {shown(entry)}, which nobody put"
            assert last is not None
            rows = (await area.list()).keys
            same(rows, [KVKey("k", last.metadata, last.expiration)], "the row of the entry that stayed")

    async def test_a_cancelled_call_leaves_the_store_usable(self, store: KVStore) -> None:
        """Cancelled calls cross no replies: every other call still gets its own answer."""
        names = [f"{number:02}" for number in range(40)]
        async with area_of(store) as area:
            await for_each(names, lambda name: area.put(name, name.encode() * 100))
            for steps in (0, 1, 2, 5, None):
                tasks = [asyncio.ensure_future(area.get(name)) for name in names]
                await some_way(tasks, steps)
                for task in tasks[::2]:
                    task.cancel()
                answers = await asyncio.gather(*tasks, return_exceptions=True)
                for name, answer in zip(names, answers, strict=True):
                    cancelled = isinstance(answer, asyncio.CancelledError) and int(name) % 2 == 0
                    assert cancelled or answer == KVEntry(name.encode() * 100), f"{name} got {shown(answer)}"
            same(await area.names(), names, "names after cancelled calls")

    async def test_a_cancelled_put_is_whole_or_nothing(self, store: KVStore) -> None:
        """A cancelled put has written everything or nothing."""
        old, new = KVEntry(b"old" * 1000, '"old"'), KVEntry(b"new" * 1000, '"new"')
        names = [f"{number:02}" for number in range(20)]
        async with area_of(store) as area:
            for steps in (0, 1, 2, 5, None):
                await asyncio.gather(*(store.put(area.full(name), old) for name in names))
                tasks = [asyncio.ensure_future(store.put(area.full(name), new)) for name in names]
                await some_way(tasks, steps)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for name in names:
                    entry = await area.get(name)
                    assert entry in (old, new), f"after a cancelled put the entry is {shown(entry)}"
                same(await area.names(), names, "names after cancelled puts")
