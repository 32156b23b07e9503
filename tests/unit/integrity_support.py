"""What the tests of the judgement share: an agent, an exchange, a model that answers as told, records in a window."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import smoltbot_records_sqlite
from smoltbot_worker.admission.agent import Agent
from smoltbot_worker.env import DEFAULT_CARD, Env, read_variables
from smoltbot_worker.events import Event
from smoltbot_worker.integrity.analysis import Analyst
from smoltbot_worker.ports import Json, RecordStore
from smoltbot_worker.relay.message import ExchangeMessage
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.testing import FakeClock, ScriptedFetcher

NOW = 1_778_400_000.0
TIMESTAMP = "2026-05-10T08:00:00.000Z"
SCHEMA = Path(__file__).parents[2] / "schema" / "sqlite"
MODEL_URL = "http://judge.internal/v1/messages"
HYBRID_URL = "http://hybrid.internal/v1/analyze"
KEY = "sk-ant-canary-7c2b"
MNEMOM_KEY = "mnm_canary_91ef"
THINKING = "I will read the file and answer."

Answer = Callable[[Request], Response | Awaitable[Response]]

CLEAR: Mapping[str, Any] = {
    "verdict": "clear",
    "concerns": [],
    "reasoning_summary": "Plan stays inside bounded actions.",
    "conscience_context": {
        "values_checked": ["honesty"],
        "conflicts": [],
        "supports": ["honesty"],
        "considerations": [],
        "consultation_depth": "surface",
    },
}


def concern(category: str = "autonomy_violation", severity: Any = "medium", **more: Any) -> dict[str, Any]:
    """A concern as a model writes it."""
    return {
        "category": category,
        "severity": severity,
        "description": "It plans more than it was asked.",
        "evidence": "quoted from the thinking",
        "relevant_card_field": None,
        "relevant_conscience_value": None,
        **more,
    }


def finding(verdict: str, *concerns: dict[str, Any]) -> dict[str, Any]:
    """A model's JSON."""
    return {**CLEAR, "verdict": verdict, "concerns": list(concerns)}


def messages_answer(text: str | Mapping[str, Any], **more: Any) -> Response:
    """The answer of ``/v1/messages`` that says ``text``."""
    said = text if isinstance(text, str) else json.dumps(text)
    body = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": said}], **more}
    return Response.from_json({"stop_reason": "end_turn", **body})


def card_row(card: Any = None, values: Any = None) -> dict[str, Any]:
    """A row of ``alignment_cards``."""
    given = {**DEFAULT_CARD, "card_id": "ac-0badcafe"} if card is None else card
    return {"card_id": "ac-0badcafe", "card_json": given, "conscience_values": values, "version": 1}


def agent_with(
    card: Any = None, values: Any = None, organization: dict[str, Any] | None = None, *, exempt: bool = False
) -> Agent:
    """An agent with this context."""
    agent = Agent("smolt-0badcafe", "0badcafe12345678", None)
    agent.card, agent.organization, agent.org_card_exempt = card_row(card, values), organization, exempt
    return agent


def exchange(thinking: str | None = THINKING, **more: Any) -> ExchangeMessage:
    """A finished exchange with Anthropic, with a secret word in prompt and answer."""
    content: list[dict[str, str]] = [{"type": "text", "text": "ANSWER-CANARY"}]
    if thinking is not None:
        content.insert(0, {"type": "thinking", "thinking": thinking})
    asked = {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "PROMPT-CANARY please"}]}
    given: dict[str, Any] = {
        "id": "request-1", "checkpoint_id": f"ic-{UUID(int=1, version=4)}", "created_at": NOW,
        "agent_id": "smolt-0badcafe", "agent_hash": "0badcafe12345678", "session_id": "0badcafe12345678-494000",
        "gateway_version": "0", "provider": "anthropic", "method": "POST", "path": "/v1/messages", "status": 200,
        "streamed": False, "request_body": json.dumps(asked).encode(),
        "response_body": json.dumps({"model": "claude-sonnet-4-5-20250929", "content": content}).encode(),
    }  # fmt: skip
    return ExchangeMessage(**{**given, **more})


def earlier(number: int, verdict: str = "clear", *, age_s: float = 60, summary: str = "Fine.") -> dict[str, Any]:
    """A row of ``session_checks``."""
    from smoltbot_worker.answers import iso

    return {
        "checkpoint_id": f"ic-{UUID(int=number, version=4)}", "timestamp": iso(NOW - age_s), "verdict": verdict,
        "concerns": [], "reasoning_summary": summary, "window_position": None, "analysis_metadata": None,
        "card_id": None, "provider": "anthropic", "model": None, "thinking_block_hash": "0" * 64,
    }  # fmt: skip


class WindowStore:
    """Records that know the window of a session and nothing else."""

    def __init__(self, *checks: dict[str, Any], error: Exception | None = None) -> None:
        self.checks = list(checks)
        self.error = error
        self.asked: list[Mapping[str, Json]] = []

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Any:
        assert function == "session_checks"
        self.asked.append(arguments)
        if self.error is not None:
            raise self.error
        length = len(self.checks) - max(
            (place + 1 for place, check in enumerate(self.checks) if check["verdict"] == "clear"), default=0
        )
        return {"checks": self.checks, "streak": {"first": None, "length": length, "categories": {}}, "ended": None}


class Told:
    """A Telemetry that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def analyst(mode: str = "local", telemetry: Told | None = None, clock: Any = None, **more: Any) -> Analyst:
    """An analyst that asks the judge of these tests."""
    values = read_variables({
        "ANALYSIS_MODE": mode, "ANALYSIS_BASE_URL": "http://judge.internal", "ANTHROPIC_API_KEY": KEY,
        "MNEMOM_ANALYZE_URL": HYBRID_URL, "MNEMOM_API_KEY": MNEMOM_KEY, **more,
    }, signs=False)[0]  # fmt: skip
    return Analyst.from_values(values, telemetry or Told(), clock=clock or FakeClock(NOW))


def environment(judge: Analyst, store: Any = None, **more: Any) -> Env:
    """An Env with what a check uses; the other bindings are not there."""
    absent: Any = None
    bound = dict.fromkeys(
        ("crypto", "telemetry", "agents", "state", "checkpoints", "exchanges", "license", "egress"), absent
    )
    records: Any = WindowStore() if store is None else store
    return Env(**{**bound, "records": records, "analyst": judge, "clock": FakeClock(NOW), **more})


def judge_fetcher(answer: Any) -> ScriptedFetcher:
    """A fetcher behind which both analysers answer like this."""
    return ScriptedFetcher({f"POST {MODEL_URL}": answer, f"POST {HYBRID_URL}": answer})


@asynccontextmanager
async def sqlite_records(folder: Path) -> AsyncIterator[RecordStore]:
    """A migrated SQLite database."""
    url = f"sqlite:///{folder / 'records.db'}"
    await smoltbot_records_sqlite.migrate(url, SCHEMA)
    async with smoltbot_records_sqlite.open_records(url, clock=FakeClock(NOW)) as store:
        yield store
