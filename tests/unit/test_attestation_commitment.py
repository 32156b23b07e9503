"""Canonical JSON, and what is refused because two readers could read it differently."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoltbot_worker.attestation.chain import LogDamaged, LogHead
from smoltbot_worker.attestation.commitment import canonical, commit, thinking_hash
from tests.scale import scaled
from tests.unit.attestation_support import draft

SCRIPT = """
const { createInterface } = require("readline");
const sorted = v => Array.isArray(v) ? v.map(sorted) : v && typeof v === "object"
  ? Object.fromEntries(Object.keys(v).sort().map(k => [k, sorted(v[k])])) : v;
createInterface({ input: process.stdin }).on("line", line =>
  process.stdout.write(JSON.stringify(JSON.parse(line).map(v => JSON.stringify(sorted(v)))) + "\\n"));
"""


@pytest.fixture(scope="module")
def javascript() -> Iterator[Callable[[list[Any]], list[str]]]:
    """What ``JSON.stringify`` prints of values whose members were sorted."""
    with subprocess.Popen(["node", "-e", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:

        def printed(values: list[Any]) -> list[str]:
            assert node.stdin
            assert node.stdout
            node.stdin.write(json.dumps(values) + "\n")
            node.stdin.flush()
            texts: list[str] = json.loads(node.stdout.readline())
            return texts

        yield printed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1.0, "a": [True, None, -0.0]}, '{"a":[true,null,0],"b":1}'),
        ({"10": 1, "9": 2, "a": 3, "01": 4}, '{"9":2,"10":1,"01":4,"a":3}'),
        ({"\ue000": 1, "\U0001f680": 2}, '{"\U0001f680":2,"\ue000":1}'),
        ({"x": "\ud83d\ude80"}, '{"x":"\U0001f680"}'),
        ({"x": "Café\n\u2028"}, '{"x":"Café\\n\u2028"}'),
        (0.9, "0.9"),
        (1e21, "1e+21"),
        ([10**21, -15 * 10**299], "[1e+21,-1.5e+300]"),
        (2**53 - 1, "9007199254740991"),
    ],
)
def test_canonical(value: Any, text: str) -> None:
    assert canonical(value) == text


@pytest.mark.parametrize(
    "value",
    [{"x": "\ud83d"}, {"\ude80": 1}, [math.nan], [math.inf], [-math.inf], 2**53 + 1, -(2**53) - 1, 2**64, 10**400],
    ids=lambda value: ascii(value)[:20],
)
def test_what_has_no_canonical_text(value: Any) -> None:
    with pytest.raises(ValueError, match=r"surrogate|JSON|2\*\*53"):
        canonical(value)


def test_what_is_no_json() -> None:
    for value in ({1: 2}, object(), {"x": {1}}):
        with pytest.raises(TypeError):
            canonical(value)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested"):
        canonical(deep)


JSONS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(0, 99).map(str), inner),
    max_leaves=12,
)


@settings(max_examples=scaled(30, 2_000), deadline=None)
@given(values=st.lists(JSONS, max_size=10).filter(lambda values: "__proto__" not in json.dumps(values)))
@pytest.mark.proof
def test_javascript_prints_the_same(javascript: Callable[[list[Any]], list[str]], values: list[Any]) -> None:
    assert [canonical(value) for value in values] == javascript(values)


def test_inputs_that_were_not_loaded() -> None:
    assert commit(None, [], [], None).combined == commit(None, [], [], None, "1.0.0").combined
    assert commit(None, [], [], None).combined != commit(None, [], [], "null").combined


def test_a_lone_surrogate_in_a_thought_counts_as_in_javascript() -> None:
    assert thinking_hash("a\ud83d") == thinking_hash("a\ufffd")
    assert thinking_hash("\ud83d\ude80") == thinking_hash("\U0001f680")


def test_texts_are_kept_as_every_database_can_hold_them() -> None:
    kept = draft(1, reasoning_summary="a\0b\ud83dc\ud83d\ude80", concerns=[{"category": "x\0"}]).row
    assert kept["reasoning_summary"] == "a\ufffdb\ufffdc\U0001f680"
    assert kept["concerns"] == [{"category": "x\ufffd"}]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint_id", "ic-1|2"),
        ("timestamp", "2026-05-10T08:05:30.250000+00:00"),
        ("timestamp", "2026-05-10T08:05:30Z"),
        ("verdict", "fine"),
        ("thinking_block_hash", "A" * 64),
        ("conscience_context", {"x": math.nan}),
    ],
)
def test_a_draft_has_the_form_that_is_signed(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}|JSON"):
        draft(1, **{name: value})


def test_certificate_ids_are_not_repeated() -> None:
    assert len({draft(1).certificate_id for _ in range(200)}) == 200


HEAD = {"size": 1, "frontier": ["a" * 64], "root": "a" * 64, "heads": {"s": {"chain_hash": "b" * 64, "position": 0}}}


def test_the_head_of_a_log() -> None:
    head = LogHead.from_json(HEAD)
    assert (head.size, head.sessions["s"].position) == (1, 0)
    assert LogHead.from_json({"size": 0, "frontier": [], "root": "", "heads": {}}).size == 0


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        [],
        {"size": 0, "frontier": [], "root": ""},
        {**HEAD, "size": 2},
        {**HEAD, "size": True},
        {**HEAD, "size": -1},
        {**HEAD, "size": 0, "frontier": [], "root": ""},
        {**HEAD, "size": 0, "frontier": [], "root": "", "heads": None},
        {**HEAD, "root": "b" * 64},
        {**HEAD, "root": ""},
        {**HEAD, "frontier": []},
        {**HEAD, "frontier": [None]},
        {**HEAD, "heads": {"s": {"chain_hash": None, "position": 0}}},
        {**HEAD, "heads": {"s": {"chain_hash": "b" * 64, "position": 1}}},
    ],
)
def test_an_answer_that_says_nothing_is_not_an_empty_log(answer: Any) -> None:
    with pytest.raises(LogDamaged):
        LogHead.from_json(answer)
