"""Offline verification of certificates and bundles: what is wrong with a document, by entry and check."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .audit import WHOLE, check_bundle, is_name_of_entry
from .checks import Defect, Examination, Keyring, SignatureCheck, check_certificate
from .heads import SignedHead
from .shape import HEAD

VALID, DEFECTIVE, NO_KEY, NOT_PINNED = 0, 1, 2, 3
"""Exit codes of ``smoltbot verify``."""


@dataclass(frozen=True, slots=True)
class Report:
    """What verification found; ``what`` says which document it was, in words."""

    what: str
    defects: tuple[Defect, ...]
    status: int
    """``VALID``, ``DEFECTIVE``, ``NO_KEY`` (no signature could be checked) or ``NOT_PINNED`` (only by its own keys)."""


class Unreadable(ValueError):
    """A text that is no document of ours; the message says why, for the person who gave it."""


def read_document(text: str) -> Any:
    """The JSON value of ``text``.

    :class:`Unreadable` for anything else, and where two readers could read different things: the same member twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except ValueError as error:
        raise Unreadable(f"it is not JSON: {error}") from None


def read_head(document: Any) -> SignedHead:
    """A saved head; :class:`Unreadable` when it is none."""
    for problem in HEAD(document, ""):
        raise Unreadable(f"it is no signed head: {problem}")
    head = SignedHead(**document)
    try:
        head.text()
    except ValueError as error:
        raise Unreadable(f"it is no signed head: {error}") from None
    return head


async def verify_document(
    document: Any, keys: Keyring, crypto: SignatureCheck, head: SignedHead | None = None
) -> Report:
    """Verify a certificate or a bundle, whichever it is; ``head`` is one that was saved earlier."""
    if isinstance(document, dict) and "bundle_version" in document:
        return await verify_bundle(document, keys, crypto, head)
    return await verify_certificate(document, keys, crypto, head)


async def verify_certificate(
    certificate: Any, keys: Keyring, crypto: SignatureCheck, head: SignedHead | None = None
) -> Report:
    """Verify a certificate.

    A saved head can be compared only with a certificate that was issued when the log had the head's size; any other
    size is a defect, because a comparison that was asked for and not made must not look like one that passed.
    """
    exam = Examination(keys, crypto)
    subject = certificate.get("subject") if isinstance(certificate, dict) else None
    shown = subject.get("checkpoint_id") if isinstance(subject, dict) else None
    entry = shown if isinstance(shown, str) and shown else "certificate"
    what = "certificate"
    try:
        if await check_certificate(exam, entry, certificate, head):
            merkle = certificate["proofs"]["merkle"]
            what = f"certificate of {entry}" + ("" if merkle else " (without a place in the log)")
            if head is not None:
                await exam.head("saved head", head)
                _compare(exam, entry, certificate["subject"]["agent_id"], merkle, head)
    except ValueError as error:  # it holds what has no canonical text
        exam.found(entry, "shape", str(error))
    return _report(what, exam)


async def verify_bundle(bundle: Any, keys: Keyring, crypto: SignatureCheck, head: SignedHead | None = None) -> Report:
    """Verify a bundle: every entry, and that nothing is missing, changed, moved or added."""
    exam = Examination(replace(keys, own=_own_keys(bundle)), crypto)
    try:
        await check_bundle(exam, bundle, head)
        if head is not None:
            await exam.head("saved head", head)
    except ValueError as error:
        exam.found(WHOLE, "shape", str(error))
    return _report(f"bundle with {_count(bundle, 'entries')} entries and {_count(bundle, 'pruned')} pruned", exam)


def _count(bundle: Any, member: str) -> int:
    listed = bundle.get(member) if isinstance(bundle, dict) else None
    return len(listed) if isinstance(listed, list) else 0


def _compare(exam: Examination, entry: str, agent_id: str, merkle: Mapping[str, Any] | None, saved: SignedHead) -> None:
    if saved.agent_id != agent_id:
        exam.found("saved head", "head", f"is that of agent {saved.agent_id}")
    elif merkle is None:
        exam.found(entry, "head", "has no place in the log that could be compared with the saved head")
    elif merkle["tree_size"] != saved.size:
        size = merkle["tree_size"]
        text = f"was issued at {size} entries and cannot be compared with a head of {saved.size}: use a bundle"
        exam.found(entry, "head", text)
    elif merkle["root"] != saved.root:
        exam.found(entry, "head", "leads to another root than the saved head of the same size")


def _report(what: str, exam: Examination) -> Report:
    if exam.defects:
        status = DEFECTIVE
    elif exam.keyless:
        status = NO_KEY
    else:
        status = VALID if exam.keys.is_pinned else NOT_PINNED
    # What is wrong with the log as a whole comes first: of single entries there may be many.
    defects = sorted(exam.defects, key=lambda defect: is_name_of_entry(defect.entry))
    return Report(what, tuple(defects), status)


def _own_keys(bundle: Any) -> Mapping[str, str]:
    """The keys that a bundle brings; what has not their shape is found with the rest of the bundle."""
    listed = bundle.get("keys") if isinstance(bundle, dict) else None
    keys = [key for key in listed if isinstance(key, dict)] if isinstance(listed, list) else []
    pairs = [(key.get("key_id"), key.get("public_key")) for key in keys]
    return {key_id: public for key_id, public in pairs if isinstance(key_id, str) and isinstance(public, str)}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no value of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("the same member is there twice")
    return members
