"""The database functions about agents and their alignment cards."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from smoltbot_worker.ports import Json
from smoltbot_worker.records.arguments import timestamp

from .columns import Body

_ID_LENGTHS = (8, 12, 16)

_AGENT_COLUMNS = (
    "id", "agent_hash", "name", "created_at", "last_seen", "claimed_at", "public", "linked_agent_id",
    "billing_account_id", "aip_enforcement_mode", "aap_enabled", "aip_enabled", "gate_streams",
    "failure_policy", "thinking_injection", "proof_enabled", "proof_rate", "nudge_strategy", "nudge_rate",
    "nudge_threshold", "ddr_mode", "thinking_budget", "org_card_exempt", "auto_containment_threshold",
    "containment_status", "contained_at", "containment_reason",
)  # fmt: skip
"""What the gateway needs; key_hash and what names a person stay in the database."""

_BOOLEANS = frozenset({"public", "aap_enabled", "aip_enabled", "proof_enabled", "org_card_exempt"})

_RETURNING = ", ".join(_AGENT_COLUMNS)

SELECT_AGENT = f"SELECT {_RETURNING} FROM agents"

_SEE_AGENT = f"""
    UPDATE agents
    SET last_seen = max(coalesce(last_seen, :seen_at), :seen_at),
        key_hash = coalesce(key_hash, :key_hash),
        name = coalesce(name, :name)
    WHERE agent_hash = :agent_hash
    RETURNING {_RETURNING}
"""

_CREATE_AGENT = f"""
    INSERT INTO agents (id, agent_hash, key_hash, name, created_at, last_seen)
    VALUES (:id, :agent_hash, :key_hash, :name, :now, :seen_at)
    RETURNING {_RETURNING}
"""

_ENSURE_CARD = """
    INSERT INTO alignment_cards (id, agent_id, card_json, issued_at, created_at, updated_at)
    SELECT :card_id, :agent_id, :card_json, :issued_at, :now, :now
    WHERE NOT EXISTS (SELECT 1 FROM alignment_cards WHERE agent_id = :agent_id)
"""

_TOUCH = "UPDATE agents SET last_seen = :seen_at WHERE id = :id AND coalesce(last_seen, '') < :seen_at"


def get_or_create_agent(
    connection: sqlite3.Connection,
    now: str,
    *,
    agent_hash: str,
    key_hash: str,
    name: str | None,
    card: dict[str, Json] | None,
    seen_at: str,
) -> Json:
    """The agent with this hash, made together with its card when it is new; see ``schema/README.md``.

    Not ``INSERT .. ON CONFLICT (agent_hash)``: SQLite may report the same row's ``id`` as the conflict first.
    The transaction holds the write lock from its beginning, so two statements are as atomic as one.
    """
    values = {
        "agent_hash": agent_hash, "key_hash": key_hash, "name": name, "seen_at": seen_at, "now": now,
    }  # fmt: skip
    rows = connection.execute(_SEE_AGENT, values).fetchall()
    is_new = not rows
    if is_new:
        values["id"] = _free_id(connection, agent_hash)
        rows = connection.execute(_CREATE_AGENT, values).fetchall()
    agent = shown_agent(rows[0])
    if card is not None:
        _ensure_card(connection, now, str(agent["id"]), card)
    return {"agent": agent, "is_new": is_new}


def touch_agents(connection: sqlite3.Connection, now: str, *, seen: Sequence[tuple[str, str]]) -> Json:
    """Move ``last_seen`` forwards; the number of agents that moved."""
    del now
    latest: dict[str, str] = {}
    for agent_id, seen_at in seen:
        latest[agent_id] = max(seen_at, latest.get(agent_id, ""))
    rows = [{"id": agent_id, "seen_at": seen_at} for agent_id, seen_at in latest.items()]
    return connection.executemany(_TOUCH, rows).rowcount if rows else 0


def _free_id(connection: sqlite3.Connection, agent_hash: str) -> str:
    """The shortest id that no agent has; 16 digits are the whole hash and so always free."""
    for length in _ID_LENGTHS:
        agent_id = f"smolt-{agent_hash[:length]}"
        if not connection.execute("SELECT 1 FROM agents WHERE id = ?", (agent_id,)).fetchall():
            break
    return agent_id


def find_agent(connection: sqlite3.Connection, agent_id: str) -> dict[str, Json] | None:
    """The agent with this id as functions answer it, or null."""
    row = connection.execute(f"{SELECT_AGENT} WHERE id = ?", (agent_id,)).fetchone()
    return None if row is None else shown_agent(row)


def filled_card(template: dict[str, Json], agent_id: str, issued_at: Json) -> dict[str, Json]:
    """The card that ``template`` makes for the agent; ``issued_at`` is for one that does not say it."""
    # The template serves many agents, so an id in it is never the id of this agent's card.
    return {
        **template,
        "card_id": card_id_of(agent_id),
        "agent_id": agent_id,
        "issued_at": template.get("issued_at") or issued_at,
    }


def card_id_of(agent_id: str) -> str:
    """The id of an agent's card, in every version."""
    return "ac-" + agent_id.removeprefix("smolt-")


def shown_agent(row: Sequence[Any]) -> dict[str, Json]:
    """A row of :data:`SELECT_AGENT` as functions answer it."""
    agent: dict[str, Json] = {}
    for column, value in zip(_AGENT_COLUMNS, row, strict=True):
        agent[column] = bool(value) if column in _BOOLEANS else value
    return agent


def _ensure_card(connection: sqlite3.Connection, now: str, agent_id: str, template: dict[str, Json]) -> None:
    card = filled_card(template, agent_id, now)
    connection.execute(
        _ENSURE_CARD,
        {
            "card_id": card["card_id"],
            "agent_id": agent_id,
            "card_json": json.dumps(card, separators=(",", ":"), allow_nan=False),
            "issued_at": timestamp(card["issued_at"]),
            "now": now,
        },
    )


WRITES: Sequence[Body] = (get_or_create_agent, touch_agents)
READS: Sequence[Body] = ()
