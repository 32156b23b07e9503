"""Alignment: the card as AIP has it, under the organisation's template, and what is said of one that is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from smoltbot_worker.attestation.commitment import canonical
from smoltbot_worker.env import DEFAULT_CARD
from smoltbot_worker.integrity.cards import MOST_TEXT, UNKNOWN, alignment
from smoltbot_worker.integrity.reading import Fields
from smoltbot_worker.integrity.template import merged
from tests.unit.integrity_support import agent_with

AAP: dict[str, Any] = {
    "card_id": "ac-1",
    "principal": {"type": "human"},
    "values": {
        "declared": ["honesty", "care", "speed"],
        "definitions": {"care": {"description": "Take care", "priority": 9.0}, "speed": {"description": ""}},
    },
    "autonomy_envelope": {
        "bounded_actions": ["read", "write"],
        "forbidden_actions": ["delete"],
        "escalation_triggers": [{"condition": "x > 1", "action": "escalate", "reason": "r", "extra": 1},
                                {"condition": "y", "action": "deny"}],
    },
    "audit_commitment": {"retention_days": 365, "queryable": False, "tamper_evidence": "signed"},
    "extensions": {"mnemom": {"description": "Helps.", "role": "helper"}},
}  # fmt: skip
FORM: dict[str, Any] = {
    "card_id": "ac-1",
    "agent_description": "Helps.",
    "values": [{"name": "honesty", "priority": 1}, {"name": "care", "priority": 9, "description": "Take care"},
               {"name": "speed", "priority": 3}],
    "autonomy_envelope": {
        "bounded_actions": ["read", "write"],
        "forbidden_actions": ["delete"],
        "escalation_triggers": [{"condition": "x > 1", "action": "escalate", "reason": "r"},
                                {"condition": "y", "action": "deny"}],
    },
}  # fmt: skip


def template(**card: Any) -> dict[str, Any]:
    return {"card_template": card, "card_template_enabled": True}


def form_of(card: Any, organization: dict[str, Any] | None = None, *, exempt: bool = False) -> Any:
    found = alignment(agent_with(card, organization=organization, exempt=exempt))
    assert found.problem is None
    return found.card


class TestMapping:
    def test_a_card(self) -> None:
        assert form_of(AAP) == FORM

    def test_a_unified_card(self) -> None:
        card = {**AAP, "card_version": "unified/2026-04-26", "autonomy": AAP["autonomy_envelope"], "audit": {}}
        del card["autonomy_envelope"], card["audit_commitment"]
        assert form_of(card) == FORM

    def test_the_default_card_commits_to_the_text_of_the_vectors(self) -> None:
        found = alignment(agent_with())
        assert found.card_text == (
            '{"autonomy_envelope":{"bounded_actions":["inference"],"escalation_triggers":[],"forbidden_actions":[]},'
            '"card_id":"ac-0badcafe","values":[{"name":"transparency","priority":1},{"name":"accuracy","priority":2},'
            '{"name":"helpfulness","priority":3},{"name":"safety","priority":4},{"name":"autonomy","priority":5},'
            '{"name":"honesty","priority":6},{"name":"quality","priority":7}]}'
        )
        assert found.card_id == "ac-0badcafe"

    def test_whole_numbers_are_ints_because_hashes_are_over_1_and_not_1_0(self) -> None:
        priority = form_of(AAP)["values"][1]["priority"]
        assert (priority, type(priority)) == (9, int)
        assert alignment(agent_with(AAP)).card_text == canonical(FORM)

    def test_what_is_missing_or_null_counts_as_empty(self) -> None:
        envelope: dict[str, Any] = {
            "bounded_actions": None,
            "forbidden_actions": None,
            "escalation_triggers": None,
        }
        empty: dict[str, Any] = {"bounded_actions": [], "forbidden_actions": [], "escalation_triggers": []}
        cards: list[dict[str, Any]] = [
            {"values": {}},
            {"values": None, "autonomy_envelope": envelope, "extensions": None},
            {"autonomy": {"bounded_actions": []}},
        ]
        for card in cards:
            assert form_of(card) == {"card_id": "ac-0badcafe", "values": [], "autonomy_envelope": empty}

    def test_the_sdk_reads_the_form(self) -> None:
        from aip import summarize_card

        text = summarize_card(alignment(agent_with(AAP)).aip_card)
        assert text.splitlines() == [
            "ALIGNMENT CARD SUMMARY (card_id: ac-1)", "Agent: Helps.", "Values (priority order):", "  - honesty",
            "  - speed", "  - care: Take care", "Bounded actions: read, write", "Forbidden actions: delete",
            "Escalation triggers:", "  - x > 1 → escalate: r", "  - y → deny",
        ]  # fmt: skip

    @pytest.mark.parametrize(("extension", "about"), [
        ({"description": "Helps.", "role": "helper"}, "Helps."), ({"role": "helper"}, "helper"), ({}, ""),
    ])  # fmt: skip
    def test_what_the_agent_is_for(self, extension: dict[str, str], about: str) -> None:
        found = alignment(agent_with({**AAP, "extensions": {"mnemom": extension}}))
        assert found.about == about
        assert ("agent_description" in (found.card or {})) == ("description" in extension)


class TestTemplate:
    def test_it_adds_and_never_permits(self) -> None:
        given = template(
            values={"declared": ["privacy", "honesty"], "definitions": {"care": {"description": "Ours"}}},
            autonomy_envelope={
                "bounded_actions": ["root"],
                "forbidden_actions": ["write", "delete"],
                "escalation_triggers": [{"condition": "z", "action": "tell"}],
            },
            extensions={"mnemom": {"description": "Other"}},
            card_id="ac-org",
        )
        form = form_of(AAP, given)
        assert form["values"] == [
            {"name": "privacy", "priority": 1}, {"name": "honesty", "priority": 2},
            {"name": "care", "priority": 3, "description": "Ours"}, {"name": "speed", "priority": 4},
        ]  # fmt: skip
        assert form["autonomy_envelope"]["bounded_actions"] == ["read"]
        assert form["autonomy_envelope"]["forbidden_actions"] == ["write", "delete"]
        assert [found["condition"] for found in form["autonomy_envelope"]["escalation_triggers"]] == ["z", "x > 1", "y"]
        assert (form["card_id"], form["agent_description"]) == ("ac-1", "Helps.")

    @pytest.mark.parametrize("unified", [(True, True), (True, False), (False, True)])
    def test_either_spelling_on_either_side(self, unified: tuple[bool, bool]) -> None:
        envelope = {"forbidden_actions": ["write"], "bounded_actions": ["root"]}
        card = {"values": {}, ("autonomy" if unified[0] else "autonomy_envelope"): AAP["autonomy_envelope"]}
        form = form_of(card, template(**{"autonomy" if unified[1] else "autonomy_envelope": envelope}))
        assert form["autonomy_envelope"]["bounded_actions"] == ["read"]
        assert form["autonomy_envelope"]["forbidden_actions"] == ["write", "delete"]

    def test_when_it_does_not_hold(self) -> None:
        given = template(values={"declared": ["privacy"]})
        assert form_of(AAP, given, exempt=True) == FORM
        assert form_of(AAP, {**given, "card_template_enabled": False}) == FORM
        assert form_of(AAP, {**given, "card_template": None}) == FORM
        assert alignment(agent_with(AAP, organization=None)).card == FORM

    def test_an_agent_without_a_card_gets_none_from_it(self) -> None:
        agent = agent_with(organization=template(values={"declared": ["privacy"]}))
        agent.card = None
        assert alignment(agent) is UNKNOWN

    def test_an_exempt_agent_keeps_the_values_of_the_organization(self) -> None:
        value = {"name": "o", "description": "Ours", "type": "FEAR"}
        given = {"conscience_values": [value], "conscience_values_enabled": True, "conscience_values_mode": "replace"}
        assert alignment(agent_with(AAP, organization=given, exempt=True)).values == [
            {"type": "FEAR", "content": "Ours", "id": "o"}
        ]

    def test_prohibitions_of_the_card_itself_win_too(self) -> None:
        envelope = {"bounded_actions": ["a", "b"], "forbidden_actions": ["b"]}
        assert form_of({"autonomy_envelope": envelope})["autonomy_envelope"]["bounded_actions"] == ["a"]

    @pytest.mark.parametrize(("own", "shared", "expected"), [
        ({"retention_days": 30}, {"retention_days": 90}, {"retention_days": 90}),
        ({"retention_days": 365}, {"retention_days": 90}, {"retention_days": 365}),
        ({}, {"retention_days": 90}, {"retention_days": 90}),
        ({"queryable": False}, {"queryable": True}, {"queryable": True}),
        ({"queryable": True}, {"queryable": False}, {"queryable": True}),
        ({"queryable": False}, {}, {"queryable": False}),
        ({"tamper_evidence": "append_only"}, {"tamper_evidence": "merkle"}, {"tamper_evidence": "merkle"}),
        ({"tamper_evidence": "merkle"}, {"tamper_evidence": "signed"}, {"tamper_evidence": "merkle"}),
        ({"tamper_evidence": "append_only"}, {"tamper_evidence": "signed"}, {"tamper_evidence": "signed"}),
        ({"tamper_evidence": "own"}, {}, {"tamper_evidence": "own"}),
        ({"kept": 1}, {"other": 2}, {"kept": 1}),
    ])  # fmt: skip
    @pytest.mark.parametrize(("name", "theirs"), [("audit_commitment", "audit"), ("audit", "audit_commitment")])
    def test_demands_on_the_audit(
        self, own: dict[str, Any], shared: dict[str, Any], expected: dict[str, Any], name: str, theirs: str
    ) -> None:
        assert merged(Fields({name: own or {"x": 0}}, ""), Fields({theirs: shared}, ""))[name] == {
            **({} if own else {"x": 0}), **expected,
        }  # fmt: skip

    def test_everything_else_is_the_agents(self) -> None:
        own = {**AAP, "values": {**AAP["values"], "conflicts_with": ["a"], "hierarchy": "flat"}}
        shared = {
            "principal": {"type": "org"}, "issued_at": "x", "card_id": "y", "extensions": {},
            "values": {"conflicts_with": ["b", "a"], "hierarchy": "lexicographic"},
        }  # fmt: skip
        card = merged(Fields(own, ""), Fields(shared, ""))
        assert {name: card[name] for name in ("principal", "card_id", "extensions")} == {
            name: AAP[name] for name in ("principal", "card_id", "extensions")
        }
        assert "issued_at" not in card
        assert card["values"]["conflicts_with"] == ["b", "a"]
        assert card["values"]["hierarchy"] == "lexicographic"
        assert merged(Fields(own, ""), Fields({}, ""))["values"]["hierarchy"] == "flat"

    def test_neither_side_is_changed(self) -> None:
        card, shared = json.loads(json.dumps(AAP)), {"values": {"declared": ["p"]}, "autonomy": {"bounded_actions": []}}
        before = json.dumps([card, shared])
        merged(Fields(card, ""), Fields(shared, ""))
        assert json.dumps([card, shared]) == before


WRONG: list[Any] = [None, True, 7, 0.5, "text", [], [1], ["x"], {}, {"x": 1}, [None], [{}], [[]], "\ud800", "\0"]


class TestWrongCards:
    @pytest.mark.parametrize(("card", "problem"), [
        ([], "card: must be an object"),
        ("x", "card: must be an object"),
        (7, "card: must be an object"),
        ({}, "card: must be an alignment card"),
        ({"a": 1}, "card: must be an alignment card"),
        ({"values": [], "autonomy_envelope": {}}, "card.values: must be an object"),
        ({"values": {"declared": "honesty"}}, "card.values.declared: must be a list"),
        ({"values": {"declared": [1]}}, "card.values.declared[0]: must be text"),
        ({"values": {"declared": ["a"], "definitions": []}}, "card.values.definitions: must be an object"),
        ({"values": {"declared": ["a"], "definitions": {"a": "x"}}}, "card.values.definitions.a: must be an object"),
        ({"values": {"declared": ["a"], "definitions": {"a": {"priority": "1"}}}},
         "card.values.definitions.a.priority: must be a number"),
        ({"values": {"declared": ["a"], "definitions": {"a": {"priority": 1e999}}}},
         "card.values.definitions.a.priority: must be a number"),
        ({"values": {"declared": ["a"], "definitions": {"a": {"priority": 2**60 + 1}}}},
         "card: must be made of values that have one canonical text"),
        ({"values": {"declared": ["a"], "definitions": {"a": {"description": 1}}}},
         "card.values.definitions.a.description: must be text"),
        ({"autonomy_envelope": "x"}, "card.autonomy_envelope: must be an object"),
        ({"autonomy": []}, "card.autonomy: must be an object"),
        ({"autonomy_envelope": {"bounded_actions": {}}}, "card.autonomy_envelope.bounded_actions: must be a list"),
        ({"autonomy_envelope": {"forbidden_actions": [None]}},
         "card.autonomy_envelope.forbidden_actions[0]: must be text"),
        ({"autonomy_envelope": {"escalation_triggers": ["x"]}},
         "card.autonomy_envelope.escalation_triggers[0]: must be an object"),
        ({"autonomy_envelope": {"escalation_triggers": [{"condition": "x"}]}},
         "card.autonomy_envelope.escalation_triggers[0].action: must be text"),
        ({"values": {}, "extensions": []}, "card.extensions: must be an object"),
        ({"values": {}, "extensions": {"mnemom": "x"}}, "card.extensions.mnemom: must be an object"),
        ({"values": {}, "extensions": {"mnemom": {"role": 7}}}, "card.extensions.mnemom.role: must be text"),
        ({"values": {}, "card_id": 7}, "card.card_id: must be text"),
        ({"values": {"declared": ["\ud800"]}}, "card.values.declared[0]: must be text without lone surrogates"),
        ({"values": {"declared": ["x" * MOST_TEXT]}}, f"card: must be at most {MOST_TEXT} characters long"),
    ])  # fmt: skip
    def test_the_field_is_named(self, card: Any, problem: str) -> None:
        found = alignment(agent_with(card))
        assert found.problem is not None
        assert found.problem.startswith(problem)
        assert (found.card, found.values, found.card_text, found.values_text) == (None, (), "null", "[]")
        assert found.card_id == "ac-0badcafe"

    @pytest.mark.parametrize(("organization", "problem"), [
        (template(values=[]), "organization.card_template.values: must be an object"),
        (template(values={"declared": [7]}), "organization.card_template.values.declared[0]: must be text"),
        (template(autonomy="x"), "organization.card_template.autonomy: must be an object"),
        (template(audit={"retention_days": "x"}), "organization.card_template.audit.retention_days: must be a number"),
        ({"card_template": [], "card_template_enabled": True}, "organization.card_template: must be an object"),
        ({"card_template_enabled": "yes"}, "organization.card_template_enabled: must be true or false"),
    ])  # fmt: skip
    def test_the_template_is_named(self, organization: dict[str, Any], problem: str) -> None:
        assert str(alignment(agent_with(AAP, organization=organization)).problem).startswith(problem)

    def test_values_of_the_agent_are_named(self) -> None:
        assert alignment(agent_with(AAP, values=[{"type": "FEAR"}])).problem == (
            "conscience_values[0].content: must be text"
        )

    @pytest.mark.parametrize("wrong", WRONG, ids=repr)
    def test_anything_anywhere_is_read_or_named(self, wrong: Any) -> None:
        """Every field of card, template and values, replaced by anything: never an exception."""
        value = {"type": "FEAR", "content": "c", "id": "i", "order": 1, "enabled": True, "severity": "advisory"}
        whole = {
            "card": {**AAP, "values": {**AAP["values"], "conflicts_with": ["x"], "hierarchy": "flat"}},
            "values": [value],
            "organization": {
                **template(**AAP), "conscience_values": [value], "conscience_values_enabled": True,
                "conscience_values_mode": "replace",
            },
        }  # fmt: skip
        tried = 0
        for changed in replaced(whole, wrong):
            found = alignment(agent_with(changed["card"] or [], changed["values"], changed["organization"]))
            assert (found.problem is None) != (found.card is None)
            assert len(str(found.problem)) < 400
            tried += 1
        assert tried > 60

    def test_what_has_no_end(self) -> None:
        deep: list[Any] = [[], []]
        for _ in range(100_000):
            deep = [[deep[0]], [deep[1]]]
        given = template(values={"conflicts_with": [deep[0]]})
        found = alignment(agent_with({"values": {"conflicts_with": [deep[1]]}}, organization=given))
        assert found.problem == "card: is nested too deeply"

    def test_a_row_that_is_no_row(self) -> None:
        for row in WRONG:
            agent = agent_with()
            agent.card = row
            assert (alignment(agent).problem is None) == (row is None)


def replaced(value: Any, wrong: Any) -> list[Any]:
    """``value`` with each of its parts in turn replaced by ``wrong``."""
    found = []
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, part in places:
        for other in (wrong, *replaced(part, wrong)):
            copy: Any = value.copy()
            copy[place] = other
            found.append(copy)
    return found


class TestKept:
    def test_it_is_read_once(self) -> None:
        agent = agent_with()
        found = alignment(agent)
        assert alignment(agent) is found
        assert found.aip_card is found.aip_card

    def test_until_the_agent_has_another_context(self) -> None:
        agent = agent_with()
        first = alignment(agent)
        agent.card, agent.alignment = {**(agent.card or {}), "card_json": AAP}, None
        assert alignment(agent).card_text != first.card_text

    def test_the_card_of_new_agents_can_be_read(self) -> None:
        assert alignment(agent_with(DEFAULT_CARD)).problem is None
