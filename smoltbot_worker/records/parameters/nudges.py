"""Arguments of the functions about nudges."""

from __future__ import annotations

from smoltbot_worker.records.arguments import Functions, identifier, integer, one_of, optional

_MOST_LISTED = 1000

FUNCTIONS: Functions = {
    "claim_nudges": {"agent_id": identifier, "request_id": identifier, "limit": integer(1, _MOST_LISTED)},
    "settle_nudges": {
        "request_id": identifier,
        "outcome": one_of("delivered", "pending"),
        "session_id": optional(identifier),
    },
    "expire_nudges": {},
    "nudges": {"agent_id": identifier, "limit": integer(1, _MOST_LISTED)},
}
