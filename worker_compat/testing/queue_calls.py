"""Rules of queue stores about calls: limits, nothing to do, unknown ids, and a push that is seen whole."""

from __future__ import annotations

import asyncio

from worker_compat.ports import QueueStore

from .fakes import FakeClock
from .queue_area import LEASE_S, bodies_of, claim_all, claim_none, claim_one, emptied, ids_of, numbered, same

_AT_ONCE_S = 1.0


class QueueCallRules:
    """Calls."""

    async def test_limit_of_a_claim(self, store: QueueStore, clock: FakeClock) -> None:
        """A claim gives at most its limit, and all there is when that is less."""
        async with emptied(store, clock):
            await store.push(numbered(10), 0)
            same(len(await store.claim(1, LEASE_S)), 1, "a claim of one message")
            same(len(await store.claim(3, LEASE_S)), 3, "a claim of three")
            same(len(await store.claim(100, LEASE_S)), 6, "a claim of a hundred when six are left")

    async def test_empty_claim_is_at_once(self, store: QueueStore, clock: FakeClock) -> None:
        """A claim does not wait for messages: none, all leased, or all delayed."""
        async with emptied(store, clock):
            loop = asyncio.get_running_loop()
            await store.claim(1, LEASE_S)  # the first call may connect
            for what in ("an empty queue", "one leased", "one delayed"):
                began = loop.time()
                await claim_none(store, what)
                assert loop.time() - began < _AT_ONCE_S, f"a claim took {loop.time() - began:.1f} s: {what}"
                await store.push([b"body"], 0 if what == "an empty queue" else 30)
                if what == "an empty queue":
                    await claim_one(store, "after a push")

    async def test_nothing_to_do(self, store: QueueStore, clock: FakeClock) -> None:
        """Pushing, acknowledging and releasing nothing does nothing."""
        async with emptied(store, clock):
            await store.push([], 0)
            await claim_none(store, "after an empty push")
            await store.push([b"body"], 0)
            message = await claim_one(store, "after a push")
            await store.ack([])
            await store.release([], 0)
            await store.push([], 30)
            await claim_none(store, "after an empty ack and release")
            clock.advance(LEASE_S + 1)
            same((await claim_one(store, "after the lease")).id, message.id, "the one message")

    async def test_unknown_ids(self, store: QueueStore, clock: FakeClock) -> None:
        """An id that is unknown, gone or of another shape is no error, and those beside it are served."""
        async with emptied(store, clock):
            await store.push([b"gone", b"acked", b"released"], 0)
            ids = {bytes(message.body): message.id for message in await claim_all(store, 3)}
            await store.ack([ids[b"gone"]])
            strange = [
                ids[b"gone"],
                "",
                "no such id",
                "0",
                "-1",
                "1-0",
                "9" * 30,
                "\u20ac",
                "x" * 300,
                "a'b\"c\\",
                "{}",
            ]
            await store.ack([*strange, ids[b"acked"], ids[b"acked"]])
            await store.release([*strange, ids[b"acked"], ids[b"released"], ids[b"released"]], 0)
            message = await claim_one(store, "after a release among unknown ids")
            same(message.id, ids[b"released"], "the one that was released")
            await claim_none(store, "when that was claimed")

    async def test_a_push_is_seen_whole(self, store: QueueStore, clock: FakeClock) -> None:
        """While messages are pushed a claim sees all messages of a push or none."""
        pushes, size = 8, 50
        async with emptied(store, clock):
            pushing = asyncio.ensure_future(_push_all(store, pushes, size))
            counts: list[int] = []
            while sum(counts) < pushes * size and len(counts) < 1000:
                ended = pushing.done()
                counts.append(len(await store.claim(pushes * size, LEASE_S)))
                if ended and not counts[-1]:
                    break
                await asyncio.sleep(0)
            await pushing
            same(sum(counts), pushes * size, "the messages that were claimed")
            parts = [count for count in counts if count % size]
            assert not parts, f"a push of {size} messages was seen in parts: claims of {parts}"

    async def test_parallel_pushes(self, store: QueueStore, clock: FakeClock) -> None:
        """Pushes at the same time all arrive."""
        async with emptied(store, clock):
            await asyncio.gather(*(store.push([b"%02d" % number], 0) for number in range(50)))
            same(
                sorted(bodies_of(await claim_all(store, 50))), [b"%02d" % number for number in range(50)], "the bodies"
            )

    async def test_parallel_acks(self, store: QueueStore, clock: FakeClock) -> None:
        """Acknowledgements and releases at the same time all count."""
        async with emptied(store, clock):
            await store.push(numbered(60), 0)
            ids = ids_of(await claim_all(store, 60))
            acks = (store.ack(ids[start : start + 3]) for start in range(0, 30, 3))
            releases = (store.release(ids[start : start + 3], 0) for start in range(30, 60, 3))
            await asyncio.gather(*acks, *releases)
            same(sorted(ids_of(await claim_all(store, 60))), sorted(ids[30:]), "what was released and not acknowledged")
            clock.advance(LEASE_S + 1)
            same(sorted(ids_of(await claim_all(store, 60))), sorted(ids[30:]), "what returns when the leases end")


async def _push_all(store: QueueStore, pushes: int, size: int) -> None:
    for number in range(pushes):
        await store.push(numbered(size, str(number)), 0)
        await asyncio.sleep(0)
