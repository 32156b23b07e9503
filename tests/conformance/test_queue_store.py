"""The queue kit on every backend, without a test runner as a stranger has it, and what needs two openings of a URL."""

from __future__ import annotations

from operator import attrgetter
from uuid import uuid4

import pytest

from tests.conformance.backends import BACKENDS, Backend
from worker_compat.memory import MemoryQueueStore, open_queue
from worker_compat.ports import QueueStore
from worker_compat.registry import open_queue as open_by_url
from worker_compat.testing import FakeClock, kit
from worker_compat.testing.queue import QueueStoreConformance, queue_subjects
from worker_compat.testing.queue_area import bodies_of, claim_all, emptied

# Every opening of memory:// is a queue of its own.
SHARED = pytest.mark.parametrize("backend", [row for row in BACKENDS if row.id != "memory"], ids=attrgetter("id"))


class TestQueueStore(QueueStoreConformance):
    """Every rule of the port, with the fixtures ``store`` and ``clock``."""

    @pytest.fixture
    def store(self, queue_store: QueueStore) -> QueueStore:
        """What the cases call it."""
        return queue_store


async def test_the_kit_runs_without_a_test_runner() -> None:
    outcomes = await kit.run(QueueStoreConformance, queue_subjects(lambda clock: open_queue("memory://", clock=clock)))
    assert len(outcomes) >= 20
    assert [outcome.case.name for outcome in outcomes if not outcome.passed] == []
    assert [outcome.case.name for outcome in outcomes if not outcome.case.rule] == []


async def test_queues_of_other_names_are_apart(
    backend: Backend, request: pytest.FixtureRequest, clock: FakeClock
) -> None:
    async with (
        open_by_url(backend.queue_url(request), clock=clock) as one,
        open_by_url(backend.queue_url(request), clock=clock) as other,
        emptied(one, clock),
        emptied(other, clock),
    ):
        await one.push([b"one"], 0)
        await other.push([b"other"], 0)
        await other.ack([message.id for message in await one.claim(10, 60)])
        assert bodies_of(await claim_all(other, 1)) == [b"other"]
        clock.advance(61)
        assert bodies_of(await claim_all(one, 1)) == [b"one"]


@SHARED
async def test_a_queue_outlives_its_opening(backend: Backend, request: pytest.FixtureRequest, clock: FakeClock) -> None:
    url = backend.queue_url(request)
    async with open_by_url(url, clock=clock) as first, open_by_url(url, clock=clock) as second:
        await first.push([b"1", b"2"], 0)
        assert len(await first.claim(1, 60)) == 1
        assert len(await second.claim(10, 60)) == 1
        assert len(await second.claim(10, 60)) == 0
    clock.advance(61)
    async with open_by_url(url, clock=clock) as third, emptied(third, clock):
        claimed = await claim_all(third, 2)
        assert sorted(bodies_of(claimed)) == [b"1", b"2"]
        assert [message.attempts for message in claimed] == [2, 2]


@SHARED
async def test_a_late_release_leaves_the_lease_of_another(
    backend: Backend, request: pytest.FixtureRequest, clock: FakeClock
) -> None:
    url = backend.queue_url(request)
    async with open_by_url(url, clock=clock) as late, open_by_url(url, clock=clock) as other, emptied(other, clock):
        await late.push([b"1"], 0)
        (message,) = await claim_all(late, 1)
        clock.advance(61)
        assert len(await claim_all(other, 1)) == 1
        await late.release([message.id], 0)
        assert not await late.claim(10, 60)
        assert (await other.depth()).leased == 1
        await other.release([message.id], 0)
        assert bodies_of(await claim_all(late, 1)) == [b"1"]


@SHARED
async def test_parallel_claimers_with_connections_of_their_own(
    backend: Backend, request: pytest.FixtureRequest, clock: FakeClock
) -> None:
    url = backend.queue_url(request)
    async with open_by_url(url, clock=clock) as one, open_by_url(url, clock=clock) as other, emptied(one, clock):
        bodies = [uuid4().bytes for _ in range(100)]
        await one.push(bodies, 0)
        found = []
        for _ in range(100):
            found += [*await one.claim(3, 60), *await other.claim(3, 60)]
        assert sorted(bodies_of(found)) == sorted(bodies)


def test_the_reference_is_a_store() -> None:
    assert isinstance(MemoryQueueStore(), QueueStore)
