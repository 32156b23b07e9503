"""Requests with two readings: a hundred ways to say one thing to a proxy and another to the server behind it.

Each payload ends in a second request for ``/anthropic/smuggled``. ``accepted`` is how many requests a strict server
sees in it: 0 where it must be refused, 1 or 2 where there is exactly one reading.
"""

# ruff: noqa: E501 - a payload is one line, as on the wire
from __future__ import annotations

from dataclasses import dataclass

_START = b"POST /anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n"
_SMUGGLED = b"GET /anthropic/smuggled HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n\r\n"
_EMPTY_CHUNKS = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes to send on a fresh connection, and how many requests they are."""

    name: str
    data: bytes
    accepted: int


def _both_framings() -> list[Payload]:
    """CL.TE and TE.CL, in either order and in every disguise of the coding."""
    codings = [
        b"Transfer-Encoding: chunked",
        b"transfer-encoding: chunked",
        b"Transfer-Encoding: Chunked",
        b"Transfer-Encoding:chunked",
        b"Transfer-Encoding:\tchunked",
        b"Transfer-Encoding: chunked ",
        b"Transfer-Encoding: chunked\t",
        b"Transfer-Encoding: identity, chunked",
        b"Transfer-Encoding: gzip, chunked",
    ]
    payloads = []
    for number, coding in enumerate(codings):
        for order, lines in (("CL.TE", (b"Content-Length: 6", coding)), ("TE.CL", (coding, b"Content-Length: 6"))):
            head = _START + b"\r\n".join(lines) + b"\r\n\r\n"
            payloads.append(Payload(f"{order}-{number}", head + _EMPTY_CHUNKS + b"G" + _SMUGGLED, 0))
    return payloads


def _codings() -> list[Payload]:
    """TE.TE: codings that one side understands and the other does not."""
    refused = [
        b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity",
        b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: \"chunked\"", b"Transfer-Encoding: chunked;q=1",
        b"Transfer-Encoding: chunk", b"Transfer-Encoding: chunked\x0c", b"Transfer-Encoding: cow",
        b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked", b" Transfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"Transfer-Encoding\r\n: chunked",
        b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked", b"Transfer-Encoding:\r\n chunked",
        b"X: x\nTransfer-Encoding: chunked", b"X: x\rTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\x00",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: \xe2\x80\x8bchunked",
        b"Transfer-Encoding: ,chunked", b"Transfer-Encoding: chunked,", b"Transfer-Encoding:",
    ]  # fmt: skip
    payloads = [
        Payload(f"TE-{number}", _START + line + b"\r\n\r\n" + _EMPTY_CHUNKS + _SMUGGLED, 0)
        for number, line in enumerate(refused)
    ]
    # One framing only, but not a name for chunked: the body is what Content-Length says.
    for number, line in enumerate((b"Transfer_Encoding: chunked", b"X-Transfer-Encoding: chunked", b"TE: chunked")):
        body = _EMPTY_CHUNKS + _SMUGGLED
        head = _START + line + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
        payloads.append(Payload(f"not-TE-{number}", head + body, 1))
    return payloads


def _lengths() -> list[Payload]:
    values = [b"+3", b"-3", b"0x3", b"3 3", b"3,3", b"3, 3", b"3;", b"3.0", b"", b"\xd9\xa3", b"1e1", b"3\x00", b"3\x0b",
              b"99999999999999999999", b"3\r\nContent-Length: 4", b"3\r\nContent-Length: 3", b"4\r\nContent-Length : 3"]  # fmt: skip
    return [
        Payload(f"CL-{number}", _START + b"Content-Length: " + value + b"\r\n\r\nabc" + _SMUGGLED, 0)
        for number, value in enumerate(values)
    ]


def _chunks() -> list[Payload]:
    head = _START + b"Transfer-Encoding: chunked\r\n\r\n"
    refused = [
        b"3\nabc\r\n0\r\n\r\n", b"3\r\nabc\n0\r\n\r\n", b"3 \r\nabc\r\n0\r\n\r\n", b" 3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n", b"+3\r\nabc\r\n0\r\n\r\n", b"-3\r\nabc\r\n0\r\n\r\n", b"3\rabc\r\n0\r\n\r\n",
        b"3;a\nb\r\nabc\r\n0\r\n\r\n", b"3;a\x00b\r\nabc\r\n0\r\n\r\n", b"2\r\nabc\r\n0\r\n\r\n", b"g\r\nabc\r\n0\r\n\r\n",
        b"\r\nabc\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n", b"3\r\r\nabc\r\n0\r\n\r\n", b"3\r\nabcX0\r\n\r\n",
        b"3\r\nabc\r\n0\n\n", b"3_0\r\nabc\r\n0\r\n\r\n",
    ]  # fmt: skip
    return [Payload(f"chunk-{number}", head + body + _SMUGGLED, 0) for number, body in enumerate(refused)]


def _heads() -> list[Payload]:
    refused = [
        b"GET /anthropic/first HTTP/1.1\nHost: a\nx-api-key: k\n\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n X: folded\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n\tX: folded\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a\r\nHost: b\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a\r\nhost: a\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost : a\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a b\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a/b\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a@b\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n: empty\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\nno-colon\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\nX(Y): 1\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\nX: a\x00b\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\nX: a\x7fb\r\n\r\n",
        b"GET /anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\nX\xe9: 1\r\n\r\n",
        b"GET /anthropic/first HTTP/1.2\r\nHost: a\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/first HTTP/2.0\r\nHost: a\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/first HTTP/11\r\nHost: a\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/first http/1.1\r\nHost: a\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/first\r\nHost: a\r\nx-api-key: k\r\n\r\n",
        b"GET\t/anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/fi rst HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/first#x HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n\r\n",
        b"GET /anthropic/f\xe9rst HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n\r\n",
        b"GET anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n\r\n",
        b"get /anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n\r\n",
        b"GPOST /anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /anthropic/first HTTP/1.0\r\nx-api-key: k\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ]
    return [Payload(f"head-{number}", head + _SMUGGLED, 0) for number, head in enumerate(refused)]


def _clear() -> list[Payload]:
    """What looks odd and has one reading all the same."""
    return [
        Payload("two-in-a-row", _START + b"Content-Length: 3\r\n\r\nabc" + _SMUGGLED, 2),
        Payload("body-like-a-request", _START + b"Content-Length: %d\r\n\r\n" % len(_SMUGGLED) + _SMUGGLED, 1),
        Payload("absolute-form", b"GET http://other/anthropic/first HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n\r\n", 1),
        Payload("blank-lines-first", b"\r\n\r\n" + _START + b"\r\n", 1),
        Payload("after-close", _START + b"Connection: close\r\n\r\n" + _SMUGGLED, 0),
        Payload(
            "length-trailer",
            _START + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n" + _SMUGGLED,
            0,
        ),
        Payload("trailer", _START + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-T: 5\r\n\r\n" + _SMUGGLED, 1),
        Payload("chunk-extension", _START + b"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n", 1),
    ]


PAYLOADS = [*_both_framings(), *_codings(), *_lengths(), *_chunks(), *_heads(), *_clear()]
