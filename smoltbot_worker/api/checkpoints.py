"""The checkpoints of an agent: pages of its log, and one entry of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs

from smoltbot_worker.answers import error_answer
from smoltbot_worker.attestation.append import VERDICTS
from smoltbot_worker.env import Env
from smoltbot_worker.records import agents, evidence
from smoltbot_worker.records.arguments import identifier
from smoltbot_worker.records.integrity import list_checkpoints
from worker_compat.request import Request
from worker_compat.response import Response

from .bodies import found, no_agent

USUAL_LIMIT, MOST_LIMIT = 20, 1000
MOST_OFFSET = 2**53 - 1

_NUMBER = re.compile(r"[0-9]{1,16}")
_NAMES = ("limit", "offset", "verdict", "session_id")

Query = Mapping[str, Sequence[str]]


async def listing(env: Env, request: Request, agent_id: str) -> Response:
    """GET /v1/agents/{id}/checkpoints: a page of the log, the newest entries first, of a verdict, a session, or all."""
    query = parse_qs(request.target.partition("?")[2], keep_blank_values=True)
    try:
        values = {name: _one(query, name) for name in _NAMES}
        limit = _whole("limit", values["limit"], USUAL_LIMIT, 1, MOST_LIMIT)
        offset = _whole("offset", values["offset"], 0, 0, MOST_OFFSET)
        verdict, session_id = _verdict(values["verdict"]), _session(values["session_id"])
    except ValueError as error:
        return error_answer(400, "Invalid query", "invalid_request", message=str(error))
    rows, total = await list_checkpoints(env.records, agent_id, limit, offset, verdict, session_id)
    if not total and await agents.agent(env.records, agent_id) is None:
        return no_agent()
    return found({"checkpoints": rows, "total": total, "limit": limit, "offset": offset})


async def one(env: Env, request: Request, agent_id: str, checkpoint_id: str) -> Response:
    """GET /v1/agents/{id}/checkpoints/{checkpoint_id}: the entry, unless it is another agent's."""
    del request
    row = await evidence.checkpoint(env.records, checkpoint_id)
    if row is None or row["agent_id"] != agent_id:
        message = "This agent has no checkpoint with this id; it may have been pruned"
        return error_answer(404, "Checkpoint not found", "not_found", message=message)
    return found(row)


def _one(query: Query, name: str) -> str | None:
    """The value of a parameter; None when it is not given."""
    values = query.get(name, ())
    if len(values) > 1:
        raise ValueError(f"{name} must be given once")
    return values[0] if values else None


def _whole(name: str, text: str | None, usual: int, least: int, most: int) -> int:
    if text is None:
        return usual
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}")
    return int(text)


def _verdict(text: str | None) -> str | None:
    if text is not None and text not in VERDICTS:
        raise ValueError(f"verdict must be one of {', '.join(sorted(VERDICTS))}")
    return text


def _session(text: str | None) -> str | None:
    try:
        return None if text is None else str(identifier(text))
    except ValueError as error:
        raise ValueError(f"session_id {error}") from None
