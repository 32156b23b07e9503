"""Cases of the records kit: disagreements between analysis and observer, and what a person resolved."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any
from uuid import uuid4

from smoltbot_worker.ports import RecordStore

from .records_area import ABSENT, AdvancingClock, call, first_request, iso, new_agent, refused
from .records_control import changes_after, latest_change

_ENVELOPE: dict[str, Any] = {"bounded_actions": ["inference"], "forbidden_actions": ["delete_files"], "other": [1]}
_CARD: dict[str, Any] = {"autonomy_envelope": _ENVELOPE, "values": {"declared": ["honesty"]}}
_UNSETTLED: dict[str, Any] = {
    "status": "pending", "reconciliation_outcome": None, "reconciliation_reasoning": None,
    "reconciliation_model": None, "reconciliation_duration_ms": None, "proposed_amendment": None,
    "resolved_by": None, "resolved_at": None,
}  # fmt: skip
_APPLY = {"expected": "pending", "status": "applied", "apply_action": "read_mail", "resolved_by": "system/ddr"}


def review_of(agent_id: str, **changes: Any) -> dict[str, Any]:
    """The arguments of ``open_review`` for a disagreement that nobody else notes."""
    return {
        "review_id": f"ddr-{uuid4()}", "agent_id": agent_id, "checkpoint_id": f"ic-{uuid4()}",
        "trace_id": f"tr-{uuid4()}", "aip_verdict": "clear", "observer_outcome": "violation", **changes,
    }  # fmt: skip


async def carded(store: RecordStore, card: Any) -> str:
    """The id of a new agent with this card."""
    return str((await call(store, "get_or_create_agent", **first_request(card=card)))["agent"]["id"])


async def opened(store: RecordStore, agent_id: str) -> dict[str, Any]:
    """The row of a new review."""
    row: dict[str, Any] = (await call(store, "open_review", **review_of(agent_id)))["review"]
    return row


async def settle(store: RecordStore, review: dict[str, Any], **asked: Any) -> Any:
    """The answer of ``settle_review``."""
    return await call(store, "settle_review", review_id=review["review_id"], **asked)


class ReviewRules:
    """``open_review``, ``settle_review``, ``review``, ``reviews``."""

    async def test_a_disagreement_has_one_review(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A checkpoint and a trace have one review, however many open it."""
        agent = await new_agent(store)
        given = review_of(agent)
        row = {**given, **_UNSETTLED, "created_at": iso(clock())}
        assert await call(store, "open_review", **given) == {"status": "opened", "review": row}, "a new one"
        clock.advance(60)
        for again in (given, {**given, "review_id": f"ddr-{uuid4()}"}):
            assert await call(store, "open_review", **again) == {"status": "known", "review": row}, "the first"
        pair = review_of(agent)
        answers = await asyncio.gather(*(
            call(store, "open_review", **{**pair, "review_id": f"ddr-{uuid4()}"}) for _ in range(10)
        ))  # fmt: skip
        assert sorted(answer["status"] for answer in answers) == ["known"] * 9 + ["opened"], "one opened it"
        assert len({answer["review"]["review_id"] for answer in answers}) == 1, "all get the same"
        with refused("agent_id: there is no such agent"):
            await call(store, "open_review", **review_of(ABSENT))
        for taken in (review_of(agent, review_id=given["review_id"]), {**given, "agent_id": await new_agent(store)}):
            with refused("review_id: another review"):
                await call(store, "open_review", **taken)

    async def test_a_review_goes_its_way(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Each step needs the status that is expected; what a step leaves out stays as it was."""
        review = await opened(store, await new_agent(store))
        taken = {**review, "status": "analyzing"}
        begin: dict[str, Any] = {"expected": "pending", "status": "analyzing"}
        assert await settle(store, review, **begin) == {"status": "settled", "review": taken}, "taken up"
        assert await settle(store, review, **begin) == {"status": "conflict", "review": taken}, "by one only"
        clock.advance(60)
        found = {"outcome": "card_gap", "reasoning": "a gap", "model": "m", "duration_ms": 812}
        amendment = {"type": "bounded_action", "action": "read_mail", "description": "é", "n": 1.5}
        judged = {
            **taken, "status": "review", "proposed_amendment": amendment,
            **{f"reconciliation_{name}": value for name, value in found.items()},
        }  # fmt: skip
        outcome = {"expected": "analyzing", "status": "review", "proposed_amendment": amendment, **found}
        for _ in range(2):
            assert await settle(store, review, **outcome) == {"status": "settled", "review": judged}, "told twice"
        another = await settle(store, review, **{**outcome, "model": "x"})
        assert another == {"status": "conflict", "review": judged}, "another outcome comes too late"
        dismissed = {**judged, "status": "dismissed", "resolved_by": "ada", "resolved_at": iso(clock())}
        dismiss = {"expected": "review", "status": "dismissed", "resolved_by": "ada"}
        for _ in range(2):
            assert await settle(store, review, **dismiss) == {"status": "settled", "review": dismissed}, "told twice"
            clock.advance(60)
        assert await call(store, "review", review_id=review["review_id"]) == dismissed, "the end"
        again = {**dismiss, "resolved_by": "bob"}
        assert await settle(store, review, **again) == {"status": "conflict", "review": dismissed}, "stays the end"

    async def test_a_review_is_taken_up_by_one(self, store: RecordStore) -> None:
        """Of many who take a review up at once exactly one does."""
        review = await opened(store, await new_agent(store))
        answers = await asyncio.gather(*(
            settle(store, review, expected="pending", status="analyzing") for _ in range(10)
        ))  # fmt: skip
        assert sorted(answer["status"] for answer in answers) == ["conflict"] * 9 + ["settled"], "one of them"

    async def test_an_amendment(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Applying adds the action to the card as a new version, with the status, and keeps the version before."""
        agent = await carded(store, _CARD)
        values = [{"type": "BOUNDARY", "content": "never"}]
        before = await call(store, "put_conscience_values", agent_id=agent, values=values)
        review = await opened(store, agent)
        clock.advance(60)
        now, seq = iso(clock()), await latest_change(store)
        settled = {**review, "status": "applied", "resolved_by": "system/ddr", "resolved_at": now}
        for _ in range(2):
            assert await settle(store, review, **_APPLY) == {"status": "settled", "review": settled}, "told twice"
        envelope = {**_ENVELOPE, "bounded_actions": ["inference", "read_mail"]}
        card = {**before["card_json"], "autonomy_envelope": envelope, "issued_at": now}
        after = {**before, "version": 3, "card_json": card, "issued_at": now, "created_at": now}
        history = await call(store, "card_history", agent_id=agent, limit=9)
        assert history[:2] == [after, {**before, "is_active": False}], "one version more"
        assert len(history) == 3, "and no other"
        assert await changes_after(store, seq) == [[agent, "card"]], "caches are told once"

    async def test_amendments_at_once(self, store: RecordStore) -> None:
        """Of many who apply one review at once one changes the card; different actions are all kept."""
        agent = await carded(store, _CARD)
        review = await opened(store, agent)
        people = [{**_APPLY, "resolved_by": f"person-{number}"} for number in range(10)]
        answers = await asyncio.gather(*(settle(store, review, **asked) for asked in people))
        assert sorted(answer["status"] for answer in answers) == ["conflict"] * 9 + ["settled"], "one of them"
        assert len({answer["review"]["resolved_by"] for answer in answers}) == 1, "all see who"
        others = [await opened(store, agent) for _ in range(8)]
        actions = [f"action_{number}" for number in range(8)]
        asked_of = zip(others, actions, strict=True)
        await asyncio.gather(*(settle(store, one, **{**_APPLY, "apply_action": action}) for one, action in asked_of))
        history = await call(store, "card_history", agent_id=agent, limit=99)
        bounded = [row["card_json"]["autonomy_envelope"]["bounded_actions"] for row in history]
        assert sorted(bounded[0]) == sorted(["inference", "read_mail", *actions]), "none is lost"
        assert [row["version"] for row in history] == list(range(10, 0, -1)), "one version each"
        assert all(later[:-1] == earlier for later, earlier in pairwise(bounded)), "one by one"

    async def test_the_same_action_twice(self, store: RecordStore) -> None:
        """Of two reviews that propose one action the first changes the card; the other stays as it is."""
        agent = await carded(store, _CARD)
        reviews = [await opened(store, agent) for _ in range(2)]
        answers = await asyncio.gather(*(settle(store, review, **_APPLY) for review in reviews))
        assert sorted(answer["status"] for answer in answers) == ["settled", "unchanged_card"], "once"
        statuses = sorted(row["status"] for row in await call(store, "reviews", agent_id=agent, limit=9))
        assert statuses == ["applied", "pending"], "applied means that the card was changed"
        assert (await call(store, "active_card", agent_id=agent))["version"] == 2, "one version more"

    async def test_a_card_that_takes_no_amendment(self, store: RecordStore) -> None:
        """An action that is there or forbidden, and a card without place for it: nothing is written."""
        bare: list[dict[str, Any]] = [{}, {"bounded_actions": None, "forbidden_actions": None}]
        for card, action in (
            (_CARD, "inference"), (_CARD, "delete_files"), (None, "read_mail"), ({}, "read_mail"),
            ({"autonomy_envelope": []}, "read_mail"), ({"autonomy_envelope": {"bounded_actions": {}}}, "read_mail"),
            ({"autonomy_envelope": {"forbidden_actions": "read_mail"}}, "read_mail"),
        ):  # fmt: skip
            agent = await carded(store, card)
            review, seq = await opened(store, agent), await latest_change(store)
            kept = await call(store, "active_card", agent_id=agent)
            answer = await settle(store, review, **{**_APPLY, "apply_action": action})
            assert answer == {"status": "unchanged_card", "review": review}, f"{card} takes no {action}"
            assert await call(store, "active_card", agent_id=agent) == kept, "the card is as it was"
            assert await changes_after(store, seq) == [], "nothing changed"
        for envelope in bare:
            agent = await carded(store, {"autonomy_envelope": envelope})
            assert (await settle(store, await opened(store, agent), **_APPLY))["status"] == "settled", "a first action"
            active = await call(store, "active_card", agent_id=agent)
            assert active["card_json"]["autonomy_envelope"] == {**envelope, "bounded_actions": ["read_mail"]}, "alone"

    async def test_bad_settlements(self, store: RecordStore) -> None:
        """An unknown review is a conflict; applied needs an action, and nothing else may have one."""
        review = await opened(store, await new_agent(store))
        nobody = {**review, "review_id": "ddr-unknown"}
        assert await settle(store, nobody, **_APPLY) == {"status": "conflict", "review": None}, "there is none"
        for wrong, name in (
            ({"apply_action": None}, "apply_action"), ({"status": "dismissed"}, "apply_action"),
            ({"apply_action": "Read Mail"}, "apply_action"), ({"apply_action": "x"}, "apply_action"),
            ({"status": "pending"}, "status"), ({"expected": "applied"}, "expected"), ({"outcome": "x"}, "outcome"),
            ({"proposed_amendment": []}, "proposed_amendment"), ({"duration_ms": -1}, "duration_ms"),
        ):  # fmt: skip
            with refused(f"{name}: "):
                await settle(store, review, **{**_APPLY, **wrong})
        assert await call(store, "review", review_id=review["review_id"]) == review, "nothing was written"

    async def test_reviews_are_listed(self, store: RecordStore, clock: AdvancingClock) -> None:
        """reviews come newest first, equal times by id, of one status or of all."""
        agent, prefix = await new_agent(store), f"ddr-{uuid4()}"
        for name in "bBa":
            await call(store, "open_review", **review_of(agent, review_id=f"{prefix}{name}"))
        clock.advance(1)
        newest = (await call(store, "open_review", **review_of(agent, review_id=f"{prefix}A")))["review"]
        await settle(store, newest, expected="pending", status="dismissed")
        rows = await call(store, "reviews", agent_id=agent, limit=9)
        assert [row["review_id"][-1] for row in rows] == ["A", "b", "a", "B"], "the newest first"
        for status, expected in ((None, rows), ("pending", rows[1:]), ("dismissed", rows[:1]), ("applied", [])):
            assert await call(store, "reviews", agent_id=agent, status=status, limit=9) == expected, "of this status"
        assert await call(store, "reviews", agent_id=agent, limit=2) == rows[:2], "so many"
        assert await call(store, "reviews", agent_id=ABSENT, limit=1) == [], "nobody has none"
        assert await call(store, "review", review_id="ddr-unknown") is None, "there is none"


class ResolutionRules:
    """``record_resolution``, ``resolutions``."""

    async def test_a_target_is_resolved_once(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A checkpoint or a trace has one resolution of an agent; another one is answered with that."""
        agent, other = await new_agent(store), await new_agent(store)
        given: dict[str, Any] = {
            "resolution_id": f"res-{uuid4()}", "agent_id": agent, "target_type": "checkpoint", "target_id": "ic-1",
            "resolution_type": "allow_action", "resolved_by": "ada", "metadata": {"action_name": "read_mail"},
        }  # fmt: skip
        row = {**given, "resolved_at": iso(clock())}
        assert await call(store, "record_resolution", **given) == {"status": "stored", "resolution": row}, "stored"
        clock.advance(60)
        known = {"status": "known", "resolution": row}
        changed = {**given, "resolution_id": f"res-{uuid4()}", "resolution_type": "acknowledged", "metadata": None}
        for again in (given, changed):
            assert await call(store, "record_resolution", **again) == known, "the first stays"
        trace = {**changed, "resolution_id": f"res-{uuid4()}", "target_type": "trace"}
        theirs = {**changed, "agent_id": other}
        for new in (trace, theirs):
            assert (await call(store, "record_resolution", **new))["status"] == "stored", "another target or agent"
        rows = await call(store, "resolutions", agent_id=agent, limit=9)
        assert rows == [{**trace, "resolved_at": iso(clock())}, row], "the newest first"
        assert await call(store, "resolutions", agent_id=agent, limit=1) == rows[:1], "so many"
        with refused("resolution_id: another resolution has this id"):
            await call(store, "record_resolution", **{**given, "target_id": "ic-2"})
        with refused("agent_id: there is no such agent"):
            await call(store, "record_resolution", **{**given, "agent_id": ABSENT})
        with refused("target_type: "):
            await call(store, "record_resolution", **{**given, "target_type": "agent"})

    async def test_many_resolve_at_once(self, store: RecordStore) -> None:
        """Of many who resolve one target at once one does."""
        given = {"agent_id": await new_agent(store), "target_type": "trace", "target_id": "tr-1"}
        answers = await asyncio.gather(*(
            call(store, "record_resolution", **given, resolution_id=f"res-{uuid4()}", resolved_by=f"person-{number}",
                 resolution_type="acknowledged") for number in range(10)
        ))  # fmt: skip
        assert sorted(answer["status"] for answer in answers) == ["known"] * 9 + ["stored"], "one of them"
        assert len({answer["resolution"]["resolved_by"] for answer in answers}) == 1, "all see who"
