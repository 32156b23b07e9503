"""The database functions about what is deleted with time, and what stays of it as evidence."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from smoltbot_worker.ports import Json

from .columns import BASE64, HEX, PLAIN, Body, Kinds, insertion, listed, to_columns, to_json
from .events import require_agent

_LEAF: Kinds = {"leaf_index": PLAIN, "leaf_hash": HEX}

_STATEMENT: Kinds = {
    "agent_id": PLAIN, "pruned": PLAIN, "timestamp": PLAIN, "key_id": PLAIN, "signature": BASE64,
}  # fmt: skip

_PRUNABLE = """
    WITH stated AS (SELECT coalesce(max(pruned), 0) AS pruned FROM retention_statements WHERE agent_id = :agent_id),
    old AS (SELECT merkle_leaf_index - row_number() OVER (ORDER BY merkle_leaf_index) AS shift
        FROM integrity_checkpoints, stated
        WHERE agent_id = :agent_id AND "timestamp" < :before
            AND merkle_leaf_index >= pruned AND merkle_leaf_index < min(pruned + :limit,
                (SELECT leaf_count - 1 FROM agent_merkle_trees WHERE agent_id = :agent_id)))
    SELECT pruned, pruned + (SELECT count(*) FROM old WHERE shift = pruned - 1) FROM stated
"""
"""Where the last statement ends, and where the entries end that follow it without a gap and are old."""
_SIZE = "SELECT leaf_count FROM agent_merkle_trees WHERE agent_id = ?"
_DELETE = (
    """
    INSERT INTO pruned_leaves (agent_id, leaf_index, leaf_hash, session_id, chain_position, chain_hash)
    SELECT agent_id, merkle_leaf_index, merkle_leaf_hash, session_id, chain_position, chain_hash
    FROM integrity_checkpoints WHERE agent_id = :agent_id AND merkle_leaf_index < :pruned
    """,
    """
    DELETE FROM mutations WHERE checkpoint_id IN (SELECT checkpoint_id FROM integrity_checkpoints
        WHERE agent_id = :agent_id AND merkle_leaf_index < :pruned)
    """,
    "DELETE FROM integrity_checkpoints WHERE agent_id = :agent_id AND merkle_leaf_index < :pruned",
)
"""The last of these tells how many entries there were."""
_STATE = f"""
    {insertion("retention_statements", _STATEMENT)}
    ON CONFLICT (agent_id) DO UPDATE SET pruned = excluded.pruned, "timestamp" = excluded."timestamp",
        key_id = excluded.key_id, signature = excluded.signature WHERE excluded.pruned > pruned
"""
_STATED = f"SELECT {listed(_STATEMENT)} FROM retention_statements WHERE agent_id = ?"
_OLD_TRACES = """
    SELECT trace_id FROM traces WHERE agent_id = :agent_id AND "timestamp" < :before
    ORDER BY "timestamp", trace_id LIMIT :limit
"""
_LEAVES = f"""
    SELECT {listed(_LEAF)} FROM pruned_leaves WHERE agent_id = ? AND leaf_index > ? ORDER BY leaf_index LIMIT ?
"""


def prunable_checkpoints(connection: sqlite3.Connection, now: str, *, agent_id: str, before: str, limit: int) -> Json:
    """How far an agent's log is deleted, and how far it may be; see ``schema/README.md``."""
    del now
    asked = {"agent_id": agent_id, "before": before, "limit": limit}
    pruned, following = connection.execute(_PRUNABLE, asked).fetchone()
    return {"pruned": pruned, "next": following}


def prune_checkpoints(connection: sqlite3.Connection, now: str, *, agent_id: str, statement: Mapping[str, Any]) -> Json:
    """Delete the contents of the entries that a statement is about and keep their leaves; see ``schema/README.md``."""
    del now
    require_agent(connection, agent_id)
    stated = to_columns(_STATEMENT, {**statement, "agent_id": agent_id})
    (size,) = connection.execute(_SIZE, (agent_id,)).fetchone() or (0,)
    if stated["pruned"] >= size:
        raise ValueError("statement: pruned must leave the newest entry of the log")
    if connection.execute("SELECT 1 FROM signing_keys WHERE key_id = ?", (stated["key_id"],)).fetchone() is None:
        raise ValueError("statement: there is no such key")
    *_, gone = [connection.execute(step, stated).rowcount for step in _DELETE]
    connection.execute(_STATE, stated)
    return {"pruned": gone}


def retention_statement(connection: sqlite3.Connection, now: str, *, agent_id: str) -> Json:
    """What the holder of the key said last of what was deleted, or null."""
    del now
    row = connection.execute(_STATED, (agent_id,)).fetchone()
    return None if row is None else to_json(_STATEMENT, row)


def pruned_leaves(
    connection: sqlite3.Connection, now: str, *, agent_id: str, after_index: int | None, limit: int
) -> Json:
    """A page of the leaves whose checkpoints were deleted, in the order of the log."""
    del now
    after = -1 if after_index is None else after_index
    return [to_json(_LEAF, row) for row in connection.execute(_LEAVES, (agent_id, after, limit))]


def prune_traces(connection: sqlite3.Connection, now: str, *, agent_id: str, before: str, limit: int) -> Json:
    """Delete an agent's oldest traces."""
    del now
    require_agent(connection, agent_id)
    asked = {"agent_id": agent_id, "before": before, "limit": limit}
    old = connection.execute(_OLD_TRACES, asked).fetchall()
    connection.executemany("DELETE FROM traces WHERE trace_id = ?", old)
    more = connection.execute(_OLD_TRACES, {**asked, "limit": 1}).fetchone() is not None
    return {"pruned": len(old), "more": more}


WRITES: Sequence[Body] = (prune_checkpoints, prune_traces)
READS: Sequence[Body] = (prunable_checkpoints, retention_statement, pruned_leaves)
