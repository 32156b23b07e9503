"""What the provider saw: the requests it received and the connections they came on."""

import base64
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from tests.provider.wire import Wire

_MAX_REQUESTS = 1_000
_MAX_CLOSED = 10_000
_MAX_BODY = 64 * 1024


@dataclass(slots=True)
class Received:
    """One request as it came in; `body` stays None when it is larger than 64 KB."""

    wire: Wire
    number: int
    connection: int
    at: float
    line: str
    headers: list[tuple[str, str]]
    head: bytes
    length: int = 0
    sha256: str = ""
    body: bytes | None = None
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False
    answered: bool = False
    _before: int = 0
    _after: int | None = None

    @property
    def answered_bytes(self) -> int:
        """Given to the kernel so far (64 KB of them may still wait in front of it)."""
        return (self.wire.bytes_out if self._after is None else self._after) - self._before

    def answering(self) -> None:
        self._before = self.wire.bytes_out

    def done(self) -> None:
        self._after = self.wire.bytes_out

    def as_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "connection": self.connection,
            "at": self.at,
            "line": self.line,
            "headers": self.headers,
            "head": base64.b64encode(self.head).decode(),
            "body_length": self.length,
            "body_sha256": self.sha256,
            "body": None if self.body is None else base64.b64encode(self.body).decode(),
            "trailers": self.trailers,
            "complete": self.complete,
            "answered_bytes": self.answered_bytes,
            "answered": self.answered,
        }


@dataclass(slots=True)
class Link:
    """One data-plane connection; a control-plane one is dropped from the record at its first request."""

    number: int
    wire: Wire
    opened: float
    requests: int = 0

    def as_json(self) -> dict[str, Any]:
        seen: dict[str, Any] = {"id": self.number, "opened": self.opened, "requests": self.requests}
        if self.wire.how is not None:
            seen |= {"closed": self.wire.closed_at, "how": self.wire.how}
        return seen


class Records:
    def __init__(self) -> None:
        self._requests: deque[Received] = deque(maxlen=_MAX_REQUESTS)
        self._open: dict[Wire, Link] = {}
        self._closed: deque[Link] = deque(maxlen=_MAX_CLOSED)
        self._connections = 0
        self._received = 0

    def opened(self, wire: Wire) -> None:
        self._connections += 1
        self._open[wire] = Link(self._connections, wire, time.monotonic())

    def closed(self, wire: Wire) -> None:
        if (link := self._open.pop(wire, None)) is not None:
            self._closed.append(link)

    def is_control(self, wire: Wire) -> None:
        self._open.pop(wire, None)

    def received(self, wire: Wire, line: str, headers: list[tuple[str, str]], head: bytes) -> Received:
        link = self._open.get(wire)
        if link is not None:
            link.requests += 1
        self._received += 1
        number = 0 if link is None else link.number
        request = Received(wire, self._received, number, time.monotonic(), line, headers, head)
        self._requests.append(request)
        return request

    def keep_body(self, request: Received, body: bytes, sha256: str, length: int) -> None:
        request.sha256, request.length = sha256, length
        request.body = body if length <= _MAX_BODY else None

    def requests(self) -> list[dict[str, Any]]:
        return [request.as_json() for request in self._requests]

    def connections(self) -> dict[str, Any]:
        return {
            "now": time.monotonic(),
            "open": [link.as_json() for link in self._open.values()],
            "closed": [link.as_json() for link in self._closed],
        }

    def reset(self) -> None:
        self._requests.clear()
        self._closed.clear()
