"""Metering: every check counts once for its account, and many cost the database one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest

from smoltbot_records_sqlite import migrate, open_records
from smoltbot_worker.admission.agent import Agent
from smoltbot_worker.answers import iso
from smoltbot_worker.env import Env, read_variables
from smoltbot_worker.integrity.metering import meter
from smoltbot_worker.ports import Json, RecordStore, RecordsUnavailable
from smoltbot_worker.testing.records_area import call, new_agent
from worker_compat.testing import FakeClock

SCHEMA = Path(__file__).parents[2] / "schema" / "sqlite"
ACCOUNT = "acc-1"


@dataclass(eq=True)
class Watched:
    """A store that keeps the events of its calls, and is ``away`` for a while."""

    store: RecordStore
    away: bool = False
    batches: list[list[Any]] = field(default_factory=list)

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        events = arguments["events"]
        assert isinstance(events, list)
        self.batches.append(events)
        if self.away:
            raise RecordsUnavailable("away")
        return await self.store.call(function, arguments)


def env_over(store: RecordStore, clock: FakeClock) -> Env:
    """What metering uses of an Env, and nothing else."""
    values, _ = read_variables({})
    nothing = cast(Any, None)
    return Env(
        **values, records=store, clock=clock, telemetry=nothing, crypto=nothing, egress=nothing, agents=nothing,
        state=nothing, checkpoints=nothing, analyst=nothing, exchanges=nothing, license=nothing,
    )  # fmt: skip


def agent_of(agent_id: str, account_id: str | None = ACCOUNT) -> Agent:
    agent = Agent(agent_id, "0123456789abcdef", None)
    agent.quota = {**agent.quota, "account_id": account_id}
    return agent


@pytest.fixture
def clock() -> FakeClock:
    """The time of the database and of the checks."""
    return FakeClock()


@pytest.fixture
async def store(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Watched]:
    url = f"sqlite:///{tmp_path}/records.db"
    await migrate(url, SCHEMA)
    async with open_records(url, clock=clock) as opened:
        yield Watched(opened)


async def counted(store: Watched) -> int:
    """How many checks the account has had so far."""
    return sum(day["check_count"] for day in await call(store.store, "rollup_metering"))


async def test_an_event_says_what_is_counted(store: Watched, clock: FakeClock) -> None:
    agent = agent_of(await new_agent(store.store))
    await meter(agent, "ic-1", "hybrid_api", env_over(store, clock))
    ((event,),) = store.batches
    assert event.pop("event_id").startswith("me-")
    assert event == {
        "account_id": ACCOUNT, "agent_id": agent.id, "event_type": "integrity_check", "checkpoint_id": "ic-1",
        "source": "hybrid_api", "timestamp": iso(clock()),
    }  # fmt: skip
    assert await counted(store) == 1


async def test_many_are_stored_together(store: Watched, clock: FakeClock) -> None:
    agents = [agent_of(await new_agent(store.store)) for _ in range(3)]
    env = env_over(store, clock)
    await asyncio.gather(*(meter(agents[number % 3], f"ic-{number}", "gateway", env) for number in range(200)))
    assert (len(store.batches), await counted(store)) == (1, 200)
    await meter(agents[0], "ic-200", "gateway", env)
    assert (len(store.batches), await counted(store)) == (2, 201)


async def test_more_than_one_call_takes(store: Watched, clock: FakeClock) -> None:
    agent, env = agent_of(await new_agent(store.store)), env_over(store, clock)
    await asyncio.gather(*(meter(agent, f"ic-{number}", "gateway", env) for number in range(2001)))
    assert [len(batch) for batch in store.batches] == [1000, 1000, 1]
    assert await counted(store) == 2001


async def test_a_repetition_counts_nothing(store: Watched, clock: FakeClock) -> None:
    agent, env = agent_of(await new_agent(store.store)), env_over(store, clock)
    await asyncio.gather(*(meter(agent, "ic-1", "gateway", env) for _ in range(3)))
    await meter(agent, "ic-1", "gateway", env)
    assert await counted(store) == 1


async def test_an_agent_without_an_account(store: Watched, clock: FakeClock) -> None:
    await meter(agent_of(await new_agent(store.store), None), "ic-1", "gateway", env_over(store, clock))
    assert await counted(store) == 0


async def test_an_outage_is_told_to_all(store: Watched, clock: FakeClock) -> None:
    agent, env = agent_of(await new_agent(store.store)), env_over(store, clock)
    store.away = True
    calls = (meter(agent, f"ic-{number}", "gateway", env) for number in range(3))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [RecordsUnavailable] * 3
    store.away = False
    await asyncio.gather(*(meter(agent, f"ic-{number}", "gateway", env) for number in range(3)))
    assert await counted(store) == 3


async def test_one_who_leaves_costs_nobody_a_count(store: Watched, clock: FakeClock) -> None:
    agent, env = agent_of(await new_agent(store.store)), env_over(store, clock)
    tasks = [asyncio.ensure_future(meter(agent, f"ic-{number}", "gateway", env)) for number in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, type(None), type(None)]
    assert await counted(store) == 3, "it was brought"


async def test_an_agent_that_was_erased(store: Watched, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    agent, env = agent_of(await new_agent(store.store)), env_over(store, clock)
    erased = agent_of(f"smolt-{uuid4().hex[:8]}")
    await asyncio.gather(*(meter(each, f"ic-{each.id}", "gateway", env) for each in (erased, agent)))
    assert await counted(store) == 1
    assert f"the check of ic-{erased.id} is not metered: agent_id: there is no such agent" in caplog.text


async def test_stores_are_apart(store: Watched, clock: FakeClock) -> None:
    agent = agent_of(await new_agent(store.store))
    other = Watched(store.store)
    await asyncio.gather(*(
        meter(agent, f"ic-{number}", "gateway", env_over(each, clock)) for number, each in enumerate((store, other))
    ))  # fmt: skip
    assert [len(each.batches) for each in (store, other)] == [1, 1]
