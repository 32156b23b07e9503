"""Cases of the records kit: alignment cards and their versions, and what holds beyond one agent."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from smoltbot_worker.ports import RecordStore

from .records_area import ABSENT, AdvancingClock, call, first_request, iso, new_agent, refused
from .records_control import agent_of, changes_after, contain, latest_change
from .samples import HEADLESS, entry, extension

ORGANIZATION: dict[str, Any] = {
    "card_template": None, "card_template_enabled": False, "conscience_values": [],
    "conscience_values_mode": "augment", "conscience_values_enabled": False,
}  # fmt: skip
FREE_TIER: dict[str, Any] = {
    "plan_id": "plan-free", "billing_model": "none", "subscription_status": "none", "included_checks": 0,
    "check_count_this_period": 0, "overage_threshold": None, "per_check_price": 0, "per_proof_price": 0,
    "feature_flags": {}, "limits": {}, "account_id": None, "current_period_end": None, "past_due_since": None,
    "is_suspended": False, "containment_status": "active",
    "agent_settings": {
        "aap_enabled": True, "aip_enabled": True, "proof_enabled": False, "proof_rate": 10,
        "nudge_strategy": "always", "nudge_rate": None, "nudge_threshold": None, "ddr_mode": "flag",
        "thinking_budget": None,
    },
}  # fmt: skip
VALUES: list[Any] = [{"type": "BOUNDARY", "content": "Grüße \N{SNOWMAN}", "weight": 0.5}, {"type": "FEAR"}]


class CardRules:
    """``active_card``, ``put_card``, ``put_conscience_values``, ``card_history``."""

    async def test_versions_of_a_card(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Each change is a version of its own; one is active, its values are carried over, the others are kept."""
        given = first_request(card={"principal": {"type": "human"}, "n": [1, 0.5, None]})
        agent = (await call(store, "get_or_create_agent", **given))["agent"]["id"]
        card_id, made_at, seq = f"ac-{agent[6:]}", iso(clock()), await latest_change(store)
        filled = {"card_id": card_id, "agent_id": agent, "issued_at": made_at}
        first = {
            "card_id": card_id, "agent_id": agent, "version": 1, "is_active": True,
            "card_json": {**given["card"], **filled}, "conscience_values": None, "issued_at": made_at,
            "created_at": made_at,
        }  # fmt: skip
        assert await call(store, "active_card", agent_id=agent) == first, "the first card is a version too"
        clock.advance(60)
        now = iso(clock())
        second = {**first, "version": 2, "conscience_values": VALUES, "created_at": now}
        valued = await call(store, "put_conscience_values", agent_id=agent, values=VALUES)
        assert valued == second, "values of another version"
        third = {
            **second, "version": 3, "issued_at": "2026-05-10T06:00:00.500Z",
            "card_json": {"b": {}, **filled, "issued_at": "2026-05-10T08:00:00.5+02:00"},
        }  # fmt: skip
        card = {"b": {}, "card_id": "ac-foreign", "agent_id": "x", "issued_at": "2026-05-10T08:00:00.5+02:00"}
        assert await put(store, agent, card, 2) == {"status": "stored", "card": third}, "filled like the first"
        fourth = {**third, "version": 4, "issued_at": now, "card_json": {**filled, "issued_at": now}}
        assert await put(store, agent, {"issued_at": None}) == {"status": "stored", "card": fourth}, "issued now"
        history = [fourth, *({**card, "is_active": False} for card in (third, second, first))]
        assert await call(store, "card_history", agent_id=agent, limit=9) == history, "the newest first"
        assert await call(store, "card_history", agent_id=agent, limit=1) == history[:1], "so many"
        assert await call(store, "active_card", agent_id=agent) == fourth, "the newest is in force"
        assert await changes_after(store, seq) == [[agent, "card"]] * 3, "each is a change"

    async def test_the_same_card_again(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A card that is in force already is no new version, whatever version was expected."""
        agent = (await agent_of(store))["id"]
        card = {"a": 1, "b": [True, {"c": 10**30}], "d": 0.5}
        stored = (await put(store, agent, card, 0))["card"]
        clock.advance(60)
        seq, same = await latest_change(store), {"status": "unchanged", "card": stored}
        for again in (card, {"d": 0.5, "b": [True, {"c": 10**30}], "a": 1.0}, {**card, "issued_at": None}):
            assert await put(store, agent, again, 0) == same, "an answer that was lost is given again"
        values: list[Any] = [[], None]
        for value in values:
            row = await call(store, "put_conscience_values", agent_id=agent, values=value)
            stored = await call(store, "put_conscience_values", agent_id=agent, values=value)
            assert row == stored, "the same values again"
        assert stored["version"] == 3, "no values and none at all are two things"
        assert len(await changes_after(store, seq)) == 2, "only what was stored is a change"
        for number, other in enumerate(({**card, "a": True}, {**card, "a": "1"}, {**card, "b": [True]})):
            answer = await put(store, agent, other)
            assert (answer["status"], answer["card"]["version"]) == ("stored", 4 + number), "another card"

    async def test_expected_versions(self, store: RecordStore) -> None:
        """A version that is not the active one is a conflict; 0 expects no card."""
        agent = (await agent_of(store))["id"]
        assert await put(store, agent, {"a": 1}, 1) == {"status": "conflict", "card": None}, "there is none yet"
        assert await call(store, "active_card", agent_id=agent) is None, "nothing was stored"
        first = await put(store, agent, {"a": 1}, 0)
        assert first["status"] == "stored", "the first"
        for expected in (0, 2):
            answer = await put(store, agent, {"a": 2}, expected)
            assert answer == {"status": "conflict", "card": first["card"]}, "the card that is there"
        assert (await put(store, agent, {"a": 2}, 1))["card"]["version"] == 2, "the next"
        assert (await put(store, agent, {"a": 1}))["card"]["version"] == 3, "any version"
        for wrong in (-1, "1", 1.5):
            with refused("expected_version: "):
                await put(store, agent, {"a": 4}, wrong)

    async def test_cards_side_by_side(self, store: RecordStore) -> None:
        """Of cards at once that expect one version exactly one is stored; of those that expect none, all are."""
        agent = (await agent_of(store))["id"]
        await put(store, agent, {"a": 0})
        answers = await asyncio.gather(*(put(store, agent, {"a": number}, 1) for number in range(1, 11)))
        assert sorted(answer["status"] for answer in answers) == ["conflict"] * 9 + ["stored"], "one was first"
        stored = await asyncio.gather(
            *(put(store, agent, {"b": number}) for number in range(10)),
            *(call(store, "put_conscience_values", agent_id=agent, values=[number]) for number in range(10)),
        )
        history = await call(store, "card_history", agent_id=agent, limit=100)
        assert [card["version"] for card in history] == list(range(22, 0, -1)), "each is a version"
        assert [card["is_active"] for card in history] == [True] + [False] * 21, "one is in force"
        kinds = [name for card in history for name in "ab" if name in card["card_json"]]
        assert len(kinds) == 22, "values never bring back a card nor drop it"
        assert {answer.get("status", "valued") for answer in stored} == {"stored", "valued"}, "none was refused"

    async def test_cards_that_are_refused(self, store: RecordStore) -> None:
        """What is no card, nobody's card, and values without a card: refused, and nothing is stored."""
        agent = (await agent_of(store))["id"]
        deep: Any = {}
        for _ in range(500):
            deep = {"a": deep}
        times = (
            "today",
            1,
            "2026-W19-7T08:00Z",
            "2026-05-10x08:00Z",
            "2026-05-10T08:00:00.1239999Z",
            "2026-05-10T08:00+23:59",
        )
        cards: list[Any] = [None, [], "{}", *({"issued_at": time} for time in times), {"a": "\0"}, {"\ud800": 1}, deep]
        for wrong in cards:
            with refused("card: "):
                await put(store, agent, wrong)
        with refused("agent_id: there is no such agent"):
            await put(store, ABSENT, {})
        for agent_id, problem in ((agent, "this agent has no card"), (ABSENT, "there is no such agent")):
            with refused(f"agent_id: {problem}"):
                await call(store, "put_conscience_values", agent_id=agent_id, values=[])
        for wrong in ({}, "[]", 1):
            with refused("values: "):
                await call(store, "put_conscience_values", agent_id=agent, values=wrong)
        for agent_id in (agent, ABSENT):
            assert await call(store, "active_card", agent_id=agent_id) is None, "there is none"
            assert await call(store, "card_history", agent_id=agent_id, limit=1) == [], "and never was"
        assert (await put(store, agent, deep["a"], 0))["card"]["card_json"]["a"] == deep["a"]["a"], "as deep as may be"


class OrganizationRules:
    """``organization``, ``put_organization``."""

    async def test_the_organization(self, store: RecordStore, clock: AdvancingClock) -> None:
        """What is given is changed, for every agent; what is not stays."""
        found = await call(store, "organization")
        assert found == {**ORGANIZATION, "org_id": "org-local", "updated_at": found["updated_at"]}, "by default"
        seq, changes = await latest_change(store), {
            "card_template": {"a": [None]}, "card_template_enabled": True, "conscience_values": VALUES,
            "conscience_values_mode": "replace", "conscience_values_enabled": True,
        }  # fmt: skip
        row = {**changes, "org_id": "org-local", "updated_at": iso(clock())}
        try:
            assert await call(store, "put_organization", changes=changes) == row, "all of it"
            await asyncio.gather(*(
                call(store, "put_organization", changes={name: value}) for name, value in ORGANIZATION.items()
            ))  # fmt: skip
            found = await call(store, "organization")
            assert found == {**row, **ORGANIZATION}, "changes at once all stay"
            assert await call(store, "put_organization", changes={}) == found, "nothing is changed"
        finally:
            await call(store, "put_organization", changes=ORGANIZATION)
        assert await changes_after(store, seq) == [[None, "organization"]] * 7, "each is a change for everybody"

    async def test_bad_organizations(self, store: RecordStore) -> None:
        """What is unknown or of another kind is refused."""
        for name, value in (("card_template", []), ("card_template", {"issued_at": "today"}),
                            ("card_template_enabled", None), ("conscience_values", None),
                            ("conscience_values_mode", "add"), ("conscience_values_enabled", 1),
                            ("org_id", "org-2"), ("updated_at", None)):  # fmt: skip
            with refused(f"changes: {name}: "):
                await call(store, "put_organization", changes={name: value})


class AccountRules:
    """``put_account``, ``license_state``, ``put_license_state``."""

    async def test_an_account(self, store: RecordStore, clock: AdvancingClock) -> None:
        """An account is stored whole, and its agents' contexts change."""
        account, seq = account_row(), await latest_change(store)
        row = {**account, "updated_at": iso(clock())}
        assert await call(store, "put_account", **account) == row, "the row"
        assert await changes_after(store, seq) == [], "nobody has it"
        agents = sorted([(await agent_of(store))["id"] for _ in range(2)])
        for agent in agents:
            settings = {"billing_account_id": account["account_id"]}
            shown = await call(store, "update_agent", agent_id=agent, settings=settings)
            assert shown["billing_account_id"] == account["account_id"], "the agent is its"
        clock.advance(1)
        seq, account = await latest_change(store), {
            **account, "overage_threshold": None, "current_period_end": None, "past_due_since": None,
            "is_suspended": True, "per_check_price": 0, "per_proof_price": 3, "feature_flags": {},
        }  # fmt: skip
        row = {**account, "updated_at": iso(clock())}
        answers = await asyncio.gather(*(call(store, "put_account", **account) for _ in range(5)))
        assert answers == [row] * 5, "in place of what was known"
        changes = [[agent, "account"] for agent in agents for _ in range(5)]
        assert sorted(await changes_after(store, seq)) == changes, "each agent of it changed"
        for name, value in (("account_id", None), ("plan_id", None), ("billing_model", "free"), ("limits", []),
                            ("subscription_status", None), ("included_checks", -1), ("is_suspended", None),
                            ("per_check_price", -0.1), ("per_check_price", float("nan")), ("per_proof_price", True),
                            ("per_proof_price", 10**13), ("overage_threshold", 0.5), ("containment_status", "active"),
                            ("past_due_since", "2026-05-10")):  # fmt: skip
            with refused(f"{name}: "):
                await call(store, "put_account", **{**account, name: value})

    async def test_the_state_of_a_license(self, store: RecordStore) -> None:
        """Each check replaces what was found, but the last time at which it was valid never moves backwards."""
        name, early, late = f"lic-{uuid4()}", "2026-05-10T08:00:00.000Z", "2026-05-11T08:00:00.000Z"
        assert await call(store, "license_state", license_id=name) is None, "it was never checked"
        state = {"license_id": name, "status": "unreachable", "last_valid_at": None, "last_checked_at": early,
                 "last_error": "connection \N{SNOWMAN}"}  # fmt: skip
        assert await call(store, "put_license_state", **state) == state, "never valid"
        for valid, kept in ((early, early), (None, early), (late, late), (early, late), (None, late)):
            given = {**state, "status": "valid", "last_valid_at": valid, "last_checked_at": late, "last_error": None}
            expected = {**given, "last_valid_at": kept}
            assert await call(store, "put_license_state", **given) == expected, "the latest time stays"
            assert await call(store, "license_state", license_id=name) == expected, "it is stored"
        times = [f"2026-05-12T08:00:{number:02}.000Z" for number in range(10)]
        await asyncio.gather(*(call(store, "put_license_state", **{**state, "last_valid_at": at}) for at in times))
        assert (await call(store, "license_state", license_id=name))["last_valid_at"] == times[-1], "the latest of all"
        for argument in ("license_id", "status", "last_checked_at"):
            with refused(f"{argument}: "):
                await call(store, "put_license_state", **{**state, argument: None})


class ContextRules:
    """``agent_context``."""

    async def test_a_context(self, store: RecordStore) -> None:
        """An agent without a card, an account or nudges, with the place in the feed to which this is true."""
        agent = await agent_of(store)
        context = await call(store, "agent_context", agent_id=agent["id"])
        assert context == {
            "agent": agent, "card": None, "organization": await call(store, "organization"), "quota": FREE_TIER,
            "pending_nudges": 0, "seq": await latest_change(store),
        }, "what is known of a new agent"  # fmt: skip
        assert await call(store, "agent_context", agent_id=ABSENT) is None, "there is no such agent"

    async def test_what_a_context_holds(self, store: RecordStore) -> None:
        """Settings, containment, card and account are in it as they are stored; each change moves its seq."""
        agent, account = (await agent_of(store))["id"], account_row()
        await call(store, "put_account", **account)
        seqs = [(await call(store, "agent_context", agent_id=agent))["seq"]]
        for function, given in (
            ("update_agent", {"settings": {"nudge_rate": 5, "billing_account_id": account["account_id"]}}),
            ("put_card", {"card": {"a": 1}}),
            ("put_conscience_values", {"values": VALUES}),
        ):
            await call(store, function, agent_id=agent, **given)
            seqs.append((await call(store, "agent_context", agent_id=agent))["seq"])
        assert len(set(seqs)) == len(seqs), "a context says how new it is"
        await contain(store, agent, "pause")
        context = await call(store, "agent_context", agent_id=agent)
        assert context["card"] == await call(store, "active_card", agent_id=agent), "the card in force"
        assert context["card"]["conscience_values"] == VALUES, "with its values"
        assert context["agent"] == await call(store, "agent", agent_id=agent), "the agent"
        settings = {**FREE_TIER["agent_settings"], "nudge_rate": 5}
        assert context["quota"] == {**account, "agent_settings": settings, "containment_status": "paused"}, "the quota"

    async def test_a_context_is_of_one_moment(self, store: RecordStore) -> None:
        """However many changes come meanwhile, a context holds exactly those up to its seq."""
        agent, seq = (await agent_of(store))["id"], await latest_change(store)
        found: list[Any] = []

        async def look() -> None:
            while not found or found[-1]["seq"] < seq + 40:
                found.append(await call(store, "agent_context", agent_id=agent))

        async def change() -> None:
            for number in range(20):
                await call(store, "update_agent", agent_id=agent, settings={"nudge_rate": number})
                await put(store, agent, {"number": number})

        await asyncio.gather(change(), look(), look(), look())
        for context in found:
            rated, carded = context["agent"]["nudge_rate"], (context["card"] or {}).get("version", 0)
            assert (0 if rated is None else rated + 1) + carded == context["seq"] - seq, (
                "nothing of it is older or newer"
            )

    async def test_nudges_that_wait(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Nudges count until they are delivered or four hours old, also while somebody delivers them."""
        agent = await new_agent(store)
        await call(store, "update_agent", agent_id=agent, settings={"aip_enforcement_mode": "nudge"})
        nudges = [
            {"nudge_id": f"nudge-{uuid4()}", "nudge_content": "x", "concerns_summary": "y", "draw": 0} for _ in range(3)
        ]
        rows = [entry(verdict="boundary_violation", nudge=nudge) for nudge in nudges]
        await call(store, "append_checkpoints", **extension(agent, HEADLESS, rows))
        assert await waiting(store, agent) == 3, "all of them"
        request = f"r-{uuid4()}"
        await call(store, "claim_nudges", agent_id=agent, request_id=request, limit=1)
        assert await waiting(store, agent) == 3, "it may come back, and no cache would hear of it"
        await call(store, "settle_nudges", request_id=request, outcome="delivered", session_id="session-1")
        assert await waiting(store, agent) == 2, "it is delivered"
        clock.advance(4 * 3600 + 1)
        assert await waiting(store, agent) == 0, "they are too old"


async def put(store: RecordStore, agent_id: str, card: Any, expected_version: Any = None) -> Any:
    """The answer of ``put_card``."""
    return await call(store, "put_card", agent_id=agent_id, card=card, expected_version=expected_version)


async def waiting(store: RecordStore, agent_id: str) -> Any:
    """How many nudges wait for the agent."""
    return (await call(store, "agent_context", agent_id=agent_id))["pending_nudges"]


def account_row() -> dict[str, Any]:
    """An account that nobody else uses."""
    return {
        "account_id": f"acct-{uuid4()}", "plan_id": "plan-team", "billing_model": "subscription_plus_metered",
        "subscription_status": "past_due", "included_checks": 2**40, "check_count_this_period": 7,
        "overage_threshold": 2**50, "per_check_price": 0.0025, "per_proof_price": 1e-7,
        "feature_flags": {"a": True, "b": [1, 0.5]}, "limits": {"agents": 3},
        "current_period_end": "2026-06-01T00:00:00.000Z", "past_due_since": "2026-05-09T22:00:00.001Z",
        "is_suspended": False,
    }  # fmt: skip
