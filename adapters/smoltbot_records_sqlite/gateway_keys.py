"""The database functions about the gateway's own keys, each of which names an agent."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from smoltbot_worker.ports import Json

from .agents import SELECT_AGENT, shown_agent
from .columns import PLAIN, Body, Kinds, listed, to_json
from .events import note_change, require_agent

_KEY: Kinds = {"key_id": PLAIN, "agent_id": PLAIN, "created_at": PLAIN, "revoked_at": PLAIN}
_LIST = f"SELECT {listed(_KEY)} FROM gateway_keys"
_PUT = "INSERT INTO gateway_keys (key_id, key_hash, agent_id, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_HELD = "SELECT key_hash, agent_id FROM gateway_keys WHERE key_id = ?"
_REVOKE = "UPDATE gateway_keys SET revoked_at = ? WHERE key_id = ? AND revoked_at IS NULL RETURNING agent_id"
_RESOLVE = f"{SELECT_AGENT} WHERE id = (SELECT agent_id FROM gateway_keys WHERE key_hash = ? AND revoked_at IS NULL)"


def put_gateway_key(connection: sqlite3.Connection, now: str, *, key_id: str, key_hash: str, agent_id: str) -> Json:
    """Register a key; what contradicts an earlier registration is refused."""
    require_agent(connection, agent_id)
    digest = bytes.fromhex(key_hash)
    if connection.execute(_PUT, (key_id, digest, agent_id, now)).rowcount:
        note_change(connection, now, agent_id, "keys")
    held = connection.execute(_HELD, (key_id,)).fetchone()
    if held is None:
        raise ValueError("key_hash: this key has another key_id")
    if held != (digest, agent_id):
        raise ValueError("key_id: another key has this id")
    return _key(connection, key_id)


def revoke_gateway_key(connection: sqlite3.Connection, now: str, *, key_id: str) -> Json:
    """Refuse a key from now on; the first time stays. Null for an unknown one."""
    for (agent_id,) in connection.execute(_REVOKE, (now, key_id)).fetchall():
        note_change(connection, now, agent_id, "keys")
    return _key(connection, key_id)


def gateway_keys(connection: sqlite3.Connection, now: str) -> Json:
    """Every key, the newest first."""
    del now
    return [to_json(_KEY, row) for row in connection.execute(f"{_LIST} ORDER BY created_at DESC, key_id DESC")]


def resolve_gateway_key(connection: sqlite3.Connection, now: str, *, key_hash: str) -> Json:
    """The agent that a key names, or null."""
    del now
    row = connection.execute(_RESOLVE, (bytes.fromhex(key_hash),)).fetchone()
    return None if row is None else shown_agent(row)


def _key(connection: sqlite3.Connection, key_id: str) -> Json:
    row = connection.execute(f"{_LIST} WHERE key_id = ?", (key_id,)).fetchone()
    return None if row is None else to_json(_KEY, row)


WRITES: Sequence[Body] = (put_gateway_key, revoke_gateway_key)
READS: Sequence[Body] = (gateway_keys, resolve_gateway_key)
