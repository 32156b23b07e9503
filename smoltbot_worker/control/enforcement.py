"""Enforcement: whether a checked answer may go to the client, and what the client gets instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from smoltbot_worker.answers import error_answer
from smoltbot_worker.events import AnswerBlocked
from worker_compat.response import Response

if TYPE_CHECKING:
    from smoltbot_worker.admission.agents import Agent
    from smoltbot_worker.attestation.append import Draft
    from smoltbot_worker.env import Env

_NOTHING_TO_CHECK = frozenset(("no-thinking", "no-card"))
"""Reasons of ``skipped`` that are no failure of the check."""


def blocks_violation(agent: Agent, verdict: str) -> bool:
    """Whether an answer with this verdict is withheld."""
    return agent.mode == "enforce" and verdict == "boundary_violation"


def blocks_unchecked(agent: Agent, verdict: str, reason: str, env: Env) -> bool:
    """Whether an answer that nobody judged is withheld, because checks fail closed."""
    if agent.mode != "enforce" or (agent.failure_policy or env.aip_failure_policy) != "fail_closed":
        return False
    return verdict == "error" or (verdict == "skipped" and reason not in _NOTHING_TO_CHECK)


def violation(draft: Draft, action: str, agent_id: str, env: Env) -> Response:
    """403, and what was found."""
    env.telemetry.emit(AnswerBlocked(agent_id, draft.request_id, "boundary_violation"))
    checkpoint = {
        "checkpoint_id": draft.checkpoint_id,
        "verdict": draft.verdict,
        "concerns": [_shown(concern) for concern in draft.concerns],
        "reasoning_summary": draft.reasoning_summary,
        "recommended_action": action,
    }
    return error_answer(403, "Request blocked by integrity check", "integrity_violation", checkpoint=checkpoint)


def unchecked(agent_id: str, request_id: str, env: Env) -> Response:
    """503: no answer without a check."""
    env.telemetry.emit(AnswerBlocked(agent_id, request_id, "integrity_unavailable"))
    return error_answer(503, "Integrity analysis unavailable", "integrity_unavailable")


def _shown(concern: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in concern.items() if name != "evidence" or value}
