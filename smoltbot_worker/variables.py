"""How the text of a variable is read, and what is said of one that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import field
from typing import Any
from urllib.parse import urlsplit


class EnvValidationError(Exception):
    """The environment is incomplete or wrong; the text lists every problem at once."""

    def __init__(self, missing: list[str], invalid: list[str]) -> None:
        lines = []
        if missing:
            lines += ["Missing required environment variables:", *(f"  {line}" for line in missing)]
        if invalid:
            lines += ["Invalid environment variables:", *(f"  {line}" for line in invalid)]
        lines.append("Set them in .env or in the deployment's configuration; docs/configuration.md explains each.")
        super().__init__("\n".join(lines))
        self.missing = missing
        self.invalid = invalid


Parse = Callable[[str], Any]

_HEX = frozenset("0123456789abcdefABCDEF")


def whole(low: int, high: int) -> Parse:
    """A whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20) or not low <= int(text) <= high:
            raise ValueError(f"is not a whole number from {low} to {high}")
        return int(text)

    return parse


def seconds(text: str) -> float:
    """Seconds, up to a day."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 86_400:
        raise ValueError("is not a number of seconds between 0 and 86400")
    return value


def choice(*allowed: str) -> Parse:
    """One of these words, in lower case."""

    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"is not one of {', '.join(allowed)}")
        return text.lower()

    return parse


def flag(text: str) -> bool:
    """``true`` or ``false``."""
    if text.lower() not in ("true", "false"):
        raise ValueError("is not true or false")
    return text.lower() == "true"


def base_url(text: str) -> str:
    """An http or https URL without user, query, fragment and a slash at its end."""
    try:
        parts = urlsplit(text)
        port_ok = parts.port is None or 0 < parts.port < 65_536
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok:
        raise ValueError("is not an http:// or https:// URL with a host")
    if parts.query or parts.fragment or parts.username or parts.password or any(c <= " " for c in text):
        raise ValueError("must be a base URL without user, query or fragment")
    return text.rstrip("/")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def card(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        card = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(card, dict):
        raise ValueError("is not a JSON object")
    return card


def origins(text: str) -> tuple[str, ...]:
    """Origins separated by commas, or ``*`` alone."""
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    if "*" in origins and len(origins) > 1:
        raise ValueError("has `*` beside other origins; `*` alone allows every origin")
    return origins


def json_file(text: str) -> str:
    """The path of a JSON file."""
    try:
        with open(text, "rb") as file:  # noqa: PTH123 - pathlib costs an import at start
            json.loads(file.read(), parse_constant=_no_constant)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise ValueError("is not a JSON file") from None
    return text


def hex_key(text: str) -> str:
    """32 bytes as 64 hex digits."""
    if len(text) != 64 or not _HEX.issuperset(text):
        raise ValueError("is not 64 hex digits, the 32 bytes of a key")
    return text.lower()


def token(text: str) -> str:
    """Text that a header can carry."""
    if not all("!" <= char <= "~" for char in text):
        raise ValueError("has a character other than visible ASCII, which no header can carry")
    return text


def tokens(text: str) -> tuple[str, ...]:
    """One token, or two separated by a comma."""
    tokens = tuple(part.strip() for part in text.split(","))
    if len(tokens) > 2 or not all(tokens):
        raise ValueError("is not one value, or two separated by a comma")
    return tuple(map(token, tokens))


def setting(default: Any, doc: str, parse: Parse = str, *, shown: str | None = None, secret: bool = False) -> Any:
    """A field that is read from the variable of its name in upper case. ``shown`` is the default in the docs.

    What is ``secret`` is in no repr and no error.
    """
    return field(
        default=default, repr=not secret, metadata={"doc": doc, "parse": parse, "shown": shown, "secret": secret}
    )


def url_or_off(text: str) -> str:
    """A URL as in :func:`base_url`, or ``off``."""
    return "off" if text.lower() == "off" else base_url(text)


def shown(text: str) -> str:
    """A refused text for an error message; not a URL, which may hold a password or a key."""
    return "" if "://" in text else f"{text[:60]!r} "
