"""The bundle: an agent's log in one file that can be verified without the gateway and its database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .certificate import ALGORITHM, Row, build_certificate, in_order
from .heads import SignedHead
from .merkle import Place, proof, wanted
from .shape import CHECKPOINT_COLUMNS

BUNDLE_VERSION = 1

_UNKNOWN = "0" * 64


class Nodes(dict[Place, str]):
    """Hashes of complete nodes by place; one that the database lost is 64 zeros, which no verifier takes."""

    def __missing__(self, place: Place) -> str:
        return _UNKNOWN


def nodes_wanted(indexes: Sequence[int], size: int) -> list[Place]:
    """The stored nodes above the leaves that the proofs of these leaves are made from, each once."""
    return sorted({place for index in indexes if index < size for place in wanted(index, size) if place[0]})


def build_bundle(
    rows: Sequence[Row],
    pruned: Mapping[int, str],
    nodes: Mapping[Place, str],
    heads: Sequence[SignedHead],
    keys: Mapping[str, str],
    base_url: str,
) -> dict[str, Any]:
    """The bundle of an agent's log up to its newest signed head.

    ``rows`` are the checkpoints with their ``mutations``, ``pruned`` the leaf hashes by index of those that retention
    deleted, ``nodes`` at least :func:`nodes_wanted` of the rows. ``heads`` are the signed heads, of which there is at
    least one; ``keys`` public keys (64 hex) by id. What was damaged in the database is bundled as it is: finding it is
    the verifier's work.
    """
    heads = sorted(heads, key=lambda head: head.size)
    newest = heads[-1]
    rows = sorted(
        (row for row in rows if row["merkle_leaf_index"] < newest.size), key=lambda row: row["merkle_leaf_index"]
    )
    leaves = {(0, row["merkle_leaf_index"]): row["merkle_leaf_hash"] for row in rows}
    leaves |= {(0, index): leaf for index, leaf in pruned.items()}
    known = Nodes({**nodes, **leaves})
    used = {head.key_id for head in heads} | {row["signing_key_id"] for row in rows}
    return {
        "bundle_version": BUNDLE_VERSION,
        "agent": newest.agent_id,
        "keys": [
            {"key_id": key_id, "public_key": public_key, "algorithm": ALGORITHM}
            for key_id, public_key in sorted(keys.items())
            if key_id in used
        ],
        "heads": [head.to_json() for head in heads],
        "entries": [_entry(row, newest, known, base_url) for row in rows],
        "pruned": [
            {"leaf_index": index, "leaf_hash": leaf} for index, leaf in sorted(pruned.items()) if index < newest.size
        ],
    }


def _entry(row: Row, head: SignedHead, nodes: Nodes, base_url: str) -> dict[str, Any]:
    steps = proof(row["merkle_leaf_index"], head.size, nodes)
    return {
        "checkpoint": {name: row[name] for name in CHECKPOINT_COLUMNS},
        "certificate": build_certificate(row, row["mutations"] or (), head, steps, base_url),
        "mutations": in_order(row["mutations"] or ()),
    }
