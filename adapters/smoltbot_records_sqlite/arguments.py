"""How the arguments of a database function are checked before they reach SQL."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from smoltbot_worker.ports import Json

Parser = Callable[[Json], Any]
"""Returns the checked value; raises ``ValueError`` saying what the value must be, without quoting it."""

Parameters = Mapping[str, Parser]


def parse_arguments(parameters: Parameters, arguments: Mapping[str, Json]) -> dict[str, Any]:
    """The checked value of every parameter; one that is missing counts as null.

    Raises ``ValueError`` that names the argument.
    """
    for name in arguments:
        if name not in parameters:
            raise ValueError(f"{name}: there is no such argument")
    values = {}
    for name, parse in parameters.items():
        try:
            values[name] = parse(arguments.get(name))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return values


def lower_hex(length: int) -> Parser:
    """Exactly ``length`` lower-case hexadecimal digits."""
    pattern = re.compile(rf"[0-9a-f]{{{length}}}")

    def parse(value: Json) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"must be {length} lower-case hex digits")
        return value

    return parse


def text(value: Json) -> str:
    """Any text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be text without lone surrogates") from None
    return value


def json_object(value: Json) -> dict[str, Json]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    return value


def timestamp(value: Json) -> str:
    """An ISO 8601 time with an offset, as the schema keeps it: UTC, milliseconds, ``Z``."""
    if not isinstance(value, str):
        raise ValueError("must be an ISO 8601 time")
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError
        return format_time(moment)
    except (ValueError, OverflowError):
        raise ValueError("must be an ISO 8601 time with an offset or Z") from None


def timestamps_by_id(value: Json) -> list[tuple[str, str]]:
    """A list of ``[id, time]`` pairs."""
    if not isinstance(value, list):
        raise ValueError("must be a list")
    pairs = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError("must be a list of [id, time] pairs")
        pairs.append((text(pair[0]), timestamp(pair[1])))
    return pairs


def optional(parse: Parser) -> Parser:
    """What ``parse`` accepts, or null."""
    return lambda value: None if value is None else parse(value)


def format_time(moment: datetime) -> str:
    """``moment`` as the schema keeps times; such texts sort in the order of time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_epoch(seconds: float) -> str:
    """Seconds since the epoch as the schema keeps times."""
    return format_time(datetime.fromtimestamp(seconds, UTC))
