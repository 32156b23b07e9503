"""The record of a check: its checkpoint in the log, with the nudge and the events that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smoltbot_worker.control.nudges import draft_nudge
from smoltbot_worker.events import CheckEnded, ContainmentChanged, NudgesChanged
from smoltbot_worker.ports import Json

from . import drift, metering

if TYPE_CHECKING:
    from smoltbot_worker.admission.agents import Agent
    from smoltbot_worker.env import Env
    from smoltbot_worker.relay.message import ExchangeMessage

    from .check import Checked

_TOLD = ("clear", "review_needed", "boundary_violation", "error")
"""The verdicts that webhooks are told of; that there was nothing to check is no news."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The checkpoint's row as it was stored now; None when the exchange had its checkpoint already."""

    row: Mapping[str, Any] | None


async def record(checked: Checked, message: ExchangeMessage, agent: Agent, env: Env) -> Recorded:
    """Append the checkpoint; returns once it is durable. Its repetition stores nothing.

    The nudge, the webhooks' events and an automatic pause are stored in the same transaction. ``RecordsUnavailable``
    when the database cannot be used: bring the same check again, it is known by its request.
    """
    draft = checked.draft.bringing_about(_nudge(checked, agent), _events(checked, agent.id))
    appended = await env.checkpoints.append(agent.id, draft)
    if appended.row is None:
        return Recorded(None)
    if checked.action:
        env.windows.stored(agent.id, message.session_id, appended.row)
    if appended.nudged:
        env.agents.changed(agent.id)
        env.telemetry.emit(NudgesChanged(agent.id, "created", 1))
    if appended.contained:
        env.agents.changed(agent.id, "paused")
        env.telemetry.emit(ContainmentChanged(agent.id, "auto_pause", "paused"))
    env.telemetry.emit(_ended(checked, message))
    return Recorded(appended.row)


async def follow_up(checked: Checked, message: ExchangeMessage, agent: Agent, env: Env) -> None:
    """What a checkpoint brings about after its commit, as often as one likes: metering and drift."""
    if not checked.action:
        return
    await metering.meter(agent, message.checkpoint_id, checked.source, env)
    if drifts(checked):
        await drift.follow(agent.id, checked.draft.card_id, message.session_id, env)


def drifts(checked: Checked) -> bool:
    """Whether a run of concerns begins, goes on or ends with this analysis."""
    return checked.verdict != "clear" or checked.streak > 0


def _nudge(checked: Checked, agent: Agent) -> dict[str, Json] | None:
    if checked.verdict != "boundary_violation" or agent.mode == "observe":
        return None
    return draft_nudge(checked.draft.checkpoint_id, checked.draft.concerns)


def _events(checked: Checked, agent_id: str) -> tuple[dict[str, Json], ...]:
    if checked.verdict not in _TOLD:
        return ()
    draft = checked.draft
    data: dict[str, Json] = {
        "checkpoint_id": draft.checkpoint_id,
        "agent_id": agent_id,
        "verdict": draft.verdict,
        "concerns": [dict(concern) for concern in draft.concerns],
        "reasoning_summary": draft.reasoning_summary,
    }
    if draft.reason:
        data["reason"] = draft.reason
    return (
        {
            "event": f"verdict.{draft.verdict}",
            "data": {"checkpoint": data},
            "checkpoint_id": draft.checkpoint_id,
            "trace_id": None,
        },
    )


def _ended(checked: Checked, message: ExchangeMessage) -> CheckEnded:
    return CheckEnded(
        provider=message.provider,
        agent_id=message.agent_id,
        session_id=message.session_id,
        request_id=message.id,
        checkpoint_id=message.checkpoint_id,
        verdict=checked.verdict,
        reason=checked.reason,
        source=checked.source,
        streaming=message.streamed,
        analysis_s=checked.analysis_s,
        concerns=tuple((str(found.get("category")), str(found.get("severity"))) for found in checked.draft.concerns),
    )
