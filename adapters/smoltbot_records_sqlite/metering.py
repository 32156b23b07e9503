"""The database functions about metering: what is counted for an account, and the counts of its days."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from smoltbot_worker.ports import Json

from .columns import PLAIN, Body, Kinds, insertion, listed, to_columns, to_json
from .events import require_agent

_EVENT: Kinds = {
    "event_id": PLAIN, "account_id": PLAIN, "agent_id": PLAIN, "event_type": PLAIN, "checkpoint_id": PLAIN,
    "source": PLAIN, "timestamp": PLAIN,
}  # fmt: skip
_DAY: Kinds = {"account_id": PLAIN, "date": PLAIN, "check_count": PLAIN, "proof_count": PLAIN}

_RECORD = insertion("metering_events", _EVENT) + " ON CONFLICT DO NOTHING"
_TAKE = """
    UPDATE metering_events SET rolled_up = 1
    WHERE event_id IN (SELECT event_id FROM metering_events WHERE rolled_up = 0 ORDER BY event_id LIMIT 10000)
    RETURNING account_id, substr("timestamp", 1, 10), event_type
"""
_OPEN = "SELECT account_id, date FROM usage_daily_rollup WHERE closed_at IS NULL"
_ADD = f"""
    INSERT INTO usage_daily_rollup (account_id, date, check_count, proof_count, updated_at, closed_at)
    VALUES (:account_id, :date, :checks, :proofs, :now, iif(:now >= date(:date, '+1 day'), :now, NULL))
    ON CONFLICT (account_id, date) DO UPDATE SET check_count = check_count + excluded.check_count,
        proof_count = proof_count + excluded.proof_count, updated_at = excluded.updated_at,
        closed_at = coalesce(closed_at, excluded.closed_at)
    RETURNING {listed(_DAY)}
"""


def record_metering(connection: sqlite3.Connection, now: str, *, events: Sequence[Mapping[str, Any]]) -> Json:
    """Store what is to be counted, each kind of event once for a checkpoint; how many are new."""
    del now
    for agent_id in {event["agent_id"] for event in events}:
        require_agent(connection, agent_id)
    return sum(connection.execute(_RECORD, to_columns(_EVENT, event)).rowcount for event in events)


def rollup_metering(connection: sqlite3.Connection, now: str) -> Json:
    """Add the new events to their days, and close those that are over; see ``schema/README.md``."""
    new = Counter(connection.execute(_TAKE))
    days = {(account_id, date) for account_id, date, _ in new if account_id is not None}
    days.update(connection.execute(_OPEN))
    counted: list[Json] = []
    for account_id, date in sorted(days):
        checks, proofs = new[account_id, date, "integrity_check"], new[account_id, date, "proof"]
        values = {"account_id": account_id, "date": date, "checks": checks, "proofs": proofs, "now": now}
        counted.append(to_json(_DAY, connection.execute(_ADD, values).fetchone()))
    return counted


WRITES: Sequence[Body] = (record_metering, rollup_metering)
READS: Sequence[Body] = ()
