"""What a batch of checkpoints must be in itself before it is compared with the log that it is to extend."""

from __future__ import annotations

import json
from typing import Any

from .arguments import (
    Parameters,
    boolean,
    exact_timestamp,
    identifier,
    integer,
    json_list,
    json_object,
    list_of,
    lower_hex,
    one_of,
    optional,
    record_of,
    signature,
    text,
)

MOST_ROWS = 1000

_HASH = lower_hex(64)

MUTATION: Parameters = {
    "kind": one_of("thinking", "nudge", "redaction", "accept-encoding", "refusal"),
    "setting": optional(text),
    "location": optional(text),
    "before_sha256": optional(_HASH),
    "after_sha256": optional(_HASH),
}

NUDGE: Parameters = {
    "nudge_id": identifier,
    "nudge_content": text,
    "concerns_summary": text,
    "draw": integer(0, 99),
}
"""What the agent is told if the row is a violation and its nudge strategy says so; not a part of what is signed."""

CHECKPOINT: Parameters = {
    "checkpoint_id": identifier,
    "request_id": identifier,
    "card_id": optional(text),
    "session_id": identifier,
    "timestamp": exact_timestamp,
    "thinking_block_hash": _HASH,
    "provider": text,
    "model": optional(text),
    "verdict": one_of("clear", "review_needed", "boundary_violation", "error", "skipped"),
    "reason": optional(text),
    "concerns": json_list,
    "reasoning_summary": text,
    "conscience_context": optional(json_object),
    "window_position": optional(json_object),
    "analysis_metadata": optional(json_object),
    "source": one_of("gateway", "hybrid_api"),
    "synthetic": boolean,
    "synthetic_reason": optional(text),
    "cross_validation_warnings": optional(json_list),
    "input_commitment": _HASH,
    "card_hash": _HASH,
    "values_hash": _HASH,
    "context_hash": _HASH,
    "model_version": optional(text),
    "prompt_template_version": text,
    "chain_hash": _HASH,
    "prev_chain_hash": optional(_HASH),
    "chain_position": integer(0),
    "merkle_leaf_index": integer(0),
    "merkle_leaf_hash": _HASH,
    "certificate_id": identifier,
    "signed_payload": text,
    "issuer_signature": signature,
    "signing_key_id": identifier,
    "claims_hash": _HASH,
    "claims_signature": signature,
    "mutations": optional(list_of(record_of(MUTATION), most=100)),
    "nudge": optional(record_of(NUDGE)),
}

HEAD: Parameters = {
    "size": integer(1),
    "root": _HASH,
    "timestamp": exact_timestamp,
    "key_id": identifier,
    "signature": signature,
}

PAYLOAD = (
    "agent_id", "chain_hash", "checkpoint_id", "input_commitment", "thinking_block_hash", "timestamp", "verdict",
)  # fmt: skip
"""The members of the signed payload, in its order; the databases keep its parts and not the text."""


def signed_payload(agent_id: str, row: dict[str, Any]) -> str:
    """The text that the signature of a checkpoint covers."""
    members = {**row, "agent_id": agent_id}
    return json.dumps({name: members[name] for name in PAYLOAD}, separators=(",", ":"))


def check_batch(batch: dict[str, Any]) -> None:
    """Raise ``ValueError``, which names the argument, unless the batch extends the head that it expects."""
    rows: list[dict[str, Any]] = batch["rows"]
    heads: dict[str, str | None] = dict(batch["expected_heads"])
    for number, row in enumerate(rows):
        problem = _row_problem(batch, heads, number, row)
        if problem is not None:
            raise ValueError(f"rows: [{number}] {problem}")
        heads[row["session_id"]] = row["chain_hash"]
    for name in ("request_id", "checkpoint_id", "certificate_id"):
        if len({row[name] for row in rows}) < len(rows):
            raise ValueError(f"rows: the same {name} is there twice")
    head = batch["head"]
    if head["size"] != batch["expected_size"] + len(rows):
        raise ValueError("head: size must be expected_size and the number of rows")
    if head["root"] != batch["root"]:
        raise ValueError("head: root must be the root of the batch")


def _row_problem(batch: dict[str, Any], heads: dict[str, str | None], number: int, row: dict[str, Any]) -> str | None:
    if row["merkle_leaf_index"] != batch["expected_size"] + number:
        return "merkle_leaf_index must count on from expected_size"
    if row["session_id"] not in heads:
        return "session_id must be in expected_heads"
    if row["prev_chain_hash"] != heads[row["session_id"]]:
        return "prev_chain_hash must be the chain_hash before it in its session"
    if (row["prev_chain_hash"] is None) != (row["chain_position"] == 0):
        return "chain_position must be 0 exactly where prev_chain_hash is null"
    if row["signed_payload"] != signed_payload(batch["agent_id"], row):
        return "signed_payload must be made of the row's own values"
    return None
