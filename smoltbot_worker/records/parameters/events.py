"""Arguments of the functions about what happened: the feed of changes and the webhook outbox."""

from __future__ import annotations

from smoltbot_worker.records.arguments import (
    Functions,
    Parameters,
    identifier,
    integer,
    json_object,
    list_of,
    one_of,
    optional,
    record_of,
    text,
    timestamp,
)

_MOST_LISTED = 1000
_LONGEST_LEASE_S = 86_400

EVENT: Parameters = {
    "event": identifier,
    "data": json_object,
    "checkpoint_id": optional(identifier),
    "trace_id": optional(identifier),
}
"""What happened, as webhooks are told of it."""

_SETTLED: Parameters = {
    "delivery_id": identifier,
    "outcome": one_of("delivered", "retry", "failed"),
    "error": optional(text),
    "retry_at": optional(timestamp),
}

FUNCTIONS: Functions = {
    "changes_since": {"seq": optional(integer(0))},
    "register_webhook": {
        "registration_id": identifier,
        "agent_id": identifier,
        "callback_url": text,
        "sealed_secret": text,
        "events": list_of(text, least=1, most=100),
    },
    "webhooks": {"agent_id": identifier},
    "delete_webhook": {"agent_id": identifier, "registration_id": identifier},
    "enqueue_webhooks": {
        "agent_id": identifier,
        "events": list_of(record_of({"delivery_key": identifier, **EVENT}), most=1000),
    },
    "claim_webhooks": {
        "claimed_by": identifier,
        "limit": integer(1, _MOST_LISTED),
        "lease_s": integer(1, _LONGEST_LEASE_S),
    },
    "settle_webhooks": {"claimed_by": identifier, "settled": list_of(record_of(_SETTLED), most=_MOST_LISTED)},
    "webhook_deliveries": {
        "agent_id": identifier,
        "registration_id": optional(identifier),
        "limit": integer(1, _MOST_LISTED),
    },
}
