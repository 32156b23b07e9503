"""What the conformance kits ask for by name: a clock, and a store of every backend on that clock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from operator import attrgetter

import pytest

from tests.conformance.backends import BACKENDS, Backend
from worker_compat.ports import KVStore, QueueStore
from worker_compat.registry import open_kv, open_queue
from worker_compat.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """The present whole second, so that a store's native expiry never comes before the clock's."""
    return FakeClock(float(int(time.time())))


@pytest.fixture(params=BACKENDS, ids=attrgetter("id"))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend in turn."""
    row: Backend = request.param
    return row


@pytest.fixture
def kv_url(backend: Backend, request: pytest.FixtureRequest) -> str:
    """The URL of an empty namespace."""
    return backend.kv_url(request)


@pytest.fixture
def queue_url(backend: Backend, request: pytest.FixtureRequest) -> str:
    """The URL of an empty queue."""
    return backend.queue_url(request)


@pytest.fixture
async def store(kv_url: str, clock: FakeClock) -> AsyncIterator[KVStore]:
    """An empty KV store."""
    async with open_kv(kv_url, clock=clock) as opened:
        yield opened


@pytest.fixture
async def queue_store(queue_url: str, clock: FakeClock) -> AsyncIterator[QueueStore]:
    """An empty queue."""
    async with open_queue(queue_url, clock=clock) as opened:
        yield opened
