"""The database functions about an agent's log: its head, its growth, and what is read from it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from smoltbot_worker.ports import Json
from smoltbot_worker.records.batch import signed_payload

from .columns import BASE64, BOOLEAN, EVIDENCE, HEX, PLAIN, Body, Kinds, insertion, listed, to_columns, to_json
from .events import queue
from .violations import answer_violations

_CHECKPOINT: Kinds = {
    "checkpoint_id": PLAIN, "request_id": PLAIN, "agent_id": PLAIN, "session_id": PLAIN, "card_id": PLAIN,
    "timestamp": PLAIN, "created_at": PLAIN, "verdict": PLAIN, "reason": PLAIN, "thinking_block_hash": HEX,
    "provider": PLAIN, "model": PLAIN, "concerns": EVIDENCE, "reasoning_summary": PLAIN, "conscience_context": EVIDENCE,
    "window_position": EVIDENCE, "analysis_metadata": EVIDENCE, "linked_trace_id": PLAIN, "source": PLAIN,
    "synthetic": BOOLEAN, "synthetic_reason": PLAIN, "cross_validation_warnings": EVIDENCE, "input_commitment": HEX,
    "card_hash": HEX, "values_hash": HEX, "context_hash": HEX, "model_version": PLAIN,
    "prompt_template_version": PLAIN, "chain_hash": HEX, "prev_chain_hash": HEX, "chain_position": PLAIN,
    "merkle_leaf_index": PLAIN, "merkle_leaf_hash": HEX, "certificate_id": PLAIN, "issuer_signature": BASE64,
    "signing_key_id": PLAIN, "claims_hash": HEX, "claims_signature": BASE64,
}  # fmt: skip
_MUTATION: Kinds = {
    "kind": PLAIN, "setting": PLAIN, "location": PLAIN, "before_sha256": HEX, "after_sha256": HEX,
}  # fmt: skip
_PLACED: Kinds = {"request_id": PLAIN, "place": PLAIN, "checkpoint_id": PLAIN, **_MUTATION}
_HEAD: Kinds = {
    "agent_id": PLAIN, "size": PLAIN, "root": HEX, "timestamp": PLAIN, "key_id": PLAIN, "signature": BASE64,
}  # fmt: skip

_INSERT_CHECKPOINT = insertion("integrity_checkpoints", _CHECKPOINT)
_INSERT_MUTATION = insertion("mutations", _PLACED)
_INSERT_HEAD = insertion("signed_heads", _HEAD)
_INSERT_NODE = 'INSERT INTO merkle_nodes (agent_id, level, "index", hash) VALUES (?, ?, ?, ?)'
_EXTEND = """
    INSERT INTO agent_merkle_trees (agent_id, leaf_count, merkle_root, frontier, last_updated)
    VALUES (:agent_id, :size, :root, :frontier, :now)
    ON CONFLICT (agent_id) DO UPDATE SET leaf_count = excluded.leaf_count, merkle_root = excluded.merkle_root,
        frontier = excluded.frontier, last_updated = excluded.last_updated
"""
_TREE = "SELECT leaf_count, frontier, merkle_root FROM agent_merkle_trees WHERE agent_id = ?"
_SESSION_HEAD = """
    SELECT * FROM (SELECT chain_hash, chain_position FROM integrity_checkpoints
        WHERE agent_id = :agent_id AND session_id = :session_id ORDER BY chain_position DESC LIMIT 1)
    UNION ALL
    SELECT * FROM (SELECT chain_hash, chain_position FROM pruned_leaves
        WHERE agent_id = :agent_id AND session_id = :session_id ORDER BY chain_position DESC LIMIT 1)
    ORDER BY chain_position DESC LIMIT 1
"""
"""The last entry of a session, pruned or not: what follows it never becomes a beginning."""
_STORED = """
    SELECT 1 FROM integrity_checkpoints WHERE request_id = :request_id
    UNION ALL SELECT 1 FROM integrity_checkpoints WHERE checkpoint_id = :checkpoint_id
"""
_NODE = 'SELECT hash FROM merkle_nodes WHERE agent_id = :agent_id AND level = :level AND "index" = :index'
_LEAF = """
    SELECT merkle_leaf_hash FROM integrity_checkpoints WHERE agent_id = :agent_id AND merkle_leaf_index = :index
    UNION ALL SELECT leaf_hash FROM pruned_leaves WHERE agent_id = :agent_id AND leaf_index = :index
"""
_MUTATIONS = f"SELECT {listed(_MUTATION)} FROM mutations WHERE request_id = ? ORDER BY place"
_READ = f"SELECT {listed(_CHECKPOINT)} FROM integrity_checkpoints"

Row = dict[str, Any]


def log_head(connection: sqlite3.Connection, now: str, *, agent_id: str, sessions: Sequence[str]) -> Json:
    """Where an agent's log ends; see ``schema/README.md``."""
    del now
    return _log_head(connection, agent_id, sessions)


