"""Conscience values: those of the protocol, the organisation and the agent, as one list in a fixed order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from .reading import Fields, Unreadable

Value = dict[str, str]
"""``{type, content, id}``, without ``id`` when it has none: what the prompt shows and a checkpoint commits to."""

TYPES = ("BOUNDARY", "FEAR", "COMMITMENT", "BELIEF", "HOPE")


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str | None
    public: Value
    order: float
    binding: bool
    """A later layer cannot put another one in its place."""


def layered(organization: Mapping[str, Any] | None, own: object) -> list[Value]:
    """The values that hold for an agent; ``own`` are those stored with its card.

    The layers are the SDK's defaults, the organisation's values (instead of the defaults with the mode ``replace``)
    and the agent's. Within a layer the order is by ``order``, then by id. Of two with the same id the later counts,
    unless the earlier is a BOUNDARY or mandatory. :class:`Unreadable` names what is no value.
    """
    shared = Fields(organization, "organization")
    layers = [] if _replaces(shared) else [list(_defaults())]
    if shared.flag("conscience_values_enabled", False):
        layers.append(_layer(shared, ids=("name", "id"), contents=("description", "content")))
    if own is not None:
        layers.append(_layer(Fields({"conscience_values": own}, ""), ids=("id", "name"), contents=("content",)))
    return _combined(layers)


def _replaces(shared: Fields) -> bool:
    mode = shared.text("conscience_values_mode") or "augment"
    if mode not in ("augment", "replace"):
        raise Unreadable("organization.conscience_values_mode", "augment or replace")
    if mode == "augment" or not shared.flag("conscience_values_enabled", False):
        return False
    return any(value.flag("enabled", True) for value in shared.objects("conscience_values"))


def _layer(fields: Fields, *, ids: Sequence[str], contents: Sequence[str]) -> list[_Entry]:
    values = fields.objects("conscience_values")
    entries = [_entry(value, ids, contents) for value in values if value.flag("enabled", True)]
    return sorted(entries, key=lambda entry: (entry.order, entry.id or "", entry.public["content"]))


def _entry(value: Fields, ids: Sequence[str], contents: Sequence[str]) -> _Entry:
    name = next((value.text(field) for field in ids if value.has(field)), None)
    field = next((field for field in contents if value.has(field)), contents[0])
    kind, content = value.required("type"), value.required(field)
    if kind not in TYPES:
        raise Unreadable(f"{value.path}.type", f"one of {', '.join(TYPES)}")
    if not content.strip():
        raise Unreadable(f"{value.path}.{field}", "text that says something")
    public = {"type": kind, "content": content} | ({"id": name} if name else {})
    binding = kind == "BOUNDARY" or value.text("severity") == "mandatory"
    return _Entry(name or None, public, value.number("order", math.inf), binding)


def _combined(layers: Sequence[Sequence[_Entry]]) -> list[Value]:
    kept: dict[object, _Entry] = {}
    for entry in (entry for layer in layers for entry in layer):
        # One without an id is a value of its own.
        key = entry.id or id(entry)
        if key in kept:
            if kept[key].binding:
                continue
            del kept[key]
        kept[key] = entry
    return [entry.public for entry in kept.values()]


@cache
def _defaults() -> tuple[_Entry, ...]:
    from aip import DEFAULT_CONSCIENCE_VALUES

    values = Fields({"conscience_values": [vars(value) for value in DEFAULT_CONSCIENCE_VALUES]}, "defaults")
    return tuple(_entry(value, ("id",), ("content",)) for value in values.objects("conscience_values"))
