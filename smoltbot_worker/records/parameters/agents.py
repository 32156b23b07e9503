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


def _card(value: Json) -> dict[str, Json]:
    card = json_object(value)
    if card.get("issued_at") is not None:
        try:
            timestamp(card["issued_at"])
        except ValueError as error:
            raise ValueError(f"issued_at {error}") from None
    return card


FUNCTIONS: Functions = {
    "get_or_create_agent": {
        "agent_hash": lower_hex(16),
        "key_hash": lower_hex(64),
        "name": optional(text),
        "card": optional(_card),
        "seen_at": timestamp,
    },
    "touch_agents": {"seen": list_of(tuple_of(text, timestamp))},
    "ping": {},
    "housekeeping": {},
}
