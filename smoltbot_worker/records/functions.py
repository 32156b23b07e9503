"""The list of database functions: the name and the arguments of each, for every adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smoltbot_worker.ports import Json

from .arguments import (
    Parameters,
    identifier,
    integer,
    json_object,
    list_of,
    lower_hex,
    map_of,
    optional,
    parse_arguments,
    record_of,
    text,
    timestamp,
    tuple_of,
)
from .batch import CHECKPOINT, HEAD, MOST_ROWS, check_batch

_HASH = lower_hex(64)
_MOST_LISTED = 1000


def _card(value: Json) -> dict[str, Json]:
    card = json_object(value)
    if card.get("issued_at") is not None:
        try:
            timestamp(card["issued_at"])
        except ValueError as error:
            raise ValueError(f"issued_at {error}") from None
    return card


FUNCTIONS: Mapping[str, Parameters] = {
    "get_or_create_agent": {
        "agent_hash": lower_hex(16),
        "key_hash": _HASH,
        "name": optional(text),
        "card": optional(_card),
        "seen_at": timestamp,
    },
    "touch_agents": {"seen": list_of(tuple_of(text, timestamp))},
    "log_head": {"agent_id": identifier, "sessions": list_of(identifier)},
    "append_checkpoints": {
        "agent_id": identifier,
        "expected_size": integer(0),
        "expected_heads": map_of(optional(_HASH)),
        "rows": list_of(record_of(CHECKPOINT), least=1, most=MOST_ROWS),
        "nodes": list_of(tuple_of(integer(1, 62), integer(0), _HASH)),
        "frontier": list_of(optional(_HASH), most=64),
        "root": _HASH,
        "head": record_of(HEAD),
    },
    "checkpoints": {
        "agent_id": identifier,
        "after_index": optional(integer(0)),
        "limit": integer(1, _MOST_LISTED),
    },
    "checkpoint": {"checkpoint_id": identifier},
    "merkle_nodes": {"agent_id": identifier, "wanted": list_of(tuple_of(integer(0, 62), integer(0)))},
    "signed_heads": {"agent_id": identifier, "limit": integer(1, _MOST_LISTED)},
    "signing_keys": {},
    "put_signing_key": {"key_id": identifier, "public_key": _HASH},
    "retire_signing_key": {"key_id": identifier},
    "ping": {},
    "housekeeping": {},
}
"""Each parser returns JSON: what it returns is what the database gets."""


def checked_arguments(name: str, arguments: Mapping[str, Json]) -> dict[str, Any]:
    """The arguments of the function called ``name``, complete and checked.

    Raises ``LookupError`` for an unknown function, ``ValueError`` that names the argument.
    """
    parameters = FUNCTIONS.get(name)
    if parameters is None:
        raise LookupError(f"there is no database function {name!r}")
    values = parse_arguments(parameters, arguments)
    if name == "append_checkpoints":
        check_batch(values)
    return values
