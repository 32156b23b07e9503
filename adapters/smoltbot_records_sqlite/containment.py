"""The database functions by which agents are paused, killed and let go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from smoltbot_worker.ports import Json

from .agents import find_agent
from .columns import JSON, PLAIN, Body, Kinds, listed, to_json
from .events import emit, note_change

_NEXT: Mapping[tuple[str, str], str] = {
    ("active", "pause"): "paused",
    ("paused", "resume"): "active",
    ("active", "kill"): "killed",
    ("paused", "kill"): "killed",
    ("killed", "reactivate"): "active",
}
_EVENTS: Mapping[str, str] = {
    "pause": "agent.paused", "resume": "agent.resumed", "kill": "agent.killed", "reactivate": "agent.reactivated",
}  # fmt: skip
_ENTRY: Kinds = {
    "id": PLAIN, "action": PLAIN, "actor": PLAIN, "reason": PLAIN, "previous_status": PLAIN, "new_status": PLAIN,
    "metadata": JSON, "created_at": PLAIN,
}  # fmt: skip
_STATE: Kinds = {
    "agent_id": PLAIN, "status": PLAIN, "contained_at": PLAIN, "contained_by": PLAIN, "containment_reason": PLAIN,
    "auto_containment_threshold": PLAIN,
}  # fmt: skip

_DONE = "SELECT agent_id, action FROM agent_containment_log WHERE id = ?"
_CONTAIN = """
    UPDATE agents SET containment_status = :new_status, contained_at = :at, contained_by = :by,
        containment_reason = :why
    WHERE id = :agent_id
"""
_LOG = """
    INSERT INTO agent_containment_log (id, agent_id, action, actor, reason, previous_status, new_status, created_at)
    VALUES (:log_id, :agent_id, :action, :actor, :reason, :previous_status, :new_status, :now)
"""
_READ_STATE = """
    SELECT id, containment_status, contained_at, contained_by, containment_reason, auto_containment_threshold
    FROM agents WHERE id = ?
"""
_CONTAINED = """
    SELECT id, agent_hash, containment_status FROM agents
    WHERE containment_status <> 'active' AND id > ? ORDER BY id LIMIT ?
"""
_READ_LOG = f"SELECT {listed(_ENTRY)} FROM agent_containment_log WHERE agent_id = ? ORDER BY place DESC LIMIT ?"


def set_containment(
    connection: sqlite3.Connection,
    now: str,
    *,
    agent_id: str,
    action: str,
    log_id: str,
    actor: str,
    reason: str | None,
) -> Json:
    """Move an agent to the status that ``action`` leads to, if there is one; see ``schema/README.md``."""
    agent = find_agent(connection, agent_id)
    if agent is None:
        raise ValueError("agent_id: there is no such agent")
    done = connection.execute(_DONE, (log_id,)).fetchone()
    if done is not None:
        if done != (agent_id, action):
            raise ValueError("log_id: another action has this id")
        return {"status": "known", "agent": agent}
    previous = str(agent["containment_status"])
    new = _NEXT.get((previous, action))
    if new is None:
        return {"status": "wrong_state", "agent": agent}
    told: dict[str, Json] = {
        "agent_id": agent_id, "org_id": "org-local", "action": action, "actor": actor, "reason": reason,
        "previous_status": previous, "new_status": new,
    }  # fmt: skip
    _contain(connection, now, log_id, told)
    return {"status": "changed", "agent": find_agent(connection, agent_id)}


def containment(connection: sqlite3.Connection, now: str, *, agent_id: str, limit: int) -> Json:
    """An agent's status with the newest actions that led to it, or null."""
    del now
    state = connection.execute(_READ_STATE, (agent_id,)).fetchone()
    if state is None:
        return None
    log: list[Json] = [to_json(_ENTRY, row) for row in connection.execute(_READ_LOG, (agent_id, limit))]
    return {**to_json(_STATE, state), "log": log}


def contained_agents(connection: sqlite3.Connection, now: str, *, after: str | None, limit: int) -> Json:
    """A page of the agents that are paused or killed, by their ids."""
    del now
    return [list(row) for row in connection.execute(_CONTAINED, (after or "", limit))]


def _contain(connection: sqlite3.Connection, now: str, log_id: str, told: Mapping[str, Json]) -> None:
    agent_id, action, contained = str(told["agent_id"]), str(told["action"]), told["new_status"] != "active"
    held = (now, told["actor"], told["reason"]) if contained else (None, None, None)
    connection.execute(_CONTAIN, {**told, **dict(zip(("at", "by", "why"), held, strict=True))})
    connection.execute(_LOG, {**told, "log_id": log_id, "now": now})
    emit(connection, now, agent_id, _EVENTS[action], told, None)
    note_change(connection, now, agent_id, "containment")


WRITES: Sequence[Body] = (set_containment,)
READS: Sequence[Body] = (containment, contained_agents)
