"""The quota: whether an agent's account may send one more request, as a table of rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from smoltbot_worker.answers import Lines, error_answer
from worker_compat.response import Response

from . import containment

FREE_TIER: Mapping[str, Any] = {
    "plan_id": "plan-free", "billing_model": "none", "subscription_status": "none", "included_checks": 0,
    "check_count_this_period": 0, "overage_threshold": None, "per_check_price": 0, "per_proof_price": 0,
    "feature_flags": {}, "limits": {}, "account_id": None, "current_period_end": None, "past_due_since": None,
    "is_suspended": False, "containment_status": containment.ACTIVE, "agent_settings": None,
}  # fmt: skip
"""The quota of an agent of whom nothing else is known."""

_GRACE = timedelta(days=7)
"""How long the developer plan goes on when a payment is due."""
_NEAR = 80
"""The percentage of the included checks from which on the client is warned."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a request. ``usage_percent`` is None where the account's use was not looked at."""

    action: Literal["allow", "warn", "reject"]
    reason: str = ""
    usage_percent: int | None = None


def decide(quota: Mapping[str, Any], now: float) -> Decision:
    """The first rule of ``request-pipeline`` 4 that applies to a quota context; ``now`` in seconds since the epoch."""
    plan, subscription, status = quota["plan_id"], quota["subscription_status"], quota["containment_status"]
    if quota["is_suspended"]:
        return Decision("reject", "account_suspended")
    if status != containment.ACTIVE:
        return Decision("reject", f"agent_{status}")
    if plan in ("plan-free", "plan-enterprise") or quota["billing_model"] == "none":
        return Decision("allow")
    if subscription == "canceled":
        return Decision("reject", "subscription_canceled")
    if subscription == "past_due":
        return _past_due(plan, quota["past_due_since"], now)
    return _metered(quota["check_count_this_period"], quota["included_checks"], quota["overage_threshold"])


def lines(decision: Decision) -> Lines:
    """The header lines by which an answer tells its client of the quota."""
    told: Lines = []
    if decision.usage_percent is not None:
        told.append((b"X-Mnemom-Usage-Percent", b"%d" % decision.usage_percent))
    if decision.action == "warn":
        told.append((b"X-Mnemom-Usage-Warning", decision.reason.encode()))
    return told


def refusal(decision: Decision) -> Response | None:
    """The answer to a request that may not pass: 402, and 403 for a contained agent; else None. It lacks the lines."""
    if decision.action != "reject":
        return None
    if decision.reason.startswith("agent_"):
        return containment.refused(decision.reason.removeprefix("agent_"))
    more: dict[str, Any] = {} if decision.usage_percent is None else {"usage_percent": decision.usage_percent}
    return error_answer(402, "Request blocked by billing policy", "billing_error", reason=decision.reason, **more)


def _past_due(plan: str, since: str | None, now: float) -> Decision:
    if plan != "plan-developer":
        return Decision("reject", "subscription_past_due")
    if since is not None and now - datetime.fromisoformat(since).timestamp() > _GRACE.total_seconds():
        return Decision("reject", "subscription_past_due_grace_expired")
    return Decision("allow")


def _metered(count: int, included: int, overage: int | None) -> Decision:
    used = count * 100 / included if included > 0 else 0
    percent = math.floor(used + 0.5)
    if overage is not None and count >= overage:
        return Decision("reject", "overage_threshold_exceeded", percent)
    if used >= 100:
        return Decision("warn", "quota_exceeded", percent)
    if used >= _NEAR:
        return Decision("warn", "approaching_quota", percent)
    return Decision("allow", "", percent)
