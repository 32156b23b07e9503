"""What a provider answers, before it is framed: status, headers, and the body's pieces."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

# In the place of a `huge` document's text; it becomes as many x as the body still needs.
FILLER = "@@FILLER@@"

_PIECE = 1 << 16


@dataclass(slots=True)
class Answer:
    """A document when `length` is known; a stream, one piece per event, when it is None."""

    status: int
    content_type: str
    headers: list[tuple[str, str]]
    pieces: Iterable[bytes]
    length: int | None = None
    extra: list[tuple[str, str]] = field(default_factory=list)


def document(
    status: int,
    headers: list[tuple[str, str]],
    value: Any,
    *,
    huge: int | None = None,
    content_type: str = "application/json",
    indent: int | None = None,
) -> Answer:
    """A JSON answer; with `huge` its body is exactly that long, provided that its text is FILLER."""
    separators = (",", ":") if indent is None else None
    body = json.dumps(value, ensure_ascii=False, separators=separators, indent=indent).encode()
    before, mark, after = body.partition(FILLER.encode())
    if huge is None or not mark:
        return Answer(status, content_type, headers, [body], len(body))
    filling = max(0, huge - len(before) - len(after))
    return Answer(
        status,
        content_type,
        headers,
        _filled(before, filling, after),
        len(before) + filling + len(after),
    )


def _filled(before: bytes, count: int, after: bytes) -> Iterator[bytes]:
    yield before
    block = b"x" * _PIECE
    for start in range(0, count, _PIECE):
        yield block[: min(_PIECE, count - start)]
    yield after


def stream(headers: list[tuple[str, str]], events: Iterable[bytes], status: int = 200) -> Answer:
    return Answer(status, "text/event-stream; charset=utf-8", headers, events)


def sse(value: Any, event: str | None = None, end: str = "\n\n") -> bytes:
    """One server-sent event as the providers write it: raw UTF-8, compact JSON, one data line."""
    data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    name = "" if event is None else f"event: {event}\n"
    return f"{name}data: {data}{end}".encode()
