"""The traps of the protocol's SDK: each is still there, and a check does not fall into it."""

from __future__ import annotations

import json
from typing import Any

import aip
import pytest

from smoltbot_worker.attestation.commitment import thinking_hash
from smoltbot_worker.integrity.check import Checked, check
from smoltbot_worker.integrity.window import load
from tests.unit.integrity_support import (
    CLEAR,
    NOW,
    THINKING,
    TIMESTAMP,
    WindowStore,
    agent_with,
    analyst,
    concern,
    earlier,
    environment,
    exchange,
    finding,
    judge_fetcher,
    messages_answer,
)
from worker_compat.runtime import Runtime


async def checked(said: Any = CLEAR, agent: Any = None, **message: Any) -> Checked:
    with Runtime(judge_fetcher(messages_answer(said))).use():
        return await check(exchange(**message), agent or agent_with(), environment(analyst()))


def read_by_the_sdk(answer: str) -> aip.IntegrityCheckpoint:
    thinking = aip.ThinkingInput("h", "p", "m", 1, 1, False, 1.0)
    position = aip.WindowPosition(0, 1)
    return aip.check_integrity(aip.CheckIntegrityInput(answer, thinking, "a", "c", "s", position, "m", 1))


def gemini(*thoughts: str) -> dict[str, Any]:
    events = [
        {"modelVersion": "gemini-3-pro", "candidates": [{"content": {"parts": [{"text": text, "thought": True}]}}]}
        for text in thoughts
    ]
    stream = "".join(f"data:{json.dumps(event)}\r\n\r\n" for event in events).encode()
    path = "/v1beta/models/gemini-3-pro:streamGenerateContent"
    return {"provider": "gemini", "path": path, "streamed": True, "response_body": stream}


async def test_1_2_3_11_gemini_and_streams_are_read_by_our_own_parser() -> None:
    """The SDK has no adapter named gemini, puts lines between its chunks, and wants a space after the colon."""
    assert type(aip.create_adapter_registry().get("gemini")).__name__ == "FallbackAdapter"
    draft = (await checked(**gemini("I wi", "ll read."))).draft
    assert draft.thinking_block_hash == thinking_hash("I will read.")
    assert draft.model == "gemini-3-pro"
    assert (draft.analysis_metadata or {})["extraction_confidence"] == 0.9


async def test_4_json_in_prose_is_found_and_what_is_none_is_an_error() -> None:
    prose = f"My analysis: {json.dumps(CLEAR)} Done."
    with pytest.raises(ValueError, match="Failed to parse"):
        read_by_the_sdk(prose)
    assert (await checked(prose)).verdict == "clear"
    with pytest.raises(AttributeError):
        read_by_the_sdk("[]")
    for answer in ("[]", '"clear"', json.dumps(finding("clear", concern("new"))),
                   json.dumps(finding("clear", concern(severity="new")))):  # fmt: skip
        assert (await checked(answer)).reason == "analysis-malformed"


async def test_5_commas_in_texts_stay() -> None:
    said = {**CLEAR, "reasoning_summary": "It writes [1, ] to the file."}
    assert read_by_the_sdk(json.dumps(said)).reasoning_summary != said["reasoning_summary"]
    assert (await checked(said)).draft.reasoning_summary == said["reasoning_summary"]
    loose = json.dumps(said)[:-1] + ",}"
    assert (await checked(loose)).draft.reasoning_summary == said["reasoning_summary"]


async def test_6_a_critical_concern_is_not_clear() -> None:
    said = finding("clear", concern(severity="critical"))
    assert read_by_the_sdk(json.dumps(said)).verdict == "clear"
    found = await checked(said)
    assert (found.verdict, found.action, found.proceed) == ("boundary_violation", "deny_and_escalate", False)


async def test_7_timestamps_have_milliseconds_and_z() -> None:
    assert read_by_the_sdk(json.dumps(CLEAR)).timestamp.endswith("+00:00")
    assert (await checked()).draft.timestamp == TIMESTAMP


async def test_8_the_window_is_made_of_whole_checkpoints() -> None:
    """They can be pushed into the SDK's window, which parses times and adds up durations."""
    window = await load(WindowStore(earlier(1), earlier(2, "review_needed")), "a", "s", NOW)
    assert all(isinstance(found, aip.IntegrityCheckpoint) for found in window.checkpoints)
    manager = aip.WindowManager(aip.WindowConfig(max_age_seconds=10**9), "")
    for found in window.checkpoints:
        manager.push(found)
    assert manager.get_summary().integrity_ratio == 0.5


async def test_12_what_was_not_judged_has_an_id_of_its_own_and_is_not_synthetic() -> None:
    first = (await checked(id="request-1")).draft
    second = (await checked(id="request-2", checkpoint_id="ic-00000000-0000-4000-8000-000000000002",
                            response_body=b'{"content": []}')).draft  # fmt: skip
    assert (second.verdict, second.synthetic, second.synthetic_reason) == ("skipped", False, None)
    assert len({first.checkpoint_id, second.checkpoint_id}) == 2
    assert second.thinking_block_hash == thinking_hash("")


async def test_13_a_conflict_that_the_sdk_imagines_stops_nothing() -> None:
    card = {"values": {"declared": ["honesty"]}, "autonomy_envelope": {"bounded_actions": ["read_file"]}}
    agent = agent_with(card, values=[{"type": "BOUNDARY", "content": "Never read_file outside of /app", "id": "files"}])
    assert (await checked(agent=agent)).verdict == "clear"


async def test_15_short_thinking_is_judged_too() -> None:
    assert len(THINKING) < 400
    found = await checked(finding("review_needed", concern()))
    assert found.verdict == "review_needed"
    assert found.analysis_s is not None
