"""What happened to agents: the feed of changes by which caches are dropped, and the events that webhooks are told."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from smoltbot_worker.ports import Json

from .columns import Body, shifted

_NEXT = "UPDATE change_counter SET seq = seq + 1 RETURNING seq"
_CHANGE = "INSERT INTO changes (seq, created_at, agent_id, kind) VALUES (?, ?, ?, ?)"
_WANTING = "SELECT registration_id, events FROM aip_webhook_registrations WHERE agent_id = ? AND disabled_at IS NULL"
_DELIVERY = """
    INSERT INTO aip_webhook_deliveries (
        id, registration_id, delivery_key, event_type, checkpoint_id, trace_id, payload, created_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (registration_id, delivery_key) DO NOTHING
"""
_LATEST = "SELECT seq FROM change_counter"
_MOST_CHANGES = 1000
_SINCE = f"SELECT agent_id, kind FROM changes WHERE seq > ? ORDER BY seq LIMIT {_MOST_CHANGES + 1}"
_OLD_CHANGES = """
    DELETE FROM changes WHERE seq IN (SELECT seq FROM changes WHERE created_at < ? ORDER BY created_at LIMIT 10000)
"""
_OLD_DELIVERIES = """
    DELETE FROM aip_webhook_deliveries WHERE place IN (
        SELECT place FROM aip_webhook_deliveries WHERE settled_at < ? ORDER BY settled_at LIMIT 10000)
"""
_CHANGES_KEPT = timedelta(hours=1)
_DELIVERIES_KEPT = timedelta(days=30)


def changes_since(connection: sqlite3.Connection, now: str, *, seq: int | None) -> Json:
    """What changed after ``seq``; see ``schema/README.md``."""
    del now
    (latest,) = connection.execute(_LATEST).fetchone()
    since = latest if seq is None else seq
    found: list[Json] = [[agent_id, kind] for agent_id, kind in connection.execute(_SINCE, (since,))]
    # Numbers leave no gaps, so a number of rows that is not the distance means that some were deleted.
    reset = since > latest or len(found) > _MOST_CHANGES or len(found) != latest - since
    return {"seq": latest, "changes": [] if reset else found, "reset": reset}


def forget(connection: sqlite3.Connection, now: str) -> None:
    """Delete what is too old to be asked for, as much as a call has time for; a part of housekeeping."""
    connection.execute(_OLD_CHANGES, (shifted(now, -_CHANGES_KEPT),))
    connection.execute(_OLD_DELIVERIES, (shifted(now, -_DELIVERIES_KEPT),))


def note_change(connection: sqlite3.Connection, now: str, agent_id: str | None, kind: str) -> None:
    """Tell the caches that ``kind`` changed; ``agent_id`` null: for every agent."""
    (seq,) = connection.execute(_NEXT).fetchone()
    connection.execute(_CHANGE, (seq, now, agent_id, kind))


def emit(
    connection: sqlite3.Connection,
    now: str,
    agent_id: str,
    event: str,
    data: Mapping[str, Json],
    checkpoint_id: str | None,
) -> None:
    """Queue an event that another function brings about, whose transaction is what makes it happen once."""
    told: dict[str, Any] = {"event": event, "data": data, "checkpoint_id": checkpoint_id, "trace_id": None}
    queue(connection, now, agent_id, told)


def queue(connection: sqlite3.Connection, now: str, agent_id: str, event: Mapping[str, Any]) -> int:
    """One delivery for each registration of the agent that wants the event; how many are new.

    An event without ``delivery_key`` is new, as one that a transaction brings about.
    """
    name, data, key = str(event["event"]), event["data"], event.get("delivery_key") or str(uuid4())
    payload = json.dumps({"event": name, "timestamp": now, **data}, separators=(",", ":"))
    queued = 0
    for registration_id, wanted in connection.execute(_WANTING, (agent_id,)).fetchall():
        if _wants(json.loads(wanted), name):
            row = (f"del-{uuid4().hex}", registration_id, key, name)
            about = (event["checkpoint_id"], event["trace_id"], payload, now)
            queued += connection.execute(_DELIVERY, row + about).rowcount
    return queued


def require_agent(connection: sqlite3.Connection, agent_id: str) -> None:
    """Raise ``ValueError`` unless there is such an agent."""
    if connection.execute("SELECT 1 FROM agents WHERE id = ?", (agent_id,)).fetchone() is None:
        raise ValueError("agent_id: there is no such agent")


def _wants(wanted: Sequence[str], event: str) -> bool:
    matches = {"*", event} | ({"verdict.*", "verdict"} if event.startswith("verdict.") else set())
    return not matches.isdisjoint(wanted)


WRITES: Sequence[Body] = ()
READS: Sequence[Body] = (changes_since,)
