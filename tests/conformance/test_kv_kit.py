"""The KV kits: on every backend, without a test runner, and on stores with planted defects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.architecture.tree import none_of
from tests.conformance.planted import PLANTED, KeepsExpiration
from worker_compat.memory import MemoryKVStore
from worker_compat.ports import Clock, KVEntry, KVStore
from worker_compat.testing import FakeClock, kit, kv_subjects
from worker_compat.testing.kv import KVCompareAndPutConformance, KVStoreConformance

KITS = (KVStoreConformance, KVCompareAndPutConformance)
CASES = {case.name: case for each in KITS for case in kit.cases(each)}


class TestKVStore(KVStoreConformance):
    """Every rule of the port, with the fixtures ``store`` and ``clock``."""


class TestKVCompareAndPut(KVCompareAndPutConformance):
    """Every rule of the capability."""


async def failed(defective: type[MemoryKVStore], kit_of_rules: type) -> dict[str, BaseException | None]:
    """The cases that fail when the kit runs as it does without a test runner."""

    @asynccontextmanager
    async def opened(clock: Clock) -> AsyncIterator[KVStore]:
        yield defective(clock=clock)

    outcomes = await kit.run(kit_of_rules, kv_subjects(opened))
    return {outcome.case.name: outcome.error for outcome in outcomes if not outcome.passed}


@pytest.mark.parametrize("kit_of_rules", KITS)
async def test_a_sound_store_passes_without_a_test_runner(kit_of_rules: type) -> None:
    assert await failed(MemoryKVStore, kit_of_rules) == {}


async def test_a_defect_is_named() -> None:
    errors = await failed(KeepsExpiration, KVStoreConformance)
    assert "put_drops_expiration" in errors
    assert "the entry after a put without expiration: expected KVEntry(value=b'2'" in str(
        errors["put_drops_expiration"]
    )


@pytest.mark.parametrize(("defective", "name"), PLANTED)
async def test_a_planted_defect_is_caught_by_its_case(defective: type[MemoryKVStore], name: str) -> None:
    clock = FakeClock()
    with pytest.raises((AssertionError, KeyError)):
        await CASES[name].run({"store": defective(clock=clock), "clock": clock})


@pytest.mark.parametrize("name", CASES)
async def test_the_same_case_passes_without_the_defect(name: str) -> None:
    clock = FakeClock()
    await CASES[name].run({"store": MemoryKVStore(clock=clock), "clock": clock})


def test_every_case_catches_a_defect() -> None:
    none_of(set(CASES) - {name for _, name in PLANTED})


def test_every_rule_is_a_sentence() -> None:
    none_of(case.name for case in CASES.values() if not case.rule.endswith("."))


async def test_other_data_is_left_alone() -> None:
    clock = FakeClock()
    store = MemoryKVStore(clock=clock)
    for name in ("before", "zebra", ""):
        await store.put(name, KVEntry(b"mine"))
    for case in CASES.values():
        await case.run({"store": store, "clock": clock})
    assert [key.name for key in (await store.list("", 1000, None)).keys] == ["", "before", "zebra"]
