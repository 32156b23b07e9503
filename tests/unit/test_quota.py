"""The quota: every rule of the table, its order and its bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from smoltbot_worker.admission.quota import FREE_TIER, Decision, decide, lines, refusal
from worker_compat.testing import read_response

NOW = 1_778_400_000.0  # 2026-05-10T08:00:00Z
WEEK_AGO = "2026-05-03T08:00:00.000Z"
LONGER_AGO = "2026-05-03T07:59:59.999Z"

PAYING: dict[str, Any] = {
    **FREE_TIER, "plan_id": "plan-team", "billing_model": "subscription", "subscription_status": "active",
    "included_checks": 1000, "account_id": "acct-1",
}  # fmt: skip
DUE = {**PAYING, "subscription_status": "past_due"}
DEVELOPER = {**DUE, "plan_id": "plan-developer"}
ALLOW = Decision("allow")


def used(count: int, included: int = 1000, overage: int | None = None) -> dict[str, Any]:
    return {**PAYING, "check_count_this_period": count, "included_checks": included, "overage_threshold": overage}


def rejected(reason: str, percent: int | None = None) -> Decision:
    return Decision("reject", reason, percent)


@pytest.mark.parametrize(
    ("quota", "decision"),
    [
        pytest.param({**FREE_TIER, "is_suspended": True}, rejected("account_suspended"), id="1"),
        pytest.param(
            {**FREE_TIER, "is_suspended": True, "containment_status": "killed"}, rejected("account_suspended"), id="1-2"
        ),
        pytest.param({**FREE_TIER, "containment_status": "paused"}, rejected("agent_paused"), id="2-paused"),
        pytest.param({**PAYING, "containment_status": "killed"}, rejected("agent_killed"), id="2-killed"),
        pytest.param(dict(FREE_TIER), ALLOW, id="3-free"),
        pytest.param({**used(5000), "plan_id": "plan-free", "subscription_status": "canceled"}, ALLOW, id="3-5"),
        pytest.param({**used(5000, overage=1), "billing_model": "none"}, ALLOW, id="3-none"),
        pytest.param({**used(5000, overage=1), "plan_id": "plan-enterprise"}, ALLOW, id="4"),
        pytest.param({**DUE, "plan_id": "plan-enterprise"}, ALLOW, id="4-past-due"),
        pytest.param({**PAYING, "subscription_status": "canceled"}, rejected("subscription_canceled"), id="5"),
        pytest.param(DUE, rejected("subscription_past_due"), id="6"),
        pytest.param({**DUE, "past_due_since": WEEK_AGO}, rejected("subscription_past_due"), id="6-no-grace"),
        pytest.param(
            {**DEVELOPER, "past_due_since": LONGER_AGO}, rejected("subscription_past_due_grace_expired"), id="7"
        ),
        pytest.param({**DEVELOPER, "past_due_since": WEEK_AGO}, ALLOW, id="8-exactly-seven-days"),
        pytest.param({**DEVELOPER, "past_due_since": None}, ALLOW, id="8-since-nobody-knows"),
        pytest.param({**DEVELOPER, "check_count_this_period": 5000, "overage_threshold": 1}, ALLOW, id="8-10"),
        pytest.param({**DUE, "plan_id": "plan-other"}, rejected("subscription_past_due"), id="9"),
        pytest.param(used(1500, overage=1500), rejected("overage_threshold_exceeded", 150), id="10"),
        pytest.param(used(10, overage=10), rejected("overage_threshold_exceeded", 1), id="10-before-13"),
        pytest.param(used(0, included=0, overage=0), rejected("overage_threshold_exceeded", 0), id="10-zero"),
        pytest.param(used(1499, overage=1500), Decision("warn", "quota_exceeded", 150), id="11-below-10"),
        pytest.param(used(1000), Decision("warn", "quota_exceeded", 100), id="11-exactly"),
        pytest.param(used(999), Decision("warn", "approaching_quota", 100), id="12-rounded-up"),
        pytest.param(used(800), Decision("warn", "approaching_quota", 80), id="12-exactly"),
        pytest.param(used(799), Decision("allow", "", 80), id="13-rounded-up"),
        pytest.param(used(2, included=400), Decision("allow", "", 1), id="13-half-rounds-up"),
        pytest.param(used(0), Decision("allow", "", 0), id="13-unused"),
        pytest.param(used(5000, included=0), Decision("allow", "", 0), id="13-nothing-included"),
        pytest.param({**used(799), "subscription_status": "trialing"}, Decision("allow", "", 80), id="13-trial"),
        pytest.param({**used(1), "billing_model": "metered"}, Decision("allow", "", 0), id="metered"),
    ],
)  # fmt: skip
def test_the_table(quota: dict[str, Any], decision: Decision) -> None:
    assert decide(quota, NOW) == decision


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        (ALLOW, []),
        (Decision("allow", "", 0), [(b"X-Mnemom-Usage-Percent", b"0")]),
        (
            Decision("warn", "approaching_quota", 83),
            [(b"X-Mnemom-Usage-Percent", b"83"), (b"X-Mnemom-Usage-Warning", b"approaching_quota")],
        ),
        (rejected("overage_threshold_exceeded", 120), [(b"X-Mnemom-Usage-Percent", b"120")]),
        (rejected("subscription_canceled"), []),
    ],
)
async def test_what_the_client_is_told(decision: Decision, told: list[tuple[bytes, bytes]]) -> None:
    assert lines(decision) == told
    answer = refusal(decision)
    assert (answer is None) == (decision.action != "reject")
    if answer is None:
        return
    assert answer.status == 402
    body = json.loads(await read_response(answer))
    percent = {} if decision.usage_percent is None else {"usage_percent": decision.usage_percent}
    assert body == {
        "error": "Request blocked by billing policy", "type": "billing_error", "reason": decision.reason, **percent,
    }  # fmt: skip
    assert list(answer.headers.raw) == [(b"Content-Type", b"application/json")]


@pytest.mark.parametrize("status", ["paused", "killed"])
async def test_a_contained_agent_is_no_matter_of_billing(status: str) -> None:
    answer = refusal(decide({**FREE_TIER, "containment_status": status}, NOW))
    assert answer is not None
    assert answer.status == 403
    body = json.loads(await read_response(answer))
    assert body == {"error": "Agent contained", "type": "containment_error", "reason": f"agent_{status}"}
