"""Arguments of the functions that integrity checks and their lists read by."""

from __future__ import annotations

from smoltbot_worker.records.arguments import Functions, identifier, integer, one_of, optional

FUNCTIONS: Functions = {
    "session_checks": {
        "agent_id": identifier,
        "session_id": identifier,
        "limit": integer(1, 100),
        "upto": optional(identifier),
    },
    "list_checkpoints": {
        "agent_id": identifier,
        "limit": integer(1, 1000),
        "offset": integer(0),
        "verdict": optional(one_of("clear", "review_needed", "boundary_violation", "error", "skipped")),
        "session_id": optional(identifier),
    },
    "webhook_registration": {"registration_id": identifier},
}
