"""Fields of documents that others wrote: read by name, and complained about by the path at which they are wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_LONE = re.compile("[\ud800-\udfff]")
_LONGEST_PATH = 200


class Unreadable(ValueError):
    """A document is not what it must be; the text names the field and quotes no value."""

    def __init__(self, path: str, must: str) -> None:
        super().__init__(f"{path[:_LONGEST_PATH]}: must be {must}")


class Fields:
    """An object and where it is. What is missing or null counts as empty; :class:`Unreadable` for another type."""

    __slots__ = ("data", "path")

    def __init__(self, data: object, path: str) -> None:
        if data is not None and not isinstance(data, Mapping):
            raise Unreadable(path, "an object")
        self.data: Mapping[str, Any] = {} if data is None else data
        self.path = path

    def has(self, name: str) -> bool:
        """Whether there is anything but null."""
        return self.data.get(name) is not None

    def object(self, name: str) -> Fields:
        """The object of that name."""
        return Fields(self.data.get(name), self._at(name))

    def items(self, name: str) -> list[Any]:
        """The list of that name, whatever is in it."""
        value = self.data.get(name)
        if value is not None and not isinstance(value, list):
            raise Unreadable(self._at(name), "a list")
        return list(value or ())

    def objects(self, name: str) -> list[Fields]:
        """The list of objects of that name."""
        found = []
        for place, item in enumerate(self.items(name)):
            path = f"{self._at(name)}[{place}]"
            if item is None:
                raise Unreadable(path, "an object")
            found.append(Fields(item, path))
        return found

    def texts(self, name: str) -> list[str]:
        """The list of texts of that name."""
        return [readable(item, f"{self._at(name)}[{place}]") for place, item in enumerate(self.items(name))]

    def text(self, name: str) -> str | None:
        """The text of that name, None when there is none."""
        return readable(self.data[name], self._at(name)) if self.has(name) else None

    def required(self, name: str) -> str:
        """The text of that name, which must be there."""
        return readable(self.data.get(name), self._at(name))

    def flag(self, name: str, default: bool) -> bool:
        """The true or false of that name."""
        value = self.data.get(name, default)
        if not isinstance(value, bool):
            raise Unreadable(self._at(name), "true or false")
        return value

    def number(self, name: str, default: float) -> float:
        """The number of that name; one that is whole as an int, because hashes are over ``1`` and not ``1.0``."""
        value = self.data.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
            raise Unreadable(self._at(name), "a number")
        return int(value) if value == int(value) else value

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


def readable(value: object, path: str) -> str:
    """The text at ``path``."""
    if not isinstance(value, str):
        raise Unreadable(path, "text")
    if not value.isascii() and _LONE.search(value):
        raise Unreadable(path, "text without lone surrogates")
    return value


def whole(text: str) -> str:
    """``text`` that has a UTF-8: surrogates that meet become one character, lone ones U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def one_line(text: str, most: int) -> str:
    """``text`` without line breaks, and no longer than ``most``: it cannot look like a section of a prompt."""
    return " ".join(whole(text[: 2 * most]).split())[:most]
