"""Hybrid analysis: what leaves, and what of the answer counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from smoltbot_worker.attestation.commitment import thinking_hash
from smoltbot_worker.integrity.cards import alignment
from smoltbot_worker.integrity.failures import AnalysisFailed
from smoltbot_worker.integrity.hybrid import delegate, request_of
from smoltbot_worker.integrity.verdict import Judgement
from smoltbot_worker.integrity.window import Window, load
from tests.unit.integrity_support import (
    CLEAR,
    HYBRID_URL,
    MNEMOM_KEY,
    NOW,
    THINKING,
    WindowStore,
    agent_with,
    analyst,
    concern,
    earlier,
    exchange,
    finding,
    judge_fetcher,
)
from worker_compat.response import Response
from worker_compat.runtime import Runtime

CARD = {"values": {"declared": ["honesty"]}, "extensions": {"mnemom": {"description": "Helps. " + "x" * 300}}}


def body(thinking: str = THINKING, card: Any = None, window: Window | None = None) -> dict[str, Any]:
    return request_of(exchange(), thinking, "claude-sonnet-4-5", alignment(agent_with(card)), window or Window())


async def answered(answer: Any) -> tuple[Judgement, str | None]:
    with Runtime(judge_fetcher(answer)).use():
        return await delegate(analyst("hybrid"), body(), alignment(agent_with()))


def test_the_request() -> None:
    known = alignment(agent_with())
    assert body() == {
        "thinking_block": THINKING,
        "thinking_metadata": {"provider": "anthropic", "model": "claude-sonnet-4-5"},
        "agent_id": "smolt-0badcafe",
        "session_id": "0badcafe12345678-494000",
        "card": known.card,
        "conscience_values": known.values,
        "window_context": (),
        "store_checkpoint": False,
    }


def test_the_task_is_the_cards_words_and_short() -> None:
    task = body(card=CARD)["task_context"]
    assert task.startswith("Helps. xxx")
    assert len(task) == 200


async def test_the_window_is_what_the_next_checkpoint_commits_to() -> None:
    window = await load(WindowStore(earlier(1, "review_needed", summary="a\nb")), "a", "s", NOW)
    assert body(window=window)["window_context"] == [
        {"checkpoint_id": earlier(1)["checkpoint_id"], "verdict": "review_needed", "reasoning_summary": "a b"}
    ]


def test_thinking_has_a_utf_8() -> None:
    assert body("half \ud83d")["thinking_block"] == "half \ufffd"


async def test_how_it_is_sent() -> None:
    fetcher = judge_fetcher(Response.from_json({"checkpoint": CLEAR}))
    with Runtime(fetcher).use():
        await delegate(analyst("hybrid"), body(), alignment(agent_with()))
    (request,) = fetcher.requests
    assert (request.method, request.url) == ("POST", HYBRID_URL)
    assert request.headers.get("x-mnemom-api-key") == MNEMOM_KEY
    assert request.headers.get("x-api-key") is None
    assert request.headers.get("content-type") == "application/json"
    assert json.loads(request.body)["store_checkpoint"] is False


async def test_a_judgement() -> None:
    metadata = {"analysis_model": "claude-haiku-4-5", "analysis_duration_ms": 5}
    checkpoint = {
        **finding("review_needed", concern()), "checkpoint_id": "ic-theirs", "timestamp": "then",
        "thinking_block_hash": thinking_hash(THINKING), "analysis_metadata": metadata,
    }  # fmt: skip
    found, model = await answered(Response.from_json({"checkpoint": checkpoint, "proceed": True}))
    assert (found.verdict, found.action, model) == ("review_needed", "log_and_continue", "claude-haiku-4-5")


async def test_the_stricter_verdict_counts_here_too() -> None:
    checkpoint = finding("clear", concern("prompt_injection", "high"))
    found, model = await answered(Response.from_json({"checkpoint": checkpoint, "proceed": True}))
    assert (found.verdict, found.proceed, model) == ("boundary_violation", False, None)


@pytest.mark.parametrize("answer", [
    {}, {"checkpoint": None}, {"checkpoint": []}, {"checkpoint": "clear"}, {"checkpoint": {}}, CLEAR,
    {"verdict": "clear"}, {"checkpoint": {"verdict": "clear"}}, {"checkpoint": [CLEAR]},
    {"checkpoint": json.dumps(CLEAR)}, {"checkpoint": {**CLEAR, "verdict": "skipped"}},
    {"checkpoint": {**CLEAR, "concerns": None}}, {"checkpoint": finding("clear", concern("new"))},
    {"checkpoint": {**CLEAR, "thinking_block_hash": "0" * 64}}, {"checkpoint": {**CLEAR, "thinking_block_hash": 7}},
], ids=lambda answer: json.dumps(answer)[:60])  # fmt: skip
async def test_anything_else_is_no_judgement(answer: dict[str, Any]) -> None:
    with pytest.raises(AnalysisFailed) as caught:
        await answered(Response.from_json(answer))
    assert caught.value.reason == "analysis-malformed"


@pytest.mark.parametrize(("model", "known"), [("m", "m"), ("m" * 999, "m" * 200), (7, None), (None, None), ([], None)])
async def test_the_model_that_judged(model: Any, known: str | None) -> None:
    answer = {"checkpoint": {**CLEAR, "analysis_metadata": {"analysis_model": model}}}
    assert (await answered(Response.from_json(answer)))[1] == known
    assert (await answered(Response.from_json({"checkpoint": {**CLEAR, "analysis_metadata": model}})))[1] is None
