"""The exact shape of certificates, bundles and heads: every member has its type, and there are no others.

What is not described here cannot be covered by a signature, so it has no place in a document that proves something.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from .certificate import MUTATION, RECORD

BUNDLE_VERSION = 1

Shape = Callable[[Any, str], Iterator[str]]
"""Yields what is wrong with a value, given its path."""


class Unknown(str):
    """What is wrong, where that is a member too many and not one that is missing or of another type."""

    __slots__ = ()


def _kind(what: str, fits: Callable[[Any], bool]) -> Shape:
    def check(value: Any, path: str) -> Iterator[str]:
        if not fits(value):
            yield f"{path} must be {what}"

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


TEXT = _kind("text", lambda value: isinstance(value, str))
COUNT = _kind("a whole number from 0", _is_count)
_WHOLE = _kind("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
_BOOLEAN = _kind("true or false", lambda value: isinstance(value, bool))
_OBJECT = _kind("an object", lambda value: isinstance(value, dict))
_NUMBER = _kind("a number", _is_number)
_ANY = _kind("", lambda value: True)


def _optional(shape: Shape) -> Shape:
    def check(value: Any, path: str) -> Iterator[str]:
        if value is not None:
            yield from (f"{problem} or null" for problem in shape(value, path))

    return check


def _list(shape: Shape) -> Shape:
    def check(value: Any, path: str) -> Iterator[str]:
        if not isinstance(value, list):
            yield f"{path} must be a list"
            return
        for number, item in enumerate(value):
            yield from shape(item, f"{path}[{number}]")

    return check


def _members(**shapes: Shape) -> Shape:
    return _named(shapes)


def _named(shapes: Mapping[str, Shape], may_lack: Collection[str] = ()) -> Shape:
    def check(value: Any, path: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{path or 'the document'} must be an object"
            return
        at = f"{path}." if path else ""
        for name, shape in shapes.items():
            if name in value:
                yield from shape(value[name], at + name)
            elif name not in may_lack:
                yield f"{at}{name} is missing"
        yield from (Unknown(f"{at}{name} is not known") for name in value if name not in shapes)

    return check


_NULLABLE_TEXT = _optional(TEXT)

_RETENTION = _members(agent_id=TEXT, pruned=COUNT, timestamp=TEXT, key_id=TEXT, signature=TEXT)

HEAD = _members(agent_id=TEXT, size=COUNT, root=TEXT, timestamp=TEXT, key_id=TEXT, signature=TEXT)

_MUTATIONS = _list(_named({name: TEXT if name == "kind" else _NULLABLE_TEXT for name in MUTATION}))

_CLAIMS = _named(
    {
        "verdict": TEXT,
        "concerns": _list(_members(category=_NULLABLE_TEXT, severity=_NULLABLE_TEXT, description=_NULLABLE_TEXT)),
        "confidence": _optional(_NUMBER),
        "reasoning_summary": TEXT,
        "analysis_model": _NULLABLE_TEXT,
        "analysis_duration_ms": _optional(_NUMBER),
        "commitments_hash": TEXT,
        "record_hash": TEXT,
    },
    # Ours beyond the protocol's: a certificate of another maker lacks them, and from ours the signature keeps them.
    may_lack=("commitments_hash", "record_hash"),
)

_MERKLE = _named(
    {
        "leaf_hash": TEXT,
        "leaf_index": _WHOLE,
        "root": TEXT,
        "tree_size": _WHOLE,
        "inclusion_proof": _list(_members(hash=TEXT, position=TEXT)),
        "head": _members(timestamp=TEXT, key_id=TEXT, signature=TEXT),
    },
    # Without it a saved head must say that there was a tree of this size and root.
    may_lack=("head",),
)

_PROOFS = _members(
    signature=_members(algorithm=TEXT, key_id=TEXT, value=TEXT, signed_payload=TEXT),
    chain=_members(chain_hash=TEXT, prev_chain_hash=_NULLABLE_TEXT, position=_WHOLE),
    merkle=_optional(_MERKLE),
    claims=_members(claims_hash=TEXT, key_id=TEXT, signature=TEXT),
    verdict_derivation=_optional(_OBJECT),
)

CERTIFICATE = _named(
    {
        "@context": TEXT,
        "type": TEXT,
        "version": TEXT,
        "certificate_id": TEXT,
        "issued_at": TEXT,
        "subject": _members(checkpoint_id=TEXT, agent_id=TEXT, session_id=TEXT, card_id=_NULLABLE_TEXT),
        "claims": _CLAIMS,
        "mutations": _MUTATIONS,
        "input_commitments": _members(
            thinking_block_hash=TEXT,
            card_hash=TEXT,
            values_hash=TEXT,
            context_hash=TEXT,
            model_version=_NULLABLE_TEXT,
            combined_commitment=TEXT,
        ),
        "proofs": _PROOFS,
        "verification": _members(keys_url=TEXT, certificate_url=TEXT, verify_url=TEXT),
    }
)

CHECKPOINT_COLUMNS: Mapping[str, Shape] = {
    **dict.fromkeys(RECORD, _ANY),
    "provider": TEXT,
    "source": TEXT,
    "request_id": TEXT,
    "prompt_template_version": TEXT,
    "concerns": _list(_OBJECT),
    "analysis_metadata": _optional(_OBJECT),
    "synthetic": _BOOLEAN,
    "checkpoint_id": TEXT,
    "card_id": _NULLABLE_TEXT,
    "session_id": TEXT,
    "timestamp": TEXT,
    "thinking_block_hash": TEXT,
    "verdict": TEXT,
    "reasoning_summary": TEXT,
    "input_commitment": TEXT,
    "card_hash": TEXT,
    "values_hash": TEXT,
    "context_hash": TEXT,
    "model_version": _NULLABLE_TEXT,
    "chain_hash": TEXT,
    "prev_chain_hash": _NULLABLE_TEXT,
    "chain_position": COUNT,
    "merkle_leaf_index": COUNT,
    "merkle_leaf_hash": TEXT,
    "certificate_id": TEXT,
    "signed_payload": TEXT,
    "issuer_signature": TEXT,
    "signing_key_id": TEXT,
    "claims_hash": TEXT,
    "claims_signature": TEXT,
}
"""The columns of a checkpoint that signatures cover; a bundle shows these and no others."""

BUNDLE = _members(
    bundle_version=COUNT,
    agent=TEXT,
    keys=_list(_members(key_id=TEXT, public_key=TEXT, algorithm=TEXT)),
    heads=_list(HEAD),
    entries=_list(_ANY),
    pruned=_list(_members(leaf_index=COUNT, leaf_hash=TEXT)),
    retention=_optional(_RETENTION),
)

ENTRY = _members(checkpoint=_named(CHECKPOINT_COLUMNS), certificate=_OBJECT, mutations=_MUTATIONS)
"""Entries and their certificates are looked at one by one, so that what is wrong with one is said of it."""
