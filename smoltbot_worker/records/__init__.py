"""The database functions that the gateway calls, by name; nothing outside of this folder knows the names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from smoltbot_worker.answers import iso
from smoltbot_worker.ports import Json, RecordStore


async def get_or_create_agent(
    store: RecordStore, digest: str, name: str | None, card: dict[str, Any] | None, now: float
) -> dict[str, Any]:
    """The row of the agent with this digest (64 hex), created with its card when it is new."""
    result = await store.call(
        "get_or_create_agent",
        {"agent_hash": digest[:16], "key_hash": digest, "name": name, "card": card, "seen_at": iso(now)},
    )
    assert isinstance(result, dict)
    row = result["agent"]
    assert isinstance(row, dict)
    return row


async def touch_agents(store: RecordStore, seen: Mapping[str, float]) -> None:
    """Move ``last_seen`` of many agents forward; times in seconds since the epoch."""
    pairs: list[Json] = [[agent_id, iso(at)] for agent_id, at in seen.items()]
    await store.call("touch_agents", {"seen": pairs})


async def ping(store: RecordStore) -> dict[str, Any]:
    """Prove that the database can be read and written; says which schema it has."""
    result = await store.call("ping", {})
    assert isinstance(result, dict)
    return result


async def housekeeping(store: RecordStore) -> None:
    """What a database wants done now and then."""
    await store.call("housekeeping", {})


async def expire_nudges(store: RecordStore) -> None:
    """Let nudges go that nobody fetched in time."""
    await store.call("expire_nudges", {})


async def rollup_metering(store: RecordStore) -> None:
    """Add up by account and day what was metered."""
    await store.call("rollup_metering", {})


async def log_head(store: RecordStore, agent_id: str, sessions: Collection[str]) -> Json:
    """Where an agent's log ends, with the last entries of these sessions."""
    return await store.call("log_head", {"agent_id": agent_id, "sessions": list(sessions)})


async def append_checkpoints(store: RecordStore, batch: Mapping[str, Json]) -> Json:
    """Store a batch if the log is still what it was made for; see ``schema/README.md`` for what else it may answer."""
    return await store.call("append_checkpoints", batch)


async def prunable_checkpoints(store: RecordStore, agent_id: str, before: str, limit: int) -> tuple[int, int]:
    """How many of the first entries of a log are deleted, and how many may be after the next sweep."""
    answer: Any = await store.call("prunable_checkpoints", {"agent_id": agent_id, "before": before, "limit": limit})
    return answer["pruned"], answer["next"]


async def prune_checkpoints(store: RecordStore, agent_id: str, statement: Mapping[str, Json]) -> int:
    """Delete the contents of the entries that a signed statement is about; how many were there."""
    answer: Any = await store.call("prune_checkpoints", {"agent_id": agent_id, "statement": dict(statement)})
    return int(answer["pruned"])
