"""The database functions about disagreements between analysis and observer, and about what a person resolved."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from smoltbot_worker.ports import Json

from .cards import add_card, find_card, same_json
from .columns import JSON, PLAIN, Body, Kinds, insertion, listed, to_columns, to_json
from .events import note_change, require_agent

_REVIEW: Kinds = {
    "review_id": PLAIN, "agent_id": PLAIN, "checkpoint_id": PLAIN, "trace_id": PLAIN, "aip_verdict": PLAIN,
    "observer_outcome": PLAIN, "status": PLAIN, "reconciliation_outcome": PLAIN, "reconciliation_reasoning": PLAIN,
    "reconciliation_model": PLAIN, "reconciliation_duration_ms": PLAIN, "proposed_amendment": JSON,
    "resolved_by": PLAIN, "resolved_at": PLAIN, "created_at": PLAIN,
}  # fmt: skip
_SETTLEMENT = {
    "status": "status", "outcome": "reconciliation_outcome", "reasoning": "reconciliation_reasoning",
    "model": "reconciliation_model", "duration_ms": "reconciliation_duration_ms",
    "proposed_amendment": "proposed_amendment", "resolved_by": "resolved_by",
}  # fmt: skip
"""The arguments of settle_review and the columns that they go to."""
_RESOLUTION: Kinds = {
    "resolution_id": PLAIN, "agent_id": PLAIN, "target_type": PLAIN, "target_id": PLAIN, "resolution_type": PLAIN,
    "resolved_by": PLAIN, "resolved_at": PLAIN, "metadata": JSON,
}  # fmt: skip

_OPEN = insertion("disagreement_reviews", _REVIEW) + " ON CONFLICT DO NOTHING"
_READ_REVIEWS = f"SELECT {listed(_REVIEW)} FROM disagreement_reviews"
_SETTLE = f"""
    UPDATE disagreement_reviews SET {", ".join(f"{column} = :{column}" for column in _SETTLEMENT.values())},
        resolved_at = :resolved_at
    WHERE review_id = :review_id
"""
_RESOLVE = insertion("resolutions", _RESOLUTION) + " ON CONFLICT DO NOTHING"
_READ_RESOLUTIONS = f"SELECT {listed(_RESOLUTION)} FROM resolutions"


def open_review(connection: sqlite3.Connection, now: str, **review: Any) -> Json:
    """Note a disagreement, once for each checkpoint and trace."""
    require_agent(connection, review["agent_id"])
    row = {**review, "status": "pending", "created_at": now}
    created = connection.execute(_OPEN, to_columns(_REVIEW, row)).rowcount
    where = "WHERE agent_id = :agent_id AND checkpoint_id = :checkpoint_id AND trace_id = :trace_id"
    stored = connection.execute(f"{_READ_REVIEWS} {where}", review).fetchone()
    if stored is None:
        raise ValueError("review_id: another review has this id, this checkpoint and trace, or both")
    return {"status": "opened" if created else "known", "review": to_json(_REVIEW, stored)}


def settle_review(
    connection: sqlite3.Connection,
    now: str,
    *,
    review_id: str,
    expected: str,
    apply_action: str | None,
    **outcome: Any,
) -> Json:
    """Move a review on if it is where the caller believes it to be; see ``schema/README.md``."""
    if (outcome["status"] == "applied") != (apply_action is not None):
        raise ValueError("apply_action: goes with the status applied and with no other")
    review = _find(connection, review_id)
    if review is None:
        return {"status": "conflict", "review": None}
    given = {column: outcome[name] for name, column in _SETTLEMENT.items() if outcome[name] is not None}
    settled = {**review, **given}
    # Taking a review up is for one only; any other outcome may be told twice.
    if same_json(settled, review) and review["status"] != "analyzing":
        return {"status": "settled", "review": review}
    if review["status"] != expected:
        return {"status": "conflict", "review": review}
    if apply_action is not None and not _amend_card(connection, now, str(review["agent_id"]), apply_action):
        return {"status": "unchanged_card", "review": review}
    settled["resolved_at"] = now if settled["status"] in ("applied", "dismissed") else None
    connection.execute(_SETTLE, to_columns(_REVIEW, settled))
    return {"status": "settled", "review": settled}


def review(connection: sqlite3.Connection, now: str, *, review_id: str) -> Json:
    """One review, or null."""
    del now
    return _find(connection, review_id)


def reviews(connection: sqlite3.Connection, now: str, *, agent_id: str, status: str | None, limit: int) -> Json:
    """An agent's reviews, those of one status unless it is null, the newest first."""
    del now
    values = {"agent_id": agent_id, "status": status, "limit": limit}
    where = "WHERE agent_id = :agent_id AND status = coalesce(:status, status)"
    newest = f"{_READ_REVIEWS} {where} ORDER BY created_at DESC, review_id DESC LIMIT :limit"
    return [to_json(_REVIEW, row) for row in connection.execute(newest, values)]


def record_resolution(connection: sqlite3.Connection, now: str, **resolution: Any) -> Json:
    """Note what a person decided about a checkpoint or a trace, once for each."""
    require_agent(connection, resolution["agent_id"])
    row = to_columns(_RESOLUTION, {**resolution, "resolved_at": now})
    created = connection.execute(_RESOLVE, row).rowcount
    where = "WHERE agent_id = :agent_id AND target_type = :target_type AND target_id = :target_id"
    stored = connection.execute(f"{_READ_RESOLUTIONS} {where}", row).fetchone()
    if stored is None:
        raise ValueError("resolution_id: another resolution has this id")
    return {"status": "stored" if created else "known", "resolution": to_json(_RESOLUTION, stored)}


def resolutions(connection: sqlite3.Connection, now: str, *, agent_id: str, limit: int) -> Json:
    """An agent's resolutions, the newest first."""
    del now
    newest = f"{_READ_RESOLUTIONS} WHERE agent_id = ? ORDER BY resolved_at DESC, resolution_id DESC LIMIT ?"
    return [to_json(_RESOLUTION, row) for row in connection.execute(newest, (agent_id, limit))]


def _find(connection: sqlite3.Connection, review_id: str) -> dict[str, Json] | None:
    row = connection.execute(f"{_READ_REVIEWS} WHERE review_id = ?", (review_id,)).fetchone()
    return None if row is None else to_json(_REVIEW, row)


def _amend_card(connection: sqlite3.Connection, now: str, agent_id: str, action: str) -> bool:
    """Allow the action in a new version of the card; False where the card has it, forbids it or has no place for it."""
    active = find_card(connection, agent_id)
    card: Mapping[str, Any] = active["card_json"] if active else {}
    envelope = card.get("autonomy_envelope")
    if active is None or not isinstance(envelope, dict):
        return False
    bounded, forbidden = _actions(envelope, "bounded_actions"), _actions(envelope, "forbidden_actions")
    if bounded is None or forbidden is None or action in bounded or action in forbidden:
        return False
    amended = {**card, "autonomy_envelope": {**envelope, "bounded_actions": [*bounded, action]}, "issued_at": now}
    add_card(connection, now, agent_id, amended, active["conscience_values"])
    note_change(connection, now, agent_id, "card")
    return True


def _actions(envelope: Mapping[str, Any], name: str) -> list[Any] | None:
    """A list of the envelope; one that is missing is empty, what is no list is None."""
    actions = envelope.get(name)
    if actions is None:
        return []
    return actions if isinstance(actions, list) else None


WRITES: Sequence[Body] = (open_review, settle_review, record_resolution)
READS: Sequence[Body] = (review, reviews, resolutions)
