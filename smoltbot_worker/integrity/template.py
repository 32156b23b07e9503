"""The organisation's card template laid under an agent's card."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .reading import Fields

_EVIDENCE = ("append_only", "signed", "merkle")
"""Kinds of tamper evidence, the strongest last."""


def merged(card: Fields, template: Fields) -> dict[str, Any]:
    """The card that holds for an agent under a template.

    The template adds values, definitions, prohibitions, triggers and demands on the audit; it never permits an action
    that the agent's own card does not. Everything else is the agent's. :class:`Unreadable` names a field of the wrong
    type.
    """
    envelope, audit = envelope_name(card), "audit" if card.has("audit") else "audit_commitment"
    return {
        **card.data,
        "values": _values(card.object("values"), template.object("values")),
        envelope: _envelope(card.object(envelope), template.object(envelope_name(template))),
        audit: _audit(card.object(audit), template.object("audit" if template.has("audit") else "audit_commitment")),
    }


def envelope_name(card: Fields) -> str:
    """Where a card keeps its autonomy envelope: unified cards call it ``autonomy``."""
    return "autonomy" if card.has("autonomy") and not card.has("autonomy_envelope") else "autonomy_envelope"


def _values(own: Fields, shared: Fields) -> dict[str, Any]:
    values = {
        **own.data,
        "declared": _union(shared.texts("declared"), own.texts("declared")),
        "definitions": {**own.object("definitions").data, **shared.object("definitions").data},
    }
    if own.has("conflicts_with") or shared.has("conflicts_with"):
        values["conflicts_with"] = _union(shared.items("conflicts_with"), own.items("conflicts_with"))
    if shared.has("hierarchy"):
        values["hierarchy"] = shared.data["hierarchy"]
    return values


def _envelope(own: Fields, shared: Fields) -> dict[str, Any]:
    return {
        **own.data,
        "bounded_actions": own.texts("bounded_actions"),
        "forbidden_actions": _union(shared.texts("forbidden_actions"), own.texts("forbidden_actions")),
        "escalation_triggers": [
            trigger.data for fields in (shared, own) for trigger in fields.objects("escalation_triggers")
        ],
    }


def _audit(own: Fields, shared: Fields) -> dict[str, Any]:
    audit = dict(own.data)
    if own.has("retention_days") or shared.has("retention_days"):
        audit["retention_days"] = max(own.number("retention_days", 0), shared.number("retention_days", 0))
    if own.has("queryable") or shared.has("queryable"):
        audit["queryable"] = own.flag("queryable", False) or shared.flag("queryable", False)
    evidence = [fields.text("tamper_evidence") or "" for fields in (own, shared)]
    if any(evidence):
        audit["tamper_evidence"] = max(evidence, key=lambda kind: _EVIDENCE.index(kind) if kind in _EVIDENCE else -1)
    return audit


def _union(first: Iterable[Any], second: Iterable[Any]) -> list[Any]:
    union: list[Any] = []
    for item in (*first, *second):
        if item not in union:
            union.append(item)
    return union
