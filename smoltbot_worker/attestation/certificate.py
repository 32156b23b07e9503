"""The certificate of a checkpoint: everything that proves one verdict, in one document.

It is made of the checkpoint's row alone, so that a row which was changed gives a certificate that does not verify. What
the protocol's fixed payload leaves out is covered by the claims signature. Two members of the claims are ours and bind
the rest: ``commitments_hash`` covers the certificate's id, key, position and single input hashes, ``record_hash`` what
the row holds beyond the certificate. ``proofs.merkle.head`` is the signature of the tree that the proof leads to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .commitment import canonical, sha256_hex
from .heads import SignedHead
from .merkle import Step

Row = Mapping[str, Any]
"""A checkpoint as the database functions take and give it (``schema/README.md``)."""

CONTEXT = "https://mnemom.ai/aip/v1"
TYPE = "IntegrityCertificate"
VERSION = "1.0.0"
ALGORITHM = "Ed25519"

PAYLOAD = (
    "agent_id", "chain_hash", "checkpoint_id", "input_commitment", "thinking_block_hash", "timestamp", "verdict",
)  # fmt: skip
"""The members of the signed payload, in its order."""

RECORD = (
    "provider", "model", "reason", "concerns", "conscience_context", "window_position", "analysis_metadata", "source",
    "synthetic", "synthetic_reason", "cross_validation_warnings", "request_id", "prompt_template_version",
)  # fmt: skip
"""The columns of a checkpoint that a certificate does not show; the claims bind them through ``record_hash``."""

MUTATION = ("kind", "setting", "location", "before_sha256", "after_sha256")
"""The members of a mutation."""


def signed_payload(members: Mapping[str, Any]) -> str:
    """The text that the signature of a checkpoint covers."""
    return json.dumps({name: members[name] for name in PAYLOAD}, separators=(",", ":"), ensure_ascii=False)


def claims_hash(certificate: Mapping[str, Any]) -> str:
    """The hash that the claims signature covers: of subject, claims and mutations."""
    return sha256_hex(canonical({name: certificate[name] for name in ("subject", "claims", "mutations")}))


def commitments_hash(certificate_id: str, key_id: str, position: int, commitments: Mapping[str, Any]) -> str:
    """The hash over what a certificate shows and neither the payload nor the other claims cover."""
    covered = {
        "certificate_id": certificate_id,
        "key_id": key_id,
        "position": position,
        "input_commitments": dict(commitments),
    }
    return sha256_hex(canonical(covered))


def record_hash(row: Row) -> str:
    """The hash over the columns in :data:`RECORD`."""
    return sha256_hex(canonical({name: row[name] for name in RECORD}))


def statement(agent_id: str, row: Row, mutations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parts of a certificate that say something: id, time, subject, claims, mutations, input commitments."""
    commitments = {
        "thinking_block_hash": row["thinking_block_hash"],
        "card_hash": row["card_hash"],
        "values_hash": row["values_hash"],
        "context_hash": row["context_hash"],
        "model_version": row["model_version"],
        "combined_commitment": row["input_commitment"],
    }
    return {
        "certificate_id": row["certificate_id"],
        "issued_at": row["timestamp"],  # the chain hash is recomputed with it
        "subject": {
            "checkpoint_id": row["checkpoint_id"],
            "agent_id": agent_id,
            "session_id": row["session_id"],
            "card_id": row["card_id"],
        },
        "claims": _claims(row, commitments),
        "mutations": in_order(mutations),
        "input_commitments": commitments,
    }


def in_order(mutations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mutations in the one order that is hashed, whatever order a database gives them in."""
    return sorted(({name: mutation.get(name) for name in MUTATION} for mutation in mutations), key=canonical)


def _claims(row: Row, commitments: Mapping[str, Any]) -> dict[str, Any]:
    metadata = row["analysis_metadata"] or {}
    shown = ("category", "severity", "description")
    return {
        "verdict": row["verdict"],
        "concerns": [{name: concern.get(name) for name in shown} for concern in row["concerns"]],
        "confidence": metadata.get("extraction_confidence"),
        "reasoning_summary": row["reasoning_summary"],
        "analysis_model": metadata.get("analysis_model"),
        "analysis_duration_ms": metadata.get("analysis_duration_ms"),
        "commitments_hash": commitments_hash(
            row["certificate_id"], row["signing_key_id"], row["chain_position"], commitments
        ),
        "record_hash": record_hash(row),
    }


def build_certificate(
    agent_id: str,
    row: Row,
    mutations: Sequence[Mapping[str, Any]],
    place: tuple[SignedHead, Sequence[Step]] | None,
    base_url: str,
) -> dict[str, Any]:
    """The certificate of a stored checkpoint.

    ``place`` is the agent's newest signed head and the inclusion proof in the tree of its size; None when the tree
    has no such leaf. ``base_url`` is where this gateway's ``/v1`` routes are reached, without a slash at the end.
    """
    return {
        "@context": CONTEXT,
        "type": TYPE,
        "version": VERSION,
        **statement(agent_id, row, mutations),
        "proofs": {**row_proofs(row), "merkle": place and _merkle(row, *place), "verdict_derivation": None},
        "verification": verification(base_url, row["checkpoint_id"]),
    }


def row_proofs(row: Row) -> dict[str, Any]:
    """The proofs that were made when the checkpoint was stored: signature, chain, claims."""
    return {
        "signature": {
            "algorithm": ALGORITHM,
            "key_id": row["signing_key_id"],
            "value": row["issuer_signature"],
            "signed_payload": row["signed_payload"],
        },
        "chain": {
            "chain_hash": row["chain_hash"],
            "prev_chain_hash": row["prev_chain_hash"],
            "position": row["chain_position"],
        },
        "claims": {
            "claims_hash": row["claims_hash"],
            "key_id": row["signing_key_id"],
            "signature": row["claims_signature"],
        },
    }


def verification(base_url: str, checkpoint_id: str) -> dict[str, Any]:
    """Where the keys and a fresh certificate are, and who else verifies."""
    return {
        "keys_url": f"{base_url}/v1/keys",
        "certificate_url": f"{base_url}/v1/checkpoints/{checkpoint_id}/certificate",
        "verify_url": f"{base_url}/v1/verify",
    }


def _merkle(row: Row, head: SignedHead, steps: Sequence[Step]) -> dict[str, Any]:
    return {
        "leaf_hash": row["merkle_leaf_hash"],
        "leaf_index": row["merkle_leaf_index"],
        "root": head.root,
        "tree_size": head.size,
        "inclusion_proof": [dict(step) for step in steps],
        "head": {"timestamp": head.timestamp, "key_id": head.key_id, "signature": head.signature},
    }
