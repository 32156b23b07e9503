"""JSON of providers and clients: read as leniently as the most lenient of their own readers, in bounded time."""

from __future__ import annotations

import codecs
import json
import re
import string
from collections.abc import Iterator
from typing import Any

CROWDED = 8
"""A body of the full size has one of ``[ { ,`` in so many bytes at most; more would take too long to parse."""
SMALL = 1 << 16
"""A body of so many bytes may be as crowded as it likes, whatever the limit is."""

_DEPTH = 64  # of a document that was cut off
_USUAL = json.JSONDecoder(strict=False)
_HUGE_NUMBERS = json.JSONDecoder(strict=False, parse_int=float)
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BETWEEN_BRACKETS = re.compile(r"[^][{}]++")
_CLOSING = str.maketrans("[{", "]}")
_CUT_SHORT = " \t\r\n+-." + string.digits + string.ascii_letters
_CHARACTER_CODE = re.compile(r"u[0-9a-fA-F]{0,4}\Z")


class NoJson(Exception):
    """This is not JSON, or nested so deeply that nobody reads it; the text quotes nothing."""


class Crowded(NoJson):
    """This has too many lists and members for its size."""


def well_formed(text: str) -> str:
    """``text`` as JavaScript encodes it: surrogates that meet are one character, a lone one is U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def parse(text: str) -> Any:
    """The value of JSON text; of equal keys the last one counts, a number may be NaN or infinite. :class:`NoJson`."""
    try:
        return _decode(text.strip())
    except (ValueError, RecursionError):
        pass
    raise NoJson("no JSON")


def parse_body(body: bytes, limit: int, *, cut: bool = False) -> Any:
    """The value of a JSON body of up to ``limit`` bytes; what of it is there, when it was ``cut`` off somewhere.

    :class:`NoJson`, and :class:`Crowded` for what would take too long.
    """
    # As browsers decode it; a character that the cut went through is left out.
    text = codecs.utf_8_decode(body, "replace", not cut)[0].removeprefix("\ufeff").strip()
    if is_crowded(text, limit) and is_crowded(_STRING.sub("", text), limit):
        raise Crowded("too many lists and members")
    return parse(_closed(text) if cut else text)


def is_crowded(text: str | bytes, limit: int) -> bool:
    """Whether JSON text, with or without its strings, has more parts than a body of ``limit`` bytes may have."""
    most = max(limit, SMALL) // CROWDED
    if len(text) <= most:
        return False
    if isinstance(text, bytes):
        return text.count(b"[") + text.count(b"{") + text.count(b",") > most
    return text.count("[") + text.count("{") + text.count(",") > most


def objects(value: object) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a list and their positions; nothing for what is no list."""
    if isinstance(value, list):
        for position, item in enumerate(value):
            if isinstance(item, dict):
                yield position, item


def member(value: object, name: str) -> Any:
    """A member of an object; None for what is no object."""
    return value.get(name) if isinstance(value, dict) else None


def index(value: object, default: int = 0) -> int:
    """An index as a provider gives it; ``default`` for what is no whole number."""
    if type(value) is int:
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else default


def _decode(text: str) -> Any:
    try:
        value, end = _USUAL.raw_decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # int() refuses thousands of digits
        value, end = _HUGE_NUMBERS.raw_decode(text)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _closed(text: str) -> str:
    """A document that was cut off, with its string and all its lists and objects closed where it ends."""
    text = _without_cut_escape(text)
    bare = _STRING.sub("", text)
    # Every quote behind the one that opens the last string is escaped, so none of them began a match.
    bare, quote, rest = bare.partition('"')
    still_open = _open(bare)
    before = bare.rstrip()[-1:]
    is_value = before == ":" or (still_open[-1:] == "[" and before in "[,")
    if quote and is_value:
        text += quote
    elif quote:
        text = text[: len(text) - len(rest) - 1].rstrip()
    else:
        text = text.rstrip(_CUT_SHORT)
        if text.endswith('"') and not is_value:
            text += ":"
    if text.endswith(","):
        text = text[:-1]
    elif text.endswith(":"):
        text += "null"
    return text + still_open[::-1].translate(_CLOSING)


def _without_cut_escape(text: str) -> str:
    """``text`` without the escape that it ends in, which may lack characters."""
    code = _CHARACTER_CODE.search(text, max(0, len(text) - 5))
    for end in (len(text) if code is None else code.start(), len(text)):
        if (end - len(text[:end].rstrip("\\"))) % 2:
            return text[: end - 1]
    return text


def _open(bare: str) -> str:
    """The brackets that are not closed, from the outside in, of a document without its strings."""
    brackets = _BETWEEN_BRACKETS.sub("", bare)
    for _ in range(_DEPTH):
        fewer = brackets.replace("[]", "").replace("{}", "")
        if fewer == brackets:
            break
        brackets = fewer
    if len(brackets) > _DEPTH or "]" in brackets or "}" in brackets:
        raise NoJson("nested too deeply")
    return brackets
