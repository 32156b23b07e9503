"""The database functions about webhooks: who wants which events, and the outbox from which they are delivered."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from smoltbot_worker.ports import Json

from .columns import JSON, PLAIN, Body, Kinds, listed, shifted, to_json
from .events import queue, require_agent

_MOST_FAILURES = 100

_REGISTRATION: Kinds = {
    "registration_id": PLAIN, "agent_id": PLAIN, "callback_url": PLAIN, "events": JSON, "failure_count": PLAIN,
    "disabled_at": PLAIN, "created_at": PLAIN,
}  # fmt: skip
_DELIVERY: Kinds = {
    "delivery_id": PLAIN, "registration_id": PLAIN, "event": PLAIN, "checkpoint_id": PLAIN, "trace_id": PLAIN,
    "status": PLAIN, "attempts": PLAIN, "last_error": PLAIN, "last_attempt_at": PLAIN, "next_retry_at": PLAIN,
    "settled_at": PLAIN, "created_at": PLAIN,
}  # fmt: skip
_CLAIMED: Kinds = {
    "delivery_id": PLAIN, "registration_id": PLAIN, "agent_id": PLAIN, "callback_url": PLAIN, "sealed_secret": PLAIN,
    "payload": JSON, "attempts": PLAIN,
}  # fmt: skip

_REGISTER = """
    INSERT INTO aip_webhook_registrations (registration_id, agent_id, callback_url, sealed_secret, events, created_at)
    VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_REGISTRATIONS = f"SELECT {listed(_REGISTRATION)} FROM aip_webhook_registrations"
_SECRET = "SELECT sealed_secret FROM aip_webhook_registrations WHERE registration_id = ?"
_DELETE = "DELETE FROM aip_webhook_registrations WHERE registration_id = ? AND agent_id = ?"
_DUE = """
    WITH RECURSIVE waiting AS (
        SELECT min(registration_id) AS registration_id FROM aip_webhook_deliveries WHERE settled_at IS NULL
        UNION ALL
        SELECT (SELECT min(other.registration_id) FROM aip_webhook_deliveries AS other
            WHERE other.settled_at IS NULL AND other.registration_id > waiting.registration_id)
        FROM waiting WHERE registration_id IS NOT NULL)
    SELECT delivery.place FROM waiting
    CROSS JOIN aip_webhook_registrations AS registration USING (registration_id)
    CROSS JOIN aip_webhook_deliveries AS delivery ON delivery.place = (
        SELECT min(place) FROM aip_webhook_deliveries AS own
        WHERE own.registration_id = waiting.registration_id AND own.settled_at IS NULL)
    WHERE registration.disabled_at IS NULL AND coalesce(delivery.lease_until, delivery.next_retry_at, :now) <= :now
    ORDER BY delivery.place LIMIT :limit
"""
"""From one registration that waits to the next, along an index: neither all registrations nor all deliveries."""
_CLAIM = """
    UPDATE aip_webhook_deliveries SET status = 'delivering', attempts = attempts + 1, last_attempt_at = :now,
        next_retry_at = NULL, claimed_by = :claimed_by, lease_until = :lease_until
    WHERE place = :place
"""
_TAKEN = """
    SELECT delivery.id, registration_id, registration.agent_id, registration.callback_url, registration.sealed_secret,
        delivery.payload, delivery.attempts
    FROM aip_webhook_deliveries AS delivery JOIN aip_webhook_registrations AS registration USING (registration_id)
    WHERE place = :place
"""
_SETTLE = """
    UPDATE aip_webhook_deliveries SET status = :status, last_error = :error, lease_until = NULL, claimed_by = NULL,
        next_retry_at = :retry_at, settled_at = :settled_at
    WHERE id = :delivery_id AND status = 'delivering' AND claimed_by = :claimed_by
    RETURNING registration_id
"""
_FAILED = f"""
    UPDATE aip_webhook_registrations SET failure_count = failure_count + 1,
        disabled_at = CASE WHEN failure_count + 1 >= {_MOST_FAILURES} THEN coalesce(disabled_at, ?)
            ELSE disabled_at END
    WHERE registration_id = ?
"""
_DELIVERED = "UPDATE aip_webhook_registrations SET failure_count = 0 WHERE registration_id = ? AND failure_count > 0"
_DELIVERIES = """
    SELECT delivery.id, registration.registration_id, event_type, checkpoint_id, trace_id, status, attempts, last_error,
        last_attempt_at, next_retry_at, settled_at, delivery.created_at
    FROM aip_webhook_registrations AS registration
    CROSS JOIN aip_webhook_deliveries AS delivery ON delivery.place IN (
        SELECT place FROM aip_webhook_deliveries AS own WHERE own.registration_id = registration.registration_id
        ORDER BY own.registration_id DESC, own.place DESC LIMIT :limit)
    WHERE registration.agent_id = :agent_id
        AND registration.registration_id = coalesce(:registration_id, registration.registration_id)
    ORDER BY place DESC LIMIT :limit
"""


