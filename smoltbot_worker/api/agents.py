"""What an operator sets for an agent: its mode of enforcement, and its other settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smoltbot_worker.answers import error_answer
from smoltbot_worker.env import Env
from smoltbot_worker.ports import Json
from smoltbot_worker.records import agents as records
from worker_compat.request import Request
from worker_compat.response import Response

from .bodies import found, no_agent, read_object, refused

MODES = ("observe", "nudge", "enforce")

SETTINGS = (
    "nudge_strategy", "nudge_rate", "nudge_threshold", "aap_enabled", "aip_enabled", "proof_enabled", "proof_rate",
    "ddr_mode", "public", "auto_containment_threshold", "gate_streams", "failure_policy", "thinking_injection",
)  # fmt: skip
"""What may be set; which values each of them takes is said once, by the database function."""


async def enforcement(env: Env, request: Request, *ids: str) -> Response:
    """GET /v1/agents/{id}/enforcement: what becomes of an agent's violations."""
    del request
    row = await records.agent(env.records, ids[-1])
    return no_agent() if row is None else found(_mode(row))


async def put_enforcement(env: Env, request: Request, *ids: str) -> Response:
    """PUT /v1/agents/{id}/enforcement: ``{"mode"}``."""
    mode = (await read_object(request, ("mode",))).get("mode")
    if mode not in MODES:
        return error_answer(400, 'mode must be "observe", "enforce", or "nudge"', "invalid_request")
    row = await update(env, ids[-1], {"aip_enforcement_mode": mode})
    return no_agent() if row is None else found({**_mode(row), "updated": True})


async def put_settings(env: Env, request: Request, *ids: str) -> Response:
    """PUT /v1/agents/{id}/settings: some of :data:`SETTINGS`; answers all of them."""
    settings = await read_object(request, SETTINGS)
    row = await update(env, ids[-1], settings)
    return no_agent() if row is None else found({"agent_id": row["id"], **{name: row[name] for name in SETTINGS}})


async def update(env: Env, agent_id: str, settings: Mapping[str, Json]) -> dict[str, Any] | None:
    """Change settings, from now on in this process; the agent's row, or None.

    Raises :class:`.bodies.Unacceptable` for a value that a setting does not take.
    """
    try:
        row = await records.update_agent(env.records, agent_id, settings)
    except ValueError as error:
        raise refused(error) from None
    if row is not None:
        env.agents.changed(agent_id)
    return row


def _mode(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"agent_id": row["id"], "enforcement_mode": row["aip_enforcement_mode"]}
