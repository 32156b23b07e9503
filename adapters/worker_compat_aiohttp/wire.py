"""HTTP/1.1 heads as bytes: what this adapter writes itself, and what it refuses to write."""

from __future__ import annotations

import re
from http import HTTPStatus

from worker_compat.headers import RawHeaders

CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
BODILESS = frozenset((204, 304))
"""Final statuses whose messages end with their head (RFC 9112, 6.3). A 205 is framed like any other."""

# Framing belongs to one connection: whoever writes a head decides it anew.
_FRAMING = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
_PASS, _DROP, _LENGTH = range(3)
_MAX_MEMO = 4096
_UNSAFE_START = re.compile(r"[\r\n\0]")
_UNSAFE_TARGET = re.compile(r"[\x00-\x20\x7f]")
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class _Kinds(dict[bytes, int]):
    """What becomes of a header, by its spelling; decided once for each."""

    def __init__(self, dropped: frozenset[bytes]) -> None:
        self._dropped = dropped

    def __missing__(self, name: bytes) -> int:
        key = name.lower()
        kind = _LENGTH if key == b"content-length" else _DROP if key in self._dropped else _PASS
        if len(self) >= _MAX_MEMO:
            self.clear()
        self[name] = kind
        return kind


_REQUEST = _Kinds(_FRAMING | {b"host"})
_RESPONSE = _Kinds(_FRAMING)


class UnsafeHead(ValueError):
    """A header or target would break the message apart (CR, LF, NUL or a space where none may stand)."""


def request_head(method: str, target: str, host: bytes, headers: RawHeaders, length: int | None) -> bytes:
    """The head of a request; ``length`` is that of the body: None no body, -1 unknown (chunked)."""
    if _UNSAFE_TARGET.search(target):
        raise UnsafeHead("the request target contains a space or control character")
    start = f"{method} {target} HTTP/1.1\r\nHost: ".encode("utf-8", "surrogateescape")
    return b"%b%b\r\n%b\r\n" % (start, host, _lines(headers, _REQUEST, length))


def response_head(
    status: int, reason: str | None, headers: RawHeaders, length: int | None, *, keep_length: bool, extra: bytes
) -> bytes:
    """The head of a response; ``extra`` is the connection line, ``reason`` None the usual one of the status.

    ``length``: None no framing line at all, -1 unknown (chunked), else the body's size. ``keep_length``:
    leave a Content-Length as it is, for answers to HEAD and statuses that have no body.
    """
    if reason is None:
        reason = _REASONS.get(status, "")
    if _UNSAFE_START.search(reason):
        raise UnsafeHead("the status text contains CR, LF or NUL")
    start = f"HTTP/1.1 {status} {reason}\r\n".encode("utf-8", "surrogateescape")
    lines = _kept_lines(headers) if keep_length else _lines(headers, _RESPONSE, length)
    return b"%b%b%b\r\n" % (start, lines, extra)


def informational_head(status: int, status_text: str, headers: RawHeaders) -> bytes:
    """A 1xx response."""
    start = f"HTTP/1.1 {status} {status_text or _REASONS.get(status, '')}\r\n"
    return b"%b%b\r\n" % (start.encode("utf-8", "surrogateescape"), _kept_lines(headers))


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


# Header lines come from a parser that refuses CR, LF and NUL, or from Headers, which does: they are not searched again.
def _lines(headers: RawHeaders, kinds: _Kinds, length: int | None) -> bytes:
    """Header lines with the body's framing; a right Content-Length stays where and as it stands."""
    declared = b"" if length is None or length == -1 else b"%d" % length
    framed = length is None
    written = []
    for line in headers:
        kind = kinds[line[0]]
        if kind:
            if kind == _DROP or framed or line[1] != declared:
                continue
            framed = True
        written.append(b": ".join(line))
    if not framed:
        written.append(b"Transfer-Encoding: chunked" if length == -1 else b"Content-Length: " + declared)
    written.append(b"")
    return b"\r\n".join(written)


def _kept_lines(headers: RawHeaders) -> bytes:
    return b"".join([b"%b: %b\r\n" % line for line in headers if _RESPONSE[line[0]] != _DROP])
