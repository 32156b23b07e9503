"""Typed callers of the database functions that hand nudges to a request and take back what became of them."""

from __future__ import annotations

from typing import Any

from smoltbot_worker.ports import RecordStore


async def claim_nudges(store: RecordStore, agent_id: str, request_id: str, limit: int) -> list[dict[str, Any]]:
    """The agent's oldest waiting nudges, which no other request gets while this one holds them.

    Rows of ``nudge_id, checkpoint_id, nudge_content, concerns_summary, created_at``. The same request again gets the
    same. ``ValueError`` for an unknown agent.
    """
    rows: Any = await store.call("claim_nudges", {"agent_id": agent_id, "request_id": request_id, "limit": limit})
    assert isinstance(rows, list)
    return rows


async def settle_nudges(store: RecordStore, request_id: str, session_id: str | None) -> int:
    """What a request holds was delivered in a session, or with None waits again; how many those were."""
    outcome = "pending" if session_id is None else "delivered"
    given = {"request_id": request_id, "outcome": outcome, "session_id": session_id}
    settled: Any = await store.call("settle_nudges", given)
    assert isinstance(settled, int)
    return settled
