"""Whoever got the last byte of an answer finds its checkpoint: one, also when processes are killed again and again."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

import smoltbot_records_postgres
import smoltbot_records_sqlite
from tests.faults.evidence import request_ids, verified
from tests.faults.exchange_kills import THOUGHT, Deployment
from tests.faults.migration_support import Database
from tests.provider.process import ProviderProcess
from tests.scale import figure, scaled

STREAMS = scaled(300, 10_000)
KILLS = scaled(6, 50)

pytestmark = [pytest.mark.alone, pytest.mark.proof]


@pytest.fixture
async def deployment(
    database: Database, provider: ProviderProcess, upstreams: dict[str, str]
) -> AsyncIterator[Deployment]:
    """A gateway and an observer, both ready."""
    await database.adapter.migrate(database.url, database.schema)
    provider.judge(always={"delay": 0.05})  # so that an observer always has something in its hands
    deployment = Deployment(database, provider.analyser_url, upstreams)
    try:
        await deployment.start()
        yield deployment
    finally:
        deployment.gateway.kill()
        deployment.observer.kill()


async def test_killed_at_random_moments(deployment: Deployment) -> None:
    chance = random.Random(7)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(deployment.stream(STREAMS, chance))
        tasks.create_task(deployment.kill(KILLS, STREAMS, random.Random(11)))
    dead = await deployment.until_observed()
    assert await deployment.stop() == [0, 0]
    complete, database = deployment.seen.complete, deployment.database
    adapter = smoltbot_records_sqlite if database.kind == "sqlite" else smoltbot_records_postgres
    on_record: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    async with adapter.open_records(database.url) as store:
        for agent_id in set(complete.values()):
            bundle = await verified(store, agent_id)
            on_record.update(request_ids(bundle))
            verdicts.update(entry["checkpoint"]["verdict"] for entry in bundle["entries"])
            assert {id for id, of in complete.items() if of == agent_id} <= set(request_ids(bundle))
    assert set(complete) - set(on_record) == set(), "its last byte came, and it is not on record"
    assert [id for id, count in on_record.items() if count > 1] == []
    assert (dead.waiting, dead.leased) == (0, 0)
    assert deployment.files_with(THOUGHT) == []
    figure(
        f"{database.kind}: {len(complete)} streamed exchanges, kill -9 of {dict(deployment.kills)}",
        f"0 lack their checkpoint, 0 have two, {len(on_record)} on record {dict(verdicts)}, all chains and trees "
        f"verify; {dict(deployment.seen.others)} streams broke off or were refused",
    )
