"""Arguments of the functions about an agent's log of checkpoints and the keys that sign it."""

from __future__ import annotations

from smoltbot_worker.records.arguments import (
    Functions,
    identifier,
    integer,
    list_of,
    lower_hex,
    map_of,
    optional,
    record_of,
    tuple_of,
)
from smoltbot_worker.records.batch import CHECKPOINT, HEAD, MOST_ROWS

from .events import EVENT

_HASH = lower_hex(64)
_MOST_LISTED = 1000

FUNCTIONS: Functions = {
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
        "events": optional(list_of(record_of(EVENT), most=1000)),
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
    "use_signing_key": {"key_id": identifier, "public_key": _HASH},
    "rotate_signing_key": {"key_id": identifier, "public_key": _HASH},
    "retire_signing_key": {"key_id": identifier},
}
