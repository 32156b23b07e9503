"""The database function by which the gateway learns at once all that it must know of an agent."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import timedelta

from smoltbot_worker.ports import Json

from .accounts import quota_of
from .agents import find_agent
from .cards import find_card
from .columns import Body, shifted
from .settings import organization

_WAITING = """
    SELECT count(*) FROM enforcement_nudges WHERE agent_id = ? AND status IN ('pending', 'delivering')
        AND created_at >= ?
"""
_WORTH_TELLING = timedelta(hours=4)


def agent_context(connection: sqlite3.Connection, now: str, *, agent_id: str) -> Json:
    """What admission decides by, all of one moment, or null; see ``schema/README.md``."""
    agent = find_agent(connection, agent_id)
    if agent is None:
        return None
    (waiting,) = connection.execute(_WAITING, (agent_id, shifted(now, -_WORTH_TELLING))).fetchone()
    (seq,) = connection.execute("SELECT seq FROM change_counter").fetchone()
    return {
        "agent": agent,
        "card": find_card(connection, agent_id),
        "organization": organization(connection, now),
        "quota": quota_of(connection, agent),
        "pending_nudges": waiting,
        "seq": seq,
    }


WRITES: Sequence[Body] = ()
READS: Sequence[Body] = (agent_context,)
