"""Cases of the records kit: traces, their usage and their link to a checkpoint, drift, and the two scores."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from smoltbot_worker.ports import RecordStore

from .records_area import ABSENT, AdvancingClock, append, call, iso, new_agent, refused
from .samples import TIME, digest, entry

_TEXT = "Grüße \N{SNOWMAN} \U0001f600 a'b\"c\\d\n %s"


def trace_of(agent_id: str, **changes: Any) -> dict[str, Any]:
    """A trace that nobody else stores."""
    name = uuid4().hex
    return {
        "trace_id": f"tr-{name[:16]}", "agent_id": agent_id, "card_id": "ac-0badcafe", "timestamp": TIME,
        "action": {"type": "execute", "name": "read_file", "category": "bounded"},
        "decision": {"selected": "analyzed", "confidence": 0.6, "values_applied": ["transparency"]},
        "escalation": {"evaluated": True, "required": False, "reason": _TEXT}, "context": {"session_id": "session-1"},
        "verification": None, "trace_json": {"trace_id": f"tr-{name[:16]}", "empty": [None, {}, [], 0, True]},
        "gateway_log_id": f"log-{name}", **changes,
    }  # fmt: skip


def usage_of(**changes: Any) -> dict[str, Any]:
    """What an exchange used."""
    return {
        "usage_id": f"ue-{uuid4()}", "session_id": "session-1", "model": None, "provider": "anthropic",
        "tokens_in": 12, "tokens_out": None, "duration_ms": 900, **changes,
    }  # fmt: skip


def alert_of(agent_id: str, **changes: Any) -> dict[str, Any]:
    """A drift alert that nobody else stores."""
    return {
        "alert_id": f"drift-{uuid4()}", "agent_id": agent_id, "card_id": None, "session_id": "session-1",
        "alert_type": "aip:value_drift", "severity": "medium", "description": _TEXT,
        "drift_data": {"similarity": 0.25, "streak": 3}, "trace_ids": ["tr-1", "tr-2"], "checkpoint_ids": [],
        "detection_timestamp": TIME, "dedup_key": digest(uuid4()), **changes,
    }  # fmt: skip


async def record(store: RecordStore, trace: dict[str, Any], **more: Any) -> Any:
    """The answer of ``record_trace``."""
    return await call(store, "record_trace", trace=trace, **more)


class TraceRules:
    """``record_trace``, ``traces``, ``trace``, ``put_verification``."""

    async def test_a_trace_is_kept_exactly(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Every column comes back as it was given, with created_at beside them."""
        agent = await new_agent(store)
        bare = trace_of(agent, card_id=None, escalation=None, context=None, timestamp="2026-05-10T10:00:00+02:00")
        for given in (trace_of(agent, verification={"verified": True, "violations": []}), bare):
            answer = await record(store, given, usage=usage_of())
            assert answer == {"status": "stored", "trace_id": given["trace_id"], "linked": False}, "stored"
            expected = {**given, "timestamp": TIME, "created_at": iso(clock())}
            assert await call(store, "trace", trace_id=given["trace_id"]) == expected, "what was given comes back"
        assert await call(store, "trace", trace_id="tr-unknown") is None, "there is none"

    async def test_an_exchange_has_one_trace(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A trace whose id or exchange is known changes nothing; the answer names the one that is stored."""
        agent = await new_agent(store)
        first = trace_of(agent)
        await record(store, first, usage=usage_of())
        kept = await call(store, "trace", trace_id=first["trace_id"])
        clock.advance(60)
        known = {"status": "known", "trace_id": first["trace_id"], "linked": False}
        same_exchange = trace_of(agent, gateway_log_id=first["gateway_log_id"])
        same_id = trace_of(agent, trace_id=first["trace_id"])
        for again in (first, {**first, "card_id": "ac-other"}, same_exchange, same_id):
            assert await record(store, again, usage=usage_of()) == known, "the one that is there"
        assert await call(store, "traces", agent_id=agent, limit=10) == [kept], "and only that"

    async def test_two_observers_of_one_exchange(self, store: RecordStore) -> None:
        """Of many who record the same exchange at once one stores it; all get its id, and its checkpoint is linked."""
        agent = await new_agent(store)
        checkpoint_id = (await append(store, agent, entry()))["rows"][0]["checkpoint_id"]
        log_id = f"log-{uuid4()}"
        answers = await asyncio.gather(*(
            record(store, trace_of(agent, gateway_log_id=log_id), usage=usage_of(), checkpoint_id=checkpoint_id)
            for _ in range(20)
        ))  # fmt: skip
        assert sorted(answer["status"] for answer in answers) == ["known"] * 19 + ["stored"], "one stored it"
        assert len({answer["trace_id"] for answer in answers}) == 1, "all name the same"
        assert all(answer["linked"] for answer in answers), "to which the checkpoint belongs"
        (row,) = await call(store, "traces", agent_id=agent, limit=10)
        linked = (await call(store, "checkpoint", checkpoint_id=checkpoint_id))["linked_trace_id"]
        assert linked == row["trace_id"] == answers[0]["trace_id"], "the one that is there"

    async def test_only_the_named_checkpoint_is_linked(self, store: RecordStore) -> None:
        """The link goes to the checkpoint of the same agent that is named, once and for good."""
        agent, other = await new_agent(store), await new_agent(store)
        rows = (await append(store, agent, entry(), entry(), entry()))["rows"]
        foreign = (await append(store, other, entry()))["rows"][0]["checkpoint_id"]
        middle, late = rows[1]["checkpoint_id"], f"ic-{uuid4()}"
        first, second = trace_of(agent), trace_of(agent)
        assert (await record(store, first, checkpoint_id=middle))["linked"] is True, "linked"
        assert (await record(store, first, checkpoint_id=middle))["linked"] is True, "and again"
        assert (await record(store, second, checkpoint_id=middle))["linked"] is False, "it belongs to another"
        assert (await record(store, trace_of(agent), checkpoint_id=foreign))["linked"] is False, "another agent's"
        assert (await record(store, second, checkpoint_id=late))["linked"] is False, "not there yet"
        await append(store, agent, entry(checkpoint_id=late))
        assert (await record(store, second, checkpoint_id=late))["linked"] is True, "a repetition finds it"
        linked = [row["linked_trace_id"] for row in await call(store, "checkpoints", agent_id=agent, limit=10)]
        assert linked == [None, first["trace_id"], None, second["trace_id"]], "those and no others"
        (row,) = await call(store, "checkpoints", agent_id=other, limit=10)
        assert row["linked_trace_id"] is None, "nobody else's"

    async def test_pages_of_traces(self, store: RecordStore) -> None:
        """traces come newest first, equal times by id, those before the place that is named."""
        agent = await new_agent(store)
        prefix = uuid4().hex[:12]
        given = [("b", "10.000"), ("a", "10.000"), ("B", "10.000"), ("c", "09.999"), ("d", "10.001")]
        for name, second in given:
            await record(store, trace_of(agent, trace_id=f"tr-{prefix}{name}", timestamp=f"2026-05-10T08:00:{second}Z"))
        await record(store, trace_of(await new_agent(store)))
        rows = await call(store, "traces", agent_id=agent, limit=10)
        assert [row["trace_id"][-1] for row in rows] == ["d", "b", "a", "B", "c"], "the newest first"
        for place, row in enumerate(rows):
            before = [row["timestamp"], row["trace_id"]]
            assert await call(store, "traces", agent_id=agent, limit=10, before=before) == rows[place + 1 :], "older"
        page = await call(store, "traces", agent_id=agent, limit=2, before=[rows[0]["timestamp"], rows[0]["trace_id"]])
        assert page == rows[1:3], "so many"
        assert await call(store, "traces", agent_id=ABSENT, limit=10) == [], "nobody has none"
        for name, wrong in (("limit", 0), ("limit", 1001), ("before", [TIME]), ("before", ["x", "y"])):
            with refused(f"{name}: "):
                await call(store, "traces", **{"agent_id": agent, "limit": 1, name: wrong})

    async def test_a_verification_is_replaced(self, store: RecordStore) -> None:
        """put_verification changes the verification and nothing else; it says whether there is such a trace."""
        agent = await new_agent(store)
        given = trace_of(agent, verification={"verified": False, "violations": [{"type": "card_expired"}]})
        await record(store, given)
        kept = await call(store, "trace", trace_id=given["trace_id"])
        verification = {"verified": True, "violations": [], "similarity_score": 0.5}
        for _ in range(2):
            asked = {"trace_id": given["trace_id"], "verification": verification}
            assert await call(store, "put_verification", **asked) is True, "it is there"
        changed = {**kept, "verification": verification}
        assert await call(store, "trace", trace_id=given["trace_id"]) == changed, "this alone"
        unknown = {"trace_id": "tr-unknown", "verification": verification}
        assert await call(store, "put_verification", **unknown) is False, "there is none"

    async def test_bad_traces(self, store: RecordStore) -> None:
        """An unknown agent, another agent's trace and malformed members are refused, and nothing is written."""
        agent, other = await new_agent(store), await new_agent(store)
        given = trace_of(agent)
        with refused("agent_id: there is no such agent"):
            await record(store, trace_of(ABSENT), usage=usage_of())
        for name, wrong in (("timestamp", "2026-05-10T08:00:00"), ("action", []), ("decision", None),
                            ("trace_json", {"a": "\0"}), ("colour", "blue"), ("gateway_log_id", "")):  # fmt: skip
            with refused(f"trace: {name}: "):
                await record(store, {**given, name: wrong})
        for used in ("tokens_in", "tokens_out", "duration_ms"):
            with refused(f"usage: {used}: "):
                await record(store, given, usage=usage_of(**{used: -1}))
        assert await call(store, "traces", agent_id=agent, limit=1) == [], "nothing was written"
        await record(store, given)
        with refused("trace: another agent has this trace"):
            await record(store, {**given, "agent_id": other})


class DriftRules:
    """``record_drift``, ``resolve_drift``, ``drift_alerts``."""

    async def test_a_streak_has_one_alert(self, store: RecordStore, clock: AdvancingClock) -> None:
        """The same dedup_key again changes nothing, also from many at once; another agent has keys of its own."""
        agent, other = await new_agent(store), await new_agent(store)
        given = alert_of(agent)
        row = {**given, "created_at": iso(clock()), "resolved_at": None}
        answers = await asyncio.gather(*(call(store, "record_drift", alert=given) for _ in range(10)))
        assert sorted(answer["status"] for answer in answers) == ["known"] * 9 + ["stored"], "one stored it"
        assert [answer["alert"] for answer in answers] == [row] * 10, "all get the row"
        later = alert_of(agent, dedup_key=given["dedup_key"], severity="high")
        assert await call(store, "record_drift", alert=later) == {"status": "known", "alert": row}, "the first stays"
        theirs = alert_of(other, dedup_key=given["dedup_key"])
        assert (await call(store, "record_drift", alert=theirs))["status"] == "stored", "another agent's"
        assert await call(store, "drift_alerts", agent_id=agent, limit=10) == [row], "once"

    async def test_webhooks_are_told_of_a_new_alert(self, store: RecordStore) -> None:
        """A stored alert is delivered once to the registrations that want drift_alert."""
        agent = await new_agent(store)
        hook = {"agent_id": agent, "callback_url": "https://example.com/hook", "sealed_secret": "sealed"}
        ids = [f"reg-{uuid4()}" for _ in range(2)]
        for registration_id, events in zip(ids, (["drift_alert"], ["verdict.*"]), strict=True):
            await call(store, "register_webhook", **hook, registration_id=registration_id, events=events)
        given = alert_of(agent)
        for _ in range(3):
            await call(store, "record_drift", alert=given)
        claimed = f"worker-{uuid4()}"
        mine = []
        while page := await call(store, "claim_webhooks", claimed_by=claimed, limit=1000, lease_s=60):
            mine += [delivery for delivery in page if delivery["registration_id"] in ids]
        (delivery,) = mine
        told = delivery["payload"]
        names = ("drift_data", "dedup_key")
        alert = {name: value for name, value in given.items() if name not in names}
        assert (told["event"], told["alert"]) == ("drift_alert", alert), "what the receiver needs"
        queued = await call(store, "webhook_deliveries", agent_id=agent, limit=9)
        assert [row["registration_id"] for row in queued] == ids[:1], "who wants it, once"

    async def test_an_alert_is_resolved(self, store: RecordStore, clock: AdvancingClock) -> None:
        """resolve_drift notes the first time; a resolved streak is not stored again."""
        agent = await new_agent(store)
        given = alert_of(agent)
        key = {"agent_id": agent, "dedup_key": given["dedup_key"]}
        assert await call(store, "resolve_drift", **key) is False, "there is none"
        row = (await call(store, "record_drift", alert=given))["alert"]
        clock.advance(60)
        resolved = {**row, "resolved_at": iso(clock())}
        for _ in range(2):
            assert await call(store, "resolve_drift", **key) is True, "it is over"
            assert await call(store, "drift_alerts", agent_id=agent, limit=1) == [resolved], "since the first time"
            clock.advance(60)
        assert await call(store, "record_drift", alert=given) == {"status": "known", "alert": resolved}, "it stays over"

    async def test_alerts_are_listed(self, store: RecordStore) -> None:
        """drift_alerts come newest first, equal times by id."""
        agent, prefix = await new_agent(store), f"ida-{uuid4()}"
        for name, second in (("b", "10"), ("B", "10"), ("a", "09"), ("c", "11")):
            moment = f"2026-05-10T08:00:{second}.000Z"
            alert = alert_of(agent, alert_id=f"{prefix}{name}", detection_timestamp=moment)
            await call(store, "record_drift", alert=alert)
        rows = await call(store, "drift_alerts", agent_id=agent, limit=10)
        assert [row["alert_id"][-1] for row in rows] == ["c", "b", "B", "a"], "the newest first"
        assert await call(store, "drift_alerts", agent_id=agent, limit=2) == rows[:2], "so many"
        assert await call(store, "drift_alerts", agent_id=ABSENT, limit=1) == [], "nobody has none"

    async def test_bad_alerts(self, store: RecordStore) -> None:
        """An unknown agent and an id that another alert has are refused."""
        agent = await new_agent(store)
        given = alert_of(agent)
        await call(store, "record_drift", alert=given)
        with refused("alert: another alert has this alert_id"):
            await call(store, "record_drift", alert={**given, "dedup_key": digest("another")})
        with refused("agent_id: there is no such agent"):
            await call(store, "record_drift", alert=alert_of(ABSENT))
        with refused("alert: severity: "):
            await call(store, "record_drift", alert={**given, "severity": "fatal"})


class ScoreRules:
    """``integrity_score``, ``aip_score``."""

    async def test_the_score_of_traces(self, store: RecordStore) -> None:
        """Verified traces in all that have a verification, cut to four digits."""
        agent = await new_agent(store)
        score: dict[str, Any] = {
            "agent_id": agent, "total_traces": 0, "verified_traces": 0, "violation_count": 0, "integrity_score": 0,
        }  # fmt: skip
        await record(store, trace_of(agent))
        assert await call(store, "integrity_score", agent_id=agent) == score, "none has a verification"
        for verified, violations in ((True, []), (True, []), (False, [{"type": "card_expired"}] * 2)):
            verification = {"verified": verified, "violations": violations}
            await record(store, trace_of(agent, verification=verification))
        score |= {"total_traces": 3, "verified_traces": 2, "violation_count": 1, "integrity_score": 0.6666}
        assert await call(store, "integrity_score", agent_id=agent) == score, "two of three"
        await record(store, trace_of(agent, verification={"verified": "true", "violations": None}))
        score |= {"total_traces": 4, "integrity_score": 0.5}
        assert await call(store, "integrity_score", agent_id=agent) == score, "true alone is verified"
        assert await call(store, "integrity_score", agent_id=ABSENT) is None, "there is no such agent"

    async def test_the_score_of_checkpoints(self, store: RecordStore) -> None:
        """Clear ones in all that were analysed, those in all, to three digits; the latest verdict of an analysis."""
        agent = await new_agent(store)
        score: dict[str, Any] = {
            "agent_id": agent, "total_checks": 0, "analyzed_checks": 0, "unanalyzed_checks": 0, "clear_count": 0,
            "review_count": 0, "violation_count": 0, "integrity_ratio": 0, "coverage_ratio": 0, "latest_verdict": None,
        }  # fmt: skip
        assert await call(store, "aip_score", agent_id=agent) == score, "an empty log"
        await append(store, agent, entry(verdict="error"), entry(verdict="skipped"))
        score |= {"total_checks": 2, "unanalyzed_checks": 2}
        assert await call(store, "aip_score", agent_id=agent) == score, "nothing was analysed"
        verdicts = ("clear", "clear", "clear", "clear", "boundary_violation", "review_needed", "error")
        await append(store, agent, *(entry(verdict=verdict) for verdict in verdicts))
        score |= {
            "total_checks": 9, "analyzed_checks": 6, "unanalyzed_checks": 3, "clear_count": 4, "review_count": 1,
            "violation_count": 1, "integrity_ratio": 0.667, "coverage_ratio": 0.667, "latest_verdict": "review_needed",
        }  # fmt: skip
        assert await call(store, "aip_score", agent_id=agent) == score, "rounded"
        assert await call(store, "aip_score", agent_id=ABSENT) is None, "there is no such agent"
