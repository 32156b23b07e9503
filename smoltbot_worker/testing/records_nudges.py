"""Cases of the records kit: nudges, the pause of agents with too many violations, and the events of an append."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from smoltbot_worker.ports import Json, RecordStore

from .records_area import ABSENT, AdvancingClock, call, head_of, iso, new_agent, refused
from .samples import entry, extension

_HOUR_S = 3600


class NudgeRules:
    """The nudges of ``append_checkpoints``; ``claim_nudges``, ``settle_nudges``, ``expire_nudges``, ``nudges``."""

    async def test_a_nudge(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A violation of an agent in the mode nudge or enforce makes the nudge that came with it, no other row does."""
        for mode, due in (("observe", False), ("nudge", True), ("enforce", True)):
            agent = await _agent(store, aip_enforcement_mode=mode)
            clear, violation, silent = _nudging(verdict="clear"), _nudging(), _violation()
            answer = await _append(store, agent, clear, violation, silent)
            made = [violation["nudge"]["nudge_id"]] if due else []
            assert answer == {"status": "appended", "size": 3, "nudges": made, "contained": False}, f"in mode {mode}"
            expected = {
                **violation["nudge"], "agent_id": agent, "checkpoint_id": violation["checkpoint_id"],
                "session_id": "session-1", "status": "pending", "created_at": iso(clock()), "delivered_at": None,
                "delivery_session_id": None, "expired_at": None, "lease_until": None, "claimed_by_request": None,
            }  # fmt: skip
            del expected["draw"]
            assert await _listed(store, agent) == ([expected] if due else []), "the row"

    async def test_when_a_nudge_is_due(self, store: RecordStore) -> None:
        """always, off and sampling decide by the settings and the draw that came with the row."""
        for settings, draw, due in (
            ({"nudge_strategy": "always"}, 99, True), ({"nudge_strategy": "off"}, 0, False),
            ({"nudge_strategy": "sampling", "nudge_rate": 40}, 39, True),
            ({"nudge_strategy": "sampling", "nudge_rate": 40}, 40, False),
            ({"nudge_strategy": "sampling", "nudge_rate": 0}, 0, False),
            ({"nudge_strategy": "sampling", "nudge_rate": 100}, 99, True),
            ({"nudge_strategy": "sampling", "proof_rate": 70}, 69, True),
            ({"nudge_strategy": "sampling", "proof_rate": 70}, 70, False),
        ):  # fmt: skip
            agent = await _agent(store, **settings)
            answer = await _append(store, agent, _nudging(draw=draw))
            assert bool(answer["nudges"]) is due, f"{settings} and the draw {draw}"

    async def test_a_threshold(self, store: RecordStore) -> None:
        """With the strategy threshold, the violations of the session count, this one included; 3 unless set."""
        for settings, least in (({"nudge_threshold": 2}, 2), ({}, 3)):
            agent = await _agent(store, nudge_strategy="threshold", **settings)
            batch = [_nudging() for _ in range(4)]
            others = [_nudging(session_id="session-2"), _nudging(verdict="clear")]
            answer = await _append(store, agent, *others, *batch)
            expected = [row["nudge"]["nudge_id"] for row in batch[least - 1 :]]
            assert answer["nudges"] == expected, "each row of a batch counts up to itself"
            answer = await _append(store, agent, _nudging())
            assert len(answer["nudges"]) == 1, "what was stored before counts"

    async def test_a_threshold_under_parallel_appends(self, store: RecordStore) -> None:
        """However appends overlap, as many nudges are made as violations lie above the threshold."""
        agent = await _agent(store, nudge_strategy="threshold", nudge_threshold=4)
        answers = await asyncio.gather(*(_append(store, agent, _nudging()) for _ in range(10)))
        assert sum(len(answer["nudges"]) for answer in answers) == 7, "the fourth to the tenth"
        assert len(await _listed(store, agent)) == 7, "and no other"

    async def test_a_nudge_is_appended_once(self, store: RecordStore) -> None:
        """A repeated append makes no second nudge; a nudge id that is taken is refused with its batch."""
        agent = await _agent(store)
        row = _nudging()
        batch = extension(agent, await head_of(store, agent, "session-1"), [row], [_event("verdict.clear")])
        await call(store, "append_checkpoints", **batch)
        again = await call(store, "append_checkpoints", **batch)
        assert again["status"] == "duplicate", "a retry is recognised"
        assert len(await _listed(store, agent)) == 1, "one nudge"
        head = await head_of(store, agent, "session-1")
        taken = {**_nudging(), "nudge": row["nudge"]}
        with refused("append_checkpoints: "):
            await call(store, "append_checkpoints", **extension(agent, head, [taken]))
        assert await head_of(store, agent, "session-1") == head, "nothing was written"
        for wrong in ({**row["nudge"], "draw": 100}, {**row["nudge"], "nudge_content": None}, {}):
            with refused("rows: [0] nudge: "):
                given = extension(agent, head, [{**_violation(), "nudge": wrong}])
                await call(store, "append_checkpoints", **given)

    async def test_claims(self, store: RecordStore) -> None:
        """Of 50 requests at once that claim five nudges, each nudge goes with one; a repetition gets the same."""
        agent = await _agent(store)
        made = [await _nudged(store, agent) for _ in range(5)]
        requests = [str(uuid4()) for _ in range(50)]
        claims = await asyncio.gather(*(_claim(store, agent, request, limit=2) for request in requests))
        claimed = [row["nudge_id"] for claim in claims for row in claim]
        # Some may have been skipped while another transaction that took fewer held them.
        last = [row["nudge_id"] for row in await _claim(store, agent, str(uuid4()))]
        assert sorted(claimed + last) == sorted(made), "each once"
        again = await asyncio.gather(*(_claim(store, agent, request) for request in requests))
        for claim, repeated in zip(claims, again, strict=True):
            assert repeated == claim, "what it holds"

    async def test_a_repeated_claim(self, store: RecordStore) -> None:
        """One request that asks many times at once gets the same nudges each time, and no more than it asked for."""
        agent = await _agent(store)
        made = [await _nudged(store, agent) for _ in range(6)]
        claims = await asyncio.gather(*(_claim(store, agent, "request-" + agent, limit=2) for _ in range(10)))
        assert [[row["nudge_id"] for row in claim] for claim in claims] == [_ids(claims[0])] * 10, "the same"
        assert len(claims[0]) == 2, "as many as it asked for"
        assert set(_ids(claims[0])) <= set(made), "of its own"

    async def test_the_oldest_first(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A claim gets the oldest nudges in their order; the list has the newest first."""
        agent = await _agent(store)
        made = []
        for _ in range(3):
            made.append(await _nudged(store, agent))
            clock.advance(1)
        claim = await _claim(store, agent, str(uuid4()), limit=2)
        assert _ids(claim) == made[:2], "the oldest two"
        assert sorted(claim[0]) == [
            "checkpoint_id", "concerns_summary", "created_at", "nudge_content", "nudge_id",
        ], "what is injected"  # fmt: skip
        assert [row["nudge_id"] for row in await _listed(store, agent)] == made[::-1], "the newest first"
        newest = await call(store, "nudges", agent_id=agent, limit=1)
        assert [row["nudge_id"] for row in newest] == made[2:], "as many as asked for"
        assert await _listed(store, ABSENT) == [], "nobody has none"

    async def test_delivered(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A nudge that was delivered is marked with time and session, once, and never claimed again."""
        agent = await _agent(store)
        nudge, request = await _nudged(store, agent), str(uuid4())
        await _claim(store, agent, request)
        clock.advance(2)
        at = iso(clock())
        settled = [await _settle(store, request, "delivered", "session-9") for _ in range(2)]
        assert settled == [1, 0], "once"
        (row,) = await _listed(store, agent)
        names = ("nudge_id", "status", "delivered_at", "delivery_session_id", "claimed_by_request", "lease_until")
        expected = [nudge, "delivered", at, "session-9", request, None]
        assert [row[name] for name in names] == expected, "the row says so"
        clock.advance(_HOUR_S)
        assert await _claim(store, agent, str(uuid4())) == [], "it is done with"
        assert await _claim(store, agent, request) == [], "for this request too"

    async def test_given_back(self, store: RecordStore) -> None:
        """A request whose upstream failed gives its nudges back, and another gets them."""
        agent = await _agent(store)
        nudge, request, other = await _nudged(store, agent), str(uuid4()), str(uuid4())
        await _claim(store, agent, request)
        assert await _settle(store, other, "pending") == 0, "only what it holds"
        assert await _settle(store, request, "pending") == 1, "back"
        assert (await _listed(store, agent))[0]["status"] == "pending", "as before"
        assert _ids(await _claim(store, agent, other)) == [nudge], "for the next"
        assert await _settle(store, request, "delivered", "session-1") == 0, "it has nothing any more"
        for wrong in ("expired", "delivering", None):
            with refused("outcome: "):
                await _settle(store, request, wrong)

    async def test_a_lapsed_lease(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A claim that was never settled ends after ten minutes."""
        agent = await _agent(store)
        nudge, request, other = await _nudged(store, agent), str(uuid4()), str(uuid4())
        await _claim(store, agent, request)
        clock.advance(599.999)
        assert await _claim(store, agent, other) == [], "it is held"
        clock.advance(0.001)
        assert _ids(await _claim(store, agent, other)) == [nudge], "it is free"
        assert await _settle(store, request, "delivered", "session-1") == 0, "the first has lost it"
        assert await _settle(store, other, "delivered", "session-1") == 1, "the second has it"

    async def test_old_nudges(self, store: RecordStore, clock: AdvancingClock) -> None:
        """After four hours a nudge is not claimed any more; expire_nudges gives it up unless it is being delivered."""
        agent, busy = await _agent(store), await _agent(store)
        nudge, held = await _nudged(store, agent), await _nudged(store, busy)
        clock.advance(4 * _HOUR_S)
        assert _ids(await _claim(store, agent, "r-" + agent)) == [nudge], "at four hours it is"
        await _settle(store, "r-" + agent, "pending")
        assert _ids(await _claim(store, busy, "r-" + busy)) == [held], "the other too"
        clock.advance(0.001)
        assert await _claim(store, agent, str(uuid4())) == [], "later it is not"
        await call(store, "expire_nudges")
        (row,) = await _listed(store, agent)
        assert (row["status"], row["expired_at"]) == ("expired", iso(clock())), "it is given up"
        assert (await _listed(store, busy))[0]["status"] == "delivering", "this one is on its way"
        clock.advance(600)
        assert await call(store, "expire_nudges") >= 1, "until its lease ends"
        assert (await _listed(store, busy))[0]["status"] == "expired", "then it is given up"
        assert await call(store, "expire_nudges") == 0, "once"
        assert await _settle(store, "r-" + busy, "delivered", "session-1") == 0, "nothing is held"

    async def test_nudges_are_changes(self, store: RecordStore) -> None:
        """Caches are told when a nudge is made, claimed and given back."""
        agent = await _agent(store)
        seq = (await call(store, "changes_since", seq=None))["seq"]
        await _nudged(store, agent)
        await _claim(store, agent, "r-" + agent)
        await _settle(store, "r-" + agent, "pending")
        await _settle(store, "r-" + agent, "pending")
        found = await call(store, "changes_since", seq=seq)
        assert found["changes"] == [[agent, "nudges"]] * 3, "each time"

    async def test_nobodys_nudges(self, store: RecordStore) -> None:
        """Nudges are claimed for an agent that is known, some at a time."""
        with refused("agent_id: there is no such agent"):
            await _claim(store, ABSENT, str(uuid4()))
        for limit in (0, 1001, None):
            with refused("limit: "):
                await call(store, "claim_nudges", agent_id=ABSENT, request_id="r", limit=limit)


class ViolationRules:
    """The automatic containment and the events of ``append_checkpoints``."""

    async def test_containment(self, store: RecordStore, clock: AdvancingClock) -> None:
        """As many violations in a row as the owner allows pause the agent: status, log, event and change."""
        agent = await _agent(store, aip_enforcement_mode="observe", auto_containment_threshold=3)
        await _register(store, agent)
        seq = (await call(store, "changes_since", seq=None))["seq"]
        answers = [await _append(store, agent, _violation(f"session-{number}")) for number in range(2)]
        last = _violation("session-2")
        answers.append(await _append(store, agent, last))
        assert [answer["contained"] for answer in answers] == [False, False, True], "the third"
        reason, at = "Auto-contained: 3 consecutive boundary violations", iso(clock())
        state = await call(store, "containment", agent_id=agent, limit=10)
        (logged,) = state.pop("log")
        assert state == {
            "agent_id": agent, "status": "paused", "contained_at": at, "contained_by": "system",
            "containment_reason": reason, "auto_containment_threshold": 3,
        }, "the agent is paused"  # fmt: skip
        told: dict[str, Json] = {
            "action": "auto_pause", "actor": "system", "reason": reason, "previous_status": "active",
            "new_status": "paused",
        }  # fmt: skip
        assert {name: logged[name] for name in told} == told, "it is on the log"
        assert logged["metadata"] == {"checkpoint_id": last["checkpoint_id"]}, "with the checkpoint"
        (delivery,) = await _payloads(store, agent)
        assert delivery == {
            "event": "agent.paused", "timestamp": at, "agent_id": agent, "org_id": "org-local", **told,
        }, "webhooks are told"  # fmt: skip
        changes = (await call(store, "changes_since", seq=seq))["changes"]
        assert [agent, "containment"] in changes, "caches are told"
        assert (await _append(store, agent, _violation()))["contained"] is False, "who is paused is not paused again"

    async def test_containment_under_parallel_appends(self, store: RecordStore) -> None:
        """However appends overlap, an agent is paused once."""
        agent = await _agent(store, auto_containment_threshold=4)
        answers = await asyncio.gather(*(_append(store, agent, _violation(f"session-{n % 3}")) for n in range(10)))
        assert sum(answer["contained"] for answer in answers) == 1, "by one of them"
        state = await call(store, "containment", agent_id=agent, limit=10)
        assert [row["action"] for row in state["log"]] == ["auto_pause"], "and is on the log once"
        assert state["containment_reason"] == "Auto-contained: 4 consecutive boundary violations", "the fourth"

    async def test_what_interrupts(self, store: RecordStore) -> None:
        """clear and review_needed end a row of violations, each in its place in the log; error and skipped do not."""
        for verdicts, contained in (
            (("v", "clear", "v"), False), (("v", "review_needed", "v"), False), (("v", "error", "skipped", "v"), True),
            (("v", "v", "clear"), True), (("clear", "v", "v"), True), (("v", "clear", "v", "v"), True),
        ):  # fmt: skip
            rows = [_violation() if verdict == "v" else entry(verdict=verdict) for verdict in verdicts]
            agent = await _agent(store, auto_containment_threshold=2)
            answers = [await _append(store, agent, row) for row in rows]
            assert any(answer["contained"] for answer in answers) is contained, f"{verdicts} one by one"
            agent = await _agent(store, auto_containment_threshold=2)
            answer = await _append(store, agent, *(entry(verdict=row["verdict"]) for row in rows))
            assert answer["contained"] is contained, f"{verdicts} in one batch"
        agent = await _agent(store)
        for threshold in (None, 2**31 - 1):
            agent = await _agent(store, auto_containment_threshold=threshold)
            answer = await _append(store, agent, *(_violation() for _ in range(5)))
            assert answer["contained"] is False, "without a threshold, or with the highest, nobody is paused"

    async def test_how_many_in_a_row(self, store: RecordStore) -> None:
        """The reason tells how many violations there were in a row, at most five above the threshold."""
        for number, told in ((6, 6), (9, 7)):
            agent = await _agent(store)
            await _append(store, agent, *(_violation() for _ in range(number - 1)))
            await call(store, "update_agent", agent_id=agent, settings={"auto_containment_threshold": 2})
            assert (await _append(store, agent, _violation()))["contained"] is True, "the next one pauses it"
            state = await call(store, "containment", agent_id=agent, limit=1)
            assert state["containment_reason"] == f"Auto-contained: {told} consecutive boundary violations", (
                "the number"
            )

    async def test_containment_beside_the_owner(self, store: RecordStore) -> None:
        """Violations and what an owner does to the same agent at once wait for each other and lose nothing."""
        agent = await _agent(store, auto_containment_threshold=2)

        async def own(action: str) -> None:
            await call(
                store, "set_containment", agent_id=agent, action=action, log_id=f"ctl-{uuid4().hex}", actor="kit"
            )

        actions = ("pause", "resume") * 5
        await asyncio.gather(*(_append(store, agent, _violation()) for _ in range(6)), *map(own, actions))
        log = (await call(store, "containment", agent_id=agent, limit=100))["log"]
        statuses = [row["previous_status"] for row in log[::-1]][1:]
        assert statuses == [row["new_status"] for row in log[::-1]][:-1], "each step begins where the last one ended"

    async def test_events_of_an_append(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Events are queued with the rows, in their order, before what the rows bring about, or not at all."""
        agent = await _agent(store, auto_containment_threshold=2)
        await _register(store, agent)
        rows = [_violation(), _violation()]
        events = [_event("verdict.boundary_violation", row["checkpoint_id"]) for row in rows]
        head = await head_of(store, agent, "session-1")
        batch = extension(agent, head, rows, events)
        for _ in range(2):
            await call(store, "append_checkpoints", **batch)
        conflict = extension(agent, head, [entry()], events)
        assert (await call(store, "append_checkpoints", **conflict))["status"] == "conflict", "nothing is written"
        found = await call(store, "webhook_deliveries", agent_id=agent, limit=10)
        told = [(row["event"], row["checkpoint_id"]) for row in found[::-1]]
        assert told == [
            ("verdict.boundary_violation", rows[0]["checkpoint_id"]),
            ("verdict.boundary_violation", rows[1]["checkpoint_id"]),
            ("agent.paused", rows[1]["checkpoint_id"]),
        ], "each once"  # fmt: skip
        unreadable: list[Json] = [[{"event": "x"}], [{**events[0], "delivery_key": "k"}], {}]
        for wrong in unreadable:
            with refused("events: "):
                await call(store, "append_checkpoints", **{**conflict, "events": wrong})


async def _agent(store: RecordStore, **settings: Json) -> str:
    """An agent that is nudged, unless the settings say otherwise."""
    agent = await new_agent(store)
    given = {"aip_enforcement_mode": "nudge", **settings}
    await call(store, "update_agent", agent_id=agent, settings=given)
    return agent


def _violation(session_id: str = "session-1") -> dict[str, Any]:
    return entry(session_id, verdict="boundary_violation")


def _nudging(session_id: str = "session-1", *, verdict: str = "boundary_violation", draw: int = 0) -> dict[str, Any]:
    nudge = {
        "nudge_id": f"nudge-{uuid4().hex}", "nudge_content": "A notice \N{EM DASH} of two\nlines.",
        "concerns_summary": "deception: hid a failure", "draw": draw,
    }  # fmt: skip
    return entry(session_id, verdict=verdict, nudge=nudge)


def _event(name: str, checkpoint_id: str | None = None) -> dict[str, Any]:
    return {"event": name, "data": {"checkpoint": {}}, "checkpoint_id": checkpoint_id, "trace_id": None}


async def _append(store: RecordStore, agent: str, *rows: dict[str, Any]) -> dict[str, Any]:
    """Append beside others, again until it is done; the answer."""
    sessions = sorted({row["session_id"] for row in rows})
    head = await head_of(store, agent, *sessions)
    while True:
        answer: dict[str, Any] = await call(store, "append_checkpoints", **extension(agent, head, rows))
        if answer["status"] == "appended":
            return answer
        assert answer["status"] == "conflict", "somebody else was faster"
        head = answer


async def _nudged(store: RecordStore, agent: str) -> str:
    """The id of a new nudge."""
    (nudge,) = (await _append(store, agent, _nudging()))["nudges"]
    return str(nudge)


async def _claim(store: RecordStore, agent: str, request: str, limit: int = 5) -> list[dict[str, Any]]:
    claimed: list[dict[str, Any]] = await call(store, "claim_nudges", agent_id=agent, request_id=request, limit=limit)
    return claimed


def _ids(claim: Sequence[Mapping[str, Any]]) -> list[str]:
    """The nudges of a claim."""
    return [row["nudge_id"] for row in claim]


async def _settle(store: RecordStore, request: str, outcome: str | None, session: str | None = None) -> Any:
    return await call(store, "settle_nudges", request_id=request, outcome=outcome, session_id=session)


async def _listed(store: RecordStore, agent: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await call(store, "nudges", agent_id=agent, limit=100)
    return rows


async def _register(store: RecordStore, agent: str) -> None:
    given = {"callback_url": "https://example.com", "sealed_secret": "sealed", "events": ["*"]}
    await call(store, "register_webhook", registration_id=f"awh-{uuid4().hex}", agent_id=agent, **given)


async def _payloads(store: RecordStore, agent: str) -> list[Any]:
    claimed = await call(store, "claim_webhooks", claimed_by="kit", limit=1000, lease_s=30)
    return [row["payload"] for row in claimed if row["agent_id"] == agent]
