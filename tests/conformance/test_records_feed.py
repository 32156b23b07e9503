"""The feed of changes while a PostgreSQL transaction stays open, and what a writer of the log is told of its drafts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from smoltbot_worker.attestation.log import CheckpointLog
from smoltbot_worker.ports import RecordStore
from smoltbot_worker.testing.records_area import call, iso, new_agent
from tests.conformance.records_backends import BACKENDS, Opening
from tests.services.postgres import PostgresServer
from tests.unit.attestation_support import CRYPTO, draft
from worker_compat.testing import FakeClock

LIMIT_S = 20


class TestAnOpenTransaction:
    """Writers in one transaction each; readers that look while one of them has not committed."""

    @pytest.fixture
    async def store(self, request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[RecordStore]:
        async with BACKENDS["postgres"](request, clock) as opened:
            yield opened

    @pytest.fixture
    async def other(self, store: RecordStore, postgres_service: PostgresServer) -> AsyncIterator[Any]:
        """A connection that holds a transaction open."""
        connection = await asyncpg.connect(postgres_service.url)
        yield connection
        await connection.close()

    async def test_no_change_is_skipped(self, store: RecordStore, other: Any) -> None:
        """Whoever began first is seen first, and what comes later waits for it."""
        first, second = await new_agent(store), await new_agent(store)
        start = await call(store, "changes_since", seq=None)
        async with other.transaction():
            await change(other, first)
            writing = asyncio.ensure_future(call(store, "update_agent", agent_id=second, settings={"public": True}))
            await until_waiting(writing, other)
            assert await call(store, "changes_since", seq=start["seq"]) == start, "a number is not seen before another"
        await asyncio.wait_for(writing, LIMIT_S)
        found = await call(store, "changes_since", seq=start["seq"])
        assert found["changes"] == [[first, "settings"], [second, "settings"]]

    async def test_a_transaction_that_fails_leaves_no_gap(self, store: RecordStore, other: Any) -> None:
        first, second = await new_agent(store), await new_agent(store)
        start = await call(store, "changes_since", seq=None)
        transaction = other.transaction()
        await transaction.start()
        await change(other, first)
        await transaction.rollback()
        await call(store, "update_agent", agent_id=second, settings={"public": True})
        found = await call(store, "changes_since", seq=start["seq"])
        assert found == {"seq": start["seq"] + 1, "changes": [[second, "settings"]], "reset": False}

    async def test_a_violation_waits_for_the_owner(self, store: RecordStore, other: Any, clock: FakeClock) -> None:
        """What an owner does to the agent comes first or last, and is never overwritten."""
        agent = await nudged_agent(store, clock)
        await call(store, "update_agent", agent_id=agent, settings={"auto_containment_threshold": 2})
        given = {"agent_id": agent, "action": "kill", "log_id": f"ctl-{uuid4().hex}", "actor": "kit"}
        async with other.transaction():
            await other.execute("SELECT smoltbot.set_containment($1::jsonb)", json.dumps(given))
            log = CheckpointLog(store, CRYPTO, clock=clock)
            appending = asyncio.ensure_future(log.append(agent, violation()))
            await until_waiting(appending, other)
        assert not (await asyncio.wait_for(appending, LIMIT_S)).contained
        state = await call(store, "containment", agent_id=agent, limit=10)
        assert (state["status"], [row["action"] for row in state["log"]]) == ("killed", ["kill"])

    async def test_a_claim_passes_by_what_another_holds(self, store: RecordStore, other: Any, clock: FakeClock) -> None:
        """Neither nudges nor deliveries wait for a claim that has not committed."""
        agent = await nudged_agent(store, clock)
        hook = {"registration_id": f"awh-{uuid4().hex}", "callback_url": "https://example.com", "events": ["*"]}
        await call(store, "register_webhook", agent_id=agent, sealed_secret="sealed", **hook)
        event = {"delivery_key": "k", "event": "drift_alert", "data": {}}
        await call(store, "enqueue_webhooks", agent_id=agent, events=[event])
        async with other.transaction():
            for lock in ("enforcement_nudges WHERE agent_id = $1",
                         "aip_webhook_deliveries JOIN smoltbot.aip_webhook_registrations USING (registration_id) "
                         "WHERE agent_id = $1"):  # fmt: skip
                await other.execute(f"SELECT FROM smoltbot.{lock} FOR UPDATE", agent)
            async with asyncio.timeout(LIMIT_S):
                assert await claim(store, agent) == []
                rows = await call(store, "claim_webhooks", claimed_by="kit", limit=1000, lease_s=1)
            assert agent not in {row["agent_id"] for row in rows}
        assert len(await claim(store, agent)) == 1

    async def test_a_repeated_claim_waits_for_the_first(self, store: RecordStore, other: Any, clock: FakeClock) -> None:
        """Who asks again before the first answer is there gets that answer, and not the nudges after it."""
        agent = await nudged_agent(store, clock)
        assert (await CheckpointLog(store, CRYPTO, clock=clock).append(agent, violation())).nudged
        asked = {"agent_id": agent, "request_id": str(uuid4()), "limit": 1}
        async with other.transaction():
            given = json.dumps({**asked, "now": iso(clock())})
            first = json.loads(await other.fetchval("SELECT smoltbot.claim_nudges($1::jsonb)", given))
            again = asyncio.ensure_future(call(store, "claim_nudges", **asked))
            await until_waiting(again, other)
        assert await asyncio.wait_for(again, LIMIT_S) == first
        assert len(first) == 1


@pytest.mark.parametrize("opening", BACKENDS.values(), ids=list(BACKENDS))
async def test_what_becomes_of_drafts(opening: Opening, request: pytest.FixtureRequest, clock: FakeClock) -> None:
    """The writer of each draft hears whether its nudge was made, and whether the agent was paused with it."""
    async with opening(request, clock) as store:
        agent = await nudged_agent(store, clock)
        settings = {"nudge_strategy": "threshold", "nudge_threshold": 3, "auto_containment_threshold": 3}
        await call(store, "update_agent", agent_id=agent, settings=settings)
        log = CheckpointLog(store, CRYPTO, clock=clock)
        results = [await log.append(agent, violation()) for _ in range(3)]
        (row,) = await call(store, "checkpoints", agent_id=agent, after_index=2, limit=10)
        pending = await claim(store, agent)
    assert [(result.nudged, result.contained) for result in results] == [(False, False), (True, True), (True, False)]
    assert results[2].row is not None
    assert {name: row[name] for name in results[2].row} == {**results[2].row}
    assert [nudge["nudge_content"] for nudge in pending] == ["Stop\ufffd"] * 3


def violation() -> Any:
    """A violation with its nudge, in texts that no database can hold as they are."""
    nudge = {"nudge_id": f"nudge-{uuid4().hex}", "nudge_content": "Stop\0", "concerns_summary": "x", "draw": 0}
    event = {"event": "verdict.boundary_violation", "data": {"text": "\ud800"}}
    number = uuid4().int >> 80  # exact in JavaScript
    return draft(number, verdict="boundary_violation", nudge=nudge, events=[event])


async def nudged_agent(store: RecordStore, clock: FakeClock) -> str:
    """An agent with one nudge."""
    agent = await new_agent(store)
    await call(store, "put_signing_key", key_id=CRYPTO.key_id, public_key=CRYPTO.public_key)
    await call(store, "update_agent", agent_id=agent, settings={"aip_enforcement_mode": "nudge"})
    assert (await CheckpointLog(store, CRYPTO, clock=clock).append(agent, violation())).nudged
    return agent


async def claim(store: RecordStore, agent: str) -> Any:
    return await call(store, "claim_nudges", agent_id=agent, request_id=str(uuid4()), limit=5)


async def change(connection: Any, agent: str) -> None:
    given = json.dumps({"agent_id": agent, "settings": {"public": True}})
    await connection.execute("SELECT smoltbot.update_agent($1::jsonb)", given)


async def until_waiting(call: asyncio.Future[Any], connection: Any) -> None:
    """Until the call waits for a lock, or has ended."""
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(LIMIT_S):
        while not call.done() and not await connection.fetchval(query):
            await asyncio.sleep(0)
