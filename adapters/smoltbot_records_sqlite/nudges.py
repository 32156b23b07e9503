"""The database functions about nudges: notices that an agent's next requests carry."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import timedelta

from smoltbot_worker.ports import Json

from .columns import PLAIN, Body, Kinds, shifted, to_json
from .events import note_change, require_agent

_AGE_LIMIT = timedelta(hours=4)
_LEASE = timedelta(minutes=10)

_CLAIMED: Kinds = {
    "nudge_id": PLAIN, "checkpoint_id": PLAIN, "nudge_content": PLAIN, "concerns_summary": PLAIN, "created_at": PLAIN,
}  # fmt: skip
_NUDGE: Kinds = {
    "nudge_id": PLAIN, "agent_id": PLAIN, "checkpoint_id": PLAIN, "session_id": PLAIN, "status": PLAIN,
    "nudge_content": PLAIN, "concerns_summary": PLAIN, "created_at": PLAIN, "delivered_at": PLAIN,
    "delivery_session_id": PLAIN, "expired_at": PLAIN, "lease_until": PLAIN, "claimed_by_request": PLAIN,
}  # fmt: skip

_HELD = """
    SELECT id, checkpoint_id, nudge_content, concerns_summary, created_at FROM enforcement_nudges
    WHERE agent_id = ? AND claimed_by_request = ? AND status = 'delivering' ORDER BY created_at, id
"""
_CLAIM = """
    UPDATE enforcement_nudges SET status = 'delivering', claimed_by_request = :request_id, lease_until = :lease_until
    WHERE id IN (SELECT id FROM enforcement_nudges
        WHERE agent_id = :agent_id AND created_at >= :oldest
            AND (status = 'pending' OR status = 'delivering' AND lease_until <= :now)
        ORDER BY created_at, id LIMIT :limit)
"""
_DELIVERED = """
    UPDATE enforcement_nudges SET status = 'delivered', lease_until = NULL, delivered_at = :now,
        delivery_session_id = :session_id
    WHERE claimed_by_request = :request_id AND status = 'delivering'
"""
_GIVE_BACK = """
    UPDATE enforcement_nudges SET status = 'pending', lease_until = NULL, claimed_by_request = NULL
    WHERE claimed_by_request = :request_id AND status = 'delivering' RETURNING agent_id
"""
_EXPIRE = """
    UPDATE enforcement_nudges SET status = 'expired', expired_at = :now, lease_until = NULL, claimed_by_request = NULL
    WHERE id IN (SELECT id FROM enforcement_nudges
        WHERE status IN ('pending', 'delivering') AND created_at < :oldest AND coalesce(lease_until, :now) <= :now
        ORDER BY created_at LIMIT 10000)
    RETURNING agent_id
"""
_LIST = """
    SELECT id, agent_id, checkpoint_id, session_id, status, nudge_content, concerns_summary, created_at, delivered_at,
        delivery_session_id, expired_at, lease_until, claimed_by_request
    FROM enforcement_nudges WHERE agent_id = ? ORDER BY created_at DESC, id DESC LIMIT ?
"""


def claim_nudges(connection: sqlite3.Connection, now: str, *, agent_id: str, request_id: str, limit: int) -> Json:
    """The nudges that this request is to carry, the oldest first, and no other request meanwhile."""
    require_agent(connection, agent_id)
    held = _held(connection, agent_id, request_id)
    if held:
        return held
    given = {"agent_id": agent_id, "request_id": request_id, "limit": limit, "now": now}
    times = {"oldest": shifted(now, -_AGE_LIMIT), "lease_until": shifted(now, _LEASE)}
    if connection.execute(_CLAIM, {**given, **times}).rowcount:
        note_change(connection, now, agent_id, "nudges")
    return _held(connection, agent_id, request_id)


def settle_nudges(
    connection: sqlite3.Connection, now: str, *, request_id: str, outcome: str, session_id: str | None
) -> Json:
    """Say that the request delivered what it holds, or give that back; how many those were."""
    values = {"request_id": request_id, "session_id": session_id, "now": now}
    if outcome == "delivered":
        return connection.execute(_DELIVERED, values).rowcount
    return _changed(connection, now, connection.execute(_GIVE_BACK, values).fetchall())


def expire_nudges(connection: sqlite3.Connection, now: str) -> Json:
    """Give up what is too old and not being delivered; how many those were."""
    times = {"now": now, "oldest": shifted(now, -_AGE_LIMIT)}
    return _changed(connection, now, connection.execute(_EXPIRE, times).fetchall())


def nudges(connection: sqlite3.Connection, now: str, *, agent_id: str, limit: int) -> Json:
    """An agent's nudges, the newest first."""
    del now
    return [to_json(_NUDGE, row) for row in connection.execute(_LIST, (agent_id, limit))]


def _held(connection: sqlite3.Connection, agent_id: str, request_id: str) -> list[Json]:
    return [to_json(_CLAIMED, row) for row in connection.execute(_HELD, (agent_id, request_id))]


def _changed(connection: sqlite3.Connection, now: str, rows: Sequence[Iterable[str]]) -> int:
    for agent_id in sorted({agent_id for (agent_id,) in rows}):
        note_change(connection, now, agent_id, "nudges")
    return len(rows)


WRITES: Sequence[Body] = (claim_nudges, settle_nudges, expire_nudges)
READS: Sequence[Body] = (nudges,)
