"""The database functions by which checks and lists are read: a session as it was judged, pages of a log."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Any

from smoltbot_worker.ports import Json

from .columns import EVIDENCE, HEX, PLAIN, Body, Kinds, listed, to_json
from .log import checkpoints, fetch_evidence

_CHECK: Kinds = {
    "checkpoint_id": PLAIN, "timestamp": PLAIN, "verdict": PLAIN, "concerns": EVIDENCE, "reasoning_summary": PLAIN,
    "window_position": EVIDENCE, "analysis_metadata": EVIDENCE, "card_id": PLAIN, "provider": PLAIN, "model": PLAIN,
    "thinking_block_hash": HEX,
}  # fmt: skip
_CONCERNS: Kinds = {"concerns": EVIDENCE}

_CLEAR = ("clear",)
_CONCERNED = ("review_needed", "boundary_violation")
_MOST_IN_A_RUN = 100
_DRIFT = 3
_AFTER_ALL = 1 << 31

_PLACE = "SELECT chain_position FROM integrity_checkpoints WHERE checkpoint_id = ? AND agent_id = ? AND session_id = ?"
_BETWEEN = """
    SELECT * FROM (SELECT chain_position AS place FROM integrity_checkpoints
        WHERE agent_id = ?1 AND session_id = ?2 AND verdict = '{}' AND chain_position > ?3 AND chain_position < ?4
        ORDER BY chain_position {} LIMIT ?5)
"""
_READ = "SELECT {} FROM integrity_checkpoints WHERE agent_id = ? AND session_id = ? AND chain_position = ?"
_SIZE = """
    SELECT coalesce((SELECT leaf_count FROM agent_merkle_trees WHERE agent_id = :agent_id), 0)
        - coalesce((SELECT pruned FROM retention_statements WHERE agent_id = :agent_id), 0)
"""

Session = tuple[str, str]
"""The ids of an agent and of a session."""


def session_checks(
    connection: sqlite3.Connection, now: str, *, agent_id: str, session_id: str, limit: int, upto: str | None
) -> Json:
    """A session as it was judged last, and the run of concerns at its end; see ``schema/README.md``."""
    del now
    session = (agent_id, session_id)
    before = _end(connection, session, upto)
    places = _newest(connection, session, (*_CLEAR, *_CONCERNED), -1, before, limit)
    cleared = next(iter(_newest(connection, session, _CLEAR, -1, before, 1)), -1)
    run = _newest(connection, session, _CONCERNED, cleared, before, _MOST_IN_A_RUN)
    streak: Json = {
        "first": _first(connection, session, cleared, before),
        "length": len(run),
        "categories": _categories(connection, session, run),
    }
    ended = _ended(connection, session, cleared) if places[:1] == [cleared] else None
    checks = [to_json(_CHECK, row) for row in _rows(connection, session, places[::-1], _CHECK)]
    return {"checks": [*checks], "streak": streak, "ended": ended}


def list_checkpoints(
    connection: sqlite3.Connection,
    now: str,
    *,
    agent_id: str,
    limit: int,
    offset: int,
    verdict: str | None,
    session_id: str | None,
) -> Json:
    """A page of an agent's log, the newest entries first; see ``schema/README.md``."""
    asked = {"agent_id": agent_id, "verdict": verdict, "session_id": session_id, "limit": limit, "offset": offset}
    filters = [name for name in ("agent_id", "session_id", "verdict") if asked[name] is not None]
    where = "FROM integrity_checkpoints WHERE " + " AND ".join(f"{name} = :{name}" for name in filters)
    # Within a session both orders are the same; each is the order of an index.
    order = "merkle_leaf_index" if session_id is None else "chain_position"
    page = f"SELECT merkle_leaf_index {where} ORDER BY {order} DESC LIMIT :limit OFFSET :offset"
    found: list[Json] = []
    for (leaf,) in connection.execute(page, asked):
        row: Any = checkpoints(connection, now, agent_id=agent_id, after_index=leaf - 1, limit=1)
        found += row
    (total,) = connection.execute(f"SELECT count(*) {where}" if filters[1:] else _SIZE, asked).fetchone()
    return {"checkpoints": found, "total": total}


def _end(connection: sqlite3.Connection, session: Session, upto: str | None) -> int:
    """The place behind the last entry that counts; behind none when ``upto`` is not in the session."""
    if upto is None:
        return _AFTER_ALL
    row = connection.execute(_PLACE, (upto, *session)).fetchone()
    return 0 if row is None else int(row[0]) + 1


def _newest(
    connection: sqlite3.Connection, session: Session, verdicts: Sequence[str], after: int, before: int, most: int
) -> list[int]:
    """The places of the newest entries with one of these verdicts, the newest first."""
    each = " UNION ALL ".join(_BETWEEN.format(verdict, "DESC") for verdict in verdicts)
    sql = f"{each} ORDER BY place DESC LIMIT ?5"
    return [place for (place,) in connection.execute(sql, (*session, after, before, most))]


def _first(connection: sqlite3.Connection, session: Session, after: int, before: int) -> Json:
    """The id of the first concern between two places."""
    each = " UNION ALL ".join(_BETWEEN.format(verdict, "ASC") for verdict in _CONCERNED)
    sql = f"""
        SELECT checkpoint_id FROM integrity_checkpoints
        WHERE agent_id = ?1 AND session_id = ?2 AND chain_position = (SELECT min(place) FROM ({each}))
    """
    return next((row[0] for row in fetch_evidence(connection, sql, (*session, after, before, 1))), None)


def _ended(connection: sqlite3.Connection, session: Session, cleared: int) -> Json:
    """The first entry of the run that this clear one ended, if it was long enough for an alert."""
    before = next(iter(_newest(connection, session, _CLEAR, -1, cleared, 1)), -1)
    run = _newest(connection, session, _CONCERNED, before, cleared, _DRIFT)
    return _first(connection, session, before, cleared) if len(run) == _DRIFT else None


def _rows(
    connection: sqlite3.Connection, session: Session, places: Sequence[int], kinds: Kinds
) -> list[tuple[Any, ...]]:
    """These columns of the entries at these places."""
    sql = _READ.format(listed(kinds))
    return [row for place in places for row in fetch_evidence(connection, sql, (*session, place))]


def _categories(connection: sqlite3.Connection, session: Session, places: Sequence[int]) -> dict[str, Json]:
    """How often each category occurs in the concerns of these entries."""
    rows = _rows(connection, session, places, _CONCERNS)
    lists = [to_json(_CONCERNS, row)["concerns"] for row in rows]
    concerns = [concern for given in lists if isinstance(given, list) for concern in given]
    named = [concern.get("category") for concern in concerns if isinstance(concern, dict)]
    return dict(Counter(name for name in named if isinstance(name, str)))


WRITES: Sequence[Body] = ()
READS: Sequence[Body] = (session_checks, list_checkpoints)
