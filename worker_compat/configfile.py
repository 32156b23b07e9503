"""Reading a configuration file, TOML or JSON with comments, as tables that know where in the file they stand."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import ConfigError

_REQUIRED: Any = object()
_COMMENT_OR_STRING = re.compile(r'("(?:\\.|[^"\\\n])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\\n])*")|,(?=\s*[}\]])')
_KINDS = {
    str: ("a string", "put it in quotes"),
    int: ("a whole number", "write its digits without quotes"),
    list: ("a list", "put it in [ ]"),
    dict: ("a table", "put its keys into { } or below a [heading]"),
}
"""What a value must be, and how one writes it."""


class Table:
    """One table of ``file``; reading a key checks its type. ``path`` is how the file writes the table's name.

    ``ConfigError`` names the file, the key and what to write. ``warnings`` is shared by all tables of a file.
    """

    def __init__(
        self,
        file: Path,
        content: Mapping[str, Any],
        path: str = "",
        warnings: list[str] | None = None,
        origins: Mapping[str, str] | None = None,
    ) -> None:
        self.file = file
        self.content = content
        self.path = path
        self.warnings: list[str] = [] if warnings is None else warnings
        self._origins = origins or {}

    def replaced(self, content: Mapping[str, Any], origins: Mapping[str, str]) -> Table:
        """The same place with other content; ``origins`` says which keys stand in which other table."""
        return Table(self.file, content, self.path, self.warnings, origins)

    def at(self, key: str) -> str:
        """File and full name of a key, for messages."""
        return f"{self.file}: {self._name(key)}"

    def text(self, key: str, hint: str) -> str:
        """A string that is not empty; ``hint`` is what to write when it is missing."""
        return self._filled(key, self._typed(key, str, _REQUIRED, hint), hint)

    def optional_text(self, key: str) -> str | None:
        """A string that is not empty, or None when missing."""
        value = self._typed(key, str, None)
        return None if value is None else self._filled(key, value, "write a name, or remove the key")

    def identifier(self, key: str) -> str:
        """The name of a binding: what can stand after ``env.``."""
        name = self.text(key, f'add {key} = "NAME"')
        if not name.isidentifier():
            raise ConfigError(f"{self.at(key)} must be a name of letters, digits and _, because the code says env.NAME")
        return name

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number within limits, both included."""
        value: int = self._typed(key, int, default)
        if isinstance(value, bool) or not low <= value <= high:
            raise ConfigError(f"{self.at(key)} must be a whole number from {low} to {high}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty when missing."""
        values = self._typed(key, list, [])
        if not all(isinstance(value, str) for value in values):
            raise ConfigError(f"{self.at(key)} must be a list of strings; put each of them in quotes")
        return tuple(values)

    def table(self, key: str, *known: str) -> Table:
        """A table below this one, empty when missing; keys other than ``known``, if any are named, are warned of."""
        table = Table(self.file, self._typed(key, dict, {}), self._name(key), self.warnings)
        if known:
            table.warn_unknown(known)
        return table

    def tables(self, key: str) -> Sequence[Table]:
        """A list of tables: ``[[key]]``."""
        values = self._typed(key, list, [], f"write [[{self._name(key)}]]")
        found = []
        for index, value in enumerate(values):
            path = f"{self._name(key)}[{index}]"
            if not isinstance(value, dict):
                raise ConfigError(f"{self.file}: {path} must be a table; write [[{self._name(key)}]]")
            found.append(Table(self.file, value, path, self.warnings))
        return found

    def values(self, key: str) -> Mapping[str, Any]:
        """A table of free content that JSON can hold."""
        content: Mapping[str, Any] = self._typed(key, dict, {})
        for name, value in content.items():
            if not _is_json(value):
                raise ConfigError(f"{self.at(key)}.{name} holds a date or time; put it in quotes")
        return content

    def warn_unknown(self, known: Iterable[str]) -> None:
        """Warn of every key that nobody knows."""
        allowed = set(known)
        for key in self.content:
            if key not in allowed:
                self.warnings.append(f"{self.at(key)} is not known and has no effect")

    def _name(self, key: str) -> str:
        path = self._origins.get(key, self.path)
        return f"{path}.{key}" if path else key

    def _filled(self, key: str, value: str, hint: str) -> str:
        if not value:
            raise ConfigError(f"{self.at(key)} is empty; {hint}")
        return value

    def _typed(self, key: str, kind: type, default: Any, hint: str = "") -> Any:
        value = self.content.get(key, default)
        if value is _REQUIRED:
            raise ConfigError(f"{self.at(key)} is missing; {hint}")
        if value is not default and not isinstance(value, kind):
            what, advice = _KINDS[kind]
            raise ConfigError(f"{self.at(key)} must be {what}; {hint or advice}")
        return value


def read_table(file: Path) -> Table:
    """The whole of a file: JSON with comments when its name says so, else TOML."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; name a wrangler.toml with --config, or a handler file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not text in UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); name a readable file with --config") from error
    try:
        content = _json(text) if file.suffix in (".json", ".jsonc") else tomllib.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}, line {error.lineno}: not JSON ({error.msg}); correct that line") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML ({_problem(error)}); correct that place") from None
    except RecursionError:
        raise ConfigError(f"{file} is nested too deeply; flatten its tables") from None
    if not isinstance(content, dict):
        raise ConfigError(f'{file}: the top level must be an object; begin with {{ "name": ... }}')
    return Table(file, content)


def _json(text: str) -> Any:
    """JSON whose comments and trailing commas are blanked out; lines keep their numbers."""
    bare = _COMMENT_OR_STRING.sub(lambda found: found[1] or re.sub(r"[^\n]", " ", found[0]), text)
    return json.loads(_TRAILING_COMMA.sub(lambda found: found[1] or " ", bare))


def _problem(error: tomllib.TOMLDecodeError) -> str:
    """What the parser says, as part of a sentence."""
    text = str(error)
    return text[:1].lower() + text[1:].replace(" (", " ").replace(")", "")


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_json, value.values()))
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | int | float)
