"""Cases of the records kit: the feed of changes, and the outbox of webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from smoltbot_worker.ports import Json, RecordStore

from .records_area import ABSENT, AdvancingClock, call, iso, new_agent, refused

_HOUR_S = 3600
_DAY_S = 86_400


class EventRules:
    """``changes_since``, ``register_webhook``, ``webhooks``, ``delete_webhook``, ``enqueue_webhooks``,
    ``claim_webhooks``, ``settle_webhooks``, ``webhook_deliveries``."""

    async def test_changes(self, store: RecordStore) -> None:
        """changes_since says in their order what changed after a number, and how far one has come."""
        agent, other = await new_agent(store), await new_agent(store)
        start = await call(store, "changes_since", seq=None)
        assert (start["changes"], start["reset"]) == ([], False), "without a number only the latest is told"
        await _change(store, agent)
        await call(store, "set_containment", agent_id=other, action="pause", log_id=_new_id("ctl"), actor="kit")
        found = await call(store, "changes_since", seq=start["seq"])
        expected = {
            "seq": start["seq"] + 2, "changes": [[agent, "settings"], [other, "containment"]], "reset": False,
        }  # fmt: skip
        assert found == expected, "both, the first one first"
        again = await call(store, "changes_since", seq=found["seq"])
        assert again == {"seq": found["seq"], "changes": [], "reset": False}, "nothing since"
        for wrong in (-1, "1", True):
            with refused("seq: "):
                await call(store, "changes_since", seq=wrong)

    async def test_changes_that_are_gone(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Who is further than the database, or asks for what was deleted, is told to drop everything."""
        agent = await new_agent(store)
        before = await call(store, "changes_since", seq=None)
        await _change(store, agent)
        latest = (await call(store, "changes_since", seq=None))["seq"]
        everything = {"seq": latest, "changes": [], "reset": True}
        assert await call(store, "changes_since", seq=latest + 1) == everything, "of the future"
        clock.advance(_HOUR_S)
        await call(store, "housekeeping")
        kept = await call(store, "changes_since", seq=before["seq"])
        assert kept == {"seq": latest, "changes": [[agent, "settings"]], "reset": False}, "an hour is kept"
        clock.advance(0.001)
        await call(store, "housekeeping")
        assert await call(store, "changes_since", seq=before["seq"]) == everything, "deleted"
        current = await call(store, "changes_since", seq=latest)
        assert current == {"seq": latest, "changes": [], "reset": False}, "nothing is missed"

    async def test_too_many_changes(self, store: RecordStore) -> None:
        """Up to 1,000 changes are told one by one."""
        agent = await new_agent(store)
        start = (await call(store, "changes_since", seq=None))["seq"]
        for count, reset in ((1000, False), (1, True)):
            await asyncio.gather(*(_change(store, agent) for _ in range(count)))
            found = await call(store, "changes_since", seq=start)
            assert found["reset"] is reset, "one more is too many"
        assert (found["seq"], found["changes"]) == (start + 1001, []), "the latest is named"

    async def test_changes_beside_writers(self, store: RecordStore) -> None:
        """Who asks again and again while many write misses no change and sees none twice."""
        agents = [await new_agent(store) for _ in range(20)]
        seq = (await call(store, "changes_since", seq=None))["seq"]
        writers = asyncio.gather(*(_change(store, agent) for agent in agents for _ in range(5)))
        seen: list[Any] = []
        ended = False
        while not ended:
            ended = writers.done()
            found = await call(store, "changes_since", seq=seq)
            assert found["seq"] == seq + len(found["changes"]), "as many as the numbers say"
            seq, seen = found["seq"], seen + found["changes"]
        await writers
        assert sorted(seen) == sorted([agent, "settings"] for agent in agents for _ in range(5)), "each once"

    async def test_a_registration(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A registration is answered and listed without its secret; the same again changes nothing."""
        agent, other = await new_agent(store), await new_agent(store)
        given = _registration(agent, ["verdict.*", "drift_alert"])
        row = {
            "registration_id": given["registration_id"], "agent_id": agent, "callback_url": given["callback_url"],
            "events": ["verdict.*", "drift_alert"], "failure_count": 0, "disabled_at": None,
            "created_at": iso(clock()),
        }  # fmt: skip
        assert await call(store, "register_webhook", **given) == row, "the row"
        clock.advance(60)
        assert await call(store, "register_webhook", **given) == row, "a repetition"
        for name, value in (
            ("agent_id", other),
            ("callback_url", "https://b"),
            ("sealed_secret", "x"),
            ("events", ["*"]),
        ):
            with refused("registration_id: another registration has it"):
                await call(store, "register_webhook", **{**given, name: value})
        newer = await call(store, "register_webhook", **_registration(agent))
        assert await call(store, "webhooks", agent_id=agent) == [newer, row], "the newest first"
        assert await call(store, "webhooks", agent_id=other) == [], "each agent has its own"
        with refused("agent_id: there is no such agent"):
            await call(store, "register_webhook", **_registration(ABSENT))

    async def test_a_registration_is_deleted(self, store: RecordStore) -> None:
        """A registration goes with its deliveries, and only by the agent that has it."""
        agent, other = await new_agent(store), await new_agent(store)
        registration = await _register(store, agent)
        await _enqueue(store, agent, _event("drift_alert"))
        names = {"registration_id": registration}
        assert await call(store, "delete_webhook", agent_id=other, **names) is False, "another's is not there"
        with refused("agent_id: there is no such agent"):
            await call(store, "delete_webhook", agent_id=ABSENT, **names)
        assert await call(store, "delete_webhook", agent_id=agent, **names) is True, "it was there"
        assert await call(store, "delete_webhook", agent_id=agent, **names) is False, "and is no more"
        assert await _deliveries(store, agent) == [], "nothing is left to deliver"
        assert await _enqueue(store, agent, _event("drift_alert")) == 0, "nobody wants it"

    async def test_who_wants_an_event(self, store: RecordStore) -> None:
        """``*`` wants everything, ``verdict`` and ``verdict.*`` every verdict, any other name itself."""
        agent, other = await new_agent(store), await new_agent(store)
        wanted: dict[str, list[str]] = {}
        for wants in (["*"], ["verdict.*"], ["verdict"], ["verdict.clear", "drift_alert"], ["verdict.review_needed"]):
            wanted[await _register(store, agent, wants)] = wants
        await _register(store, other, ["*"])
        for event, expected in (
            ("verdict.clear", [["*"], ["verdict.*"], ["verdict"], ["verdict.clear", "drift_alert"]]),
            ("drift_alert", [["*"], ["verdict.clear", "drift_alert"]]),
            ("verdicts", [["*"]]),
            ("agent.paused", [["*"]]),
        ):
            before = len(await _deliveries(store, agent))
            assert await _enqueue(store, agent, _event(event)) == len(expected), "one for each that wants it"
            new = (await _deliveries(store, agent))[: -before or None]
            found = sorted(wanted[row["registration_id"]] for row in new if row["event"] == event)
            assert found == sorted(expected), f"who wants {event}"
        assert await _deliveries(store, other) == [], "another agent's events are its own"

    async def test_an_event_is_queued_once(self, store: RecordStore, clock: AdvancingClock) -> None:
        """The same delivery key again queues nothing; the payload is the event, the time and the data."""
        agent = await new_agent(store)
        registration = await _register(store, agent)
        event = {
            **_event("verdict.clear"), "data": {"checkpoint": {"verdict": "clear"}}, "checkpoint_id": "ic-1",
            "trace_id": "tr-1",
        }  # fmt: skip
        at = iso(clock())
        assert await _enqueue(store, agent, event, _event("drift_alert")) == 2, "both are new"
        answers = await asyncio.gather(*(_enqueue(store, agent, event) for _ in range(20)))
        assert answers == [0] * 20, "and known then"
        row = (await _deliveries(store, agent))[-1]
        assert row["delivery_id"].startswith("del-"), "an id of its own"
        assert len(row.pop("delivery_id")) == 36, "of 32 digits"
        assert row == {
            "registration_id": registration, "event": "verdict.clear", "checkpoint_id": "ic-1", "trace_id": "tr-1",
            "status": "pending", "attempts": 0, "last_error": None, "last_attempt_at": None, "next_retry_at": None,
            "settled_at": None, "created_at": at,
        }, "the delivery as it is listed"  # fmt: skip
        (claimed,) = await _claim(store, agent)
        del claimed["delivery_id"]
        assert claimed == {
            "registration_id": registration, "agent_id": agent, "callback_url": "https://example.com/hook",
            "sealed_secret": "sealed", "attempts": 1,
            "payload": {"event": "verdict.clear", "timestamp": at, "checkpoint": {"verdict": "clear"}},
        }, "the delivery as it is sent"  # fmt: skip
        with refused("agent_id: there is no such agent"):
            await _enqueue(store, ABSENT, event)

    async def test_deliveries_in_order(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Of a registration only the oldest delivery is claimed; the next one waits until that is settled."""
        agent = await new_agent(store)
        registrations = [await _register(store, agent) for _ in range(2)]
        await _enqueue(store, agent, *(_event(f"event-{number}") for number in range(3)))
        for number in range(3):
            claimed = await _claim(store, agent, "one")
            assert {row["registration_id"] for row in claimed} == set(registrations), "one of each"
            assert [row["payload"]["event"] for row in claimed] == [f"event-{number}"] * 2, "the oldest"
            assert await _claim(store, agent, "two") == [], "the others wait"
            later = iso(clock() + 4)
            assert await _settle(store, "one", claimed, "retry", retry_at=later) == 2, "tried again later"
            assert await _claim(store, agent, "two") == [], "not before its time, and nothing overtakes it"
            clock.advance(4)
            claimed = await _claim(store, agent, "two")
            assert [row["attempts"] for row in claimed] == [2, 2], "the second attempt"
            assert await _settle(store, "two", claimed, "delivered") == 2, "done"
        assert await _claim(store, agent) == [], "nothing is left"

    async def test_a_lapsed_claim(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A claim ends with its lease; who held it settles nothing any more once another has it."""
        agent = await new_agent(store)
        await _register(store, agent)
        await _enqueue(store, agent, _event("drift_alert"))
        claimed = await _claim(store, agent, "one")
        clock.advance(29.999)
        assert await _claim(store, agent, "two") == [], "it is held"
        clock.advance(0.001)
        again = await _claim(store, agent, "two")
        assert [row["attempts"] for row in again] == [2], "it is free"
        assert await _settle(store, "one", claimed, "failed", error="late") == 0, "another has it"
        assert await _settle(store, "two", again, "delivered") == 1, "who holds it settles it"
        assert await _settle(store, "two", again, "failed") == 0, "once"
        (row,) = await _deliveries(store, agent)
        assert (row["status"], row["last_error"], row["settled_at"]) == ("delivered", None, iso(clock())), "the outcome"

    async def test_claimers_share_nothing(self, store: RecordStore) -> None:
        """Of many who claim at once no two get the same delivery, and all are claimed."""
        agent = await new_agent(store)
        registrations = [await _register(store, agent) for _ in range(30)]
        await _enqueue(store, agent, _event("drift_alert"), _event("drift_alert"))
        claims = await asyncio.gather(*(_claim(store, agent, f"claimer-{number}") for number in range(10)))
        claimed = [row["registration_id"] for claim in claims for row in claim]
        claimed += [row["registration_id"] for row in await _claim(store, agent, "last")]
        assert sorted(claimed) == sorted(registrations), "each registration's oldest once"

    async def test_failures_are_counted(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A failure is counted once however often it is told, a success ends the count, the hundredth disables."""
        agent = await new_agent(store)
        await _register(store, agent)

        async def settle(outcome: str) -> Any:
            await _enqueue(store, agent, _event("drift_alert"))
            claimed = await _claim(store, agent)
            told = await asyncio.gather(*(_settle(store, "kit", claimed, outcome) for _ in range(3)))
            assert sum(told) == 1, "it is settled once"
            (row,) = await call(store, "webhooks", agent_id=agent)
            return row["failure_count"], row["disabled_at"]

        assert [await settle(outcome) for outcome in ("failed", "failed", "delivered", "failed")] == [
            (1, None), (2, None), (0, None), (1, None),
        ], "each failure counts"  # fmt: skip
        await _enqueue(store, agent, *(_event("drift_alert") for _ in range(100)))
        for _ in range(98):
            await _settle(store, "kit", await _claim(store, agent), "failed")
        (row,) = await call(store, "webhooks", agent_id=agent)
        assert (row["failure_count"], row["disabled_at"]) == (99, None), "not yet"
        assert await _settle(store, "kit", await _claim(store, agent), "failed", error="gone") == 1, "the hundredth"
        (row,) = await call(store, "webhooks", agent_id=agent)
        assert (row["failure_count"], row["disabled_at"]) == (100, iso(clock())), "it is disabled"
        assert await _enqueue(store, agent, _event("drift_alert")) == 0, "nothing is queued for it"
        assert await _claim(store, agent) == [], "nor delivered"

    async def test_many_settle_at_once(self, store: RecordStore) -> None:
        """Parallel failures of several registrations are all counted, whatever their order."""
        agent = await new_agent(store)
        for _ in range(10):
            await _register(store, agent)
        for _ in range(5):
            await _enqueue(store, agent, _event("drift_alert"))
            claimed = await _claim(store, agent)
            orders = (claimed[:5], claimed[4::-1], claimed[5:], claimed[:4:-1])
            told = await asyncio.gather(*(_settle(store, "kit", order, "failed") for order in orders))
            assert sum(told) == 10, "each delivery is settled once"
        counts = [row["failure_count"] for row in await call(store, "webhooks", agent_id=agent)]
        assert counts == [5] * 10, "none is lost"

    async def test_a_registration_deleted_beside_events(self, store: RecordStore) -> None:
        """Registrations that go while events come, are claimed and settled fail none of these."""
        agent = await new_agent(store)
        registrations = [await _register(store, agent) for _ in range(20)]

        async def deliver() -> None:
            await _enqueue(store, agent, _event("drift_alert"))
            await _settle(store, "kit", await _claim(store, agent), "failed")

        await asyncio.gather(*(
            work for registration in registrations
            for work in (call(store, "delete_webhook", agent_id=agent, registration_id=registration), deliver())
        ))  # fmt: skip
        assert await call(store, "webhooks", agent_id=agent) == [], "all are gone"

    async def test_old_deliveries(self, store: RecordStore, clock: AdvancingClock) -> None:
        """housekeeping deletes what was settled more than 30 days ago, and nothing that waits."""
        agent = await new_agent(store)
        registration = await _register(store, agent)
        await _enqueue(store, agent, _event("first"), _event("second"))
        await _settle(store, "kit", await _claim(store, agent), "delivered")
        for passed, expected in ((30 * _DAY_S, ["second", "first"]), (0.001, ["second"]), (30 * _DAY_S, ["second"])):
            clock.advance(passed)
            await call(store, "housekeeping")
            rows = await _deliveries(store, agent)
            assert [row["event"] for row in rows] == expected, "what is kept"
        asked = {"agent_id": agent, "limit": 10}
        assert await call(store, "webhook_deliveries", **asked, registration_id=registration) == rows, "by registration"
        assert await call(store, "webhook_deliveries", **asked, registration_id="awh-none") == [], "of an unknown one"

    async def test_bad_webhooks(self, store: RecordStore) -> None:
        """Arguments of the wrong form are refused by name."""
        agent = await new_agent(store)
        wrong: Sequence[tuple[str, str, Json]] = (
            ("register_webhook", "events", []), ("register_webhook", "callback_url", None),
            ("enqueue_webhooks", "events", [{"event": "x"}]), ("enqueue_webhooks", "events", None),
            ("claim_webhooks", "limit", 0), ("claim_webhooks", "lease_s", 0), ("claim_webhooks", "claimed_by", ""),
            ("settle_webhooks", "settled", [{"delivery_id": "del-1", "outcome": "pending"}]),
            ("webhook_deliveries", "limit", 1001),
        )  # fmt: skip
        good: dict[str, dict[str, Any]] = {
            "register_webhook": _registration(agent), "enqueue_webhooks": {"agent_id": agent, "events": []},
            "claim_webhooks": {"claimed_by": "kit", "limit": 1, "lease_s": 1},
            "settle_webhooks": {"claimed_by": "kit", "settled": []},
            "webhook_deliveries": {"agent_id": agent, "limit": 1},
        }  # fmt: skip
        for function, name, value in wrong:
            with refused(f"{name}: "):
                await call(store, function, **{**good[function], name: value})


def _new_id(kind: str) -> str:
    return f"{kind}-{uuid4().hex}"


async def _change(store: RecordStore, agent: str) -> None:
    await call(store, "update_agent", agent_id=agent, settings={"gate_streams": "off"})


def _registration(agent: str, events: Sequence[str] = ("*",)) -> dict[str, Any]:
    return {
        "registration_id": _new_id("awh"),
        "agent_id": agent,
        "callback_url": "https://example.com/hook",
        "sealed_secret": "sealed",
        "events": list(events),
    }


async def _register(store: RecordStore, agent: str, events: Sequence[str] = ("*",)) -> str:
    row = await call(store, "register_webhook", **_registration(agent, events))
    return str(row["registration_id"])


def _event(name: str) -> dict[str, Any]:
    return {"delivery_key": str(uuid4()), "event": name, "data": {}, "checkpoint_id": None, "trace_id": None}


async def _enqueue(store: RecordStore, agent: str, *events: dict[str, Any]) -> Any:
    return await call(store, "enqueue_webhooks", agent_id=agent, events=list(events))


async def _claim(store: RecordStore, agent: str, claimed_by: str = "kit") -> list[dict[str, Any]]:
    """What is due of this agent, for 30 seconds; that of other cases is claimed with it."""
    claimed = await call(store, "claim_webhooks", claimed_by=claimed_by, limit=1000, lease_s=30)
    return [row for row in claimed if row["agent_id"] == agent]


async def _settle(
    store: RecordStore, claimed_by: str, claimed: Sequence[dict[str, Any]], outcome: str, **details: Json
) -> Any:
    settled = [{"delivery_id": row["delivery_id"], "outcome": outcome, **details} for row in claimed]
    return await call(store, "settle_webhooks", claimed_by=claimed_by, settled=settled)


async def _deliveries(store: RecordStore, agent: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await call(store, "webhook_deliveries", agent_id=agent, limit=1000)
    return found
