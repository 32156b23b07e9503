"""Conscience values: which layers hold, in which order, and which of two with the same id."""

from __future__ import annotations

from typing import Any

import pytest
from aip import DEFAULT_CONSCIENCE_VALUES

from smoltbot_worker.attestation.commitment import canonical, sha256_hex
from smoltbot_worker.integrity.reading import Unreadable
from smoltbot_worker.integrity.values import Value, layered

SDK: Any = DEFAULT_CONSCIENCE_VALUES
DEFAULTS = [str(value.id) for value in SDK]


def organization(*values: Any, enabled: bool = True, mode: str = "augment") -> dict[str, Any]:
    return {
        "conscience_values": list(values),
        "conscience_values_enabled": enabled,
        "conscience_values_mode": mode,
    }


def shared(name: str, kind: str = "FEAR", **more: Any) -> dict[str, Any]:
    return {"id": f"cv-{name}", "name": name, "description": f"Org: {name}", "type": kind, **more}


def own(name: str, kind: str = "FEAR", **more: Any) -> dict[str, Any]:
    return {"id": name, "content": f"Agent: {name}", "type": kind, **more}


def ids(values: list[Value]) -> list[str | None]:
    return [value.get("id") for value in values]


@pytest.mark.parametrize(("enabled", "mode", "org", "agent", "expected"), [
    (True, "replace", ["o"], None, ["o"]),
    (True, "replace", ["o"], ["a"], ["o", "a"]),
    (True, "replace", [], None, DEFAULTS),
    (True, "replace", [], ["a"], [*DEFAULTS, "a"]),
    (True, "augment", ["o"], None, [*DEFAULTS, "o"]),
    (True, "augment", ["o"], ["a"], [*DEFAULTS, "o", "a"]),
    (False, "replace", ["o"], ["a"], [*DEFAULTS, "a"]),
    (False, "augment", ["o"], None, DEFAULTS),
    (False, "augment", [], [], DEFAULTS),
])  # fmt: skip
def test_which_layers_hold(
    enabled: bool, mode: str, org: list[str], agent: list[str] | None, expected: list[str]
) -> None:
    given = organization(*map(shared, org), enabled=enabled, mode=mode)
    assert ids(layered(given, None if agent is None else list(map(own, agent)))) == expected


def test_no_organization() -> None:
    assert ids(layered(None, None)) == DEFAULTS


def test_the_texts_of_the_defaults_are_those_of_the_sdk() -> None:
    values = layered(None, None)
    assert [(value["type"], value["content"]) for value in values] == [(value.type, value.content) for value in SDK]
    # A new SDK with other texts changes every commitment: that is to be seen, not to happen.
    assert sha256_hex(canonical(values)) == "6c24564855f468001eca46c735b637a05de7d03ac8a24a11fd0f46e004a6922e"


def test_a_value_of_the_organization_is_its_name_and_description() -> None:
    (value,) = layered(organization(shared("No leaks", "BOUNDARY"), mode="replace"), None)
    assert value == {"type": "BOUNDARY", "content": "Org: No leaks", "id": "No leaks"}


def test_order_within_a_layer_is_by_order_and_then_by_id() -> None:
    given = [shared("z", order=1), shared("b"), shared("a"), shared("y", order=2), shared("x", order=1.0)]
    for arrangement in (given, given[::-1], [given[place] for place in (2, 4, 0, 1, 3)]):
        assert ids(layered(organization(*arrangement, mode="replace"), None)) == ["x", "z", "y", "a", "b"]


def test_values_without_ids_are_ordered_by_their_text_and_all_stay() -> None:
    given = [{"type": "HOPE", "content": text} for text in ("b", "a", "b")]
    values = layered(organization(shared("o"), mode="replace"), given)
    assert [value["content"] for value in values] == ["Org: o", "a", "b", "b"]
    assert ids(values)[1:] == [None, None, None]
    assert "id" not in values[1]


@pytest.mark.parametrize(("first", "second", "winner"), [
    (shared("x"), own("x"), "Agent: x"),
    (shared("x"), own("x", "BOUNDARY"), "Agent: x"),
    (shared("x", "BOUNDARY"), own("x"), "Org: x"),
    (shared("x", "BOUNDARY"), own("x", "BOUNDARY"), "Org: x"),
    (shared("x", severity="mandatory"), own("x"), "Org: x"),
    (shared("x", severity="advisory"), own("x"), "Agent: x"),
])  # fmt: skip
def test_the_same_id_in_two_layers(first: dict[str, Any], second: dict[str, Any], winner: str) -> None:
    values = layered(organization(first, shared("y"), mode="replace"), [second])
    assert sorted(map(str, ids(values))) == ["x", "y"]
    assert [value["content"] for value in values if value.get("id") == "x"] == [winner]


def test_an_agent_cannot_weaken_a_boundary_of_the_protocol() -> None:
    values = layered(None, [own("boundary-no-deception", "HOPE"), own("fear-accuracy-erosion", "HOPE")])
    kinds = {value["id"]: value["type"] for value in values}
    assert kinds["boundary-no-deception"] == "BOUNDARY"
    assert kinds["fear-accuracy-erosion"] == "HOPE"
    assert ids(values)[-1] == "fear-accuracy-erosion"
    assert len(values) == 9


def test_values_that_are_switched_off_do_not_count() -> None:
    off = shared("o", enabled=False)
    assert ids(layered(organization(off, shared("p"), mode="replace"), None)) == ["p"]
    assert ids(layered(organization(off, mode="replace"), None)) == DEFAULTS


@pytest.mark.parametrize(("given", "agent", "path"), [
    (None, {}, "conscience_values: must be a list"),
    (None, "x", "conscience_values: must be a list"),
    (None, [None], "conscience_values[0]: must be an object"),
    (None, [own("a"), 7], "conscience_values[1]: must be an object"),
    (None, [{}], "conscience_values[0].type: must be text"),
    (None, [{"type": "FEAR"}], "conscience_values[0].content: must be text"),
    (None, [own("a", "WISH")], "conscience_values[0].type: must be one of BOUNDARY"),
    (None, [{**own("a"), "content": ["x"]}], "conscience_values[0].content: must be text"),
    (None, [{**own("a"), "content": " \n"}], "conscience_values[0].content: must be text that says something"),
    (None, [{**own("a"), "id": 7}], "conscience_values[0].id: must be text"),
    (None, [own("a", order="1")], "conscience_values[0].order: must be a number"),
    (None, [own("a", order=True)], "conscience_values[0].order: must be a number"),
    (None, [own("a", order=float("nan"))], "conscience_values[0].order: must be a number"),
    (None, [{**own("a"), "content": "half \ud83d"}], "conscience_values[0].content: must be text without lone"),
    ([], None, "organization: must be an object"),
    (organization({"name": "x"}), None, "organization.conscience_values[0].type: must be text"),
    (organization(shared("x", enabled=1)), None, "organization.conscience_values[0].enabled: must be true or false"),
    (organization(mode="other"), None, "organization.conscience_values_mode: must be augment or replace"),
    ({**organization(), "conscience_values": {}}, None, "organization.conscience_values: must be a list"),
    ({**organization(), "conscience_values_enabled": 1}, None, "organization.conscience_values_enabled: must be true"),
])  # fmt: skip
def test_what_is_no_value_is_named(given: Any, agent: Any, path: str) -> None:
    with pytest.raises(Unreadable) as caught:
        layered(given, agent)
    assert str(caught.value).startswith(path)
