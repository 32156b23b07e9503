"""How the values of a record are kept in SQLite's columns, and how a row becomes JSON again."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from smoltbot_worker.ports import Json
from smoltbot_worker.records.arguments import format_time, json_value

Kind = tuple[Callable[[Any], Any], Callable[[Any], Json]]
"""To the column and back; neither sees null."""


def _same(value: Any) -> Any:
    return value


def _json_or_text(value: str) -> Json:
    try:
        return json_value(json.loads(value))
    except (ValueError, RecursionError):
        return value


PLAIN: Kind = (_same, _same)
HEX: Kind = (bytes.fromhex, bytes.hex)
BASE64: Kind = (b64decode, lambda value: b64encode(value).decode())
JSON: Kind = (lambda value: json.dumps(value, separators=(",", ":")), json.loads)
BOOLEAN: Kind = (int, bool)

EVIDENCE: Kind = (JSON[0], _json_or_text)
"""As JSON; but what was damaged into something that no JSON can be made of is shown as the text that it is."""

Kinds = Mapping[str, Kind]
"""Kind by column."""

Body = Callable[..., Json]
"""A database function: ``body(connection, now, **arguments)``; ``now`` is a time as the schema keeps it."""


def to_columns(kinds: Kinds, record: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``record`` for the columns of ``kinds``; one that is missing is null."""
    given = {name: record.get(name) for name in kinds}
    return {name: None if value is None else kinds[name][0](value) for name, value in given.items()}


def to_json(kinds: Kinds, row: tuple[Any, ...]) -> dict[str, Json]:
    """``row``, selected by :func:`listed`, as JSON."""
    return {
        name: None if value is None else kind[1](value) for (name, kind), value in zip(kinds.items(), row, strict=True)
    }


def listed(kinds: Kinds) -> str:
    """The columns as SQL writes a list of them."""
    return ", ".join(f'"{name}"' for name in kinds)


def insertion(table: str, kinds: Kinds) -> str:
    """The statement that inserts what :func:`to_columns` made."""
    return f"INSERT INTO {table} ({listed(kinds)}) VALUES ({', '.join(f':{name}' for name in kinds)})"


def shifted(time: str, by: timedelta) -> str:
    """A time as the schema keeps it, moved."""
    return format_time(datetime.fromisoformat(time) + by)
