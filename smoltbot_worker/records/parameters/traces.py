"""Arguments of the functions about traces and what is derived from them: drift, reviews, resolutions, metering."""

from __future__ import annotations

import re

from smoltbot_worker.ports import Json
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
    tuple_of,
)

_ACTION = re.compile(r"[a-z][a-z0-9_]{1,63}")
_COUNT = integer(0)
_LIMIT = integer(1, 1000)


def _action(value: Json) -> str:
    """The name of a capability, as cards list them."""
    if not isinstance(value, str) or not _ACTION.fullmatch(value):
        raise ValueError("must be 2 to 64 of a-z, 0-9 and _, a letter first")
    return value


_TRACE: Parameters = {
    "trace_id": identifier,
    "agent_id": identifier,
    "card_id": optional(text),
    "timestamp": timestamp,
    "action": json_object,
    "decision": json_object,
    "escalation": optional(json_object),
    "context": optional(json_object),
    "verification": optional(json_object),
    "trace_json": json_object,
    "gateway_log_id": identifier,
}

_USAGE: Parameters = {
    "usage_id": identifier,
    "session_id": optional(text),
    "model": optional(text),
    "provider": text,
    "tokens_in": optional(_COUNT),
    "tokens_out": optional(_COUNT),
    "duration_ms": optional(_COUNT),
}

_ALERT: Parameters = {
    "alert_id": identifier,
    "agent_id": identifier,
    "card_id": optional(text),
    "session_id": optional(text),
    "alert_type": identifier,
    "severity": one_of("low", "medium", "high", "critical"),
    "description": text,
    "drift_data": json_object,
    "trace_ids": list_of(identifier, most=1000),
    "checkpoint_ids": list_of(identifier, most=1000),
    "detection_timestamp": timestamp,
    "dedup_key": identifier,
}

_METERED: Parameters = {
    "event_id": identifier,
    "account_id": optional(identifier),
    "agent_id": identifier,
    "event_type": one_of("integrity_check", "proof"),
    "checkpoint_id": identifier,
    "source": text,
    "timestamp": timestamp,
}

_SETTLE_REVIEW: Parameters = {
    "review_id": identifier,
    "expected": one_of("pending", "analyzing", "review"),
    "status": one_of("analyzing", "review", "applied", "dismissed"),
    "outcome": optional(one_of("card_gap", "aip_miss", "observer_noise")),
    "reasoning": optional(text),
    "model": optional(text),
    "duration_ms": optional(_COUNT),
    "proposed_amendment": optional(json_object),
    "resolved_by": optional(text),
    "apply_action": optional(_action),
}

FUNCTIONS: Functions = {
    "record_trace": {
        "trace": record_of(_TRACE),
        "usage": optional(record_of(_USAGE)),
        "checkpoint_id": optional(identifier),
    },
    "traces": {"agent_id": identifier, "limit": _LIMIT, "before": optional(tuple_of(timestamp, identifier))},
    "trace": {"trace_id": identifier},
    "put_verification": {"trace_id": identifier, "verification": json_object},
    "integrity_score": {"agent_id": identifier},
    "aip_score": {"agent_id": identifier},
    "record_drift": {"alert": record_of(_ALERT)},
    "resolve_drift": {"agent_id": identifier, "dedup_key": identifier},
    "drift_alerts": {"agent_id": identifier, "limit": _LIMIT},
    "open_review": {
        "review_id": identifier,
        "agent_id": identifier,
        "checkpoint_id": identifier,
        "trace_id": identifier,
        "aip_verdict": one_of("clear", "review_needed", "boundary_violation"),
        "observer_outcome": one_of("clear", "violation"),
    },
    "settle_review": _SETTLE_REVIEW,
    "review": {"review_id": identifier},
    "reviews": {
        "agent_id": identifier,
        "status": optional(one_of("pending", "analyzing", "review", "applied", "dismissed")),
        "limit": _LIMIT,
    },
    "record_resolution": {
        "resolution_id": identifier,
        "agent_id": identifier,
        "target_type": one_of("checkpoint", "trace"),
        "target_id": identifier,
        "resolution_type": one_of("acknowledged", "allow_action", "add_value"),
        "resolved_by": text,
        "metadata": optional(json_object),
    },
    "resolutions": {"agent_id": identifier, "limit": _LIMIT},
    "record_metering": {"events": list_of(record_of(_METERED), most=1000)},
    "rollup_metering": {},
}
