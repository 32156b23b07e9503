"""Rules of queue stores about leases: nobody else has a leased message, and it comes back when its lease ends."""

from __future__ import annotations

import asyncio

from worker_compat.ports import Claimed, QueueStore

from .fakes import FakeClock
from .queue_area import LEASE_S, bodies_of, claim_all, claim_none, claim_one, emptied, ids_of, numbered, same


class QueueLeaseRules:
    """Leases."""

    async def test_a_leased_message_is_nobody_elses(self, store: QueueStore, clock: FakeClock) -> None:
        """Until its lease ends a message is not claimed again; other messages are."""
        async with emptied(store, clock):
            await store.push([b"1"], 0)
            await claim_one(store, "the first claim")
            await claim_none(store, "right after the claim")
            clock.advance(LEASE_S - 1)
            await claim_none(store, "one second before the lease ends")
            await store.push([b"2"], 0)
            same(
                bytes((await claim_one(store, "a fresh message")).body), b"2", "what is claimed beside a leased message"
            )

    async def test_a_lease_that_ran_out(self, store: QueueStore, clock: FakeClock) -> None:
        """A message whose lease ran out is due again, each time anew, and each lease has its own length."""
        async with emptied(store, clock):
            await store.push([b"body"], 0)
            for lease_s in (1, LEASE_S, 3600):
                claimed = await store.claim(10, lease_s)
                same(bodies_of(claimed), [b"body"], f"the claim before a lease of {lease_s} s")
                clock.advance(lease_s - 0.5)
                await claim_none(store, f"half a second before a lease of {lease_s} s ends")
                clock.advance(1)

    async def test_parallel_claims(self, store: QueueStore, clock: FakeClock) -> None:
        """Fifty claimers at once get each of 500 messages exactly once."""
        bodies = numbered(500)
        async with emptied(store, clock):
            for start in range(0, len(bodies), 100):
                await store.push(bodies[start : start + 100], 0)

            async def claimer() -> list[Claimed]:
                found: list[Claimed] = []
                # A claim may come back short while others hold what it looked at.
                for _ in range(100):
                    found += await store.claim(7, LEASE_S)
                    if (await store.depth()).waiting == 0:
                        break
                return found

            claimed = [message for found in await asyncio.gather(*(claimer() for _ in range(50))) for message in found]
            same(len(set(ids_of(claimed))), len(claimed), "different messages among those that were claimed")
            same(sorted(bodies_of(claimed)), bodies, "the messages that fifty claimers got")

    async def test_release(self, store: QueueStore, clock: FakeClock) -> None:
        """A released message is due at once, one time only; what was not released stays leased."""
        async with emptied(store, clock):
            await store.push([b"1", b"2"], 0)
            first, second = await claim_all(store, 2)
            await store.release([first.id], 0)
            same((await claim_one(store, "after the release")).id, first.id, "the released message")
            await claim_none(store, "when it was claimed again")
            clock.advance(LEASE_S + 1)
            same(
                sorted(ids_of(await claim_all(store, 2))),
                sorted([first.id, second.id]),
                "what returns after all leases",
            )

    async def test_release_with_delay(self, store: QueueStore, clock: FakeClock) -> None:
        """A message released with a delay is due after it: not before, not when its lease would have ended."""
        async with emptied(store, clock):
            await store.push([b"1", b"2"], 0)
            first, second = await claim_all(store, 2)
            await store.release([first.id], 10)
            await store.release([second.id], LEASE_S + 100)
            clock.advance(9)
            await claim_none(store, "one second before the delay ends")
            clock.advance(2)
            same(
                (await claim_one(store, "one second after the delay")).id, first.id, "the first of two delayed releases"
            )
            await store.ack([first.id])
            clock.advance(LEASE_S)
            await claim_none(store, "after the old lease, within the delay")
            clock.advance(100)
            same((await claim_one(store, "after the long delay")).id, second.id, "the second of two delayed releases")

    async def test_ack_after_the_lease(self, store: QueueStore, clock: FakeClock) -> None:
        """An ack deletes the message also when its lease ran out, and when it was leased again since."""
        async with emptied(store, clock):
            await store.push([b"1", b"2"], 0)
            claimed = await claim_all(store, 2)
            clock.advance(LEASE_S + 1)
            await store.ack([claimed[0].id])
            again = await claim_one(store, "after one late ack of two")
            same(again.id, claimed[1].id, "the message that was not acknowledged")
            await store.ack([claimed[1].id])
            clock.advance(LEASE_S + 1)
            await claim_none(store, "after an ack by the one whose lease had ended")

    async def test_ack_and_release_by_id(self, store: QueueStore, clock: FakeClock) -> None:
        """ack and release touch the messages that they name and no other."""
        async with emptied(store, clock):
            await store.push(numbered(9), 0)
            claimed = sorted(await claim_all(store, 9), key=lambda message: message.body)
            await store.ack(ids_of(claimed[:3]))
            await store.release(ids_of(claimed[3:6]), 0)
            same(sorted(bodies_of(await claim_all(store, 9))), bodies_of(claimed[3:6]), "what was released")
            clock.advance(LEASE_S + 1)
            same(sorted(bodies_of(await claim_all(store, 9))), bodies_of(claimed[3:]), "what was not acknowledged")

    async def test_a_cancelled_claim_loses_nothing(self, store: QueueStore, clock: FakeClock) -> None:
        """Whatever a cancelled claim had leased comes back when the lease ends."""
        bodies = numbered(40)
        async with emptied(store, clock):
            await store.push(bodies, 0)
            for turns in range(20):
                task = asyncio.ensure_future(store.claim(2, LEASE_S))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            clock.advance(LEASE_S + 1)
            found: list[Claimed] = []
            # A server may be at work for a while on claims that were cancelled here.
            for _ in range(100):
                found += await claim_all(store, 40)
                if len(found) == len(bodies):
                    break
                await asyncio.sleep(0.02)
            same(sorted(bodies_of(found)), bodies, "all messages after twenty cancelled claims")
