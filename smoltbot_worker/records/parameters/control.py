"""Arguments of the functions about settings, cards, the organisation, containment and gateway keys."""

from __future__ import annotations

from smoltbot_worker.ports import Json
from smoltbot_worker.records.arguments import (
    Functions,
    Parameters,
    boolean,
    identifier,
    integer,
    json_list,
    json_object,
    lower_hex,
    number,
    one_of,
    optional,
    subset_of,
    text,
    timestamp,
)

from .agents import card

_MOST_LISTED = 1000
_MOST_COUNTED = 2**31 - 1
_MOST_CHARACTERS = 500


def _reason(value: Json) -> str:
    reason = text(value)
    if len(reason) > _MOST_CHARACTERS:
        raise ValueError(f"must be at most {_MOST_CHARACTERS} characters")
    return reason


_SETTINGS: Parameters = {
    "aip_enforcement_mode": one_of("observe", "nudge", "enforce"),
    "aap_enabled": boolean,
    "aip_enabled": boolean,
    "gate_streams": one_of("off", "tools", "all"),
    "failure_policy": optional(one_of("fail_open", "fail_closed")),
    "thinking_injection": optional(one_of("off", "auto")),
    "proof_enabled": boolean,
    "proof_rate": integer(0, 100),
    "nudge_strategy": one_of("always", "sampling", "threshold", "off"),
    "nudge_rate": optional(integer(0, 100)),
    "nudge_threshold": optional(integer(1, _MOST_COUNTED)),
    "ddr_mode": one_of("off", "flag", "auto-suggest", "auto-apply"),
    "public": boolean,
    "thinking_budget": optional(integer(1, _MOST_COUNTED)),
    "org_card_exempt": boolean,
    "org_card_exempt_reason": optional(_reason),
    "auto_containment_threshold": optional(integer(2, _MOST_COUNTED)),
    "billing_account_id": optional(identifier),
}

_ORGANIZATION: Parameters = {
    "card_template": optional(card),
    "card_template_enabled": boolean,
    "conscience_values": json_list,
    "conscience_values_mode": one_of("augment", "replace"),
    "conscience_values_enabled": boolean,
}

_ACCOUNT: Parameters = {
    "account_id": identifier,
    "plan_id": identifier,
    "billing_model": one_of("none", "metered", "subscription", "subscription_plus_metered"),
    "subscription_status": one_of("trialing", "active", "past_due", "canceled", "none"),
    "included_checks": integer(0),
    "check_count_this_period": integer(0),
    "overage_threshold": optional(integer(0)),
    "per_check_price": number,
    "per_proof_price": number,
    "feature_flags": json_object,
    "limits": json_object,
    "current_period_end": optional(timestamp),
    "past_due_since": optional(timestamp),
    "is_suspended": boolean,
}

FUNCTIONS: Functions = {
    "agent": {"agent_id": identifier},
    "agents": {"after": optional(identifier), "limit": integer(1, _MOST_LISTED)},
    "update_agent": {"agent_id": identifier, "settings": subset_of(_SETTINGS)},
    "set_containment": {
        "agent_id": identifier,
        "action": one_of("pause", "resume", "kill", "reactivate"),
        "log_id": identifier,
        "actor": text,
        "reason": optional(text),
    },
    "containment": {"agent_id": identifier, "limit": integer(1, _MOST_LISTED)},
    "contained_agents": {"after": optional(identifier), "limit": integer(1, _MOST_LISTED)},
    "active_card": {"agent_id": identifier},
    "put_card": {"agent_id": identifier, "card": card, "expected_version": optional(integer(0))},
    "put_conscience_values": {"agent_id": identifier, "values": optional(json_list)},
    "card_history": {"agent_id": identifier, "limit": integer(1, _MOST_LISTED)},
    "organization": {},
    "put_organization": {"changes": subset_of(_ORGANIZATION)},
    "put_account": _ACCOUNT,
    "agent_context": {"agent_id": identifier},
    "put_gateway_key": {"key_id": identifier, "key_hash": lower_hex(64), "agent_id": identifier},
    "revoke_gateway_key": {"key_id": identifier},
    "gateway_keys": {},
    "resolve_gateway_key": {"key_hash": lower_hex(64)},
    "license_state": {"license_id": identifier},
    "put_license_state": {
        "license_id": identifier,
        "status": identifier,
        "last_valid_at": optional(timestamp),
        "last_checked_at": timestamp,
        "last_error": optional(text),
    },
}
