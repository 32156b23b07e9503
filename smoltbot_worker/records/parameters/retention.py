"""Arguments of the functions about what is deleted with time."""

from __future__ import annotations

from smoltbot_worker.records.arguments import (
    Functions,
    Parameters,
    exact_timestamp,
    identifier,
    integer,
    optional,
    record_of,
    signature,
    timestamp,
)

_SWEEP: Parameters = {"agent_id": identifier, "before": timestamp, "limit": integer(1, 1000)}
_STATEMENT: Parameters = {
    "pruned": integer(1),
    "timestamp": exact_timestamp,
    "key_id": identifier,
    "signature": signature,
}

FUNCTIONS: Functions = {
    "prunable_checkpoints": _SWEEP,
    "prune_checkpoints": {"agent_id": identifier, "statement": record_of(_STATEMENT)},
    "retention_statement": {"agent_id": identifier},
    "pruned_leaves": {"agent_id": identifier, "after_index": optional(integer(0)), "limit": integer(1, 1000)},
    "prune_traces": _SWEEP,
}
