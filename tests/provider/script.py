"""What one request asks of the provider beyond its usual answer: the JSON object in `x-script`."""

import base64
import binascii
import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

HeaderPairs = tuple[tuple[str, str], ...]


class BadScriptError(ValueError):
    """The x-script is not a JSON object of known keys: a mistake in the test, answered with a plain 500."""


@dataclass(frozen=True, slots=True)
class Script:
    """Every key `x-script` may have. Byte counts count from 0; times are in seconds."""

    status: int = 200
    """>= 400: the provider's own error document and headers for that status."""
    retry_after: float | None = None
    """Value of `retry-after` on an error (429, 503 and 529 send 1 without it)."""
    text: str | None = None
    """What the model says, instead of the usual text."""
    thinking: str | None = None
    """What the model thinks, whether or not the request enabled thinking."""
    events: int | None = None
    """Number of text deltas of a stream (and of words of a plain answer)."""
    huge: int | None = None
    """Exact size of a plain answer's body; about the size of a stream's."""
    error_event: bool = False
    """A stream breaks off with the provider's own error event after two text deltas."""

    delay: float = 0.0
    """Before the first byte of the answer (103 excepted)."""
    event_delay: float = 0.0
    """Between two SSE events."""
    drip: tuple[int, float] | None = None
    """[n, s]: the whole response leaves n bytes at a time, s seconds apart."""
    cut: int | None = None
    """Close after byte k of the whole response, heads and framing included."""
    cut_with: Literal["fin", "rst"] = "fin"
    """How `cut` closes (and `raw`)."""
    silence: int | Literal["head"] | None = None
    """"head": never answer; k: stop after k payload bytes of the body; both hold until the peer leaves."""

    chunked: bool | None = None
    """Force chunked or Content-Length framing (a stream is chunked, a document has a length)."""
    until_close: bool = False
    """Neither: the body ends where the connection does."""
    encoding: Literal["gzip", "br", "deflate"] | None = None
    """Compress the body and say so; a stream is flushed after every event."""
    headers: HeaderPairs = ()
    """Appended to the head as they are (latin-1), repeats included."""
    trailers: HeaderPairs = ()
    """After the last chunk; makes the answer chunked."""
    early_hints: bool = False
    """A 103 before everything else."""
    keep_alive: bool | None = None
    """False: `Connection: close` and close; true: stay open after `raw`."""
    raw: bytes | None = None
    """base64 of the exact response bytes; nothing is added, then the connection is closed."""

    early: bool = False
    """Answer right after the request's head, without reading its body (then close)."""
    read: int | None = None
    """Read at most k payload bytes of the request's body, then no more; never answer."""


_CHOICES: dict[str, tuple[object, ...]] = {
    "cut_with": ("fin", "rst"),
    "encoding": ("gzip", "br", "deflate"),
}


def parse(text: str) -> Script:
    """Raises BadScriptError, so that a typo in a test fails loudly instead of testing nothing."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise BadScriptError(f"not JSON: {error}") from error
    if not isinstance(given, dict):
        raise BadScriptError("not a JSON object")
    return _build(given)


def _build(given: dict[str, Any]) -> Script:
    known = {field.name for field in dataclasses.fields(Script)}
    if unknown := sorted(set(given) - known):
        raise BadScriptError(f"unknown keys {unknown}")
    for name, choices in _CHOICES.items():
        if name in given and given[name] not in choices:
            raise BadScriptError(f"{name} must be one of {choices}")
    values = dict(given)
    try:
        for name in ("headers", "trailers"):
            if name in values:
                values[name] = tuple((str(field), str(value)) for field, value in values[name])
        if "drip" in values:
            values["drip"] = (int(values["drip"][0]), float(values["drip"][1]))
        if "raw" in values:
            values["raw"] = base64.b64decode(values["raw"], validate=True)
    except (TypeError, ValueError, IndexError, binascii.Error) as error:
        raise BadScriptError(f"malformed value: {error}") from error
    return Script(**values)
