"""Reading ``.dev.vars``: the dotenv format, as wrangler reads it."""

from __future__ import annotations

import re

from .errors import ConfigError

_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([\w.-]+)[ \t]*(?:=|:(?=[ \t]))[ \t]*")
_COMMENT = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_PLAIN = re.compile(r"[^#\n]*")
_QUOTES = "'\"`"


def parse_dotenv(text: str, where: str) -> dict[str, str]:
    """Names and values. A later line of the same name wins.

    A value may stand in single, double or back quotes and then hold line breaks and ``#``; double quotes also know
    ``\\n`` and ``\\r``. ``ConfigError`` names ``where`` and the line, never its text, because that is a secret.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    values: dict[str, str] = {}
    at = 0
    while at < len(text):
        blank = _COMMENT.match(text, at)
        if blank is None:
            name, value, at = _assignment(text, at, where)
            values[name] = value
        else:
            at = max(blank.end(), at + 1)
    return values


def _assignment(text: str, at: int, where: str) -> tuple[str, str, int]:
    """The assignment that begins at ``at``, and where the next line begins."""
    line = text.count("\n", 0, at) + 1
    found = _NAME.match(text, at)
    if found is None:
        raise ConfigError(f"{where}, line {line}: expected NAME=value; correct that line or comment it out with #")
    start = found.end()
    quote = text[start : start + 1]
    if quote and quote in _QUOTES:
        value, start = _quoted(text, start, f"{where}, line {line}")
    else:
        plain = _PLAIN.match(text, start)
        assert plain is not None  # it matches nothing, too
        value, start = plain[0].strip(), plain.end()
    rest = _COMMENT.match(text, start)
    if rest is None:
        raise ConfigError(
            f"{where}, line {line}: text follows the closing quote of {found[1]}; remove it or start it with #"
        )
    return found[1], value, rest.end()


def _quoted(text: str, start: int, where: str) -> tuple[str, int]:
    quote = text[start]
    end = start + 1
    while text[end : end + 1] != quote:
        if end >= len(text):
            raise ConfigError(f"{where}: the closing {quote} is missing; add it at the end of the value")
        # An escaped quote does not end the value; the backslash stays, as in dotenv.
        end += 2 if text.startswith("\\" + quote, end) else 1
    value = text[start + 1 : end]
    if quote == '"':
        value = value.replace("\\n", "\n").replace("\\r", "\r")
    return value, end + 1
