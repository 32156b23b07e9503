"""The database functions about the public keys of signatures."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from smoltbot_worker.ports import Json

from .columns import BOOLEAN, HEX, PLAIN, Body, Kinds, listed, to_json

_KEY: Kinds = {
    "key_id": PLAIN, "public_key": HEX, "is_active": BOOLEAN, "created_at": PLAIN, "retired_at": PLAIN,
}  # fmt: skip
_LIST = f"SELECT {listed(_KEY)} FROM signing_keys"
_PUT = "INSERT INTO signing_keys (key_id, public_key, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_RETIRE_OTHERS = """
    UPDATE signing_keys SET is_active = 0, retired_at = :now WHERE key_id <> :key_id AND is_active
"""
_CHANGED = "public_key: another key is registered under this key_id"
_RETIRE = """
    UPDATE signing_keys SET is_active = 0, retired_at = coalesce(retired_at, :now) WHERE key_id = :key_id
"""


def signing_keys(connection: sqlite3.Connection, now: str) -> Json:
    """Every key, the oldest first."""
    del now
    return [_shown(row) for row in connection.execute(f"{_LIST} ORDER BY created_at, key_id")]


def put_signing_key(connection: sqlite3.Connection, now: str, *, key_id: str, public_key: str) -> Json:
    """Register a key; another key under a known id is refused."""
    connection.execute(_PUT, (key_id, bytes.fromhex(public_key), now))
    key = _key(connection, key_id)
    if key["public_key"] != public_key:
        raise ValueError(_CHANGED)
    return key


def use_signing_key(connection: sqlite3.Connection, now: str, *, key_id: str, public_key: str) -> Json:
    """Register the first key of all; later the one that is active, and no other, may be used."""
    if _is_known(connection, key_id, public_key):
        return _key(connection, key_id)
    actives = [active for (active,) in connection.execute("SELECT is_active FROM signing_keys")]
    if actives:
        raise ValueError("key_id: another key is active" if any(actives) else "key_id: every key was retired")
    connection.execute(_PUT, (key_id, bytes.fromhex(public_key), now))
    return _key(connection, key_id)


def rotate_signing_key(connection: sqlite3.Connection, now: str, *, key_id: str, public_key: str) -> Json:
    """Make a key the only one that is active; what was signed by the others still verifies."""
    if not _is_known(connection, key_id, public_key):
        same = "SELECT 1 FROM signing_keys WHERE public_key = ?"
        if connection.execute(same, (bytes.fromhex(public_key),)).fetchone():
            raise ValueError("public_key: this key is registered under another key_id")
        connection.execute(_PUT, (key_id, bytes.fromhex(public_key), now))
    connection.execute(_RETIRE_OTHERS, {"key_id": key_id, "now": now})
    return _key(connection, key_id)


def retire_signing_key(connection: sqlite3.Connection, now: str, *, key_id: str) -> Json:
    """Mark a key as no longer used; the first time stays."""
    if not connection.execute(_RETIRE, {"key_id": key_id, "now": now}).rowcount:
        raise ValueError("key_id: there is no such key")
    return _key(connection, key_id)


def _is_known(connection: sqlite3.Connection, key_id: str, public_key: str) -> bool:
    """Whether the key is registered and active; one that is retired, or another under its id, is refused."""
    row = connection.execute(f"{_LIST} WHERE key_id = ?", (key_id,)).fetchone()
    if row is None:
        return False
    key = _shown(row)
    if key["public_key"] != public_key:
        raise ValueError(_CHANGED)
    if not key["is_active"]:
        raise ValueError("key_id: this key was retired")
    return True


def _key(connection: sqlite3.Connection, key_id: str) -> dict[str, Json]:
    return _shown(connection.execute(f"{_LIST} WHERE key_id = ?", (key_id,)).fetchone())


def _shown(row: tuple[object, ...]) -> dict[str, Json]:
    return {**to_json(_KEY, row), "algorithm": "Ed25519"}


WRITES: Sequence[Body] = (put_signing_key, use_signing_key, rotate_signing_key, retire_signing_key)
READS: Sequence[Body] = (signing_keys,)
