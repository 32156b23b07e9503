"""Queue stores with one planted defect each, to show that the kit finds it, and by which case."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from worker_compat.memory import MemoryQueueStore
from worker_compat.ports import Claimed, QueueDepth


class ForgetsAttempts(MemoryQueueStore):
    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        return [replace(message, attempts=1) for message in await super().claim(limit, lease_s)]


class NewIdEachTime(MemoryQueueStore):
    """An id of a delivery instead of one of the message."""

    def __init__(self, *, clock: object) -> None:
        super().__init__(clock=clock)  # type: ignore[arg-type]
        self._real: dict[str, str] = {}

    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        claimed = []
        for message in await super().claim(limit, lease_s):
            id = uuid4().hex
            self._real[id] = message.id
            claimed.append(replace(message, id=id))
        return claimed

    async def ack(self, ids: Sequence[str]) -> None:
        await super().ack([self._real.get(id, id) for id in ids])

    async def release(self, ids: Sequence[str], delay_s: int) -> None:
        await super().release([self._real.get(id, id) for id in ids], delay_s)


class ClaimTimeAsTimestamp(MemoryQueueStore):
    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        return [replace(message, timestamp=self._clock()) for message in await super().claim(limit, lease_s)]


class IgnoresDelay(MemoryQueueStore):
    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        await super().push(bodies, 0)


class LeaseNeverEnds(MemoryQueueStore):
    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        return await super().claim(limit, 10**6)


class NoLease(MemoryQueueStore):
    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        return await super().claim(limit, 0)


class LateAckIsLost(MemoryQueueStore):
    async def ack(self, ids: Sequence[str]) -> None:
        now = self._clock()
        await super().ack([id for id in ids if id in self._messages and self._messages[id].due > now])


class NewestFirst(MemoryQueueStore):
    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        self._pushed -= 2 * len(bodies)
        await super().push(bodies, delay_s)


class IgnoresLimit(MemoryQueueStore):
    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        return await super().claim(limit + 1, lease_s)


class ReleaseIgnoresDelay(MemoryQueueStore):
    async def release(self, ids: Sequence[str], delay_s: int) -> None:
        await super().release(ids, 0)


class ReleaseDoesNothing(MemoryQueueStore):
    async def release(self, ids: Sequence[str], delay_s: int) -> None:
        return


class UnknownIdRaises(MemoryQueueStore):
    async def ack(self, ids: Sequence[str]) -> None:
        for id in ids:
            self._messages[id]
        await super().ack(ids)


class TextBodies(MemoryQueueStore):
    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        await super().push([body.decode("utf-8", "replace").encode() for body in bodies], delay_s)


class CutsBodies(MemoryQueueStore):
    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        await super().push([body[: 2**20] for body in bodies], delay_s)


class LeasedAlsoWait(MemoryQueueStore):
    async def depth(self) -> QueueDepth:
        depth = await super().depth()
        return replace(depth, waiting=depth.waiting + depth.leased)


class ClaimWaits(MemoryQueueStore):
    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        claimed = await super().claim(limit, lease_s)
        if not claimed:
            await asyncio.sleep(1.2)
        return claimed


class PushesOneByOne(MemoryQueueStore):
    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        for body in bodies:
            await super().push([body], delay_s)
            await asyncio.sleep(0)


class LooksBeforeItLeases(MemoryQueueStore):
    """Two claimers that look at the same time get the same message."""

    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        now = self._clock()
        seen = [held for held in self._messages.values() if held.due <= now][:limit]
        await asyncio.sleep(0)
        for held in seen:
            held.attempts += 1
            held.leased = True
            held.due = now + lease_s
            self._wait(held)
        return [Claimed(held.id, held.body, held.timestamp, held.attempts) for held in seen]


class CancelledClaimLoses(MemoryQueueStore):
    """Takes messages out before it has handed them over."""

    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        claimed = await super().claim(limit, lease_s)
        held = {message.id: self._messages.pop(message.id) for message in claimed}
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._messages |= held
        return claimed


PLANTED = {
    ForgetsAttempts: "attempts_count_deliveries",
    NewIdEachTime: "id_and_timestamp_stay",
    ClaimTimeAsTimestamp: "id_and_timestamp_stay",
    IgnoresDelay: "delay",
    LeaseNeverEnds: "a_lease_that_ran_out",
    NoLease: "a_leased_message_is_nobody_elses",
    LateAckIsLost: "ack_after_the_lease",
    NewestFirst: "oldest_first",
    IgnoresLimit: "limit_of_a_claim",
    ReleaseIgnoresDelay: "release_with_delay",
    ReleaseDoesNothing: "release",
    UnknownIdRaises: "unknown_ids",
    TextBodies: "every_body_comes_back",
    CutsBodies: "large_bodies",
    LeasedAlsoWait: "depth",
    ClaimWaits: "empty_claim_is_at_once",
    PushesOneByOne: "a_push_is_seen_whole",
    LooksBeforeItLeases: "parallel_claims",
    CancelledClaimLoses: "a_cancelled_claim_loses_nothing",
}
"""Each defect with the case that must find it."""
