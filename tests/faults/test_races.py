"""The race list of the data model, one test per row, on a database that two processes have open."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

import worker_compat_postgres
import worker_compat_sqlite
from smoltbot_worker.testing.records_area import append, call, first_request, head_of, iso, new_agent
from smoltbot_worker.testing.records_metering import at_noon, metered
from smoltbot_worker.testing.records_reviews import carded, opened
from smoltbot_worker.testing.records_traces import alert_of, trace_of, usage_of
from smoltbot_worker.testing.samples import entry, extension
from tests.faults.migration_support import Database
from tests.faults.races_support import Pair, opened_twice, poller

DAY_S = 86_400
EVENT: dict[str, Any] = {
    "delivery_key": "one", "event": "verdict.clear", "data": {}, "checkpoint_id": None, "trace_id": None,
}  # fmt: skip


@pytest.fixture
async def pair(database: Database) -> AsyncIterator[Pair]:
    """Each database in turn."""
    async with opened_twice(database) as found:
        yield found


def violation(session_id: str = "session-1") -> dict[str, Any]:
    """A row that comes with a nudge."""
    nudge = {"nudge_id": f"nudge-{uuid4().hex}", "nudge_content": "Stop.", "concerns_summary": "x", "draw": 0}
    return entry(session_id, verdict="boundary_violation", nudge=nudge)


async def hooked(pair: Pair, agent_id: str) -> str:
    """The id of a new registration for all events of the agent."""
    registration_id = f"reg-{uuid4()}"
    hook = {"callback_url": "https://example.com/hook", "sealed_secret": "sealed", "events": ["*"]}
    await call(pair.stores[0], "register_webhook", registration_id=registration_id, agent_id=agent_id, **hook)
    return registration_id


async def test_row_01_the_first_requests_of_an_agent(pair: Pair) -> None:
    given = first_request(card={"autonomy_envelope": {}})
    digits = given["agent_hash"]
    other = f"INSERT INTO agents (id, agent_hash, created_at) VALUES ('smolt-{digits[:8]}', '{digits}', '{iso(0)}')"
    async with pair.held(other):  # an insert that is taken back in the end
        calls = asyncio.create_task(pair.at_once("get_or_create_agent", [given] * 40))
        await pair.blocked()
    answers = await calls
    assert Counter(answer["is_new"] for answer in answers) == {True: 1, False: 39}
    assert {answer["agent"]["id"] for answer in answers} == {f"smolt-{digits[:8]}"}
    assert await pair.database.rows("SELECT count(*) FROM alignment_cards") == [(1,)]


async def test_row_02_a_chain_is_never_forked(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    await append(pair.stores[0], agent_id, entry())
    head = await head_of(pair.stores[0], agent_id, "session-1")
    rivals = [extension(agent_id, head, [entry()]) for _ in range(10)]
    async with pair.held(f"UPDATE agent_merkle_trees SET last_updated = NULL WHERE agent_id = '{agent_id}'"):
        calls = asyncio.create_task(pair.at_once("append_checkpoints", rivals))
        await pair.blocked()
    assert Counter(answer["status"] for answer in await calls) == {"appended": 1, "conflict": 9}
    await asyncio.gather(*(pair.append(number, agent_id, entry()) for number in range(20)))
    rows = await call(pair.stores[1], "checkpoints", agent_id=agent_id, limit=100)
    hashes = [None, *(row["chain_hash"] for row in rows)]
    assert [(row["chain_position"], row["prev_chain_hash"]) for row in rows] == list(enumerate(hashes[:-1]))


async def test_row_03_no_leaf_is_lost_and_a_failed_read_begins_no_tree(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    genesis = extension(agent_id, await head_of(pair.stores[0], agent_id), [entry("session-0")])
    await asyncio.gather(*(pair.append(number, agent_id, entry(f"session-{number}")) for number in range(24)))
    before = await head_of(pair.stores[1], agent_id)
    # Who takes an unreadable tree for an empty one.
    answers = await pair.at_once("append_checkpoints", [genesis] * 4)
    assert [answer["status"] for answer in answers] == ["conflict"] * 4
    assert await head_of(pair.stores[0], agent_id) == before
    rows = await call(pair.stores[0], "checkpoints", agent_id=agent_id, limit=100)
    assert [row["merkle_leaf_index"] for row in rows] == list(range(24))
    wanted = [[level, index] for level in range(5) for index in range(24 >> level)]
    assert len(await call(pair.stores[1], "merkle_nodes", agent_id=agent_id, wanted=wanted)) == len(wanted)


async def test_row_04_no_leaf_without_its_checkpoint(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    await append(pair.stores[0], agent_id, entry(certificate_id="cert-taken"))
    sizes = f"""
        SELECT leaf_count, (SELECT count(*) FROM integrity_checkpoints WHERE agent_id = '{agent_id}')
        FROM agent_merkle_trees WHERE agent_id = '{agent_id}'
    """
    seen = []

    async def fail(number: int) -> None:
        store = pair.stores[number % 2]
        head = await head_of(store, agent_id, "session-1", "session-x")
        batch = extension(agent_id, head, [entry("session-x"), entry("session-x", certificate_id="cert-taken")])
        for _ in range(3):
            try:
                answer = await store.call("append_checkpoints", batch)
            except ValueError:
                return
            assert isinstance(answer, dict)
            assert answer["status"] == "conflict"
            batch = extension(agent_id, answer, [entry("session-x", certificate_id="cert-taken")])

    async def look() -> None:
        for _ in range(20):
            seen.extend(await pair.database.rows(sizes))
            await asyncio.sleep(0)

    writers = (pair.append(number, agent_id, entry()) for number in range(10))
    await asyncio.gather(*writers, *(fail(number) for number in range(10)), look(), look())
    assert [found for found in seen if found[0] != found[1]] == []
    assert await pair.database.rows(sizes) == [(11, 11)]
    assert (await head_of(pair.stores[0], agent_id, "session-x"))["heads"] == {}


async def test_row_05_a_nudge_is_delivered_once(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    settings = {"aip_enforcement_mode": "nudge"}
    await call(pair.stores[0], "update_agent", agent_id=agent_id, settings=settings)
    made = (await pair.append(0, agent_id, *(violation() for _ in range(12))))["nudges"]
    ids = [f"request-{uuid4()}" for _ in range(30)]
    requests = [{"agent_id": agent_id, "request_id": request_id, "limit": 1} for request_id in ids]
    claims = [row for claim in await pair.at_once("claim_nudges", requests) for row in claim]
    # Where another request was just taking it, a nudge was passed over.
    claims += await call(pair.stores[1], "claim_nudges", agent_id=agent_id, request_id="last", limit=100)
    assert sorted(row["nudge_id"] for row in claims) == sorted(made)

    async def settle(number: int, request_id: str, outcome: str) -> Any:
        given = {"request_id": request_id, "outcome": outcome, "session_id": "session-1"}
        return await pair.stores[number % 2].call("settle_nudges", given)

    # The upstream of every second request failed.
    ids.append("last")
    outcomes = ["pending" if number % 2 else "delivered" for number in range(len(ids))]
    await asyncio.gather(*map(settle, range(len(ids)), ids, outcomes))
    rows = await call(pair.stores[0], "nudges", agent_id=agent_id, limit=100)
    again = await call(pair.stores[1], "claim_nudges", agent_id=agent_id, request_id="again", limit=100)
    returned = {row["nudge_id"] for row in rows if row["status"] == "pending"}
    assert {row["nudge_id"] for row in again} == returned
    delivered = {row["nudge_id"]: row["claimed_by_request"] for row in rows if row["status"] == "delivered"}
    assert delivered.keys() | returned == set(made)
    assert await settle(0, ids[0], "delivered") == 0
    assert {row["status"] for row in await call(pair.stores[1], "nudges", agent_id=agent_id, limit=100)} <= {
        "delivered", "delivering",
    }  # fmt: skip


@pytest.mark.parametrize("database", ["postgres"], indirect=True)  # SQLite has one writer at a time
async def test_row_05_a_claim_does_not_wait_for_another(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    await call(pair.stores[0], "update_agent", agent_id=agent_id, settings={"aip_enforcement_mode": "nudge"})
    oldest, newer = sorted((await pair.append(0, agent_id, violation(), violation()))["nudges"])
    claim = {"agent_id": agent_id, "request_id": "first", "limit": 1}
    async with pair.held(f"UPDATE enforcement_nudges SET concerns_summary = '' WHERE id = '{oldest}'"):
        async with asyncio.timeout(5):
            claimed = await call(pair.stores[0], "claim_nudges", **claim)
    assert [row["nudge_id"] for row in claimed] == [newer]


async def test_row_06_a_trace_is_linked_to_the_checkpoint_it_names(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    rows = (await append(pair.stores[0], agent_id, *(entry() for _ in range(20))))["rows"]
    # As when observers finish in another order than the gateway began.
    given = [(trace_of(agent_id), row["checkpoint_id"]) for row in rows][::-1]
    requests = [{"trace": trace, "usage": usage_of(), "checkpoint_id": named} for trace, named in given]
    answers = await pair.at_once("record_trace", [*requests, *requests])
    assert all(answer["linked"] for answer in answers)
    found = await call(pair.stores[1], "checkpoints", agent_id=agent_id, limit=100)
    assert {row["checkpoint_id"]: row["linked_trace_id"] for row in found} == {
        named: trace["trace_id"] for trace, named in given
    }


async def test_row_07_failures_are_added_in_the_database(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    registration_id = await hooked(pair, agent_id)
    await call(pair.stores[0], "enqueue_webhooks", agent_id=agent_id, events=[EVENT])
    (delivery,) = await call(pair.stores[0], "claim_webhooks", claimed_by="a", limit=9, lease_s=60)
    failed = {"delivery_id": delivery["delivery_id"], "outcome": "failed", "error": "500", "retry_at": None}
    others = "UPDATE aip_webhook_registrations SET failure_count = failure_count + 98"
    async with pair.held(f"{others} WHERE registration_id = '{registration_id}'", commit=True):
        calls = asyncio.create_task(
            pair.at_once(
                "settle_webhooks", [{"claimed_by": "a", "settled": [failed]}, {"claimed_by": "b", "settled": []}]
            )
        )
        await pair.blocked(1)
    assert await calls == [1, 0]
    (row,) = await call(pair.stores[1], "webhooks", agent_id=agent_id)
    assert (row["failure_count"], row["disabled_at"]) == (99, None)


async def test_row_08_containment_counts_what_is_stored(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    await pair.append(0, agent_id, violation("session-0"))
    # The owner's change is not committed while the second violation is appended.
    threshold = f"UPDATE agents SET auto_containment_threshold = 2 WHERE id = '{agent_id}'"
    async with pair.held(threshold, commit=True):
        appending = asyncio.create_task(pair.append(1, agent_id, violation()))
        await pair.blocked(1)
    assert (await appending)["contained"] is True

    other = await new_agent(pair.stores[0])
    await call(pair.stores[0], "update_agent", agent_id=other, settings={"auto_containment_threshold": 5})
    answers = await asyncio.gather(*(pair.append(number, other, violation(f"s-{number}")) for number in range(12)))
    assert [answer["size"] for answer in answers if answer["contained"]] == [5]
    state = await call(pair.stores[1], "containment", agent_id=other, limit=10)
    assert (state["status"], [row["action"] for row in state["log"]]) == ("paused", ["auto_pause"])


async def test_row_09_a_threshold_of_nudges_counts_what_is_stored(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    settings = {"aip_enforcement_mode": "nudge", "nudge_strategy": "threshold", "nudge_threshold": 4}
    await call(pair.stores[0], "update_agent", agent_id=agent_id, settings=settings)
    answers = await asyncio.gather(*(pair.append(number, agent_id, violation()) for number in range(10)))
    assert {answer["size"]: len(answer["nudges"]) for answer in answers} == {
        size: int(size >= 4) for size in range(1, 11)
    }


async def test_row_10_no_amendment_of_a_card_is_lost(pair: Pair) -> None:
    agent_id = await carded(pair.stores[0], {"autonomy_envelope": {"bounded_actions": [], "forbidden_actions": []}})
    reviews = [await opened(pair.stores[0], agent_id) for _ in range(10)]
    actions = [f"action_{number}" for number in range(10)]
    requests = [
        {"review_id": review["review_id"], "expected": "pending", "status": "applied", "apply_action": action}
        for review, action in zip(reviews, actions, strict=True)
    ]
    async with pair.held(f"UPDATE agents SET name = '' WHERE id = '{agent_id}'"):
        calls = asyncio.create_task(pair.at_once("settle_review", [*requests, *requests]))
        await pair.blocked()
    assert {answer["status"] for answer in await calls} == {"settled"}
    row = await call(pair.stores[1], "active_card", agent_id=agent_id)
    assert sorted(row["card_json"]["autonomy_envelope"]["bounded_actions"]) == actions
    assert row["version"] == 11
    history = await call(pair.stores[0], "card_history", agent_id=agent_id, limit=100)
    assert [card["version"] for card in history] == list(range(11, 0, -1))


async def test_row_11_another_process_hears_of_a_pause_at_its_next_poll(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    with poller(pair.database) as process:
        assert process.stdin
        assert process.stdout
        began = int(await asyncio.to_thread(process.stdout.readline))
        for number, action in enumerate(("pause", "resume", "pause"), 1):
            pause = {"agent_id": agent_id, "action": action, "log_id": f"ctl-{uuid4()}", "actor": "admin"}
            assert (await call(pair.stores[0], "set_containment", **pause))["status"] == "changed"
            process.stdin.write("poll\n")
            process.stdin.flush()
            polled = json.loads(await asyncio.to_thread(process.stdout.readline))
            assert polled == {"seq": began + number, "changes": [[agent_id, "containment"]], "reset": False}


async def test_row_11_a_later_change_is_not_seen_before_an_earlier_one(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    seq = (await call(pair.stores[1], "changes_since"))["seq"]
    row = f"({seq + 1}, '{iso(pair.clock())}', NULL, 'keys')"
    slow = (
        "UPDATE change_counter SET seq = seq + 1",
        f"INSERT INTO changes (seq, created_at, agent_id, kind) VALUES {row}",
    )
    pause = {"agent_id": agent_id, "action": "pause", "log_id": f"ctl-{uuid4()}", "actor": "admin"}
    async with pair.held(*slow, commit=True):
        pausing = asyncio.create_task(call(pair.stores[0], "set_containment", **pause))
        await pair.blocked(1)
        found = await call(pair.stores[1], "changes_since", seq=seq)
        assert found == {"seq": seq, "changes": [], "reset": False}
    await pausing
    found = await call(pair.stores[1], "changes_since", seq=seq)
    assert found == {"seq": seq + 2, "changes": [[None, "keys"], [agent_id, "containment"]], "reset": False}


async def test_row_12_two_consumers_share_no_message(pair: Pair) -> None:
    adapter = worker_compat_sqlite if pair.database.kind == "sqlite" else worker_compat_postgres
    url = f"{pair.database.url}?queue=exchanges"
    async with adapter.open_queue(url) as first, adapter.open_queue(url) as second:
        await first.push([str(number).encode() for number in range(120)], 0)
        claims = await asyncio.gather(*(queue.claim(10, 60) for _ in range(10) for queue in (first, second)))
        left = await first.claim(100, 60)
    bodies = [message.body for claim in (*claims, left) for message in claim]
    assert sorted(bodies) == sorted(str(number).encode() for number in range(120))


async def test_row_12_two_workers_share_no_delivery(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    hooks = {await hooked(pair, agent_id) for _ in range(30)}
    queued = await pair.at_once("enqueue_webhooks", [{"agent_id": agent_id, "events": [EVENT]}] * 4)
    assert sum(queued) == 30
    claims = await pair.at_once(
        "claim_webhooks", [{"claimed_by": f"worker-{number}", "limit": 3, "lease_s": 60} for number in range(20)]
    )
    left = await call(pair.stores[0], "claim_webhooks", claimed_by="last", limit=100, lease_s=60)
    claimed = [row["registration_id"] for claim in (*claims, left) for row in claim]
    assert len(claimed) == 30
    assert set(claimed) == hooks


async def test_row_13_a_trace_is_written_once(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    first = trace_of(agent_id)
    # The same id, or the same exchange, and other contents.
    rivals = [{**first, "trace_json": {"writer": number}, "gateway_log_id": f"log-{number}"} for number in range(10)]
    rivals += [trace_of(agent_id, gateway_log_id="log-0", trace_json={"writer": number}) for number in range(10)]
    answers = await pair.at_once("record_trace", [{"trace": trace, "usage": usage_of()} for trace in rivals])
    stored = [trace for trace, answer in zip(rivals, answers, strict=True) if answer["status"] == "stored"]
    rows = await call(pair.stores[1], "traces", agent_id=agent_id, limit=100)
    kept = {row["trace_id"]: {**row, "created_at": None} for row in rows}
    assert kept == {trace["trace_id"]: {**trace, "created_at": None} for trace in stored}
    assert {answer["trace_id"] for answer in answers} == {trace["trace_id"] for trace in stored}
    usage = await pair.database.rows("SELECT count(*), count(DISTINCT trace_id) FROM usage_events")
    assert usage == [(len(stored),) * 2]


async def test_row_14_a_streak_has_one_alert(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    await hooked(pair, agent_id)
    answers = await pair.at_once(
        "record_drift", [{"alert": alert_of(agent_id, dedup_key="streak-7")} for _ in range(30)]
    )
    assert Counter(answer["status"] for answer in answers) == {"stored": 1, "known": 29}
    assert len({answer["alert"]["alert_id"] for answer in answers}) == 1
    assert len(await call(pair.stores[1], "drift_alerts", agent_id=agent_id, limit=100)) == 1
    assert len(await call(pair.stores[0], "webhook_deliveries", agent_id=agent_id, limit=100)) == 1


async def test_row_15_no_day_is_closed_before_it_is_whole(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    today, yesterday = at_noon(pair.clock)
    counted: dict[str, int] = {}

    async def roll_up(store_number: int) -> None:
        for day in await call(pair.stores[store_number % 2], "rollup_metering"):
            # Rollups end in the order of their commits: a later one never counts less.
            counted[day["date"]] = max(counted.get(day["date"], 0), day["check_count"])

    async def meter_and_roll_up(number: int, moment: str) -> None:
        await call(pair.stores[number % 2], "record_metering", events=[metered(agent_id, "acc-1", moment)])
        await roll_up(number)

    moments = [f"{yesterday}T23:59:59.999Z", f"{today}T00:00:00.000Z"] * 10
    await asyncio.gather(*(meter_and_roll_up(number, moment) for number, moment in enumerate(moments)))
    # The last of today, recorded when no rollup of today will come.
    await call(pair.stores[0], "record_metering", events=[metered(agent_id, "acc-1", f"{today}T23:59:59.999Z")])
    pair.clock.advance(DAY_S)
    await asyncio.gather(*(roll_up(number) for number in range(6)))
    assert counted == {yesterday: 10, today: 11}
    days = await pair.database.rows("SELECT check_count, closed_at IS NOT NULL FROM usage_daily_rollup ORDER BY date")
    assert days == [(10, True), (11, True)]
    assert await call(pair.stores[1], "rollup_metering") == []


@pytest.mark.parametrize("database", ["postgres"], indirect=True)  # on SQLite nothing is recorded meanwhile
async def test_row_15_a_rollup_that_waited_counts_what_came_meanwhile(pair: Pair) -> None:
    agent_id = await new_agent(pair.stores[0])
    event = metered(agent_id, "acc-1", iso(pair.clock()))
    await call(pair.stores[0], "record_metering", events=[event])
    await call(pair.stores[0], "rollup_metering")
    async with pair.held("UPDATE usage_daily_rollup SET check_count = check_count"):
        counting = asyncio.create_task(call(pair.stores[0], "rollup_metering"))
        await pair.blocked(1)
        await call(pair.stores[1], "record_metering", events=[{**event, "event_id": "me-2", "checkpoint_id": "ic-2"}])
    assert [day["check_count"] for day in await counting] == [2]
