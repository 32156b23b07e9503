"""Cases of the records kit: what an operator sets, how agents are contained, and the gateway's own keys."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from smoltbot_worker.ports import RecordStore

from .records_area import ABSENT, AdvancingClock, call, first_request, iso, refused
from .samples import digest

SETTINGS: dict[str, Any] = {
    "aip_enforcement_mode": "enforce", "aap_enabled": False, "aip_enabled": False, "gate_streams": "tools",
    "failure_policy": "fail_closed", "thinking_injection": "auto", "proof_enabled": True, "proof_rate": 100,
    "nudge_strategy": "threshold", "nudge_rate": 0, "nudge_threshold": 1, "ddr_mode": "auto-apply", "public": True,
    "thinking_budget": 2048, "org_card_exempt": True, "auto_containment_threshold": 2,
}  # fmt: skip
"""All that is shown again, each other than by default."""


async def agent_of(store: RecordStore, **changes: Any) -> dict[str, Any]:
    """The row of a new agent."""
    answer = await call(store, "get_or_create_agent", **first_request(**changes))
    row: dict[str, Any] = answer["agent"]
    return row


async def latest_change(store: RecordStore) -> Any:
    """Where the feed of changes is."""
    return (await call(store, "changes_since"))["seq"]


async def changes_after(store: RecordStore, seq: Any) -> Any:
    """What changed since then."""
    return (await call(store, "changes_since", seq=seq))["changes"]


class SettingRules:
    """``agent``, ``agents``, ``update_agent``."""

    async def test_settings(self, store: RecordStore) -> None:
        """update_agent changes what is given and nothing else, and says so in the feed; null where nothing is set."""
        agent, other = await agent_of(store), await agent_of(store)
        name, seq = agent["id"], await latest_change(store)
        changed = {**agent, **SETTINGS}
        assert await call(store, "update_agent", agent_id=name, settings=SETTINGS) == changed, "all of them"
        assert await call(store, "update_agent", agent_id=name, settings=SETTINGS) == changed, "a second time"
        assert await call(store, "update_agent", agent_id=name, settings={"public": False}) == {
            **changed, "public": False,
        }, "one of them"  # fmt: skip
        empty = dict.fromkeys((
            "failure_policy", "thinking_injection", "nudge_rate", "nudge_threshold", "thinking_budget",
            "auto_containment_threshold", "org_card_exempt_reason", "billing_account_id",
        ))  # fmt: skip
        emptied = {**changed, "public": False, **empty}
        del emptied["org_card_exempt_reason"]
        assert await call(store, "update_agent", agent_id=name, settings=empty) == emptied, "nothing is set"
        assert await changes_after(store, seq) == [[name, "settings"]] * 4, "each is a change"
        assert await call(store, "update_agent", agent_id=name, settings={}) == emptied, "nothing is changed"
        assert len(await changes_after(store, seq)) == 4, "which is none"
        assert await call(store, "agent", agent_id=name) == emptied, "it is stored"
        assert await call(store, "agent", agent_id=other["id"]) == other, "the other agent is as it was"

    async def test_bad_settings(self, store: RecordStore) -> None:
        """A setting that is unknown, of another kind or out of its range is refused, and so is an unknown agent."""
        agent = await agent_of(store)
        for name, value in (("aip_enforcement_mode", "strict"), ("aip_enforcement_mode", None), ("aap_enabled", 1),
                            ("gate_streams", True), ("failure_policy", "open"), ("proof_rate", 101),
                            ("proof_rate", None), ("nudge_rate", -1), ("nudge_threshold", 0),
                            ("nudge_threshold", 2**31), ("ddr_mode", "on"), ("thinking_budget", 0),
                            ("auto_containment_threshold", 1), ("org_card_exempt_reason", "x" * 501),
                            ("containment_status", "killed"), ("id", "smolt-1"), ("billing_account_id", "unknown"),
                            ("key_hash", None)):  # fmt: skip
            with refused(f"settings: {name}: "):
                await call(store, "update_agent", agent_id=agent["id"], settings={"public": True, name: value})
        with refused("settings: "):
            await call(store, "update_agent", agent_id=agent["id"], settings=None)
        for settings in ({}, {"public": True}):
            with refused("agent_id: there is no such agent"):
                await call(store, "update_agent", agent_id=ABSENT, settings=settings)
        assert await call(store, "agent", agent_id=agent["id"]) == agent, "nothing was changed"
        reason = {"org_card_exempt_reason": "\N{SNOWMAN}" * 500}
        assert await call(store, "update_agent", agent_id=agent["id"], settings=reason) == agent, (
            "a reason is not shown"
        )

    async def test_parallel_settings(self, store: RecordStore) -> None:
        """Changes of different settings at once all stay."""
        agent = await agent_of(store)
        await asyncio.gather(*(
            call(store, "update_agent", agent_id=agent["id"], settings={name: value})
            for name, value in SETTINGS.items()
        ))  # fmt: skip
        assert await call(store, "agent", agent_id=agent["id"]) == {**agent, **SETTINGS}, "none is lost"

    async def test_listing_agents(self, store: RecordStore) -> None:
        """agents come by their ids, those after the one that is named; an unknown agent is null."""
        start = uuid4().hex[:7]
        made = [(await agent_of(store, agent_hash=f"{start}{digit}{uuid4().hex[:8]}")) for digit in "f0a9"]
        expected = sorted(made, key=lambda agent: str(agent["id"]))
        before = f"smolt-{start}"
        assert await call(store, "agents", after=before, limit=4) == expected, "in their order"
        assert await call(store, "agents", after=before, limit=1) == expected[:1], "so many"
        assert await call(store, "agents", after=expected[1]["id"], limit=2) == expected[2:], "the next page"
        assert len(await call(store, "agents", limit=2)) == 2, "from the beginning"
        assert await call(store, "agents", after="smolt-~", limit=5) == [], "none is left"
        assert await call(store, "agent", agent_id=ABSENT) is None, "there is none"
        for wrong in (0, 1001, None, "1"):
            with refused("limit: "):
                await call(store, "agents", limit=wrong)


class ContainmentRules:
    """``set_containment``, ``containment``, ``contained_agents``."""

    async def test_the_state_machine(self, store: RecordStore) -> None:
        """Kill wins over pause; only a paused agent is resumed, only a killed one reactivated."""
        allowed = {
            ("active", "pause"): "paused", ("active", "kill"): "killed", ("paused", "resume"): "active",
            ("paused", "kill"): "killed", ("killed", "reactivate"): "active",
        }  # fmt: skip
        ways = {"active": [], "paused": ["pause"], "killed": ["kill"]}
        for status, way in ways.items():
            for action in ("pause", "resume", "kill", "reactivate"):
                agent = (await agent_of(store))["id"]
                for step in way:
                    await contain(store, agent, step)
                before, seq = await call(store, "agent", agent_id=agent), await latest_change(store)
                answer = await contain(store, agent, action)
                after = allowed.get((status, action))
                assert answer["status"] == ("changed" if after else "wrong_state"), f"{action} when {status}"
                assert answer["agent"] == await call(store, "agent", agent_id=agent), "the row as it is now"
                if after is None:
                    assert answer["agent"] == before, "nothing was changed"
                assert answer["agent"]["containment_status"] == (after or status), "the status that it leads to"
                changes = [[agent, "containment"]] if after else []
                assert await changes_after(store, seq) == changes, "caches hear of it"

    async def test_what_is_on_record(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Who, why and when are kept while the agent is contained, and in the log for ever, the newest first."""
        agent = (await agent_of(store))["id"]
        log: list[Any] = []
        state = {
            "agent_id": agent, "status": "active", "contained_at": None, "contained_by": None,
            "containment_reason": None, "auto_containment_threshold": None,
        }  # fmt: skip
        assert await call(store, "containment", agent_id=agent, limit=9) == {**state, "log": []}, "never contained"
        steps = (("pause", "active", "paused", "why\N{SNOWMAN}"), ("kill", "paused", "killed", None),
                 ("reactivate", "killed", "active", "again"), ("kill", "active", "killed", ""))  # fmt: skip
        for number, (action, previous, new, reason) in enumerate(steps):
            clock.advance(number // 2)
            log_id = f"ctl-{uuid4()}"
            actor, at = f"operator {number}", iso(clock())
            answer = await contain(store, agent, action, log_id=log_id, actor=actor, reason=reason)
            log.insert(0, {
                "id": log_id, "action": action, "actor": actor, "reason": reason, "previous_status": previous,
                "new_status": new, "metadata": None, "created_at": at,
            })  # fmt: skip
            held = new != "active"
            now = {
                **state, "status": new, "contained_at": at if held else None,
                "contained_by": actor if held else None, "containment_reason": reason if held else None,
            }  # fmt: skip
            assert await call(store, "containment", agent_id=agent, limit=9) == {**now, "log": log}, action
            shown = {name: answer["agent"][name] for name in ("contained_at", "containment_reason")}
            assert shown == {name: now[name] for name in shown}, "the agent has it too"
        assert (await call(store, "containment", agent_id=agent, limit=1))["log"] == log[:1], "the newest"
        assert await call(store, "containment", agent_id=ABSENT, limit=1) is None, "there is no such agent"

    async def test_who_is_contained(self, store: RecordStore) -> None:
        """contained_agents lists by id who is paused or killed, and nobody else."""
        start = uuid4().hex[:7]
        made = [(await agent_of(store, agent_hash=f"{start}{digit}{uuid4().hex[:8]}")) for digit in "f0a95"]
        actions: list[list[str]] = [["kill"], ["pause"], ["pause", "resume"], ["pause", "kill"], []]
        for agent, wanted in zip(made, actions, strict=True):
            for action in wanted:
                await contain(store, agent["id"], action)
        statuses = zip((made[1], made[3], made[0]), ("paused", "killed", "killed"), strict=True)
        expected = [[agent["id"], agent["agent_hash"], status] for agent, status in statuses]
        before = f"smolt-{start}"
        assert (await call(store, "contained_agents", after=before, limit=1000))[:3] == expected, "in their order"
        assert await call(store, "contained_agents", after=before, limit=2) == expected[:2], "so many"
        assert await call(store, "contained_agents", after=expected[0][0], limit=2) == expected[1:], "the next page"
        assert await call(store, "contained_agents", after="smolt-~", limit=5) == [], "none is left"
        for wrong in (0, 1001, None, "1"):
            with refused("limit: "):
                await call(store, "contained_agents", limit=wrong)

    async def test_containing_again(self, store: RecordStore) -> None:
        """An action whose answer was lost is known by its log_id and not done again, whatever came after it."""
        agent, log_id = (await agent_of(store))["id"], f"ctl-{uuid4()}"
        first = await contain(store, agent, "pause", log_id=log_id)
        assert await contain(store, agent, "pause", log_id=log_id) == {**first, "status": "known"}, "done already"
        await contain(store, agent, "resume")
        again = await contain(store, agent, "pause", log_id=log_id)
        assert (again["status"], again["agent"]["containment_status"]) == ("known", "active"), "it stays resumed"
        other = (await agent_of(store))["id"]
        for agent_id, action in ((agent, "kill"), (other, "pause")):
            with refused("log_id: another action has this id"):
                await contain(store, agent_id, action, log_id=log_id)
        with refused("agent_id: there is no such agent"):
            await contain(store, ABSENT, "pause")
        with refused("action: "):
            await contain(store, agent, "auto_pause")
        with refused("actor: "):
            await contain(store, agent, "pause", actor=None)
        assert (await call(store, "agent", agent_id=other))["containment_status"] == "active", "nothing was done"

    async def test_containing_side_by_side(self, store: RecordStore) -> None:
        """Of actions at once each sees what the ones before it did; whatever their order, a kill is the end."""
        agent = (await agent_of(store))["id"]
        answers = await asyncio.gather(*(contain(store, agent, "pause") for _ in range(10)))
        assert sorted(answer["status"] for answer in answers) == ["changed"] + ["wrong_state"] * 9, "one paused it"
        actions = ["resume", "pause", "kill"] * 5
        await asyncio.gather(*(contain(store, agent, action) for action in actions))
        state = await call(store, "containment", agent_id=agent, limit=100)
        assert state["status"] == "killed", "kill wins"
        steps = [(entry["previous_status"], entry["new_status"]) for entry in reversed(state["log"])]
        assert [new for _, new in steps[:-1]] == [previous for previous, _ in steps[1:]], "each follows the one before"
        assert [new for _, new in steps].count("killed") == 1, "and nothing follows the kill"
        log_id = f"ctl-{uuid4()}"
        answers = await asyncio.gather(*(contain(store, agent, "reactivate", log_id=log_id) for _ in range(10)))
        assert sorted(answer["status"] for answer in answers) == ["changed"] + ["known"] * 9, "one action is done once"

    async def test_containment_is_told(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Webhooks that want it are told who did what; what did not happen is not told."""
        agent, registration = (await agent_of(store))["id"], f"awh-{uuid4()}"
        await call(
            store, "register_webhook", registration_id=registration, agent_id=agent, sealed_secret="sealed",
            callback_url="https://example.com/hook", events=["agent.paused", "agent.killed", "agent.reactivated"],
        )  # fmt: skip
        await contain(store, agent, "resume")
        for action in ("pause", "resume", "pause", "kill", "reactivate"):
            clock.advance(1)
            await contain(store, agent, action, actor="mia", reason=f"for {action}")
        told = [row["payload"] for row in await claimed(store, registration, 4)]
        assert [payload["event"] for payload in told] == [
            "agent.paused", "agent.paused", "agent.killed", "agent.reactivated",
        ], "what they want, in its order"  # fmt: skip
        assert told[2] == {
            "event": "agent.killed", "timestamp": iso(clock() - 1), "agent_id": agent, "org_id": "org-local",
            "action": "kill", "actor": "mia", "reason": "for kill", "previous_status": "paused",
            "new_status": "killed",
        }, "the whole of it"  # fmt: skip


class GatewayKeyRules:
    """``put_gateway_key``, ``revoke_gateway_key``, ``gateway_keys``, ``resolve_gateway_key``."""

    async def test_a_gateway_key(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A key names its agent from its registration to its revocation; both are changes, once."""
        agent, seq = await agent_of(store), await latest_change(store)
        given = {"key_id": f"gk-{uuid4()}", "key_hash": digest(uuid4()), "agent_id": agent["id"]}
        resolved = {"key_hash": given["key_hash"]}
        assert await call(store, "resolve_gateway_key", **resolved) is None, "it is not there yet"
        row = {"key_id": given["key_id"], "agent_id": agent["id"], "created_at": iso(clock()), "revoked_at": None}
        assert await call(store, "put_gateway_key", **given) == row, "the row, without the hash"
        clock.advance(60)
        assert await call(store, "put_gateway_key", **given) == row, "a second time"
        assert await call(store, "resolve_gateway_key", **resolved) == agent, "its agent"
        revoked = {**row, "revoked_at": iso(clock())}
        assert await call(store, "revoke_gateway_key", key_id=given["key_id"]) == revoked, "it is revoked now"
        clock.advance(60)
        assert await call(store, "revoke_gateway_key", key_id=given["key_id"]) == revoked, "and was then"
        assert await call(store, "resolve_gateway_key", **resolved) is None, "it names nobody"
        assert await call(store, "put_gateway_key", **given) == revoked, "it stays revoked"
        assert await call(store, "resolve_gateway_key", **resolved) is None, "and names nobody"
        assert await changes_after(store, seq) == [[agent["id"], "keys"]] * 2, "caches hear of both"
        assert await call(store, "revoke_gateway_key", key_id="gk-unknown") is None, "there is none"

    async def test_contradicting_keys(self, store: RecordStore) -> None:
        """A known id with another key or agent, a known key with another id, an unknown agent: each is refused."""
        agent, other = (await agent_of(store))["id"], (await agent_of(store))["id"]
        given = {"key_id": f"gk-{uuid4()}", "key_hash": digest(uuid4()), "agent_id": agent}
        await call(store, "put_gateway_key", **given)
        for name, changes in (("key_id", {"key_hash": digest("x")}), ("key_id", {"agent_id": other}),
                              ("key_hash", {"key_id": f"gk-{uuid4()}"}), ("agent_id", {"agent_id": ABSENT}),
                              ("key_hash", {"key_hash": "AB" * 32}), ("key_id", {"key_id": ""})):  # fmt: skip
            with refused(f"{name}: "):
                await call(store, "put_gateway_key", **{**given, **changes})
        resolved = await call(store, "resolve_gateway_key", key_hash=given["key_hash"])
        assert resolved["id"] == agent, "it names the agent that it named"

    async def test_keys_side_by_side(self, store: RecordStore) -> None:
        """Of two agents that register one key at once exactly one has it; after a revocation nobody resolves it."""
        agents = [(await agent_of(store))["id"] for _ in range(2)]
        given = {"key_id": f"gk-{uuid4()}", "key_hash": digest(uuid4())}
        answers = await asyncio.gather(
            *(call(store, "put_gateway_key", **given, agent_id=agents[number % 2]) for number in range(10)),
            return_exceptions=True,
        )
        holders = {answer["agent_id"] for answer in answers if isinstance(answer, dict)}
        assert len(holders) == 1, "one agent has it"
        assert sum(isinstance(answer, ValueError) for answer in answers) == 5, "the other is refused"
        revoked = await asyncio.gather(*(call(store, "revoke_gateway_key", key_id=given["key_id"]) for _ in range(10)))
        assert len({row["revoked_at"] for row in revoked}) == 1, "it is revoked once"
        assert await call(store, "resolve_gateway_key", key_hash=given["key_hash"]) is None, "it names nobody"

    async def test_listing_keys(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Several keys may name one agent; the newest is listed first, revoked ones too."""
        agent, start = (await agent_of(store))["id"], f"gk-{uuid4()}"
        rows: list[Any] = []
        for name, seconds in (("b", 0), ("a", 0), ("A", 1), ("_", 0)):
            clock.advance(seconds)
            row = await call(
                store, "put_gateway_key", key_id=f"{start}-{name}", key_hash=digest(start, name), agent_id=agent
            )
            rows.append(row)
        rows[1] = await call(store, "revoke_gateway_key", key_id=rows[1]["key_id"])
        listed = [row for row in await call(store, "gateway_keys") if row["key_id"].startswith(start)]
        assert listed == [rows[3], rows[2], rows[0], rows[1]], "by age, then by id"


async def contain(store: RecordStore, agent_id: str, action: str, **given: Any) -> Any:
    """The answer of ``set_containment``."""
    arguments = {"log_id": f"ctl-{uuid4()}", "actor": "operator", "reason": None, **given}
    return await call(store, "set_containment", agent_id=agent_id, action=action, **arguments)


async def claimed(store: RecordStore, registration_id: str, count: int) -> list[dict[str, Any]]:
    """The next deliveries of a registration, each settled so that the next may come."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        rows = await call(store, "claim_webhooks", claimed_by="control", limit=1000, lease_s=60)
        assert rows, f"{count} deliveries wait"
        found += [row for row in rows if row["registration_id"] == registration_id]
        settled = [{"delivery_id": row["delivery_id"], "outcome": "delivered"} for row in rows]
        await call(store, "settle_webhooks", claimed_by="control", settled=settled)
    return found
