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
_RETIRE = """
    UPDATE signing_keys SET is_active = 0, retired_at = coalesce(retired_at, :now) WHERE key_id = :key_id
"""


def signing_keys(connection: sqlite3.Connection, now: str) -> Json:
    """Every key, the oldest first."""
    del now
    return [_shown(row) for row in connection.execute(f"{_LIST} ORDER BY created_at, key_id")]


def put_signing_key(connection: sqlite3.Connection, now: str, *, key_id: str, public_key: str) -> Json:
    """Register a key; another key under a known id is refused."""
    given = (key_id, bytes.fromhex(public_key), now)
    connection.execute(
        "INSERT INTO signing_keys (key_id, public_key, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", given
    )
    key = _key(connection, key_id)
    if key["public_key"] != public_key:
        raise ValueError("public_key: another key is registered under this key_id")
    return key


def retire_signing_key(connection: sqlite3.Connection, now: str, *, key_id: str) -> Json:
    """Mark a key as no longer used; the first time stays."""
    if not connection.execute(_RETIRE, {"key_id": key_id, "now": now}).rowcount:
        raise ValueError("key_id: there is no such key")
    return _key(connection, key_id)


def _key(connection: sqlite3.Connection, key_id: str) -> dict[str, Json]:
    return _shown(connection.execute(f"{_LIST} WHERE key_id = ?", (key_id,)).fetchone())


def _shown(row: tuple[object, ...]) -> dict[str, Json]:
    return {**to_json(_KEY, row), "algorithm": "Ed25519"}


WRITES: Sequence[Body] = (put_signing_key, retire_signing_key)
READS: Sequence[Body] = (signing_keys,)
