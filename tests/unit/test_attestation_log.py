"""The writer of the log, over the two database functions in memory, with many writers at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import pytest

from smoltbot_worker.attestation.chain import LogDamaged
from smoltbot_worker.attestation.log import Appended, CheckpointLog
from smoltbot_worker.attestation.merkle import Tree
from smoltbot_worker.attestation.verify import verify_bundle
from smoltbot_worker.ports import Json, RecordsUnavailable
from tests.scale import scaled
from tests.unit.attestation_support import AGENT, CRYPTO, NOW, PINNED, MemoryLog, bundle_of, draft


def writer(store: MemoryLog) -> CheckpointLog:
    return CheckpointLog(store, CRYPTO, clock=lambda: NOW)


async def sound(store: MemoryLog, count: int) -> None:
    """Every checkpoint once, in one line, and everything verifies."""
    rows = store.rows[AGENT]
    assert [row["merkle_leaf_index"] for row in rows] == list(range(count))
    assert len({row["request_id"] for row in rows}) == count
    tree = Tree()
    for row in rows:
        tree.append(row["merkle_leaf_hash"])
    assert store.frontiers[AGENT] == (tree.frontier, tree.root())
    report = await verify_bundle(bundle_of(store), PINNED, CRYPTO)
    assert (report.defects, report.status) == ((), 0)


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(scaled(3, 100)))
async def test_concurrent_writers_of_four_processes(seed: int) -> None:
    store, chance = MemoryLog(seed), random.Random(seed)
    processes = [writer(store) for _ in range(4)]

    async def write(number: int) -> Appended:
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        return await chance.choice(processes).append(AGENT, draft(number, f"session-{number % 7}"))

    results = await asyncio.gather(*(write(number) for number in range(200)))
    assert all(result.row is not None for result in results)
    assert {result.row["request_id"] for result in results if result.row} == {f"request-{n}" for n in range(200)}
    await sound(store, 200)
    assert ("append_checkpoints", "conflict") in store.calls
    assert not any(process._lanes for process in processes)


async def test_one_process_shares_batches() -> None:
    store = MemoryLog()
    log = writer(store)
    await asyncio.gather(*(log.append(AGENT, draft(number)) for number in range(250)))
    await sound(store, 250)
    assert store.calls.count(("append_checkpoints", "appended")) <= 5
    assert len(store.heads[AGENT]) == store.calls.count(("append_checkpoints", "appended"))


async def test_agents_do_not_wait_for_each_other() -> None:
    store = MemoryLog()
    log = writer(store)
    await asyncio.gather(*(log.append(agent, draft(1)) for agent in ("smolt-00000001", "smolt-00000002")))
    assert [row["merkle_leaf_index"] for rows in store.rows.values() for row in rows] == [0, 0]


async def test_a_failed_read_is_no_genesis() -> None:
    store = MemoryLog()
    log = writer(store)
    await log.append(AGENT, draft(1))
    store.failing = [RecordsUnavailable("down")]
    with pytest.raises(RecordsUnavailable):
        await log.append(AGENT, draft(2))
    assert len(store.rows[AGENT]) == 1
    await log.append(AGENT, draft(2))
    await sound(store, 2)


async def test_a_failure_reaches_everyone_who_waits_for_it() -> None:
    store = MemoryLog()
    log = writer(store)
    store.failing = [RecordsUnavailable("down")] * 3
    results = await asyncio.gather(*(log.append(AGENT, draft(n)) for n in range(10)), return_exceptions=True)
    failed = [result for result in results if isinstance(result, RecordsUnavailable)]
    assert len(failed) >= 2
    assert len(store.rows.get(AGENT, [])) == 10 - len(failed)


async def test_an_answer_lost_after_the_commit() -> None:
    """The writer does not know; bringing the draft again finds it stored, and nothing is there twice."""
    store = MemoryLog()
    log = writer(store)
    store.lose_answers = 1
    with pytest.raises(RecordsUnavailable):
        await log.append(AGENT, draft(1))
    assert await log.append(AGENT, draft(1)) == Appended(None)
    await sound(store, 1)


async def test_the_same_request_several_times_at_once() -> None:
    store = MemoryLog()
    logs = [writer(store), writer(store)]
    results = await asyncio.gather(*(logs[n % 2].append(AGENT, draft(n // 5)) for n in range(50)))
    assert sum(result.row is not None for result in results) == 10
    await sound(store, 10)


async def test_a_refused_row_does_not_take_the_others_with_it() -> None:
    store = MemoryLog()
    log = writer(store)
    drafts = [draft(number, provider="refused" if number == 3 else "anthropic") for number in range(8)]
    results = await asyncio.gather(*(log.append(AGENT, each) for each in drafts), return_exceptions=True)
    assert [number for number, result in enumerate(results) if isinstance(result, ValueError)] == [3]
    await sound(store, 7)


async def test_cancelled_writers_leave_the_others_unharmed() -> None:
    for stop_after in range(12):
        store = MemoryLog(stop_after)
        log = writer(store)
        tasks = [asyncio.ensure_future(log.append(AGENT, draft(number))) for number in range(20)]
        for _ in range(stop_after):
            await asyncio.sleep(0)
        for task in tasks[:5]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, Appended) for result in results[5:])
        stored = {row["request_id"] for row in store.rows[AGENT]}
        assert {f"request-{number}" for number in range(5, 20)} <= stored
        await sound(store, len(stored))
        assert not log._lanes


class Contended(MemoryLog):
    """Somebody else is always faster."""

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        if function == "log_head":
            return {"size": 0, "frontier": [], "root": "", "heads": {}}
        self.calls.append((function, "conflict"))
        return {"status": "conflict", "size": 0, "frontier": [], "root": "", "heads": {}}


async def test_it_does_not_try_for_ever() -> None:
    store = Contended()
    with pytest.raises(RecordsUnavailable, match="faster 5 times"):
        await CheckpointLog(store, CRYPTO, attempts=5).append(AGENT, draft(1))
    assert len(store.calls) == 5


class Odd(MemoryLog):
    """Answers what no database function answers."""

    def __init__(self, answers: list[Any]) -> None:
        super().__init__()
        self.answers = answers

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        answer: Json = self.answers.pop(0)
        return answer


EMPTY = {"size": 0, "frontier": [], "root": "", "heads": {}}


@pytest.mark.parametrize(
    "answers",
    [
        [None],
        [{}],
        [EMPTY, None],
        [EMPTY, {"status": "fine"}],
        [EMPTY, {"status": "conflict"}],
        [EMPTY, {"status": "duplicate", "stored": ["request-9"], **EMPTY}],
    ],
)
async def test_an_odd_answer_stores_nothing_and_ends(answers: list[Any]) -> None:
    with pytest.raises(LogDamaged):
        await writer(Odd(answers)).append(AGENT, draft(1))