def register_webhook(
    connection: sqlite3.Connection,
    now: str,
    *,
    registration_id: str,
    agent_id: str,
    callback_url: str,
    sealed_secret: str,
    events: Sequence[str],
) -> Json:
    """Register where an agent's events go; other content under a known id is refused."""
    require_agent(connection, agent_id)
    given = (registration_id, agent_id, callback_url, sealed_secret, json.dumps(events), now)
    connection.execute(_REGISTER, given)
    row = to_json(
        _REGISTRATION, connection.execute(f"{_REGISTRATIONS} WHERE registration_id = ?", given[:1]).fetchone()
    )
    (stored_secret,) = connection.execute(_SECRET, given[:1]).fetchone()
    stored = (row["agent_id"], row["callback_url"], stored_secret, row["events"])
    if stored != (agent_id, callback_url, sealed_secret, events):
        raise ValueError("registration_id: another registration has it")
    return row


def webhooks(connection: sqlite3.Connection, now: str, *, agent_id: str) -> Json:
    """An agent's registrations, the newest first, without their secrets."""
    del now
    where = "WHERE agent_id = ? ORDER BY created_at DESC, registration_id DESC"
    return [to_json(_REGISTRATION, row) for row in connection.execute(f"{_REGISTRATIONS} {where}", (agent_id,))]


def webhook_registration(connection: sqlite3.Connection, now: str, *, registration_id: str) -> Json:
    """One registration without its secret, or null."""
    del now
    row = connection.execute(f"{_REGISTRATIONS} WHERE registration_id = ?", (registration_id,)).fetchone()
    return None if row is None else to_json(_REGISTRATION, row)


def delete_webhook(connection: sqlite3.Connection, now: str, *, agent_id: str, registration_id: str) -> Json:
    """Delete a registration with its deliveries; whether it was there."""
    del now
    require_agent(connection, agent_id)
    return connection.execute(_DELETE, (registration_id, agent_id)).rowcount > 0


def enqueue_webhooks(
    connection: sqlite3.Connection, now: str, *, agent_id: str, events: Sequence[Mapping[str, Any]]
) -> Json:
    """Queue events for whoever wants them; the number of new deliveries."""
    require_agent(connection, agent_id)
    return sum(queue(connection, now, agent_id, event) for event in events)


def claim_webhooks(connection: sqlite3.Connection, now: str, *, claimed_by: str, limit: int, lease_s: int) -> Json:
    """Take the deliveries that are due, of each registration only the oldest that is not settled."""
    due = connection.execute(_DUE, {"now": now, "limit": limit}).fetchall()
    holder = {"now": now, "claimed_by": claimed_by, "lease_until": shifted(now, timedelta(seconds=lease_s))}
    claimed: list[Json] = []
    for (place,) in due:
        connection.execute(_CLAIM, {**holder, "place": place})
        claimed.append(to_json(_CLAIMED, connection.execute(_TAKEN, {"place": place}).fetchone()))
    return claimed


def settle_webhooks(
    connection: sqlite3.Connection, now: str, *, claimed_by: str, settled: Sequence[Mapping[str, Any]]
) -> Json:
    """Say what became of deliveries that ``claimed_by`` holds; how many those were."""
    return sum(_settle(connection, now, {**done, "claimed_by": claimed_by}) for done in settled)


def webhook_deliveries(
    connection: sqlite3.Connection, now: str, *, agent_id: str, registration_id: str | None, limit: int
) -> Json:
    """An agent's deliveries, the newest first, without payloads and secrets."""
    del now
    asked = {"agent_id": agent_id, "registration_id": registration_id, "limit": limit}
    return [to_json(_DELIVERY, row) for row in connection.execute(_DELIVERIES, asked)]


def _settle(connection: sqlite3.Connection, now: str, done: Mapping[str, Any]) -> bool:
    outcome = done["outcome"]
    again = outcome == "retry"
    values = {
        **done, "status": "pending" if again else outcome, "retry_at": done["retry_at"] if again else None,
        "settled_at": None if again else now,
    }  # fmt: skip
    row = connection.execute(_SETTLE, values).fetchone()
    if row is None:
        return False
    if outcome == "failed":
        connection.execute(_FAILED, (now, row[0]))
    elif outcome == "delivered":
        connection.execute(_DELIVERED, row)
    return True


WRITES: Sequence[Body] = (register_webhook, delete_webhook, enqueue_webhooks, claim_webhooks, settle_webhooks)
READS: Sequence[Body] = (webhooks, webhook_registration, webhook_deliveries)
