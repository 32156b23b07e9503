"""What the error codes of PostgreSQL mean to a caller of the database functions, direct or through Supabase."""

from __future__ import annotations

from smoltbot_worker.ports import RecordsUnavailable

UNAVAILABLE = "the database cannot be used at the moment"
NOT_MIGRATED = "the database does not have the tables of this version: run `smoltbot migrate`"
NO_RIGHT = "this role may not call the database functions: GRANT smoltbot_gateway TO it"

OWN_REFUSAL = "SB001"
"""Raised by our own functions: the text is for the caller and holds no data."""

_BAD_VALUES = ("22", "23", "54")
_MISSING = frozenset({"3F000", "42883", "42P01", "42703", "PGRST202"})


def refusal(function: str, code: str, reason: str) -> Exception:
    """The error for the caller of ``function``; ``reason`` is the server's text, which may hold data."""
    if code == OWN_REFUSAL:
        return ValueError(reason)
    if code[:2] in _BAD_VALUES:
        return ValueError(f"{function}: the database refuses these values")
    if code in _MISSING:
        return RecordsUnavailable(NOT_MIGRATED)
    if code == "42501":
        return RecordsUnavailable(NO_RIGHT)
    return RecordsUnavailable(UNAVAILABLE)
