"""Batches of checkpoints that extend a log, with stand-ins for hashes and signatures: a database checks neither."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from smoltbot_worker.records.batch import signed_payload

KEY_ID = "key-kit"
HEADLESS: Mapping[str, Any] = {"size": 0, "frontier": [], "root": "", "heads": {}}
"""The head of a log without entries."""

TIME = "2026-05-10T08:00:00.000Z"


_CONSULTED: Mapping[str, Any] = {
    "values_checked": ["boundary-no-deception", "fear-transparency-gap"],
    "conflicts": [],
    "supports": [],
    "considerations": [],
    "consultation_depth": "standard",
}
_ANALYSIS: Mapping[str, Any] = {
    "analysis_model": "claude-haiku-4-5-20251001",
    "analysis_duration_ms": 812,
    "thinking_tokens_original": 420,
    "thinking_tokens_analyzed": 420,
    "truncated": False,
    "extraction_confidence": 1,
}


def digest(*parts: object) -> str:
    """64 hex digits that depend on every part."""
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()


def signature(*parts: object) -> str:
    """What looks like a signature and depends on every part."""
    return base64.b64encode(bytes.fromhex(digest(*parts)) * 2).decode()


def entry(session_id: str = "session-1", **changes: Any) -> dict[str, Any]:
    """What one exchange brings, before it has a place in the log."""
    name = str(uuid4())
    return {
        "checkpoint_id": f"ic-{name}",
        "request_id": str(uuid4()),
        "certificate_id": f"cert-{name}",
        "session_id": session_id,
        "card_id": "ac-0badcafe",
        "timestamp": TIME,
        "thinking_block_hash": digest("thinking", name),
        "provider": "anthropic",
        "model": "claude-sonnet-4-5-20250929",
        "verdict": "clear",
        "reason": None,
        "concerns": [],
        "reasoning_summary": "The agent reads a file and answers within its bounded actions.",
        "conscience_context": dict(_CONSULTED),
        "window_position": {"index": 0, "window_size": 10},
        "analysis_metadata": dict(_ANALYSIS),
        "source": "gateway",
        "synthetic": False,
        "synthetic_reason": None,
        "cross_validation_warnings": None,
        "input_commitment": digest("commitment", name),
        "card_hash": digest("card"),
        "values_hash": digest("values"),
        "context_hash": digest("context", name),
        "model_version": "claude-haiku-4-5-20251001",
        "prompt_template_version": "1.0.0",
        "mutations": [],
        **changes,
    }


def extension(
    agent_id: str, head: Mapping[str, Any], entries: Sequence[dict[str, Any]], events: Sequence[Any] | None = None
) -> dict[str, Any]:
    """The arguments of ``append_checkpoints`` that put ``entries`` after ``head``, an answer of ``log_head``."""
    size = head["size"]
    expected = {row["session_id"]: head["heads"].get(row["session_id"], {}).get("chain_hash") for row in entries}
    ends = {session: dict(end) for session, end in head["heads"].items()}
    frontier, nodes, rows = list(head["frontier"]), [], []
    for number, given in enumerate(entries):
        row = _chained(agent_id, given, ends.get(given["session_id"]), size + number)
        ends[row["session_id"]] = {"chain_hash": row["chain_hash"], "position": row["chain_position"]}
        nodes += _grown(frontier, size + number, row["merkle_leaf_hash"])
        rows.append(row)
    size += len(rows)
    root = digest("root", size, *frontier)
    signed = {"size": size, "root": root, "timestamp": TIME, "key_id": KEY_ID, "signature": signature("head", root)}
    return {
        "agent_id": agent_id,
        "expected_size": head["size"],
        "expected_heads": expected,
        "rows": rows,
        "nodes": nodes,
        "frontier": frontier,
        "root": root,
        "head": signed,
        "events": events,
    }


def _chained(agent_id: str, given: Mapping[str, Any], end: Mapping[str, Any] | None, index: int) -> dict[str, Any]:
    previous = end["chain_hash"] if end else None
    row = dict(given)
    row["prev_chain_hash"] = previous
    row["chain_position"] = end["position"] + 1 if end else 0
    row["chain_hash"] = digest("chain", previous, row["checkpoint_id"])
    row["merkle_leaf_index"] = index
    row["merkle_leaf_hash"] = digest("leaf", row["chain_hash"])
    row["signed_payload"] = signed_payload(agent_id, row)
    row["issuer_signature"] = signature("checkpoint", row["signed_payload"])
    row["signing_key_id"] = KEY_ID
    row["claims_hash"] = digest("claims", row["checkpoint_id"])
    row["claims_signature"] = signature("claims", row["claims_hash"])
    return row


def _grown(frontier: list[str | None], size: int, leaf: str) -> list[list[Any]]:
    """Put the leaf into ``frontier``, a tree of ``size`` leaves; the nodes that this completes."""
    level, current, nodes = 0, leaf, []
    while size >> level & 1:
        current = digest(frontier[level], current)
        frontier[level] = None
        level += 1
        nodes.append([level, size >> level, current])
    frontier += [None] * (level + 1 - len(frontier))
    frontier[level] = current
    return nodes
