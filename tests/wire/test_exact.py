"""Whatever goes in comes out: 2,000 generated requests and answers, compared byte by byte."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import brotli
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scale import figure, scaled

from .raw import Message, Pairs, RawClient, answer
from .stack import Stack, open_stack

_TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Single by definition, or the relay's own business: not generated, tested one by one elsewhere.
_NOT_GENERATED = frozenset(
    """host content-length transfer-encoding connection keep-alive te trailer upgrade expect content-type user-agent
    etag authorization x-api-key origin content-encoding sec-websocket-key1 content-location age date location
    max-forwards server referer last-modified retry-after if-match if-none-match if-range if-modified-since if-
    unmodified-since from proxy-authorization content-range content-disposition access-control-allow-origin
    request-id x-request-id www-authenticate proxy-authenticate range vary set-cookie cookie""".split()
)
_OURS = ("x-smoltbot-", "x-aip-", "x-mnemom-", "proxy-", "cf-aig-", "access-control-")
_EXAMPLES = scaled(2_000, 20_000)
_OWN_LINES = (
    b"x-smoltbot-agent", b"x-smoltbot-session", b"x-smoltbot-request-id", b"X-AIP-Verdict", b"X-AIP-Reason",
    b"X-AIP-Checkpoint-Id", b"X-AIP-Certificate-Id", b"X-AIP-Chain-Hash",
)  # fmt: skip

_names = st.text(_TOKEN, min_size=1, max_size=24).filter(
    lambda name: name.lower() not in _NOT_GENERATED and not name.lower().startswith(_OURS)
)
_value_bytes = st.binary(max_size=60).map(
    lambda raw: bytes(b for b in raw if b == 9 or 32 <= b <= 126 or b >= 128).strip(b" \t")
)


@st.composite
def _headers(draw: st.DrawFn, most: int) -> Pairs:
    pairs: Pairs = []
    for name in draw(st.lists(_names, max_size=most)):
        spellings = draw(st.lists(st.sampled_from([name, name.lower(), name.upper()]), min_size=1, max_size=3))
        pairs += [(spelling.encode(), draw(_value_bytes)) for spelling in spellings]
    for _ in range(draw(st.integers(0, 2))):
        pairs.append((draw(st.sampled_from([b"Set-Cookie", b"set-cookie"])), b"a=1; Expires=Wed, 21 Oct 2026"))
    return list(draw(st.permutations(pairs)))[:most]


_json_oddities = st.sampled_from(
    [
        b'{"a":1.0,"b":1e400,"a":2,"c":-0}',
        b'{ "z" : 1 , "a" : 0.10000000000000000555 }\r\n',
        b'{"n":123456789012345678901234567890}',
        '{"t":"\\ud800 ü \u2028"}'.encode(),
        b'{"t":"\xff\xfe"}',
        b"\xef\xbb\xbf{}",
        b"[" * 500 + b"]" * 500,
        b'data: {"x":1}\n\nevent: ping\r\ndata: {}\r\n\r\n: comment\n\n',
    ]
)
_bodies = st.one_of(
    st.just(b""),
    _json_oddities,
    _json_oddities.map(gzip.compress),
    _json_oddities.map(brotli.compress),
    st.binary(max_size=400),
    st.integers(60_000, 300_000).map(lambda size: bytes(range(256)) * (size // 256)),
)
_targets = st.one_of(
    st.sampled_from(
        ["/", "/v1/messages", "//v1//messages", "/v1/models/a%2Fb:generateContent", "/?", "/a?", "/%2e%2e/x", "/a/../b"]
    ),
    st.text("abc/%2F:;@!$&'()*+,=-._~?[]|\"<>^`{}\\", max_size=40).map(lambda text: "/" + text),
)
_framings = st.sampled_from(["length", "chunked"])


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, str, Pairs, bytes | None, str]:
    method, target = (
        draw(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "PROPFIND"])),
        draw(_targets),
    )
    if draw(st.booleans()):  # a generation, whose answer is held for its check, or followed to its end
        method, target = "POST", "/v1/messages"
    body = draw(st.one_of(st.none(), _bodies)) if method not in ("HEAD",) else None
    return method, target, draw(_headers(100)), body, draw(_framings)


@st.composite
def _responses(draw: st.DrawFn) -> tuple[int, bytes, Pairs, bytes, str]:
    status = draw(st.sampled_from([200, 201, 205, 206, 204, 299, 304, 400, 404, 418, 429, 500, 529, 599]))
    reason = draw(st.sampled_from([b"OK", b"", b"Odd  Reason", "é".encode("latin-1"), b"Too Many"]))
    content_type = draw(st.sampled_from([[], [(b"Content-Type", b"text/event-stream")]]))
    headers = content_type + draw(_headers(60))
    return status, reason, headers, draw(_bodies), draw(st.sampled_from(["length", "chunked", "close"]))


def _wire(start: bytes, headers: Pairs, body: bytes | None, framing: str) -> bytes:
    lines = [b"%b: %b\r\n" % pair for pair in headers]
    if body is not None and framing == "length":
        # In the middle, to see that it stays where it was.
        lines.insert(len(lines) // 2, b"Content-Length: %d\r\n" % len(body))
    if body is not None and framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked\r\n")
        pieces = [body[at : at + 7919] for at in range(0, len(body), 7919)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return start + b"\r\n" + b"".join(lines) + b"\r\n" + (body or b"")


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def stack(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("exact")
    exits = AsyncExitStack()
    yield runner.run(exits.enter_async_context(open_stack(folder)))
    runner.run(exits.aclose())


@pytest.mark.proof
def test_every_byte_of_requests_and_answers_passes(runner: asyncio.Runner, stack: Stack) -> None:
    @settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(request=_requests(), response=_responses())
    def property_holds(
        request: tuple[str, str, Pairs, bytes | None, str], response: tuple[int, bytes, Pairs, bytes, str]
    ) -> None:
        runner.run(_check(stack, request, response))

    property_holds()
    figure("generated requests and answers without a byte of difference", str(_EXAMPLES))


async def _check(
    stack: Stack, request: tuple[str, str, Pairs, bytes | None, str], response: tuple[int, bytes, Pairs, bytes, str]
) -> None:
    method, target, headers, body, framing = request
    status, reason, answer_headers, answer_body, answer_framing = response
    bodiless = status in (204, 304) or method == "HEAD"
    start = b"HTTP/1.1 %d %b" % (status, reason)
    stack.upstream.requests.clear()
    stack.upstream.respond = answer(
        _wire(start, answer_headers, None if bodiless else answer_body, answer_framing),
        close=answer_framing == "close",
    )
    given_headers = [(b"Host", b"gateway.test"), (b"x-api-key", b"sk-ant-x"), *headers]
    async with asyncio.timeout(20), await RawClient.connect(stack.port) as client:
        got = await client.request(
            _wire(f"{method} /anthropic{target} HTTP/1.1".encode(), given_headers, body, framing), method
        )
    [seen] = stack.upstream.requests
    _compare_request(stack, seen, request)
    _compare_verdict(got, is_due=(method, target) == ("POST", "/v1/messages") and status < 300)
    assert got.start == start
    assert got.body == (b"" if bodiless else answer_body)
    theirs = [pair for pair in got.headers if pair[0] not in _OWN_LINES and pair[0].lower() not in _FRAMING]
    assert theirs == answer_headers
    if not bodiless:
        expected = {b"content-length": b"%d" % len(answer_body)} if answer_framing == "length" else {}
        assert got.get(b"content-length") == expected.get(b"content-length")


_FRAMING = (b"content-length", b"transfer-encoding", b"connection")


def _compare_request(stack: Stack, seen: Message, request: tuple[str, str, Pairs, bytes | None, str]) -> None:
    method, target, headers, body, framing = request
    assert seen.start == f"{method} {target} HTTP/1.1".encode()
    assert seen.headers[0] == (b"Host", stack.upstream.url.removeprefix("http://").encode())
    expected = _wire(b"", [(b"x-api-key", b"sk-ant-x"), *headers], body, framing)
    lines = expected.split(b"\r\n\r\n", 1)[0].split(b"\r\n")[1:]
    assert [b"%b: %b" % pair for pair in seen.headers[1:] if pair[0] != b"Transfer-Encoding"] == [
        line for line in lines if not line.startswith(b"Transfer-Encoding:") and not line.startswith(b"Content-Length:")
    ] or _same_with_length(seen, headers, body)
    assert seen.body == (body or b"")
    assert (seen.get(b"transfer-encoding") is not None) == (body is not None and framing == "chunked")


def _compare_verdict(got: Message, *, is_due: bool) -> None:
    # What is known to be empty has no end that could wait for its record: it is checked at once.
    empty = got.status == 204 or got.get(b"content-length") == b"0"
    streams = got.get(b"content-type") == b"text/event-stream" and not empty
    assert (got.get(b"x-aip-verdict") == b"pending") == (is_due and streams)
    assert (got.get(b"x-aip-checkpoint-id") is not None) == (is_due and not streams)


def _same_with_length(seen: Message, headers: Pairs, body: bytes | None) -> bool:
    length = [(b"Content-Length", b"%d" % len(body or b""))]
    full = [(b"x-api-key", b"sk-ant-x"), *headers]
    with_host = [(b"Host", b""), *full]
    at = len(with_host) // 2 - 1
    return seen.headers[1:] == full[:at] + length + full[at:]


async def test_five_megabytes_each_way(tmp_path: Path) -> None:
    body = bytes(range(256)) * 20_480
    async with open_stack(tmp_path) as stack:
        stack.upstream.respond = answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        async with await RawClient.connect(stack.port) as client:
            head = b"POST /openai/v1/files HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer k\r\nContent-Length: %d\r\n\r\n"
            got = await client.request(head % len(body) + body, "POST")
        assert got.body == body
        assert stack.upstream.requests[0].body == body
