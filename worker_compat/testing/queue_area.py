"""What the cases of the queue kit share: leaving a queue empty, and a few short checks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from worker_compat.ports import Claimed, QueueStore

from .fakes import FakeClock

LEASE_S = 60
_DAY_S = 86_400
_ROUNDS = 50


@asynccontextmanager
async def emptied(store: QueueStore, clock: FakeClock) -> AsyncIterator[QueueStore]:
    """``store``, from which every message is removed at the end."""
    try:
        yield store
    finally:
        clock.advance(_DAY_S)
        for _ in range(_ROUNDS):  # a broken store may never be empty
            left = await store.claim(100, LEASE_S)
            if not left:
                break
            await store.ack(ids_of(left))


async def claim_all(store: QueueStore, at_most: int, lease_s: int = LEASE_S) -> Sequence[Claimed]:
    """Every message that is due, in the order of the claims; ``at_most`` keeps a broken store from going on."""
    found: list[Claimed] = []
    while fresh := await store.claim(100, lease_s):
        found += fresh
        assert len(found) <= at_most, f"{len(found)} messages were claimed of {at_most}"
    return found


async def claim_one(store: QueueStore, what: str) -> Claimed:
    """The one message that is due."""
    claimed = await store.claim(10, LEASE_S)
    assert len(claimed) == 1, f"{what}: {len(claimed)} messages were claimed, expected one"
    return claimed[0]


async def claim_none(store: QueueStore, what: str) -> None:
    """Nothing is due."""
    claimed = await store.claim(10, LEASE_S)
    assert not claimed, f"{what}: {len(claimed)} messages were claimed, expected none"


def ids_of(claimed: Iterable[Claimed]) -> list[str]:
    """The ids."""
    return [message.id for message in claimed]


def bodies_of(claimed: Iterable[Claimed]) -> list[bytes]:
    """The bodies."""
    return [bytes(message.body) for message in claimed]


def numbered(count: int, prefix: str = "") -> list[bytes]:
    """That many different bodies."""
    return [f"{prefix}{number:05}".encode() for number in range(count)]


def same(seen: Any, expected: Any, what: str) -> None:
    """``seen`` is ``expected``."""
    assert seen == expected, f"{what}: {_short(seen)}, expected {_short(expected)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
