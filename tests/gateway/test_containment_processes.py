"""Containment across processes: it acts within a second wherever the agent is known, and no outage undoes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from smoltbot_worker.admission import agents
from smoltbot_worker.admission.agents import Agent
from smoltbot_worker.admission.containment import ACTIVE
from smoltbot_worker.ports import RecordStore
from tests.conformance.records_backends import BACKENDS
from tests.unit.agent_support import Process, act, key, outage, sqlite_stores, until
from worker_compat.testing import FakeClock


def reason(agent: Agent) -> str | None:
    """Why a request of the agent is refused."""
    return None if agent.containment == ACTIVE else f"agent_{agent.containment}"


class TestWithinASecond:
    """Two processes with stores of their own on one database, the feed followed as often as it is in service."""

    @pytest.fixture(params=["sqlite", "postgres"])
    async def processes(self, request: pytest.FixtureRequest) -> AsyncIterator[list[Process]]:
        clock = FakeClock(time.time())
        async with AsyncExitStack() as stack:
            opening = BACKENDS[request.param]
            stores = [await stack.enter_async_context(opening(request, clock)) for _ in range(2)]
            processes = [Process(store, clock) for store in stores]
            for process in processes:
                await stack.enter_async_context(process.following())
            yield processes
            for process in processes:
                await process.background.drain(0)

    @pytest.mark.alone
    async def test_a_pause_a_kill_and_their_ends(self, processes: list[Process]) -> None:
        here, there = processes
        digest = key()
        assert [reason(await process.admit(digest)) for process in processes] == [None, None]
        agent_id = (await here.admit(digest)).id
        for action, expected in (
            ("pause", "agent_paused"), ("resume", None), ("kill", "agent_killed"), ("reactivate", None),
        ):  # fmt: skip
            await asyncio.sleep(uuid4().int % 500 / 1000)  # somewhere between two looks at the feed
            written = time.monotonic()
            await act(here.line.store, agent_id, action)
            here.agents.changed(agent_id)
            assert reason(await here.admit(digest)) == expected, "at once where it was written"
            while reason(await there.admit(digest)) != expected:
                assert time.monotonic() - written < 1, f"{action} acts within a second"
                await asyncio.sleep(0.01)
        assert there.line.count("agent_context") <= 2 * 5, "requests ask the database when something changed only"


class TestOutages:
    """What a process knows of contained agents while it cannot ask."""

    @pytest.fixture
    async def stores(self, tmp_path: Path) -> AsyncIterator[tuple[RecordStore, RecordStore]]:
        async with sqlite_stores(tmp_path) as stores:
            yield stores

    @pytest.fixture
    def elsewhere(self, stores: tuple[RecordStore, RecordStore]) -> RecordStore:
        return stores[1]

    @pytest.fixture
    async def process(
        self, stores: tuple[RecordStore, RecordStore], monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Process]:
        monkeypatch.setattr(agents, "_POLL_S", 0.01)
        process = Process(stores[0], FakeClock())
        yield process
        await process.background.drain(0)

    async def killed(self, process: Process, digest: str) -> Agent:
        agent = await process.admit(digest)
        await act(process.line.store, agent.id, "kill")
        process.agents.changed(agent.id, "killed")
        return agent

    async def test_the_last_known_context_counts(self, process: Process) -> None:
        digest, other = key(), key()
        await self.killed(process, digest)
        passing = await process.admit(other)
        process.line.error = outage()
        for _ in range(3):
            assert reason(await process.admit(digest)) == "agent_killed"
            assert await process.admit(other) is passing
            process.agents.changed(passing.id)
        assert process.outages == [False]
        process.line.error = None
        assert await process.agents.flush()
        process.agents.mark(True)
        assert reason(await process.admit(digest)) == "agent_killed"

    async def test_whoever_asks_meanwhile_is_told_of_the_contained_only(self, process: Process) -> None:
        """With ``DB_FAILURE_MODE=closed`` nobody else passes."""
        digest, other = key(), key()
        agent = await self.killed(process, digest)
        await process.admit(other)
        process.agents.mark(False)
        assert await process.agents.find(digest, None, process.ctx) is agent
        assert await process.agents.find(other, None, process.ctx) is None

    @pytest.mark.parametrize("error", [outage(), ValueError("odd"), TimeoutError()])
    async def test_a_stale_context_that_cannot_be_read_counts_too(self, process: Process, error: Exception) -> None:
        digest = key()
        agent = await self.killed(process, digest)
        assert agent.stale
        process.line.error = error  # not noticed yet: this request is the first that asks
        assert process.agents.available
        assert reason(await process.admit(digest)) == "agent_killed"
        assert reason(await process.admit(digest)) == "agent_killed"

    async def test_a_kill_counts_although_it_could_not_be_read_again(self, process: Process) -> None:
        digest = key()
        agent = await process.admit(digest)
        await act(process.line.store, agent.id, "kill")
        process.line.error = outage()
        process.agents.changed(agent.id, "killed")
        assert reason(await process.admit(digest)) == "agent_killed"
        assert agent.quota["containment_status"] == "killed"

    async def test_a_kill_elsewhere_is_read_before_the_agent_comes_back(
        self, process: Process, elsewhere: RecordStore
    ) -> None:
        digest = key()
        agent = await process.admit(digest)
        async with process.following():
            await act(elsewhere, agent.id, "kill")
            await until(lambda: agent.containment == "killed")
            process.line.error = outage()
            await process.looked()
            assert reason(await process.admit(digest)) == "agent_killed"

    async def test_an_agent_that_was_never_seen_here(self, process: Process, elsewhere: RecordStore) -> None:
        digest = key()
        other = Process(elsewhere, FakeClock())
        agent = await other.admit(digest)
        async with process.following():
            await act(elsewhere, agent.id, "kill")
            await until(lambda: agent.id in process.agents._by_id)
            process.line.error = outage()
            assert reason(await process.admit(digest)) == "agent_killed"
            await process.looked()
            assert reason(await process.admit(digest)) == "agent_killed"
            assert not (await process.admit(digest[:8] + key()[8:])).recorded, "the same id, another key"
        await other.background.drain(0)

    async def test_what_could_not_be_read_is_read_later(self, process: Process, elsewhere: RecordStore) -> None:
        agent = await process.admit(key())
        async with process.following():
            process.line.answers = {"changes_since": {"seq": 5, "changes": [[agent.id, "containment"]], "reset": False}}
            await until(lambda: agent.stale)
            process.line.error = outage()
            await until(lambda: not process.agents.available)
            await act(elsewhere, agent.id, "kill")
            process.line.answers = {"changes_since": {"seq": 5, "changes": [], "reset": False}}
            process.line.error = None
            await until(lambda: agent.containment == "killed")

    async def test_a_reading_that_stalls_holds_up_nobody_elses_pause(
        self, process: Process, elsewhere: RecordStore
    ) -> None:
        first, second = [await process.admit(key()) for _ in range(2)]
        async with process.following():
            process.line.held = {"agent_context"}
            await act(elsewhere, first.id, "pause")
            await process.line.waiting.wait()
            await act(elsewhere, second.id, "pause")
            await until(lambda: second.stale)
            process.line.release()
            await until(lambda: (first.containment, second.containment) == ("paused", "paused"))
        assert process.outages == []

    async def test_the_contained_are_never_forgotten(self, process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agents, "MAX_KNOWN", 20)
        contained = [key() for _ in range(15)]
        for digest in contained:
            await self.killed(process, digest)
        others = [key() for _ in range(60)]
        for digest in others:
            await process.admit(digest)
        assert len(process.agents._by_id) <= 20
        assert process.agents._known.keys() <= {*contained, *others}
        assert {id(agent) for agent in process.agents._known.values()} == {
            id(agent) for agent in process.agents._by_id.values()
        }
        process.line.error = outage()
        assert {reason(await process.admit(digest)) for digest in contained} == {"agent_killed"}
        assert {reason(await process.admit(digest)) for digest in others} == {None}

    async def test_more_contained_agents_than_there_is_room_for(
        self, process: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agents, "MAX_KNOWN", 10)
        contained = [key() for _ in range(15)]
        for digest in contained:
            await self.killed(process, digest)
        process.line.error = outage()
        assert {reason(await process.admit(digest)) for digest in contained} == {"agent_killed"}

    async def test_whoever_is_forgotten_at_once_is_asked_for_again(
        self, process: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An agent that the feed no longer reaches must not be known."""
        monkeypatch.setattr(agents, "MAX_KNOWN", 10)
        process.line.held = {"agent_context"}
        asked = [asyncio.create_task(process.admit(key())) for _ in range(100)]
        await until(lambda: process.line.kept == 100)
        process.line.release()  # all at once: most are forgotten before their requests go on
        assert all(agent.recorded for agent in await asyncio.gather(*asked))
        assert len(process.agents._known) <= 10
        known = {id(agent) for agent in process.agents._by_id.values()}
        assert {id(agent) for agent in process.agents._known.values()} <= known
