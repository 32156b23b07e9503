"""Every planted defect of a queue store is caught by the case that bears its rule."""

from __future__ import annotations

import pytest

from tests.conformance.planted_queues import PLANTED
from worker_compat.memory import MemoryQueueStore
from worker_compat.testing import FakeClock, kit
from worker_compat.testing.queue import QueueStoreConformance

CASES = {case.name: case for case in kit.cases(QueueStoreConformance)}


@pytest.mark.parametrize(("store", "case"), PLANTED.items(), ids=lambda value: getattr(value, "__name__", value))
async def test_a_planted_defect_is_found(store: type[MemoryQueueStore], case: str) -> None:
    clock = FakeClock()
    with pytest.raises(AssertionError if store.__name__ != "UnknownIdRaises" else KeyError):
        await CASES[case].run({"store": store(clock=clock), "clock": clock})


@pytest.mark.parametrize("case", sorted(set(PLANTED.values())))
async def test_the_same_case_passes_without_the_defect(case: str) -> None:
    clock = FakeClock()
    await CASES[case].run({"store": MemoryQueueStore(clock=clock), "clock": clock})
