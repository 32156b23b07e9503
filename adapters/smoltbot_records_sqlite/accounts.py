"""The database functions about who pays: billing accounts, the quota that they give, the state of the license."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from smoltbot_worker.ports import Json

from .columns import BOOLEAN, JSON, PLAIN, Body, Kind, Kinds, insertion, listed, to_columns, to_json
from .events import note_change

_NUMBER: Kind = (float, lambda value: int(value) if value.is_integer() else value)
_ACCOUNT: Kinds = {
    "account_id": PLAIN, "plan_id": PLAIN, "billing_model": PLAIN, "subscription_status": PLAIN,
    "included_checks": PLAIN, "check_count_this_period": PLAIN, "overage_threshold": PLAIN,
    "per_check_price": _NUMBER, "per_proof_price": _NUMBER, "feature_flags": JSON, "limits": JSON,
    "current_period_end": PLAIN, "past_due_since": PLAIN, "is_suspended": BOOLEAN, "updated_at": PLAIN,
}  # fmt: skip
_FREE_TIER: Mapping[str, Json] = {
    "plan_id": "plan-free", "billing_model": "none", "subscription_status": "none", "included_checks": 0,
    "check_count_this_period": 0, "overage_threshold": None, "per_check_price": 0, "per_proof_price": 0,
    "feature_flags": {}, "limits": {}, "account_id": None, "current_period_end": None, "past_due_since": None,
    "is_suspended": False,
}  # fmt: skip
_AGENT_SETTINGS = (
    "aap_enabled", "aip_enabled", "proof_enabled", "proof_rate", "nudge_strategy", "nudge_rate", "nudge_threshold",
    "ddr_mode", "thinking_budget",
)  # fmt: skip
_LICENSE: Kinds = {
    "license_id": PLAIN, "status": PLAIN, "last_valid_at": PLAIN, "last_checked_at": PLAIN, "last_error": PLAIN,
}  # fmt: skip

_READ_ACCOUNT = f"SELECT {listed(_ACCOUNT)} FROM billing_accounts WHERE account_id = ?"
_PUT_ACCOUNT = f"""
    {insertion("billing_accounts", _ACCOUNT)}
    ON CONFLICT (account_id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _ACCOUNT)}
"""
_AGENTS = "SELECT id FROM agents WHERE billing_account_id = ?"
_READ_LICENSE = f"SELECT {listed(_LICENSE)} FROM license_state WHERE license_id = ?"
_PUT_LICENSE = f"""
    {insertion("license_state", _LICENSE)}
    ON CONFLICT (license_id) DO UPDATE SET status = excluded.status, last_checked_at = excluded.last_checked_at,
        last_error = excluded.last_error,
        last_valid_at = max(coalesce(last_valid_at, excluded.last_valid_at),
            coalesce(excluded.last_valid_at, last_valid_at))
"""


def put_account(connection: sqlite3.Connection, now: str, **account: Any) -> Json:
    """Store an account whole, in place of what was known of it."""
    connection.execute(_PUT_ACCOUNT, to_columns(_ACCOUNT, {**account, "updated_at": now}))
    for (agent_id,) in connection.execute(_AGENTS, (account["account_id"],)).fetchall():
        note_change(connection, now, agent_id, "account")
    return _find_account(connection, account["account_id"])


def quota_of(connection: sqlite3.Connection, agent: Mapping[str, Json]) -> dict[str, Json]:
    """What admission decides by; without an account the free tier's."""
    account = _find_account(connection, agent["billing_account_id"]) or {}
    return {
        **_FREE_TIER,
        **{name: value for name, value in account.items() if name != "updated_at"},
        "containment_status": agent["containment_status"],
        "agent_settings": {name: agent[name] for name in _AGENT_SETTINGS},
    }


def license_state(connection: sqlite3.Connection, now: str, *, license_id: str) -> Json:
    """What the last check of a license found, or null."""
    del now
    row = connection.execute(_READ_LICENSE, (license_id,)).fetchone()
    return None if row is None else to_json(_LICENSE, row)


def put_license_state(connection: sqlite3.Connection, now: str, **state: Any) -> Json:
    """Store what a check found; the last time at which the license was valid never moves backwards."""
    connection.execute(_PUT_LICENSE, state)
    return license_state(connection, now, license_id=state["license_id"])


def _find_account(connection: sqlite3.Connection, account_id: Json) -> dict[str, Json] | None:
    row = connection.execute(_READ_ACCOUNT, (account_id,)).fetchone()
    return None if row is None else to_json(_ACCOUNT, row)


WRITES: Sequence[Body] = (put_account, put_license_state)
READS: Sequence[Body] = (license_state,)
