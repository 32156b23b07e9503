"""What the violations of a batch bring about: nudges, and the pause of an agent that has too many in a row."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from smoltbot_worker.ports import Json

from .events import emit, note_change

_AGENT = """
    SELECT aip_enforcement_mode, nudge_strategy, coalesce(nudge_rate, proof_rate, 100), coalesce(nudge_threshold, 3),
        auto_containment_threshold, containment_status
    FROM agents WHERE id = ?
"""
_IN_SESSION = """
    SELECT count(*) FROM integrity_checkpoints
    WHERE agent_id = ? AND session_id = ? AND verdict = 'boundary_violation' AND chain_position <= ?
"""
_IN_A_ROW = """
    SELECT count(*) FROM (
        SELECT merkle_leaf_index FROM integrity_checkpoints
        WHERE agent_id = :agent_id AND verdict = 'boundary_violation' AND merkle_leaf_index <= :upto
        ORDER BY merkle_leaf_index DESC LIMIT :most) AS violation
    WHERE NOT EXISTS (
        SELECT 1 FROM integrity_checkpoints AS other
        WHERE other.agent_id = :agent_id AND other.verdict IN ('clear', 'review_needed')
            AND other.merkle_leaf_index > violation.merkle_leaf_index AND other.merkle_leaf_index <= :upto)
"""
"""How many of the last judged checkpoints up to a place are violations without another verdict after them."""
_NUDGE = """
    INSERT INTO enforcement_nudges (
        id, agent_id, checkpoint_id, session_id, nudge_content, concerns_summary, created_at)
    VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_PAUSE = """
    UPDATE agents SET containment_status = 'paused', contained_at = ?, contained_by = 'system',
        containment_reason = ? WHERE id = ?
"""
_LOG = """
    INSERT INTO agent_containment_log (
        id, agent_id, action, actor, reason, previous_status, new_status, metadata, created_at)
    VALUES (?, ?, 'auto_pause', 'system', ?, 'active', 'paused', ?, ?)
"""

Row = Mapping[str, Any]


def answer_violations(connection: sqlite3.Connection, now: str, agent_id: str, rows: Sequence[Row]) -> dict[str, Json]:
    """The members ``nudges`` and ``contained`` of an append, judged after all its rows are stored.

    Each row is judged as of its place in the log: a batch does what its rows would do one by one.
    """
    made: list[Json] = []
    contained = False
    for row in rows:
        if row["verdict"] == "boundary_violation":
            if _is_nudge_due(connection, agent_id, row):
                made.append(_nudge(connection, now, agent_id, row))
            contained |= _contain(connection, now, agent_id, row)
    if made:
        note_change(connection, now, agent_id, "nudges")
    if contained:
        note_change(connection, now, agent_id, "containment")
    return {"nudges": made, "contained": contained}


def _is_nudge_due(connection: sqlite3.Connection, agent_id: str, row: Row) -> bool:
    mode, strategy, rate, threshold, *_ = connection.execute(_AGENT, (agent_id,)).fetchone()
    if row["nudge"] is None or mode not in ("nudge", "enforce"):
        return False
    if strategy == "sampling":
        return bool(row["nudge"]["draw"] < rate)
    if strategy == "threshold":
        place = (agent_id, row["session_id"], row["chain_position"])
        return bool(connection.execute(_IN_SESSION, place).fetchone()[0] >= threshold)
    return bool(strategy == "always")


def _nudge(connection: sqlite3.Connection, now: str, agent_id: str, row: Row) -> str:
    nudge = row["nudge"]
    texts = (nudge["nudge_content"], nudge["concerns_summary"])
    connection.execute(_NUDGE, (nudge["nudge_id"], agent_id, row["checkpoint_id"], row["session_id"], *texts, now))
    return str(nudge["nudge_id"])


def _contain(connection: sqlite3.Connection, now: str, agent_id: str, row: Row) -> bool:
    """Pause an active agent that has as many violations in a row as its owner allows."""
    *_, threshold, status = connection.execute(_AGENT, (agent_id,)).fetchone()
    if threshold is None or status != "active":
        return False
    place = {"agent_id": agent_id, "upto": row["merkle_leaf_index"], "most": threshold + 5}
    (number,) = connection.execute(_IN_A_ROW, place).fetchone()
    if number < threshold:
        return False
    reason = f"Auto-contained: {number} consecutive boundary violations"
    connection.execute(_PAUSE, (now, reason, agent_id))
    metadata = json.dumps({"checkpoint_id": row["checkpoint_id"]})
    connection.execute(_LOG, (f"ctl-{uuid4().hex}", agent_id, reason, metadata, now))
    data: dict[str, Json] = {
        "agent_id": agent_id, "org_id": "org-local", "action": "auto_pause", "actor": "system", "reason": reason,
        "previous_status": "active", "new_status": "paused",
    }  # fmt: skip
    emit(connection, now, agent_id, "agent.paused", data, row["checkpoint_id"])
    return True
