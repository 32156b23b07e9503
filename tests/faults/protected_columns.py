"""Every column that holds evidence: covered by a signature or bound by a hash, or unprotected, with the reason."""

from __future__ import annotations

from collections.abc import Mapping

CHECKPOINT: Mapping[str, str] = {
    "checkpoint_id": "signature", "agent_id": "missing", "verdict": "signature", "timestamp": "signature",
    "thinking_block_hash": "signature", "input_commitment": "signature", "chain_hash": "signature",
    "session_id": "claims", "card_id": "claims", "request_id": "claims", "reason": "claims", "provider": "claims",
    "model": "claims", "concerns": "claims", "reasoning_summary": "claims", "conscience_context": "claims",
    "window_position": "claims", "analysis_metadata": "claims", "source": "claims", "synthetic": "claims",
    "synthetic_reason": "claims", "cross_validation_warnings": "claims", "card_hash": "claims",
    "values_hash": "claims", "context_hash": "claims", "model_version": "claims",
    "prompt_template_version": "claims", "certificate_id": "claims", "prev_chain_hash": "chain",
    "chain_position": "claims", "merkle_leaf_index": "missing", "merkle_leaf_hash": "merkle",
    "issuer_signature": "signature", "signing_key_id": "key", "claims_hash": "claims", "claims_signature": "claims",
}  # fmt: skip
"""The columns of a checkpoint that are evidence, and the check that finds a change of each."""

MUTATIONS: Mapping[str, str] = {
    "request_id": "claims", "kind": "claims", "setting": "claims", "location": "claims", "before_sha256": "claims",
    "after_sha256": "claims",
}  # fmt: skip
HEADS: Mapping[str, str] = {"size": "head", "root": "head", "timestamp": "head", "key_id": "key", "signature": "head"}
NODES: Mapping[str, str] = {"hash": "merkle", "level": "merkle", "index": "merkle", "agent_id": "merkle"}
LEAVES: Mapping[str, str] = {"leaf_index": "missing", "leaf_hash": "head"}
RETENTION: Mapping[str, str] = {
    "agent_id": "retention", "pruned": "retention", "timestamp": "retention", "key_id": "key", "signature": "retention",
}  # fmt: skip

UNPROTECTED: Mapping[str, Mapping[str, str]] = {
    "integrity_checkpoints": {
        "created_at": "when the database wrote the row; the signed time is timestamp",
        "linked_trace_id": "set by the observer after the checkpoint was signed",
    },
    "mutations": {
        "place": "the signed order is that of the canonical text, whatever the database says",
        "checkpoint_id": "readers go by request_id; this serves deletion",
    },
    "signed_heads": {
        "agent_id": "a head that is taken away: others say the same of the leaves, and a saved one finds what was cut",
    },
    "signing_keys": {
        "is_active": "which key signs next is no evidence; what it signed is verified with pinned keys",
        "created_at": "as is_active",
        "retired_at": "as is_active",
    },
    "agent_merkle_trees": {
        "agent_id": "where the next append goes on: it is in no export, and an append finds what contradicts itself",
        "leaf_count": "as agent_id",
        "merkle_root": "as agent_id",
        "frontier": "as agent_id; a whole other tree is found by the next signed head",
        "last_updated": "as agent_id",
    },
    "pruned_leaves": {
        "agent_id": "a pruned leaf that is taken away is a missing leaf",
        "session_id": "where the next entry of a session goes on; that entry's own link is signed",
        "chain_position": "as session_id",
        "chain_hash": "as session_id",
    },
}
"""By table the columns that no signature covers, and why that hides nothing."""

PROTECTED: Mapping[str, Mapping[str, str]] = {
    "integrity_checkpoints": CHECKPOINT,
    "mutations": MUTATIONS,
    "signed_heads": HEADS,
    "merkle_nodes": NODES,
    "signing_keys": {"key_id": "key", "public_key": "key"},
    "agent_merkle_trees": {},
    "pruned_leaves": LEAVES,
    "retention_statements": RETENTION,
}
