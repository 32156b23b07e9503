"""Containment over HTTP: pause an agent, kill it, let it go on, and say when that happens by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from smoltbot_worker.admission.containment import ACTIVE
from smoltbot_worker.answers import error_answer
from smoltbot_worker.env import Env
from smoltbot_worker.events import ContainmentChanged
from smoltbot_worker.ports import Json
from smoltbot_worker.records import agents as records
from worker_compat.request import Request
from worker_compat.response import Response

from . import agents
from .bodies import found, invalid, no_agent, read_object, refused

ACTIONS: Mapping[str, str] = {
    "pause": "active", "kill": "active or paused", "resume": "paused", "reactivate": "killed",
}  # fmt: skip
"""What can be done, and to an agent in which state."""

ACTOR = "admin"
"""Who did it, on record: whoever holds the admin token."""

LOG_SHOWN = 100
"""How many of the newest actions are told."""

LONGEST_REASON = 500

_STATE = (
    "agent_id", "status", "contained_at", "contained_by", "containment_reason", "auto_containment_threshold",
)  # fmt: skip
_ENTRY = ("id", "action", "actor", "reason", "previous_status", "new_status", "created_at")


async def act(action: str, env: Env, request: Request, *ids: str) -> Response:
    """POST /v1/agents/{id}/{action}, with an optional ``{"reason"}``: it acts here at once, elsewhere within a second.

    400 for an agent that is in another state than the action is for.
    """
    agent_id = ids[-1]
    reason = _reason(await read_object(request, ("reason",), optional=True))
    try:
        done = await records.set_containment(
            env.records, agent_id, action, log_id=f"ctl-{uuid4().hex}", actor=ACTOR, reason=reason
        )
    except ValueError as error:
        raise refused(error) from None
    if done is None:
        return no_agent()
    row = done["agent"]
    status = row["containment_status"]
    if done["status"] == "wrong_state":
        message = f"{action} is for an agent that is {ACTIONS[action]}; this one is {status}"
        return error_answer(400, "Wrong state", "invalid_request", message=message, containment_status=status)
    env.agents.changed(agent_id, status)
    env.telemetry.emit(ContainmentChanged(agent_id, action, status))
    return found(_changed(row))


async def show(env: Env, request: Request, *ids: str) -> Response:
    """GET /v1/agents/{id}/containment: an agent's state, and what led to it, the newest first."""
    del request
    state = await records.containment(env.records, ids[-1], LOG_SHOWN)
    if state is None:
        return no_agent()
    log = [{name: entry[name] for name in _ENTRY} for entry in state["log"]]
    return found({**{name: state[name] for name in _STATE}, "log": log})


async def put_policy(env: Env, request: Request, *ids: str) -> Response:
    """PUT /v1/agents/{id}/containment-policy: how many violations in a row pause the agent; null for never."""
    policy = await read_object(request, ("auto_containment_threshold",))
    if not policy:
        raise invalid("auto_containment_threshold is missing: a whole number from 2, or null")
    row = await agents.update(env, ids[-1], policy)
    if row is None:
        return no_agent()
    return found({"agent_id": row["id"], "auto_containment_threshold": row["auto_containment_threshold"]})


def _reason(body: Mapping[str, Json]) -> str | None:
    reason = body.get("reason")
    if reason is not None and (not isinstance(reason, str) or len(reason) > LONGEST_REASON):
        raise invalid(f"reason must be text of at most {LONGEST_REASON} characters")
    return reason


def _changed(row: Mapping[str, Any]) -> dict[str, Any]:
    told = {"agent_id": row["id"], "containment_status": row["containment_status"]}
    if row["containment_status"] == ACTIVE:
        return told
    held = {name: row[name] for name in ("contained_at", "containment_reason")}
    return {**told, **held, "contained_by": ACTOR}
