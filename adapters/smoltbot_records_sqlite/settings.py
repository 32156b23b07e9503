"""The database functions about what an operator sets: for one agent, and for the organisation."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from smoltbot_worker.ports import Json

from .agents import SELECT_AGENT, find_agent, shown_agent
from .columns import BOOLEAN, JSON, PLAIN, Body, Kinds, listed, to_columns, to_json
from .events import note_change, require_agent

_ORGANIZATION: Kinds = {
    "org_id": PLAIN, "card_template": JSON, "card_template_enabled": BOOLEAN, "conscience_values": JSON,
    "conscience_values_mode": PLAIN, "conscience_values_enabled": BOOLEAN, "updated_at": PLAIN,
}  # fmt: skip
_ACCOUNT = "SELECT 1 FROM billing_accounts WHERE account_id = ?"


def agent(connection: sqlite3.Connection, now: str, *, agent_id: str) -> Json:
    """The agent with this id, or null."""
    del now
    return find_agent(connection, agent_id)


def agents(connection: sqlite3.Connection, now: str, *, after: str | None, limit: int) -> Json:
    """A page of all agents by their ids."""
    del now
    rows = connection.execute(f"{SELECT_AGENT} WHERE id > ? ORDER BY id LIMIT ?", (after or "", limit))
    return [shown_agent(row) for row in rows]


def update_agent(connection: sqlite3.Connection, now: str, *, agent_id: str, settings: Mapping[str, Json]) -> Json:
    """Change the settings that are given; see ``schema/README.md``."""
    require_agent(connection, agent_id)
    account = settings.get("billing_account_id")
    if account is not None and connection.execute(_ACCOUNT, (account,)).fetchone() is None:
        raise ValueError("settings: billing_account_id: there is no such account")
    if settings:
        update = f"UPDATE agents SET {_assigned(settings)} WHERE id = :agent_id"
        connection.execute(update, {**settings, "agent_id": agent_id})
        note_change(connection, now, agent_id, "settings")
    return find_agent(connection, agent_id)


def organization(connection: sqlite3.Connection, now: str) -> Json:
    """What holds for every agent."""
    del now
    return to_json(_ORGANIZATION, connection.execute(f"SELECT {listed(_ORGANIZATION)} FROM organizations").fetchone())


def put_organization(connection: sqlite3.Connection, now: str, *, changes: Mapping[str, Json]) -> Json:
    """Change what is given; see ``schema/README.md``."""
    if changes:
        given = {**changes, "updated_at": now}
        kinds = {name: _ORGANIZATION[name] for name in given}
        connection.execute(f"UPDATE organizations SET {_assigned(given)}", to_columns(kinds, given))
        note_change(connection, now, None, "organization")
    return organization(connection, now)


def _assigned(values: Mapping[str, Json]) -> str:
    return ", ".join(f'"{name}" = :{name}' for name in values)


WRITES: Sequence[Body] = (update_agent, put_organization)
READS: Sequence[Body] = (agent, agents, organization)
