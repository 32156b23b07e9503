"""Typed callers of the database functions about webhooks: the registrations, and the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smoltbot_worker.ports import Json, RecordStore


async def register(
    store: RecordStore,
    registration_id: str,
    agent_id: str,
    callback_url: str,
    sealed_secret: str,
    events: Sequence[str],
) -> dict[str, Any]:
    """Store a registration and answer it without its secret; ``ValueError`` (``agent_id: ...``) for no agent."""
    row = await store.call(
        "register_webhook",
        {
            "registration_id": registration_id,
            "agent_id": agent_id,
            "callback_url": callback_url,
            "sealed_secret": sealed_secret,
            "events": list(events),
        },
    )
    assert isinstance(row, dict)
    return row


async def registrations(store: RecordStore, agent_id: str) -> list[dict[str, Any]]:
    """An agent's registrations, the newest first, without their secrets."""
    rows: Any = await store.call("webhooks", {"agent_id": agent_id})
    assert isinstance(rows, list)
    return rows


async def registration(store: RecordStore, registration_id: str) -> dict[str, Any] | None:
    """One registration without its secret, or None."""
    row = await store.call("webhook_registration", {"registration_id": registration_id})
    assert row is None or isinstance(row, dict)
    return row


async def delete(store: RecordStore, agent_id: str, registration_id: str) -> bool:
    """Delete a registration with its deliveries; whether it was there. ``ValueError`` for no agent."""
    return bool(await store.call("delete_webhook", {"agent_id": agent_id, "registration_id": registration_id}))


async def claim(store: RecordStore, claimed_by: str, limit: int, lease_s: int) -> list[dict[str, Any]]:
    """Deliveries that are due, held for ``lease_s`` seconds; of each registration only the oldest that is open."""
    rows: Any = await store.call("claim_webhooks", {"claimed_by": claimed_by, "limit": limit, "lease_s": lease_s})
    assert isinstance(rows, list)
    return rows


async def settle(
    store: RecordStore, claimed_by: str, delivery_id: str, outcome: str, error: str | None, retry_at: str | None
) -> None:
    """Say what became of a delivery: ``delivered``, ``retry`` (due again at ``retry_at``, null: at once) or ``failed``.

    Without effect once ``claimed_by`` does not hold it any more.
    """
    settled: Json = {"delivery_id": delivery_id, "outcome": outcome, "error": error, "retry_at": retry_at}
    await store.call("settle_webhooks", {"claimed_by": claimed_by, "settled": [settled]})
