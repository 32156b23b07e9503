"""The database functions about traces: what an agent did, what it used, where it drifts, and how it scores."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from smoltbot_worker.ports import Json

from .columns import JSON, PLAIN, Body, Kinds, insertion, listed, to_columns, to_json
from .events import emit, require_agent

_TRACE: Kinds = {
    "trace_id": PLAIN, "agent_id": PLAIN, "card_id": PLAIN, "timestamp": PLAIN, "action": JSON, "decision": JSON,
    "escalation": JSON, "context": JSON, "verification": JSON, "trace_json": JSON, "gateway_log_id": PLAIN,
    "created_at": PLAIN,
}  # fmt: skip
_USAGE: Kinds = {
    "usage_id": PLAIN, "agent_id": PLAIN, "session_id": PLAIN, "trace_id": PLAIN, "timestamp": PLAIN, "model": PLAIN,
    "provider": PLAIN, "tokens_in": PLAIN, "tokens_out": PLAIN, "duration_ms": PLAIN, "gateway_log_id": PLAIN,
}  # fmt: skip
_ALERT: Kinds = {
    "alert_id": PLAIN, "agent_id": PLAIN, "card_id": PLAIN, "session_id": PLAIN, "alert_type": PLAIN,
    "severity": PLAIN, "description": PLAIN, "drift_data": JSON, "trace_ids": JSON, "checkpoint_ids": JSON,
    "detection_timestamp": PLAIN, "created_at": PLAIN, "resolved_at": PLAIN, "dedup_key": PLAIN,
}  # fmt: skip
_UNTOLD = frozenset({"drift_data", "dedup_key", "created_at", "resolved_at"})
"""The members of an alert that webhooks are not told."""

_ONCE = " ON CONFLICT DO NOTHING"
_INSERT_TRACE = insertion("traces", _TRACE) + _ONCE
_INSERT_USAGE = insertion("usage_events", _USAGE) + _ONCE
_INSERT_ALERT = insertion("drift_alerts", _ALERT) + _ONCE

_STORED = """
    SELECT trace_id, agent_id, "timestamp", gateway_log_id FROM traces
    WHERE gateway_log_id = :gateway_log_id OR trace_id = :trace_id
    ORDER BY gateway_log_id = :gateway_log_id DESC LIMIT 1
"""
_LINK = """
    UPDATE integrity_checkpoints SET linked_trace_id = ?
    WHERE checkpoint_id = ? AND agent_id = ? AND linked_trace_id IS NULL
"""
_LINKED = "SELECT 1 FROM integrity_checkpoints WHERE linked_trace_id = ? AND checkpoint_id = ? AND agent_id = ?"
_READ_TRACES = f"SELECT {listed(_TRACE)} FROM traces"
_NEWEST = 'ORDER BY "timestamp" DESC, trace_id DESC LIMIT ?'
_READ_ALERTS = f"SELECT {listed(_ALERT)} FROM drift_alerts"
_RESOLVE = """
    UPDATE drift_alerts SET resolved_at = coalesce(resolved_at, :now)
    WHERE agent_id = :agent_id AND dedup_key = :dedup_key
"""
_VERIFICATIONS = """
    SELECT count(*), count(*) FILTER (WHERE json_type(verification, '$.verified') = 'true'),
        count(*) FILTER (WHERE json_array_length(verification, '$.violations') > 0)
    FROM traces WHERE agent_id = ? AND verification IS NOT NULL
"""
_VERDICTS = "SELECT verdict, count(*) FROM integrity_checkpoints WHERE agent_id = ? GROUP BY verdict"
_LATEST = """
    SELECT verdict FROM integrity_checkpoints
    WHERE agent_id = ? AND verdict IN ('clear', 'review_needed', 'boundary_violation')
    ORDER BY merkle_leaf_index DESC LIMIT 1
"""


def record_trace(
    connection: sqlite3.Connection,
    now: str,
    *,
    trace: Mapping[str, Any],
    usage: Mapping[str, Any] | None,
    checkpoint_id: str | None,
) -> Json:
    """Store a trace and its usage once, and link the checkpoint of the same exchange; see ``schema/README.md``."""
    require_agent(connection, trace["agent_id"])
    created = connection.execute(_INSERT_TRACE, to_columns(_TRACE, {**trace, "created_at": now})).rowcount
    trace_id, agent_id, moment, gateway_log_id = connection.execute(_STORED, trace).fetchone()
    if agent_id != trace["agent_id"]:
        raise ValueError("trace: another agent has this trace")
    if usage is not None:
        exchange = {"gateway_log_id": gateway_log_id, "agent_id": agent_id}
        row = {**usage, **exchange, "trace_id": trace_id, "timestamp": moment}
        connection.execute(_INSERT_USAGE, to_columns(_USAGE, row))
    link = (trace_id, checkpoint_id, agent_id)
    connection.execute(_LINK, link)
    linked = connection.execute(_LINKED, link).fetchone() is not None
    return {"status": "stored" if created else "known", "trace_id": trace_id, "linked": linked}


def traces(
    connection: sqlite3.Connection, now: str, *, agent_id: str, limit: int, before: tuple[str, str] | None
) -> Json:
    """An agent's traces, the newest first, those before the place that is named."""
    del now
    where = "WHERE agent_id = ?" if before is None else 'WHERE agent_id = ? AND ("timestamp", trace_id) < (?, ?)'
    rows = connection.execute(f"{_READ_TRACES} {where} {_NEWEST}", (agent_id, *(before or ()), limit))
    return [to_json(_TRACE, row) for row in rows]


