"""How the arguments of a database function are checked before they reach SQL, the same for every database."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from smoltbot_worker.ports import Json

Parser = Callable[[Json], Any]
"""Returns the checked value; raises ``ValueError`` saying what the value must be, without quoting it."""

Parameters = Mapping[str, Parser]

Functions = Mapping[str, Parameters]
"""The parameters of each function, by its name."""

MOST_LEVELS = 500
"""SQLite reads JSON of 1,000 levels; how many Python writes depends on its version."""

_IDENTIFIER = re.compile(r"[!#-\[\]-~]{1,200}")
_TIME = re.compile(r"[0-9-]{10}T\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-](0\d|1[0-5]):\d\d)", re.ASCII)
"""What Python and PostgreSQL read alike."""
_EXACT_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


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
    """Any text that every database can hold: UTF-8 without NUL."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be text without lone surrogates") from None
    if "\0" in value:
        raise ValueError("must be text without NUL")
    return value


def identifier(value: Json) -> str:
    """A name made by us: 1 to 200 visible ASCII characters other than quotes and the backslash."""
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise ValueError("must be 1 to 200 visible ASCII characters, no quote and no backslash")
    return value


def one_of(*choices: str) -> Parser:
    """One of these texts."""

    def parse(value: Json) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value

    return parse


def boolean(value: Json) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def integer(least: int, most: int = 2**53 - 1) -> Parser:
    """A whole number from ``least`` to ``most``."""

    def parse(value: Json) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return parse


def number(value: Json) -> float:
    """A number from 0 to a million millions."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 10**12:
        raise ValueError("must be a number from 0 to 10**12")
    return value


def signature(value: Json) -> str:
    """64 bytes in base64 with padding: an Ed25519 signature."""
    try:
        good = isinstance(value, str) and len(value) == 88 and len(b64decode(value, validate=True)) == 64
    except ValueError:
        good = False
    if not good:
        raise ValueError("must be 64 bytes in base64 with padding")
    return str(value)


def json_value(value: Json) -> Json:
    """Any JSON that every database can hold: finite numbers, not too deep, text as in :func:`text`."""
    try:
        written = json.dumps(value, allow_nan=False, ensure_ascii=False)
        written.encode()
    except (TypeError, ValueError, RecursionError):
        raise ValueError("must be JSON without lone surrogates") from None
    if "\\u0000" in written and re.search(r"(?<!\\)(\\\\)*\\u0000", written):
        raise ValueError("must be JSON without NUL")
    # A level takes two characters at least.
    if len(written) > 2 * MOST_LEVELS and _levels(value) > MOST_LEVELS:
        raise ValueError(f"must not nest deeper than {MOST_LEVELS} levels")
    return value


def _levels(value: Json) -> int:
    """How deep the lists and objects of ``value`` nest, at most one more than ``MOST_LEVELS``."""
    level, held = 0, [value]
    while held and level <= MOST_LEVELS:
        inner: list[Json] = []
        for part in held:
            if isinstance(part, dict):
                inner += part.values()
            elif isinstance(part, list):
                inner += part
        nests = any(isinstance(part, dict | list) for part in held)
        level, held = level + nests, inner
    return level


def json_object(value: Json) -> dict[str, Json]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    json_value(value)
    return value


def json_list(value: Json) -> list[Json]:
    """A JSON list."""
    if not isinstance(value, list):
        raise ValueError("must be a list")
    json_value(value)
    return value


def list_of(parse: Parser, *, least: int = 0, most: int = 10_000) -> Parser:
    """A list of ``least`` to ``most`` values, each as ``parse`` wants it."""

    def parse_all(value: Json) -> list[Any]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise ValueError(f"must be a list of {least} to {most}")
        values = []
        for number, item in enumerate(value):
            try:
                values.append(parse(item))
            except ValueError as error:
                raise ValueError(f"[{number}] {error}") from None
        return values

    return parse_all


def tuple_of(*parsers: Parser) -> Parser:
    """A list of as many values as there are ``parsers``, each as its parser wants it."""

    def parse(value: Json) -> list[Any]:
        if not isinstance(value, list) or len(value) != len(parsers):
            raise ValueError(f"must be a list of {len(parsers)}")
        return [parser(item) for parser, item in zip(parsers, value, strict=True)]

    return parse


def map_of(parse: Parser) -> Parser:
    """An object whose names are texts and whose values are as ``parse`` wants them."""

    def parse_all(value: Json) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("must be an object")
        return {text(name): parse(item) for name, item in value.items()}

    return parse_all


def record_of(parameters: Parameters) -> Parser:
    """An object with these members and no others; one that is missing counts as null."""

    def parse(value: Json) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("must be an object")
        return parse_arguments(parameters, value)

    return parse


def subset_of(parameters: Parameters) -> Parser:
    """An object with some of these members and no others; one that is missing stays missing."""

    def parse(value: Json) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("must be an object")
        given = {name: parse for name, parse in parameters.items() if name in value}
        return parse_arguments(given, value)

    return parse


def exact_timestamp(value: Json) -> str:
    """A time in the one spelling that is signed: UTC, milliseconds, ``Z``."""
    if not isinstance(value, str) or not _EXACT_TIME.fullmatch(value) or timestamp(value) != value:
        raise ValueError("must be a time like 2026-05-10T08:00:00.000Z")
    return value


def timestamp(value: Json) -> str:
    """An ISO 8601 time with an offset (RFC 3339), as the schema keeps it: UTC, milliseconds, ``Z``."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("must be an ISO 8601 time with an offset or Z")
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError
        return format_time(moment)
    except (ValueError, OverflowError):
        raise ValueError("must be an ISO 8601 time with an offset or Z") from None


def optional(parse: Parser) -> Parser:
    """What ``parse`` accepts, or null."""
    return lambda value: None if value is None else parse(value)


def format_time(moment: datetime) -> str:
    """``moment`` as the schema keeps times; such texts sort in the order of time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_epoch(seconds: float) -> str:
    """Seconds since the epoch as the schema keeps times."""
    return format_time(datetime.fromtimestamp(seconds, UTC))
