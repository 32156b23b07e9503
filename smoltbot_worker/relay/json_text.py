"""A JSON object as its bytes: where its members are, and edits that leave every other byte as it was."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import accumulate
from typing import NoReturn

MOST_LEVELS = 200
MOST_VALUES = 100_000
"""Values and names; what bounds the time and memory that a hostile body takes."""

_SKIP = re.compile(rb"[ \t\n\r]*+")
_NAME = re.compile(rb'""[ \t\n\r]*+:[ \t\n\r]*+')
_COMMA = re.compile(rb'[ \t\n\r]*+(?:,[ \t\n\r]*+(?=")|(?=\}))')
_BAD_ESCAPE = re.compile(rb"\\(?![/bfnrt]|u[0-9a-fA-F]{4})")
_CONTROLS = bytes(range(32))
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LEVELS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class Unsuitable(ValueError):
    """Why a body is not changed; quotes nothing of it."""


@dataclass(slots=True)
class Value:
    """The bytes of a value: from ``start`` up to ``end``."""

    start: int
    end: int
    _place: int
    """Where it begins in the outline."""
    _strings: int
    """How many strings come before it."""


@dataclass(slots=True)
class Edit:
    """New bytes in the place of those from ``start`` up to ``end``."""

    start: int
    end: int
    new: bytes


class JsonText:
    """The bytes of a JSON object (RFC 8259, UTF-8, no byte order mark), checked to the last one.

    Raises :class:`Unsuitable` for anything else, and beyond ``MOST_LEVELS`` and ``MOST_VALUES``.

    It works on an outline: the same JSON with every string empty, which is short whatever the strings hold.
    """

    def __init__(self, body: bytes) -> None:
        self.body = body
        strings, self._outline = _outline(body)
        self._text = self._outline.decode("latin-1")
        self._shifts = [0, *accumulate(map(len, strings))]
        place = _matched(_SKIP, self._outline, 0)
        is_object = self._outline.startswith(b"{", place)
        self._members, end = self._object(place, 0) if is_object else ([], self._end(place))
        if _matched(_SKIP, self._outline, end) != len(self._outline):
            _refuse()
        if not is_object:
            raise Unsuitable("the body is not a JSON object")
        self.root = Value(place, end + self._shifts[-1], place, 0)

    def kind(self, value: Value) -> str:
        """``object``, ``array``, ``string``, ``null`` or ``other``."""
        kinds = {b"{": "object", b"[": "array", b'"': "string", b"n": "null"}
        return kinds.get(self.body[value.start : value.start + 1], "other")

    def member(self, within: Value, *names: str) -> tuple[str, Value] | None:
        """The one member of an object with one of these names; :class:`Unsuitable` when there are several."""
        members = self._members if within is self.root else self._object(within._place, within._strings)[0]
        found = [member for member in members if member[0] in names]
        if len(found) > 1:
            raise Unsuitable(f"the body has `{found[0][0]}` more than once")
        return found[0] if found else None

    def insert_member(self, within: Value, name: str, value: bytes) -> Edit:
        """Put a member before all others of an object."""
        return self._insert_first(within, json_string(name) + b":" + value)

    def insert_element(self, within: Value, value: bytes) -> Edit:
        """Put an element before all others of a list."""
        return self._insert_first(within, value)

    def append_element(self, within: Value, value: bytes) -> Edit:
        """Put an element behind all others of a list."""
        return Edit(within.end - 1, within.end - 1, value if self._is_empty(within) else b"," + value)

    def append_text(self, within: Value, text: str) -> Edit:
        """Put more text at the end of a string."""
        return Edit(within.end - 1, within.end - 1, json_string(text)[1:-1])

    def replace(self, value: Value, new: bytes) -> Edit:
        """Put another value in the place of one."""
        return Edit(value.start, value.end, new)

    def edited(self, edit: Edit) -> bytes:
        """The body after an edit."""
        return b"".join((self.body[: edit.start], edit.new, self.body[edit.end :]))

    def _object(self, place: int, strings: int) -> tuple[list[tuple[str, Value]], int]:
        """The members of the object at this place of the outline, and where it ends there."""
        outline, shifts = self._outline, self._shifts
        members = []
        place = _matched(_SKIP, outline, place + 1)
        while not outline.startswith(b"}", place):
            start = _matched(_NAME, outline, place)
            name = self.body[place + shifts[strings] + 1 : place + 1 + shifts[strings + 1]]
            end = self._end(start)
            after = strings + 1 + outline.count(b'"', start, end) // 2
            value = Value(start + shifts[strings + 1], end + shifts[after], start, strings + 1)
            members.append((_read(name), value))
            place, strings = _matched(_COMMA, outline, end), after
        return members, place + 1

    def _insert_first(self, within: Value, new: bytes) -> Edit:
        return Edit(within.start + 1, within.start + 1, new if self._is_empty(within) else new + b",")

    def _is_empty(self, within: Value) -> bool:
        return _matched(_SKIP, self.body, within.start + 1) == within.end - 1

    def _end(self, place: int) -> int:
        """Where the value ends that begins at this place of the outline."""
        try:
            return _DECODER.raw_decode(self._text, place)[1]
        except (ValueError, RecursionError):
            _refuse()


def json_string(text: str) -> bytes:
    """Text as a JSON string of ASCII characters."""
    return json.dumps(text).encode()


def _outline(body: bytes) -> tuple[list[bytes], bytes]:
    """What the strings of a body hold, and the body with every string empty."""
    try:
        body.decode()
    except UnicodeDecodeError:
        raise Unsuitable("the body is not UTF-8") from None
    # With other characters, as many, in the place of escaped quotes, a string ends at the next quote.
    text = body.replace(rb"\\", b"__").replace(rb"\"", b"__")
    if b"\\" in text and _BAD_ESCAPE.search(text):
        _refuse()
    quotes = text.count(b'"')
    if quotes > 2 * MOST_VALUES:
        raise _too_many()
    parts = text.split(b'"')
    strings, outline = parts[1::2], b'""'.join(parts[::2])
    if quotes % 2 or (_has_control(text) and _has_control(b"".join(strings))):
        _refuse()
    _check_size(outline)
    return strings, outline


def _has_control(text: bytes) -> bool:
    return len(text.translate(None, _CONTROLS)) != len(text)


def _check_size(outline: bytes) -> None:
    opened = outline.count(b"[") + outline.count(b"{")
    if opened + outline.count(b",") > MOST_VALUES:
        raise _too_many()
    if opened > MOST_LEVELS:
        brackets = outline.translate(None, _NO_BRACKETS)
        if max(accumulate(map(_LEVELS.__getitem__, brackets))) > MOST_LEVELS:
            raise Unsuitable(f"the body nests deeper than {MOST_LEVELS} levels")


def _read(string: bytes) -> str:
    """The text of a string without its quotes."""
    return str(json.loads(b'"%b"' % string)) if b"\\" in string else string.decode()


def _matched(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    found = pattern.match(text, at)
    if found is None:
        _refuse()
    return found.end()


def _too_many() -> Unsuitable:
    return Unsuitable(f"the body has more than {MOST_VALUES} values")


def _refuse(_constant: str = "") -> NoReturn:
    raise Unsuitable("the body is not JSON")


# Python's own limit on the digits of an integer is none of JSON's; NaN and the infinities are no JSON.
_DECODER = json.JSONDecoder(parse_int=float, parse_constant=_refuse)
