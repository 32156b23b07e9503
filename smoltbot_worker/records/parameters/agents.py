"""Arguments of the functions about agents, and of those that serve the database itself."""

from __future__ import annotations

from smoltbot_worker.ports import Json
from smoltbot_worker.records.arguments import (
    Functions,
    json_object,
    list_of,
    lower_hex,
    optional,
    text,
    timestamp,
    tuple_of,
)


def card(value: Json) -> dict[str, Json]:
    """An alignment card; what else must be in it is not for the database to say."""
    given = json_object(value)
    if given.get("issued_at") is not None:
        try:
            timestamp(given["issued_at"])
        except ValueError as error:
            raise ValueError(f"issued_at {error}") from None
    return given


FUNCTIONS: Functions = {
    "get_or_create_agent": {
        "agent_hash": lower_hex(16),
        "key_hash": lower_hex(64),
        "name": optional(text),
        "card": optional(card),
        "seen_at": timestamp,
    },
    "touch_agents": {"seen": list_of(tuple_of(text, timestamp))},
    "ping": {},
    "housekeeping": {},
}
