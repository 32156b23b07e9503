"""Typed callers of the database functions that checks and the lists of checkpoints read by."""

from __future__ import annotations

from typing import Any

from smoltbot_worker.ports import Json, RecordStore


async def session_checks(
    store: RecordStore, agent_id: str, session_id: str, limit: int, upto: str | None = None
) -> dict[str, Any]:
    """The newest judged entries of a session, and the run of concerns at its end: ``{"checks", "streak", "ended"}``."""
    asked: dict[str, Json] = {"agent_id": agent_id, "session_id": session_id, "limit": limit, "upto": upto}
    found: Any = await store.call("session_checks", asked)
    assert isinstance(found, dict)
    return found


async def list_checkpoints(
    store: RecordStore, agent_id: str, limit: int, offset: int, verdict: str | None, session_id: str | None
) -> tuple[list[dict[str, Any]], int]:
    """A page of a log, the newest entries first, and how many entries all pages have."""
    asked: dict[str, Json] = {
        "agent_id": agent_id,
        "limit": limit,
        "offset": offset,
        "verdict": verdict,
        "session_id": session_id,
    }
    found: Any = await store.call("list_checkpoints", asked)
    return found["checkpoints"], found["total"]


async def record_drift(store: RecordStore, alert: dict[str, Any]) -> bool:
    """Store an alert, once for each of its ``dedup_key``; whether it is new. Webhooks are told of a new one."""
    answer: Any = await store.call("record_drift", {"alert": alert})
    return bool(answer["status"] == "stored")


async def resolve_drift(store: RecordStore, agent_id: str, dedup_key: str) -> bool:
    """Mark an alert as over; whether there is such an alert."""
    return bool(await store.call("resolve_drift", {"agent_id": agent_id, "dedup_key": dedup_key}))


async def record_metering(store: RecordStore, events: list[dict[str, Any]]) -> None:
    """Store what is to be counted for accounts, each checkpoint once."""
    await store.call("record_metering", {"events": list(events)})
