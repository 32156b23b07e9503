"""Identity: which key a request carries, which agent that makes, which session it is in."""

from __future__ import annotations

import re
from hashlib import sha256
from urllib.parse import unquote_to_bytes

_BEARER = re.compile(rb"bearer[ \t]+(.+)\Z", re.IGNORECASE | re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_KEY_SHAPES = ("sk-", "AIza", "mnm_", "smk_", "eyJ")
_HOUR_MS = 3_600_000


def bearer(value: bytes | None) -> bytes | None:
    """The token of an ``Authorization: Bearer`` value, or None."""
    match = _BEARER.match(value) if value else None
    return match[1] if match else None


def query_keys(query: str) -> set[bytes]:
    """The values of ``key=`` in a raw query string, empty ones left out. The query itself is not changed."""
    if "key=" not in query:
        return set()
    return {
        unquote_to_bytes(part[4:].replace("+", " ").encode("utf-8", "surrogateescape"))
        for part in query.split("&")
        if part.startswith("key=") and len(part) > 4
    }


def digest_of(key: bytes, name: str | None) -> str:
    """Hex SHA-256 of ``key``, or of ``key|name`` for a named agent (64 characters).

    Its first 16 characters are the agent's hash, and the whole of it is what a claim proves.
    """
    return sha256(key if name is None else key + b"|" + name.encode()).hexdigest()


def valid_name(name: str) -> bool:
    """Whether ``name`` may name an agent. Names are stored in clear, so nothing shaped like a key may be one."""
    return _NAME.match(name) is not None and not name.startswith(_KEY_SHAPES)


def session_hour(now: float) -> int:
    """The UTC hour bucket that a session lasts: whole hours since the epoch."""
    return int(now * 1000) // _HOUR_MS


def session_id(agent_hash: str, hour: int) -> str:
    """The session of an agent in an hour bucket."""
    return f"{agent_hash}-{hour}"