def append_checkpoints(connection: sqlite3.Connection, now: str, **batch: Any) -> Json:
    """Extend an agent's log if it is where the caller believes it to be; see ``schema/README.md``."""
    agent_id, rows, expected = batch["agent_id"], batch["rows"], batch["expected_heads"]
    head = _log_head(connection, agent_id, list(expected))
    stored: list[Json] = [row["request_id"] for row in rows if connection.execute(_STORED, row).fetchone()]
    if stored:
        return {"status": "duplicate", "stored": stored, **head}
    chains: Row = {session: ends["chain_hash"] for session, ends in head["heads"].items()}
    if head["size"] != batch["expected_size"] or any(
        chains.get(session) != chain for session, chain in expected.items()
    ):
        return {"status": "conflict", **head}
    _refuse_gaps(rows, {session: ends["position"] + 1 for session, ends in head["heads"].items()})
    for row in rows:
        _insert_checkpoint(connection, {**row, "agent_id": agent_id, "created_at": now})
    _extend_tree(connection, now, batch)
    for event in batch["events"] or ():
        queue(connection, now, agent_id, event)
    answered = answer_violations(connection, now, agent_id, rows)
    return {"status": "appended", "size": batch["head"]["size"], **answered}


def checkpoints(
    connection: sqlite3.Connection, now: str, *, agent_id: str, after_index: int | None, limit: int
) -> Json:
    """A page of an agent's log in its order."""
    del now
    after = -1 if after_index is None else after_index
    where = "WHERE agent_id = ? AND merkle_leaf_index > ? ORDER BY merkle_leaf_index LIMIT ?"
    rows = fetch_evidence(connection, f"{_READ} {where}", (agent_id, after, limit))
    return [_shown(connection, row) for row in rows]


def checkpoint(connection: sqlite3.Connection, now: str, *, checkpoint_id: str) -> Json:
    """One checkpoint, or null."""
    del now
    rows = fetch_evidence(connection, f"{_READ} WHERE checkpoint_id = ?", (checkpoint_id,))
    return _shown(connection, rows[0]) if rows else None


def merkle_nodes(connection: sqlite3.Connection, now: str, *, agent_id: str, wanted: Sequence[tuple[int, int]]) -> Json:
    """Those of the wanted nodes that are there, leaves at level 0."""
    del now
    found: list[Json] = []
    for level, index in wanted:
        place = {"agent_id": agent_id, "level": level, "index": index}
        row = connection.execute(_NODE if level else _LEAF, place).fetchone()
        if row is not None:
            found.append([level, index, row[0].hex()])
    return found


def signed_heads(connection: sqlite3.Connection, now: str, *, agent_id: str, limit: int) -> Json:
    """The newest signed heads of a log, the newest first."""
    del now
    sql = f"SELECT {listed(_HEAD)} FROM signed_heads WHERE agent_id = ? ORDER BY size DESC LIMIT ?"
    return [to_json(_HEAD, row) for row in connection.execute(sql, (agent_id, limit))]


def _log_head(connection: sqlite3.Connection, agent_id: str, sessions: Sequence[str]) -> Row:
    size, frontier, root = connection.execute(_TREE, (agent_id,)).fetchone() or (0, "[]", None)
    heads = {}
    for session in sessions:
        row = connection.execute(_SESSION_HEAD, {"agent_id": agent_id, "session_id": session}).fetchone()
        if row is not None:
            heads[session] = {"chain_hash": row[0].hex(), "position": row[1]}
    return {"size": size, "frontier": json.loads(frontier), "root": root.hex() if root else "", "heads": heads}


def _refuse_gaps(rows: Sequence[Row], following: Mapping[str, int]) -> None:
    positions = dict(following)
    for row in rows:
        if row["chain_position"] != positions.get(row["session_id"], 0):
            raise ValueError("rows: chain_position must count on from the head of the session")
        positions[row["session_id"]] = row["chain_position"] + 1


def _insert_checkpoint(connection: sqlite3.Connection, row: Row) -> None:
    connection.execute(_INSERT_CHECKPOINT, to_columns(_CHECKPOINT, row))
    for place, mutation in enumerate(row["mutations"] or (), 1):
        names = {"request_id": row["request_id"], "place": place, "checkpoint_id": row["checkpoint_id"]}
        connection.execute(_INSERT_MUTATION, to_columns(_PLACED, {**mutation, **names}))


def _extend_tree(connection: sqlite3.Connection, now: str, batch: Row) -> None:
    agent_id, head = batch["agent_id"], batch["head"]
    nodes = [(agent_id, level, index, bytes.fromhex(digest)) for level, index, digest in batch["nodes"]]
    connection.executemany(_INSERT_NODE, nodes)
    tree = {
        "agent_id": agent_id, "size": head["size"], "root": bytes.fromhex(batch["root"]),
        "frontier": json.dumps(batch["frontier"]), "now": now,
    }  # fmt: skip
    connection.execute(_EXTEND, tree)
    connection.execute(_INSERT_HEAD, to_columns(_HEAD, {**head, "agent_id": agent_id}))


def fetch_evidence(connection: sqlite3.Connection, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """The rows of a query; bytes that are no UTF-8 become U+FFFD, so that they are a matter of one entry alone."""
    connection.text_factory = lambda data: data.decode(errors="replace")
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.text_factory = str


def _shown(connection: sqlite3.Connection, row: tuple[Any, ...]) -> dict[str, Json]:
    shown = to_json(_CHECKPOINT, row)
    changes = fetch_evidence(connection, _MUTATIONS, (shown["request_id"],))
    shown["mutations"] = [to_json(_MUTATION, change) for change in changes]
    shown["signed_payload"] = signed_payload(str(shown["agent_id"]), shown)
    return shown


WRITES: Sequence[Body] = (append_checkpoints,)
READS: Sequence[Body] = (log_head, checkpoints, checkpoint, merkle_nodes, signed_heads)
