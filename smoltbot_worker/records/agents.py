"""Typed callers of the database functions about agents: their context, its changes, settings and containment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from smoltbot_worker.ports import Json, RecordStore

_PAGE = 1000
_UNKNOWN = "agent_id: there is no such agent"


class Changes(NamedTuple):
    """What changed after a place in the feed; ``changes`` are pairs of the agent (None: all) and what it is about.

    The first one has the number after that place, and numbers have no gaps.
    """

    seq: int
    changes: list[tuple[str | None, str]]
    reset: bool


async def agent(store: RecordStore, agent_id: str) -> dict[str, Any] | None:
    """The agent's row, or None."""
    return await _object(store, "agent", {"agent_id": agent_id})


async def agent_context(store: RecordStore, agent_id: str) -> dict[str, Any] | None:
    """``{agent, card, organization, quota, pending_nudges, seq}``, all of one moment, or None."""
    return await _object(store, "agent_context", {"agent_id": agent_id})


async def changes_since(store: RecordStore, seq: int | None) -> Changes:
    """What changed after ``seq``; None asks where the feed ends."""
    answer: Any = await store.call("changes_since", {"seq": seq})
    return Changes(answer["seq"], [(agent_id, kind) for agent_id, kind in answer["changes"]], answer["reset"])


async def update_agent(store: RecordStore, agent_id: str, settings: Mapping[str, Json]) -> dict[str, Any] | None:
    """The agent's row with these settings changed, None for an unknown agent; ``ValueError`` names a wrong setting."""
    return await _changed(store, "update_agent", {"agent_id": agent_id, "settings": dict(settings)})


async def set_containment(
    store: RecordStore, agent_id: str, action: str, *, log_id: str, actor: str, reason: str | None
) -> dict[str, Any] | None:
    """Pause, resume, kill or reactivate: ``{"status", "agent"}``, None for an unknown agent."""
    given: dict[str, Json] = {"agent_id": agent_id, "action": action, "log_id": log_id, "actor": actor}
    return await _changed(store, "set_containment", {**given, "reason": reason})


async def containment(store: RecordStore, agent_id: str, limit: int) -> dict[str, Any] | None:
    """An agent's containment with its newest actions, or None."""
    return await _object(store, "containment", {"agent_id": agent_id, "limit": limit})


async def contained_agents(store: RecordStore) -> list[tuple[str, str, str]]:
    """Id, hash and status of everybody who is paused or killed."""
    found: list[tuple[str, str, str]] = []
    while True:
        given: dict[str, Json] = {"after": found[-1][0] if found else None, "limit": _PAGE}
        page: Any = await store.call("contained_agents", given)
        found += [(agent_id, agent_hash, status) for agent_id, agent_hash, status in page]
        if len(page) < _PAGE:
            return found


async def _changed(store: RecordStore, function: str, arguments: Mapping[str, Json]) -> dict[str, Any] | None:
    try:
        return await _object(store, function, arguments)
    except ValueError as error:
        if str(error) != _UNKNOWN:
            raise
        return None


async def _object(store: RecordStore, function: str, arguments: Mapping[str, Json]) -> dict[str, Any] | None:
    answer = await store.call(function, arguments)
    assert answer is None or isinstance(answer, dict)
    return answer
