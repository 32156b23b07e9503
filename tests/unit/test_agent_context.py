"""Contexts of agents on a real database: read once, kept true by the feed of changes, remembered through outages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from smoltbot_worker.admission import agents
from smoltbot_worker.admission.agents import Agent
from smoltbot_worker.env import DEFAULT_CARD
from smoltbot_worker.ports import Json, RecordStore, RecordsUnavailable
from worker_compat.testing import FakeClock

from .agent_support import Process, act, key, outage, sqlite_stores, until


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[RecordStore, RecordStore]]:
    async with sqlite_stores(tmp_path) as stores:
        yield stores


@pytest.fixture
def elsewhere(stores: tuple[RecordStore, RecordStore]) -> RecordStore:
    """The database as another process writes to it."""
    return stores[1]


@pytest.fixture
async def process(
    stores: tuple[RecordStore, RecordStore], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Process]:
    monkeypatch.setattr(agents, "_POLL_S", 0.01)
    process = Process(stores[0], clock)
    yield process
    await process.background.drain(0)


async def set_(store: RecordStore, agent: Agent, **settings: Any) -> None:
    await store.call("update_agent", {"agent_id": agent.id, "settings": settings})


class TestWhatIsKnown:
    async def test_an_agent_is_what_the_database_says(self, process: Process, elsewhere: RecordStore) -> None:
        digest = key()
        first = await process.admit(digest)
        assert (first.mode, first.failure_policy, first.containment) == ("observe", None, "active")
        assert first.card is not None
        assert first.organization is not None
        assert first.card["card_json"]["values"] == DEFAULT_CARD["values"]
        assert (first.organization["org_id"], first.quota["plan_id"]) == ("org-local", "plan-free")
        assert (first.recorded, first.aip_enabled, first.org_card_exempt) == (True, True, False)
        assert (first.pending_nudges, first.conscience_values) == (0, None)

        changed = {
            "aip_enforcement_mode": "enforce", "failure_policy": "fail_closed", "aip_enabled": False,
            "aap_enabled": False, "org_card_exempt": True, "auto_containment_threshold": 3,
        }  # fmt: skip
        await set_(elsewhere, first, **changed)
        values: Json = [{"type": "BOUNDARY", "content": "no"}]
        await elsewhere.call("put_conscience_values", {"agent_id": first.id, "values": values})
        await act(elsewhere, first.id, "pause")
        process.agents.changed(first.id)
        agent = await process.admit(digest)
        assert agent is first  # who holds it sees the new context
        assert (agent.mode, agent.failure_policy, agent.containment) == ("enforce", "fail_closed", "paused")
        assert (agent.aip_enabled, agent.aap_enabled, agent.org_card_exempt) == (False, False, True)
        assert (agent.auto_containment_threshold, agent.conscience_values) == (3, values)
        assert agent.quota["containment_status"] == "paused"

    async def test_who_is_derived_is_nobody_special(self) -> None:
        agent = Agent.derived("9d08aa51eb89d283" * 4, "coder")
        assert (agent.id, agent.hash, agent.name, agent.recorded) == (
            "smolt-9d08aa51", "9d08aa51eb89d283", "coder", False,
        )  # fmt: skip
        assert (agent.containment, agent.quota["plan_id"], agent.conscience_values) == ("active", "plan-free", None)

    async def test_what_is_derived_from_a_card_stays_while_the_card_does(
        self, process: Process, elsewhere: RecordStore
    ) -> None:
        digest = key()
        agent = await process.admit(digest)
        agent.alignment = "derived"
        await set_(elsewhere, agent, nudge_rate=5)
        process.agents.changed(agent.id)
        assert (await process.admit(digest)).alignment == "derived"
        for change in ("card", "organization", "exemption"):
            agent.alignment = "derived"
            if change == "card":
                await elsewhere.call("put_card", {"agent_id": agent.id, "card": {**DEFAULT_CARD, "x": 1}})
            elif change == "organization":
                await elsewhere.call("put_organization", {"changes": {"conscience_values_mode": "replace"}})
            else:
                await set_(elsewhere, agent, org_card_exempt=True)
            process.agents.changed(agent.id)
            assert (await process.admit(digest)).alignment is None, change


class TestReading:
    async def test_a_hundred_first_requests_read_once(self, process: Process) -> None:
        digest = key()
        process.line.held = {"get_or_create_agent", "agent_context"}
        asked = [asyncio.create_task(process.admit(digest)) for _ in range(100)]
        await process.line.waiting.wait()
        process.line.release()
        assert len({id(agent) for agent in await asyncio.gather(*asked)}) == 1
        assert process.line.calls == ["get_or_create_agent", "agent_context"]
        assert (await process.admit(digest)).recorded
        assert len(process.line.calls) == 2

    async def test_a_hundred_requests_read_a_stale_context_once(self, process: Process) -> None:
        digest = key()
        agent = await process.admit(digest)
        process.agents.changed(agent.id)
        found = await asyncio.gather(*(process.admit(digest) for _ in range(50)), *(by_id(process, agent.id, 50)))
        assert {id(one) for one in found} == {id(agent)}
        assert process.line.calls == ["get_or_create_agent", "agent_context", "agent_context"]

    async def test_who_leaves_while_a_context_is_read_fails_nobody(self, process: Process) -> None:
        digest = key()
        agent = await process.admit(digest)
        process.agents.changed(agent.id)
        process.line.held = {"agent_context"}
        asked = [asyncio.create_task(process.admit(digest)) for _ in range(4)]
        observing = [asyncio.create_task(process.agents.by_id(agent.id)) for _ in range(4)]
        await process.line.waiting.wait()
        for task in (asked[0], observing[0]):
            task.cancel()
        process.line.release()
        assert set(await asyncio.gather(*asked[1:], *observing[1:])) == {agent}
        assert process.line.count("agent_context") == 2

    async def test_by_id(self, process: Process, elsewhere: RecordStore, clock: FakeClock) -> None:
        assert await process.agents.by_id("smolt-0000000000000000") is None
        agent = await process.admit(key())
        assert await process.agents.by_id(agent.id) is agent
        assert process.line.count("agent_context") == 2
        await set_(elsewhere, agent, aip_enforcement_mode="enforce")
        process.agents.changed(agent.id)
        found = await process.agents.by_id(agent.id)
        assert found is agent
        assert agent.mode == "enforce"
        clock.advance(61)
        await process.agents.by_id(agent.id)
        assert process.line.count("agent_context") == 4

    async def test_by_id_does_not_make_do(self, process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
        """The observer can wait: what it judges by must be true."""
        agent = await process.admit(key())
        process.line.error = outage()
        assert await process.agents.by_id(agent.id) is agent  # not stale
        process.agents.changed(agent.id)
        with pytest.raises(RecordsUnavailable):
            await process.agents.by_id(agent.id)
        process.line.error = None
        monkeypatch.setattr(agents, "_LOOKUP_LIMIT_S", 0.02)
        process.line.held = {"agent_context"}
        with pytest.raises(RecordsUnavailable, match="in time"):
            await process.agents.by_id(agent.id)
        process.line.release()
        assert await process.agents.by_id(agent.id) is agent

    async def test_an_agent_that_was_erased_is_made_anew(self, process: Process) -> None:
        digest = key()
        first = await process.admit(digest)
        process.agents.changed(first.id)
        process.line.answers = {"agent_context": None}
        assert await process.agents.by_id(first.id) is None
        process.line.answers = {}
        second = await process.admit(digest)
        assert second is not first
        assert process.line.count("get_or_create_agent") == 2

    async def test_a_context_that_cannot_be_understood_stops_nobody(
        self, process: Process, caplog: pytest.LogCaptureFixture
    ) -> None:
        digest = key()
        agent = await process.admit(digest)
        process.agents.changed(agent.id)
        process.line.error = ValueError("agent_id: odd")
        assert await process.admit(digest) is agent
        assert "agent_id: odd" in caplog.text
        assert process.outages == []
        assert agent.unreadable, "nobody is judged by a card that may be another by now"
        with pytest.raises(RecordsUnavailable, match="cannot be read"):
            await process.agents.by_id(agent.id)
        process.line.error = None
        assert not (await process.admit(digest)).unreadable

    async def test_an_old_context_is_read_again_beside_its_use(self, process: Process, clock: FakeClock) -> None:
        digest = key()
        agent = await process.admit(digest)
        clock.advance(59)
        process.agents.touch(agent, clock(), process.ctx)
        await asyncio.sleep(0)
        assert process.line.count("agent_context") == 1
        clock.advance(1)
        for _ in range(20):
            assert process.agents.known(digest) is agent  # nobody waits
            process.agents.touch(agent, clock(), process.ctx)
        assert len(process.background) == 2  # the touch, and one that reads
        await until(lambda: not process.agents._readings and process.line.count("agent_context") == 2)
        process.agents.touch(agent, clock(), process.ctx)
        await asyncio.sleep(0)
        assert process.line.count("agent_context") == 2

    async def test_a_nudge_that_was_given_up_is_seen_a_minute_later(self, process: Process, clock: FakeClock) -> None:
        agent = await process.admit(key())
        context = await process.line.store.call("agent_context", {"agent_id": agent.id})
        assert isinstance(context, dict)
        process.line.answers = {"agent_context": {**context, "pending_nudges": 2}}
        clock.advance(60)
        process.agents.touch(agent, clock(), process.ctx)
        await until(lambda: agent.pending_nudges == 2)


def by_id(process: Process, agent_id: str, times: int) -> list[Any]:
    return [process.agents.by_id(agent_id) for _ in range(times)]


class TestTheFeed:
    async def test_what_others_write_is_read_by_the_next_request(
        self, process: Process, elsewhere: RecordStore
    ) -> None:
        digest, other = key(), key()
        agent, bystander = await process.admit(digest), await process.admit(other)
        async with process.following():
            await set_(elsewhere, agent, aip_enforcement_mode="nudge")
            await until(lambda: process.agents.known(digest) is None)
            assert process.agents.known(other) is bystander
            assert (await process.admit(digest)).mode == "nudge"
            assert process.agents.known(digest) is agent
            assert process.line.count("agent_context") == 3

    async def test_a_change_of_the_organisation_is_everybodys(self, process: Process, elsewhere: RecordStore) -> None:
        digests = [key() for _ in range(5)]
        for digest in digests:
            await process.admit(digest)
        async with process.following():
            await elsewhere.call("put_organization", {"changes": {"conscience_values_mode": "replace"}})
            await until(lambda: all(process.agents.known(digest) is None for digest in digests))
            found = [(await process.admit(digest)).organization for digest in digests]
        assert [one and one["conscience_values_mode"] for one in found] == ["replace"] * 5
        assert len({id(one) for one in found}) == 1, "held once, however large it is"

    async def test_what_is_known_already_is_no_news(self, process: Process) -> None:
        digest = key()
        agent = await process.admit(digest)
        async with process.following():
            await set_(process.line.store, agent, aip_enforcement_mode="nudge")
            process.agents.changed(agent.id)
            assert (await process.admit(digest)).mode == "nudge"
            await process.looked()
            assert process.agents.known(digest) is agent
        assert process.line.count("agent_context") == 2

    async def test_what_changed_before_the_feed_was_taken_up(self, process: Process, elsewhere: RecordStore) -> None:
        early, late = key(), key()
        agent = await process.admit(early)
        await act(elsewhere, agent.id, "kill")
        newer = await process.admit(late)
        async with process.following():
            assert process.agents.known(late) is newer
            assert (await process.admit(early)).containment == "killed"

    async def test_a_feed_with_gaps_makes_everything_stale(self, process: Process, elsewhere: RecordStore) -> None:
        digest = key()
        agent = await process.admit(digest)
        async with process.following():
            process.line.answers = {
                "agent_context": await process.line.store.call("agent_context", {"agent_id": agent.id})
            }
            await act(elsewhere, agent.id, "kill")
            process.line.answers |= {"changes_since": {"seq": 0, "changes": [], "reset": True}}
            await until(lambda: agent.stale)
            process.line.answers = {}
            await until(lambda: agent.containment == "killed")  # without a request: the next outage may be near

    async def test_a_database_of_yesterday_is_believed(self, process: Process) -> None:
        digest = key()
        agent = await process.admit(digest)
        context: Any = await process.line.store.call("agent_context", {"agent_id": agent.id})
        agent.seq = 1000  # it was restored from a backup
        async with process.following():
            process.line.answers = {"changes_since": {"seq": 3, "changes": [], "reset": True}}
            await until(lambda: agent.seq == context["seq"])
            process.line.answers = {"changes_since": {"seq": 4, "changes": [[agent.id, "settings"]], "reset": False}}
            await until(lambda: agent.stale)

    async def test_an_outage_is_one_event_and_loses_nothing(self, process: Process, elsewhere: RecordStore) -> None:
        digest, other = key(), key()
        bystander = await process.admit(other)
        agent = await process.admit(digest)
        await set_(elsewhere, agent, public=True)
        async with process.following():
            await process.admit(other)
            await set_(elsewhere, agent, public=False)
            process.line.error = outage()
            await process.looked()
            assert process.outages == [False]
            await set_(elsewhere, agent, aip_enforcement_mode="enforce")
            process.line.error = None
            await until(lambda: process.agents.available)
            assert (await process.admit(digest)).mode == "enforce"
            assert process.agents.known(other) is bystander
        assert process.outages == [False, True]

    async def test_a_database_that_can_only_be_read_is_not_back(self, process: Process) -> None:
        agent = await process.admit(key())
        process.agents.touch(agent, 0.0, process.ctx)
        async with process.following():
            process.agents.mark(False, "full")
            process.line.answers = {"ping": {"ok": True}}
            store, process.line.store = process.line.store, _ReadOnly(process.line.store)
            await process.looked()
            assert process.outages == [False]
            assert process.agents.stuck
            process.line.store = store
            await until(lambda: process.agents.available)

    async def test_a_feed_that_cannot_be_read_is_no_reason_to_trust(
        self, process: Process, elsewhere: RecordStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        digest = key()
        agent = await process.admit(digest)
        async with process.following():
            process.line.answers = {"changes_since": {"odd": True}}
            await process.looked()
            await act(elsewhere, agent.id, "pause")
            assert (await process.admit(digest)).containment == "paused"
            await process.looked()
            assert caplog.text.count("the feed of changes cannot be read") == 1
            process.line.answers = {}
            await process.looked()
            await process.admit(digest)
            await process.looked()
            assert process.agents.known(digest) is agent


class _ReadOnly:
    def __init__(self, store: RecordStore) -> None:
        self._store = store

    async def call(self, function: str, arguments: Any) -> Any:
        if function == "touch_agents":
            raise outage()
        return await self._store.call(function, arguments)


class TestRaces:
    """A context is on its way from the database, read before the change and delivered after it."""

    async def test_a_change_during_the_first_reading(self, process: Process, elsewhere: RecordStore) -> None:
        digest = key()
        async with process.following():
            process.line.held = {"agent_context"}
            asked = asyncio.create_task(process.admit(digest))
            await process.line.waiting.wait()
            await act(elsewhere, f"smolt-{digest[:8]}", "kill")
            process.line.held.clear()
            await process.looked()
            process.line.release()
            assert (await asked).containment == "killed"
        assert process.line.count("get_or_create_agent") == 1

    async def test_a_change_during_a_later_reading(self, process: Process, elsewhere: RecordStore) -> None:
        digest = key()
        agent = await process.admit(digest)
        async with process.following():
            process.agents.changed(agent.id)
            process.line.held = {"agent_context"}
            asked = asyncio.create_task(process.admit(digest))
            await process.line.waiting.wait()
            await elsewhere.call("put_organization", {"changes": {"conscience_values_mode": "replace"}})
            await set_(elsewhere, agent, aip_enforcement_mode="enforce")
            await process.looked()
            later = asyncio.create_task(process.admit(digest))
            process.line.release()
            assert ((await asked).mode, (await later).mode) == ("enforce", "enforce")
            assert process.agents.known(digest) is agent

    async def test_an_own_write_during_a_reading(self, process: Process) -> None:
        digest = key()
        agent = await process.admit(digest)
        process.agents.changed(agent.id)
        process.line.held = {"agent_context"}
        asked = asyncio.create_task(process.admit(digest))
        await process.line.waiting.wait()
        # Others write too: the old context's place in the feed is beyond that of the one before it.
        await set_(process.line.store, agent, aip_enforcement_mode="enforce")
        process.agents.changed(agent.id)
        later = asyncio.create_task(process.admit(digest))
        process.line.release()
        assert ((await asked).mode, (await later).mode) == ("enforce", "enforce")

    async def test_changes_without_end_hold_nobody_up(self, process: Process) -> None:
        digest = key()
        agent = await process.admit(digest)
        process.agents.changed(agent.id)
        store = process.line.store

        class Restless:
            async def call(self, function: str, arguments: Any) -> Any:
                answer = await store.call(function, arguments)
                process.agents.changed(agent.id)
                return answer

        process.line.store = Restless()
        assert await process.admit(digest) is agent
        assert process.line.count("agent_context") == 1 + agents._READINGS
        process.line.store = store
        assert process.agents.known(digest) is None  # the next request reads again
        assert await process.admit(digest) is agent
        assert process.agents.known(digest) is agent
