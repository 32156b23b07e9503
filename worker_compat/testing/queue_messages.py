"""Rules of queue stores about messages: what comes back, in which order, when, and how the backlog is counted."""

from __future__ import annotations

from worker_compat.ports import QueueDepth, QueueStore

from .fakes import FakeClock
from .queue_area import LEASE_S, bodies_of, claim_all, claim_none, claim_one, emptied, ids_of, numbered, same

_MIB = 1024 * 1024


class QueueMessageRules:
    """Messages."""

    async def test_pushed_claimed_acknowledged(self, store: QueueStore, clock: FakeClock) -> None:
        """What was pushed is claimed once, and gone for good once it is acknowledged."""
        async with emptied(store, clock):
            await claim_none(store, "an empty queue")
            await store.push([b"body"], 0)
            message = await claim_one(store, "after one push")
            same(bytes(message.body), b"body", "the body")
            await store.ack([message.id])
            await claim_none(store, "after the ack")
            clock.advance(LEASE_S + 1)
            await claim_none(store, "after the ack, when the lease would have ended")

    async def test_every_body_comes_back(self, store: QueueStore, clock: FakeClock) -> None:
        """A body is any bytes: empty, all values, text of any kind, and the same body twice."""
        bodies = [b"", bytes(range(256)), b"\x00", b"\xff\xfe", "\u20ac".encode(), b"{}\r\n", b"twice", b"twice"]
        async with emptied(store, clock):
            await store.push(bodies, 0)
            claimed = await claim_all(store, len(bodies))
            same(sorted(bodies_of(claimed)), sorted(bodies), "the bodies")
            assert all(isinstance(message.body, bytes) for message in claimed), "a body is not of the type bytes"

    async def test_large_bodies(self, store: QueueStore, clock: FakeClock) -> None:
        """Bodies of 1 MiB and 4 MiB come back whole, pushed together."""
        bodies = [bytes(range(256)) * (size // 256) for size in (_MIB, 4 * _MIB)]
        async with emptied(store, clock):
            await store.push(bodies, 0)
            claimed = await claim_all(store, 2)
            same(sorted(len(body) for body in bodies_of(claimed)), [_MIB, 4 * _MIB], "the lengths")
            assert sorted(bodies_of(claimed), key=len) == bodies, "a large body was changed"

    async def test_oldest_first(self, store: QueueStore, clock: FakeClock) -> None:
        """Messages of an earlier push come before those of a later one."""
        pushes = [numbered(10, prefix) for prefix in "abcd"]
        async with emptied(store, clock):
            for bodies in pushes:
                await store.push(bodies, 0)
                clock.advance(1)
            for bodies in pushes:
                claimed = await store.claim(10, LEASE_S)
                same(sorted(bodies_of(claimed)), bodies, "the oldest ten messages")

    async def test_delay(self, store: QueueStore, clock: FakeClock) -> None:
        """A delayed message is due after its delay, and messages without one do not wait for it."""
        async with emptied(store, clock):
            await store.push([b"later"], 30)
            await store.push([b"now"], 0)
            same(bytes((await claim_one(store, "one without delay, one with")).body), b"now", "what is due at once")
            clock.advance(29)
            await claim_none(store, "one second before the delay ends")
            clock.advance(2)
            same(bytes((await claim_one(store, "one second after the delay")).body), b"later", "what is due then")

    async def test_id_and_timestamp_stay(self, store: QueueStore, clock: FakeClock) -> None:
        """Every message has its own id; id and time of the push are the same at every delivery."""
        pushed = clock()
        async with emptied(store, clock):
            await store.push([b"1", b"2"], 0)
            clock.advance(5)
            first = {message.id: message for message in await claim_all(store, 2)}
            assert len(first) == 2, "two messages have one id"
            assert all(id for id in first), "an id is empty"
            clock.advance(LEASE_S + 1)
            second = {message.id: message for message in await claim_all(store, 2)}
            same(sorted(second), sorted(first), "the ids of the second delivery")
            for id, message in second.items():
                same(message.body, first[id].body, "the body of an id at its second delivery")
                same(message.timestamp, first[id].timestamp, "the timestamp at the second delivery")
                assert abs(message.timestamp - pushed) < 1, f"pushed at {pushed}, the timestamp is {message.timestamp}"

    async def test_attempts_count_deliveries(self, store: QueueStore, clock: FakeClock) -> None:
        """attempts is 1 at first, and one more after each lease that ran out and each release."""
        async with emptied(store, clock):
            await store.push([b"body"], 0)
            message = await claim_one(store, "the first time")
            same(message.attempts, 1, "attempts at first")
            clock.advance(LEASE_S + 1)
            message = await claim_one(store, "after the lease")
            same(message.attempts, 2, "attempts after a lease ran out")
            await store.release([message.id], 0)
            message = await claim_one(store, "after the release")
            same(message.attempts, 3, "attempts after a release")
            await store.release([message.id], 10)
            clock.advance(11)
            same((await claim_one(store, "after a delayed release")).attempts, 4, "attempts after a delayed release")

    async def test_depth(self, store: QueueStore, clock: FakeClock) -> None:
        """Waiting messages, delayed ones among them, leased ones, and the age of the oldest that waits."""
        async with emptied(store, clock):
            same(await store.depth(), QueueDepth(0, 0, 0), "an empty queue")
            await store.push([b"1", b"2"], 0)
            clock.advance(10)
            await store.push([b"3"], 300)
            clock.advance(5)
            await _depth_is(store, 3, 0, 15, "three pushed, one of them delayed")
            (message,) = await store.claim(1, LEASE_S)
            await _depth_is(store, 2, 1, 15, "one of three leased")
            await store.claim(10, LEASE_S)
            await _depth_is(store, 1, 2, 5, "only the delayed one waits")
            await store.ack([message.id])
            await _depth_is(store, 1, 1, 5, "one acknowledged")
            clock.advance(LEASE_S + 1)
            await _depth_is(store, 2, 0, 76, "a lease ran out")
            await store.ack(ids_of(await store.claim(10, LEASE_S)))
            await _depth_is(store, 1, 0, 66, "the delayed one is left")


async def _depth_is(store: QueueStore, waiting: int, leased: int, oldest_s: float, what: str) -> None:
    depth = await store.depth()
    same((depth.waiting, depth.leased), (waiting, leased), f"waiting and leased, {what}")
    assert abs(depth.oldest_s - oldest_s) < 1, f"oldest_s, {what}: {depth.oldest_s}, expected {oldest_s}"
