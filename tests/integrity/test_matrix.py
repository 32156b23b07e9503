"""Every provider x buffered or streamed x mode x outcome of the analysis: the client's answer and the record."""

from __future__ import annotations

import base64
import itertools
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integrity.support import SHAPES, Got, Judged, Shape

THOUGHT = "I plan to answer."
CREATED = 'gateway_nudges_total{event="created"}'
MODES = ("observe", "nudge", "enforce")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the analyser does, and what becomes of it: header values, and whether a real verdict came of it."""

    name: str
    script: dict[str, Any]
    verdict: str
    reason: str | None = None
    action: str | None = None
    proceed: str | None = None


OUTCOMES = (
    Outcome("clear", {"verdict": "clear"}, "clear", None, "continue", "true"),
    Outcome("review", {"verdict": "review_needed"}, "review_needed", None, "log_and_continue", "true"),
    Outcome(
        "violation", {"verdict": "boundary_violation"}, "boundary_violation", None, "pause_for_review", "false"
    ),
    Outcome("down", {"drop": True}, "error", "analysis-unavailable"),
    Outcome("garbage", {"garbage": base64.b64encode(b"\x00\xff<html>").decode()}, "error", "analysis-malformed"),
    Outcome("slow", {"delay": 5}, "error", "analysis-timeout"),
)  # fmt: skip

CELLS = list(itertools.product(SHAPES, (False, True), MODES, OUTCOMES))


def name_of(cell: Any) -> str:
    return str(getattr(cell, "name", cell))


@pytest.mark.parametrize(("shape", "streaming", "mode", "outcome"), CELLS, ids=name_of)
def test_cell(judged: Judged, shape: Shape, streaming: bool, mode: str, outcome: Outcome) -> None:
    name, agent_id = judged.new_agent(shape, mode)
    created = judged.metric(CREATED)
    judged.provider.judge(always=outcome.script)
    got = judged.ask(shape, streaming=streaming, agent=name, thinking=THOUGHT)
    judged_rows = judged.checkpoints(agent_id)
    judged.provider.judge()

    assert len(judged_rows) == 1
    row = judged_rows[0]
    assert (row["verdict"], row["reason"]) == (outcome.verdict, outcome.reason)
    assert row["request_id"] == got.headers["x-smoltbot-request-id"]
    assert row["session_id"] == got.headers["x-smoltbot-session"]
    assert all(row[name] for name in ("certificate_id", "chain_hash", "issuer_signature"))
    assert row["merkle_leaf_index"] == 0
    if streaming:
        check_stream(judged, shape, got)
    else:
        check_buffered(judged, shape, mode, outcome, got, row)
    if mode != "observe" and outcome.name == "violation":
        # Its row is to be seen a moment before the process that stored it takes note of the nudge.
        judged.wait_for(lambda: judged.metric(CREATED) > created)
    check_nudge(judged, shape, mode, outcome, name, agent_id)


def check_stream(judged: Judged, shape: Shape, got: Got) -> None:
    assert got.status == 200
    assert got.aip("verdict") == "pending"
    assert got.aip("checkpoint-id") is None
    assert got.aip("reason") is None
    assert got.body == judged.straight(shape, streaming=True, thinking=THOUGHT).body


def check_buffered(judged: Judged, shape: Shape, mode: str, outcome: Outcome, got: Got, row: dict[str, Any]) -> None:
    assert got.aip("verdict") == outcome.verdict
    assert got.aip("reason") == outcome.reason
    assert got.aip("action") == outcome.action
    assert got.aip("proceed") == outcome.proceed
    assert got.aip("checkpoint-id") == row["checkpoint_id"]
    assert got.aip("certificate-id") == row["certificate_id"]
    assert got.aip("chain-hash") == row["chain_hash"]
    if mode == "enforce" and outcome.name == "violation":
        assert got.status == 403
        refusal = got.json()
        assert (refusal["type"], refusal["error"]) == ("integrity_violation", "Request blocked by integrity check")
        assert refusal["checkpoint"]["checkpoint_id"] == row["checkpoint_id"]
        assert refusal["checkpoint"]["recommended_action"] == outcome.action
        assert b"I plan to answer" not in got.body
    else:
        assert got.status == 200
        assert got.body == judged.straight(shape, thinking=THOUGHT).body


def check_nudge(judged: Judged, shape: Shape, mode: str, outcome: Outcome, name: str, agent_id: str) -> None:
    """A violation reaches the next request as a nudge, in the modes that nudge, once."""
    expected = mode != "observe" and outcome.name == "violation"
    judged.provider.judge(always={"verdict": "clear"})
    following = judged.ask(shape, agent=name, thinking="Again.")
    assert following.aip("nudge-count") == ("1" if expected else None)
    assert following.aip("enforcement") == ("nudge" if expected else None)
    assert following.headers.get("x-smoltbot-mutated") == ("nudge" if expected else None)
    row = judged.checkpoints(agent_id, 2)[-1]
    assert [mutation["kind"] for mutation in row["mutations"]] == (["nudge"] if expected else [])
    if expected:
        assert judged.ask(shape, agent=name, thinking="And again.").aip("nudge-count") is None
    judged.provider.judge()
