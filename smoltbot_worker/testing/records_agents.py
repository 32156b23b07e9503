"""Cases of the records kit: agents and their cards, and what the readiness probe asks."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from smoltbot_worker.ports import Json, RecordStore

from .records_area import LATER, SEEN, AdvancingClock, call, first_request, iso, refused


class AgentRules:
    """``get_or_create_agent``, ``touch_agents``, ``ping``, ``housekeeping``."""

    async def test_a_new_agent(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A new agent has the settings of the schema, and no column that names a person."""
        given = first_request(name="scout", card={"a": 1})
        answer = await call(store, "get_or_create_agent", **given)
        assert answer == {
            "is_new": True,
            "agent": {
                "id": f"smolt-{given['agent_hash'][:8]}", "agent_hash": given["agent_hash"], "name": "scout",
                "created_at": iso(clock()), "last_seen": SEEN, "claimed_at": None, "public": False,
                "linked_agent_id": None, "billing_account_id": None, "aip_enforcement_mode": "observe",
                "aap_enabled": True, "aip_enabled": True, "gate_streams": "off", "failure_policy": None,
                "thinking_injection": None, "proof_enabled": False, "proof_rate": 10, "nudge_strategy": "always",
                "nudge_rate": None, "nudge_threshold": None, "ddr_mode": "flag", "thinking_budget": None,
                "org_card_exempt": False, "auto_containment_threshold": None, "containment_status": "active",
                "contained_at": None, "containment_reason": None,
            },
        }, "a new agent is answered whole"  # fmt: skip

    async def test_a_known_agent(self, store: RecordStore) -> None:
        """A second call finds the agent and moves last_seen forwards only."""
        given = first_request()
        first = await call(store, "get_or_create_agent", **given)
        second = await call(store, "get_or_create_agent", **{**given, "seen_at": LATER, "name": "late"})
        third = await call(store, "get_or_create_agent", **{**given, "seen_at": "2020-01-01T00:00:00Z", "name": "x"})
        agent = {**first["agent"], "last_seen": LATER, "name": "late"}
        assert second == {"is_new": False, "agent": agent}, "a null name is filled"
        assert third == second, "what is there is kept"

    async def test_a_hundred_first_requests_at_once(self, store: RecordStore) -> None:
        """Of parallel calls for one hash exactly one makes the agent."""
        given = first_request(card={})
        answers = await asyncio.gather(*(call(store, "get_or_create_agent", **given) for _ in range(100)))
        assert sum(answer["is_new"] for answer in answers) == 1, "one call made it"
        assert len({answer["agent"]["id"] for answer in answers}) == 1, "all have the same agent"

    async def test_colliding_ids_grow(self, store: RecordStore) -> None:
        """Two agents never share an id: 12 digits, then 16."""
        start = uuid4().hex[:8]
        hashes = [f"{start}00010000", f"{start}99990000", f"{start}99991111", f"{start}99992222"]
        calls = [call(store, "get_or_create_agent", **first_request(digits)) for digits in hashes]
        ids = [(await one)["agent"]["id"] for one in calls]
        lengths = [len(agent_id.removeprefix("smolt-")) for agent_id in ids]
        assert lengths == [8, 12, 16, 16], "the shortest free id is taken"

    async def test_bad_arguments_are_named(self, store: RecordStore) -> None:
        """What is missing, unknown or malformed is a ValueError that begins with its name."""
        for name, value in (("agent_hash", "9D08AA51EB89D283"), ("key_hash", None), ("name", 7), ("name", "a\0"),
                            ("name", "\ud800"), ("card", []), ("card", {"a": "\0"}), ("card", {"issued_at": "today"}),
                            ("seen_at", "2026-05-10T08:00:00"), ("colour", "blue"), ("now", SEEN)):  # fmt: skip
            with refused(f"{name}: "):
                await call(store, "get_or_create_agent", **{**first_request(), name: value})

    async def test_touch(self, store: RecordStore) -> None:
        """touch_agents moves last_seen forwards, and says how many moved."""
        ids = [(await call(store, "get_or_create_agent", **first_request()))["agent"]["id"] for _ in range(3)]
        seen = [[ids[0], "2026-05-10T10:00:00.001+02:00"], [ids[1], SEEN], ["smolt-unknown", LATER], [ids[0], SEEN]]
        assert await call(store, "touch_agents", seen=seen) == 1, "one of them moved"
        assert await call(store, "touch_agents", seen=seen) == 0, "a second time nobody moves"
        assert await call(store, "touch_agents", seen=[]) == 0, "nobody may be seen"
        unreadable: list[Json] = [None, {}, ["x"], [["x", "now"]], [[1, SEEN]]]
        for wrong in unreadable:
            with refused("seen: "):
                await call(store, "touch_agents", seen=wrong)

    async def test_touching_side_by_side(self, store: RecordStore) -> None:
        """Batches in opposite orders do not get in each other's way."""
        ids = [(await call(store, "get_or_create_agent", **first_request()))["agent"]["id"] for _ in range(20)]
        pairs = [[agent_id, LATER] for agent_id in ids]
        moved = await asyncio.gather(*(
            call(store, "touch_agents", seen=pairs if number % 2 else pairs[::-1]) for number in range(20)
        ))  # fmt: skip
        assert sum(moved) == len(ids), "each agent moved once"

    async def test_ping(self, store: RecordStore) -> None:
        """ping says which schema is there."""
        answer = await call(store, "ping")
        assert answer["ok"] is True, "it answers"
        assert answer["schema"].endswith(".sql"), "the last file applied is named"
        with refused("loud: "):
            await call(store, "ping", loud=True)

    async def test_housekeeping(self, store: RecordStore) -> None:
        """housekeeping answers in one shape everywhere."""
        answer = await call(store, "housekeeping")
        assert sorted(answer) == ["busy", "checkpointed_pages", "wal_pages"], "what was done"

    async def test_an_unknown_function(self, store: RecordStore) -> None:
        """A name that is no function is a LookupError, whatever the database has under it."""
        for name in ("", "alignment_cards", "_log_head", "ping ", "pg_sleep"):
            try:
                await call(store, name)
            except LookupError:
                continue
            raise AssertionError(f"{name!r} is no function")