def trace(connection: sqlite3.Connection, now: str, *, trace_id: str) -> Json:
    """One trace, or null."""
    del now
    row = connection.execute(f"{_READ_TRACES} WHERE trace_id = ?", (trace_id,)).fetchone()
    return None if row is None else to_json(_TRACE, row)


def put_verification(connection: sqlite3.Connection, now: str, *, trace_id: str, verification: dict[str, Json]) -> Json:
    """Put another verification in place of a trace's; whether there is such a trace."""
    del now
    given = (JSON[0](verification), trace_id)
    return bool(connection.execute("UPDATE traces SET verification = ? WHERE trace_id = ?", given).rowcount)


def record_drift(connection: sqlite3.Connection, now: str, *, alert: Mapping[str, Any]) -> Json:
    """Store an alert once for each ``dedup_key`` of an agent, and tell webhooks of a new one."""
    agent_id = alert["agent_id"]
    require_agent(connection, agent_id)
    created = connection.execute(_INSERT_ALERT, to_columns(_ALERT, {**alert, "created_at": now})).rowcount
    where = "WHERE agent_id = :agent_id AND dedup_key = :dedup_key"
    row = connection.execute(f"{_READ_ALERTS} {where}", alert).fetchone()
    if row is None:
        raise ValueError("alert: another alert has this alert_id")
    stored = to_json(_ALERT, row)
    if created:
        told: Json = {name: value for name, value in stored.items() if name not in _UNTOLD}
        emit(connection, now, agent_id, "drift_alert", {"alert": told}, None)
    return {"status": "stored" if created else "known", "alert": stored}


def resolve_drift(connection: sqlite3.Connection, now: str, *, agent_id: str, dedup_key: str) -> Json:
    """Mark an alert as over, the first time for good; whether there is such an alert."""
    values = {"now": now, "agent_id": agent_id, "dedup_key": dedup_key}
    return bool(connection.execute(_RESOLVE, values).rowcount)


def drift_alerts(connection: sqlite3.Connection, now: str, *, agent_id: str, limit: int) -> Json:
    """An agent's alerts, the newest first."""
    del now
    newest = "WHERE agent_id = ? ORDER BY detection_timestamp DESC, alert_id DESC LIMIT ?"
    return [to_json(_ALERT, row) for row in connection.execute(f"{_READ_ALERTS} {newest}", (agent_id, limit))]


def integrity_score(connection: sqlite3.Connection, now: str, *, agent_id: str) -> Json:
    """How many of an agent's verified traces passed; null for an unknown agent."""
    del now
    if not _is_known(connection, agent_id):
        return None
    total, verified, violating = connection.execute(_VERIFICATIONS, (agent_id,)).fetchone()
    return {
        "agent_id": agent_id, "total_traces": total, "verified_traces": verified, "violation_count": violating,
        "integrity_score": (verified * 10_000 // total if total else 0) / 10_000,
    }  # fmt: skip


def aip_score(connection: sqlite3.Connection, now: str, *, agent_id: str) -> Json:
    """How an agent's checkpoints were judged; null for an unknown agent."""
    del now
    if not _is_known(connection, agent_id):
        return None
    counts = dict(connection.execute(_VERDICTS, (agent_id,)).fetchall())
    clear, review = counts.get("clear", 0), counts.get("review_needed", 0)
    violation = counts.get("boundary_violation", 0)
    total, analyzed = sum(counts.values()), clear + review + violation
    latest = connection.execute(_LATEST, (agent_id,)).fetchone()
    return {
        "agent_id": agent_id, "total_checks": total, "analyzed_checks": analyzed,
        "unanalyzed_checks": total - analyzed, "clear_count": clear, "review_count": review,
        "violation_count": violation, "integrity_ratio": _ratio(clear, analyzed),
        "coverage_ratio": _ratio(analyzed, total), "latest_verdict": latest[0] if latest else None,
    }  # fmt: skip


def _is_known(connection: sqlite3.Connection, agent_id: str) -> bool:
    return connection.execute("SELECT 1 FROM agents WHERE id = ?", (agent_id,)).fetchone() is not None


def _ratio(part: int, whole: int) -> float:
    """Three digits, rounded in whole numbers: the same digits on every database."""
    return ((2000 * part + whole) // (2 * whole) if whole else 0) / 1000


WRITES: Sequence[Body] = (record_trace, put_verification, record_drift, resolve_drift)
READS: Sequence[Body] = (traces, trace, drift_alerts, integrity_score, aip_score)
