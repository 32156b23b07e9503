"""The database functions about the versions of an agent's alignment card."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from smoltbot_worker.ports import Json
from smoltbot_worker.records.arguments import timestamp

from .agents import card_id_of, filled_card
from .columns import BOOLEAN, JSON, PLAIN, Body, Kinds, insertion, to_columns, to_json
from .events import note_change, require_agent

_CARD: Kinds = {
    "card_id": PLAIN, "agent_id": PLAIN, "version": PLAIN, "is_active": BOOLEAN, "card_json": JSON,
    "conscience_values": JSON, "issued_at": PLAIN, "created_at": PLAIN,
}  # fmt: skip
_COLUMNS: Kinds = {
    "id": PLAIN, "agent_id": PLAIN, "version": PLAIN, "card_json": JSON, "conscience_values": JSON,
    "issued_at": PLAIN, "created_at": PLAIN, "updated_at": PLAIN,
}  # fmt: skip
_READ = """
    SELECT id, agent_id, version, is_active, card_json, conscience_values, issued_at, created_at
    FROM alignment_cards WHERE agent_id = ?
"""
_RETIRE = "UPDATE alignment_cards SET is_active = 0, updated_at = ? WHERE agent_id = ? AND is_active = 1"
_LAST = "SELECT coalesce(max(version), 0) FROM alignment_cards WHERE agent_id = ?"
_INSERT = insertion("alignment_cards", _COLUMNS)


def active_card(connection: sqlite3.Connection, now: str, *, agent_id: str) -> Json:
    """The version that is in force, or null."""
    del now
    return find_card(connection, agent_id)


def card_history(connection: sqlite3.Connection, now: str, *, agent_id: str, limit: int) -> Json:
    """The newest versions, the newest first."""
    del now
    rows = connection.execute(f"{_READ} ORDER BY version DESC LIMIT ?", (agent_id, limit))
    return [to_json(_CARD, row) for row in rows]


def put_card(
    connection: sqlite3.Connection, now: str, *, agent_id: str, card: dict[str, Json], expected_version: int | None
) -> Json:
    """Put a new version in force unless it is there or another came first; see ``schema/README.md``."""
    require_agent(connection, agent_id)
    active = find_card(connection, agent_id)
    # A card without a date is the same card a second time, although it would be issued later.
    if active is not None and same_json(
        filled_card(card, agent_id, active["card_json"].get("issued_at")), active["card_json"]
    ):
        return {"status": "unchanged", "card": active}
    if expected_version is not None and expected_version != (active["version"] if active else 0):
        return {"status": "conflict", "card": active}
    values = active["conscience_values"] if active else None
    stored = add_card(connection, now, agent_id, filled_card(card, agent_id, now), values)
    note_change(connection, now, agent_id, "card")
    return {"status": "stored", "card": stored}


def put_conscience_values(
    connection: sqlite3.Connection, now: str, *, agent_id: str, values: list[Json] | None
) -> Json:
    """Change the values of the active card, as a new version of it."""
    require_agent(connection, agent_id)
    active = find_card(connection, agent_id)
    if active is None:
        raise ValueError("agent_id: this agent has no card")
    if same_json(values, active["conscience_values"]):
        return active
    stored = add_card(connection, now, agent_id, active["card_json"], values)
    note_change(connection, now, agent_id, "card")
    return stored


def find_card(connection: sqlite3.Connection, agent_id: str) -> dict[str, Any] | None:
    """The version that is in force, or null."""
    row = connection.execute(f"{_READ} AND is_active = 1", (agent_id,)).fetchone()
    return None if row is None else to_json(_CARD, row)


def add_card(
    connection: sqlite3.Connection, now: str, agent_id: str, card: dict[str, Any], values: list[Json] | None
) -> dict[str, Any]:
    """Put a new version in place of the active one; the caller notes the change."""
    connection.execute(_RETIRE, (now, agent_id))
    (last,) = connection.execute(_LAST, (agent_id,)).fetchone()
    issued_at = card.get("issued_at")
    row = {
        "id": card_id_of(agent_id), "agent_id": agent_id, "version": last + 1, "card_json": card,
        "conscience_values": values, "issued_at": None if issued_at is None else timestamp(issued_at),
        "created_at": now, "updated_at": now,
    }  # fmt: skip
    connection.execute(_INSERT, to_columns(_COLUMNS, row))
    made = find_card(connection, agent_id)
    assert made is not None
    return made


def same_json(one: Json, other: Json) -> bool:
    """Whether PostgreSQL would call them equal: 1 is 1.0 but not true."""
    return bool(_comparable(one) == _comparable(other))


def _comparable(value: Json) -> Any:
    return json.loads(json.dumps(value), parse_int=_number, parse_float=_number)


def _number(digits: str) -> tuple[Decimal]:
    return (Decimal(digits),)


WRITES: Sequence[Body] = (put_card, put_conscience_values)
READS: Sequence[Body] = (active_card, card_history)
