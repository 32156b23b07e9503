"""Framing, hop-by-hop lines, the gateway's own lines, 1xx, and what belongs to one connection only."""

from __future__ import annotations

import asyncio

import pytest

from .raw import CutOff, Message, Pairs, RawClient, answer, read_body, read_head
from .stack import Stack


@pytest.fixture(params=[b"/v1/x", b"/v1/messages"], ids=["passed on", "checked"])
def post(request: pytest.FixtureRequest) -> bytes:
    """The beginning of a request whose answer passes as it comes, and of one whose answer is held for its check."""
    path: bytes = request.param
    return b"POST /anthropic" + path + b" HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n"


def _names(pairs: Pairs) -> list[bytes]:
    return [name for name, _ in pairs]


async def test_hop_by_hop_lines_of_a_request_stay_here(stack: Stack, post: bytes) -> None:
    async with await RawClient.connect(stack.port) as client:
        await client.request(
            post + b"Connection: keep-alive, X-Hop\r\nKeep-Alive: 5\r\nTE: trailers\r\nTrailer: x\r\nX-Hop: 1\r\n"
            b"Proxy-Authorization: Basic abc\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nX-Kept: 1\r\n"
            b"Content-Length: 0\r\n\r\n"
        )
    [seen] = stack.upstream.requests
    assert _names(seen.headers) == [b"Host", b"x-api-key", b"X-Kept", b"Content-Length"]


async def test_connection_cannot_name_the_key_or_the_framing_away(stack: Stack, post: bytes) -> None:
    async with await RawClient.connect(stack.port) as client:
        await client.request(post + b"Connection: x-api-key, content-length, host\r\nContent-Length: 3\r\n\r\nabc")
    [seen] = stack.upstream.requests
    assert _names(seen.headers) == [b"Host", b"x-api-key", b"Content-Length"]
    assert seen.body == b"abc"


async def test_hop_by_hop_lines_of_an_answer_stay_here(stack: Stack, post: bytes) -> None:
    stack.upstream.respond = answer(
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Proxy-Authenticate: Basic\r\nTrailer: x\r\nUpgrade: h2c\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok"
    )
    async with await RawClient.connect(stack.port) as client:
        got = await client.request(post + b"\r\n")
    assert _names(got.headers)[:2] == [b"X-Kept", b"Content-Length"]
    assert not {b"connection", b"x-hop", b"keep-alive", b"trailer", b"upgrade"} & {
        n.lower() for n in _names(got.headers)
    }


@pytest.mark.parametrize(
    "name", ["x-smoltbot-agent", "X-Smoltbot-Anything", "X-AIP-Verdict", "x-aip-proceed", "X-MNEMOM-x"]
)
async def test_a_spoofed_line_never_survives(stack: Stack, post: bytes, name: str) -> None:
    spoof = f"{name}: spoofed\r\n".encode()
    stack.upstream.respond = answer(b"HTTP/1.1 200 OK\r\n" + spoof + b"Content-Length: 2\r\n\r\nok")
    async with await RawClient.connect(stack.port) as client:
        got = await client.request(post + spoof + b"x-mnemom-api-key: mnm_1\r\ncf-aig-metadata: {}\r\n\r\n")
    assert b"spoofed" not in [value for _, value in got.headers]
    [seen] = stack.upstream.requests
    assert _names(seen.headers) == [b"Host", b"x-api-key"]


async def test_every_proxied_answer_says_who_and_what(stack: Stack) -> None:
    stack.upstream.respond = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    async with await RawClient.connect(stack.port) as client:
        got = await client.request(
            b"POST /anthropic/v1/messages HTTP/1.1\r\nHost: a\r\nx-api-key: sk-ant-example-000\r\n"
            b"Content-Length: 2\r\n\r\n{}"
        )
    assert got.get(b"x-smoltbot-agent") == b"smolt-9d08aa51"
    session = got.get(b"x-smoltbot-session")
    assert session is not None
    assert session.startswith(b"9d08aa51eb89d283-")
    assert (got.get(b"x-aip-verdict"), got.get(b"x-aip-reason")) == (b"skipped", b"no-thinking")
    for name, shape in ((b"x-aip-checkpoint-id", b"ic-"), (b"x-aip-certificate-id", b"cert-")):
        assert (got.get(name) or b"").startswith(shape)
    request_id = got.get(b"x-smoltbot-request-id")
    assert request_id is not None
    assert request_id[14:15] == b"7"


@pytest.mark.parametrize("body", [b"", b"3\r\nabc\r\n"])
async def test_a_trailer_of_a_request_does_not_become_a_header_of_the_next(
    stack: Stack, post: bytes, body: bytes
) -> None:
    """aiohttp's parser prepends it; behind a proxy that shares connections it would be another client's request."""
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\nx-smoltbot-agent: evil\r\n\r\n"
    following = b"POST /anthropic/second HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\nContent-Length: 0\r\n\r\n"
    async with await RawClient.connect(stack.port) as client:
        await client.request(chunked + following)
        assert await client.at_end()
    async with await RawClient.connect(stack.port) as client:
        await client.request(chunked)
        assert await client.at_end()
    async with await RawClient.connect(stack.port) as client:  # the end and the next request arrive together, later
        at = chunked.index(b"0\r\nx-smoltbot")
        await client.send(chunked[:at])
        await asyncio.sleep(0.05)
        await client.request(chunked[at:] + following)
        assert await client.at_end()
    assert [message.trailers for message in stack.upstream.requests] == [[], [], []]
    assert all(b"second" not in message.start for message in stack.upstream.requests)


async def test_a_chunked_request_without_trailers_keeps_the_connection(stack: Stack, post: bytes) -> None:
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with await RawClient.connect(stack.port) as client:
        for _ in range(3):
            assert (await client.request(chunked)).status == 200
        for byte in chunked:  # in as many pieces as there are bytes
            await client.send(bytes([byte]))
        assert (await client.response()).status == 200
        assert (await client.request(chunked)).status == 200
    assert [message.body for message in stack.upstream.requests] == [b"abc"] * 5


async def test_trailers_of_an_answer_are_dropped_and_the_next_answer_is_clean(stack: Stack, post: bytes) -> None:
    stack.upstream.respond = answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Late: 1\r\nX-Later: 2\r\n\r\n"
    )
    async with await RawClient.connect(stack.port) as client:
        for _ in range(3):
            got = await client.request(post + b"\r\n")
            assert (got.body, got.trailers) == (b"ok", [])
            assert not [name for name in _names(got.headers) if name.startswith(b"X-Late")]


async def test_expect_100_continue_waits_for_the_provider(stack: Stack, post: bytes) -> None:
    async with await RawClient.connect(stack.port) as client:
        await client.send(post + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        async with asyncio.timeout(3):
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.request(b"hello", "POST")).status == 200
    [seen] = stack.upstream.requests
    assert (seen.get(b"expect"), seen.body) == (b"100-continue", b"hello")


async def test_expect_is_answered_for_routes_of_our_own_too(stack: Stack) -> None:
    async with await RawClient.connect(stack.port) as client:
        got = await client.request(
            b"POST /nowhere HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
        assert got.status == 404
        assert got.get(b"connection") == b"close"


async def test_early_hints_pass(stack: Stack, post: bytes) -> None:
    stack.upstream.respond = answer(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    async with await RawClient.connect(stack.port) as client:
        got = await client.request(post + b"\r\n")
    assert [(hint.start, hint.headers) for hint in got.informational] == [
        (b"HTTP/1.1 103 Early Hints", [(b"Link", b"</a>; rel=preload")]),
        (b"HTTP/1.1 102 Processing", []),
    ]
    assert got.body == b"ok"


async def test_an_http_1_0_client_gets_a_body_until_close_and_no_1xx(stack: Stack) -> None:
    stack.upstream.respond = answer(
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    )
    async with await RawClient.connect(stack.port) as client:
        got = await client.request(b"GET /anthropic/x HTTP/1.0\r\nx-api-key: k\r\n\r\n")
        assert (got.informational, got.body, got.get(b"transfer-encoding")) == ([], b"ok", None)
        assert await client.at_end()


@pytest.mark.parametrize(
    "bad",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
async def test_an_answer_with_no_single_reading_is_502_or_framed_as_it_says(
    stack: Stack, post: bytes, bad: bytes
) -> None:
    stack.upstream.respond = answer(bad, close=True)
    async with await RawClient.connect(stack.port) as client:
        try:
            got = await client.request(post + b"\r\n")
        except CutOff:
            return
        if got.status == 502:
            assert got.body == b'{"error":"Upstream provider unavailable","type":"upstream_error"}'
        else:
            assert (got.status, got.body) == (204, b"")


async def test_a_line_break_inside_an_upstream_header_is_refused(stack: Stack, post: bytes) -> None:
    stack.upstream.respond = answer(b"HTTP/1.1 200 OK\r\nX-A: a\rX-AIP-Verdict: clear\r\nContent-Length: 2\r\n\r\nok")
    async with await RawClient.connect(stack.port) as client:
        got = await client.request(post + b"\r\n")
    assert (got.status, got.get(b"x-aip-verdict")) == (502, b"skipped")


async def test_a_large_head_from_the_provider_passes(stack: Stack, post: bytes) -> None:
    cookies = b"".join(b"Set-Cookie: c%d=1\r\n" % number for number in range(1000))
    stack.upstream.respond = answer(
        b"HTTP/1.1 200 OK\r\nX-Large: " + b"x" * 64_000 + b"\r\n" + cookies + b"Content-Length: 2\r\n\r\nok"
    )
    async with await RawClient.connect(stack.port) as client:
        got = await client.request(post + b"\r\n")
    assert len(got.all(b"set-cookie")) == 1000
    assert len(got.get(b"x-large") or b"") == 64_000


async def test_the_answer_may_come_before_the_request_is_complete(stack: Stack, post: bytes) -> None:
    early = asyncio.Event()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await early.wait()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    stack.wiring.env.upstream_anthropic_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with await RawClient.connect(stack.port) as client:
        got: Message = await client.request(post + b"Content-Length: 1000000\r\n\r\nbegin")
        assert (got.status, got.body) == (413, b"no")
        assert await client.at_end()
    early.set()
    server.close()


async def test_a_pooled_connection_that_died_is_replaced_where_a_second_send_does_no_harm(stack: Stack) -> None:
    """The provider closes after its first answer without saying so; the next request finds out only by writing."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answers in (True, False):
            message = await read_head(reader)
            await read_body(reader, message, until_close=False)
            seen.append(message)
            if not answers:
                break
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    seen: list[Message] = []
    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    stack.wiring.env.upstream_anthropic_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    get = b"GET /anthropic/v1/x HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\nContent-Length: 4\r\n\r\nbody"
    async with await RawClient.connect(stack.port) as client:
        assert (await client.request(get)).status == 200
        assert (await client.request(get)).status == 200  # sent twice: the first connection died unanswered
        assert [message.body for message in seen] == [b"body"] * 3
        seen.clear()
        assert (await client.request(get.replace(b"GET", b"POST"))).status == 502  # may have been done: not sent again
        assert len(seen) == 1
    server.close()


async def test_a_spoof_in_an_informational_answer_does_not_survive(stack: Stack, post: bytes) -> None:
    stack.upstream.respond = answer(
        b"HTTP/1.1 103 Early Hints\r\nX-AIP-Verdict: clear\r\nx-smoltbot-agent: evil\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nX-Policy-Verdict: pass\r\nContent-Length: 2\r\n\r\nok"
    )
    async with await RawClient.connect(stack.port) as client:
        got = await client.request(post + b"\r\n")
    assert [hint.headers for hint in got.informational] == [[(b"Link", b"</a>")]]
    assert got.get(b"x-policy-verdict") is None


async def test_informational_answers_have_an_end(stack: Stack, post: bytes) -> None:
    stack.upstream.respond = answer(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
    async with await RawClient.connect(stack.port) as client:
        got = await client.request(post + b"\r\n")
    assert (got.status, len(got.informational)) == (502, 32)


@pytest.mark.parametrize(
    "bad",
    [
        b"HTTP/1.1 000 X\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
async def test_an_answer_that_cannot_be_relayed_as_it_is_is_502(stack: Stack, post: bytes, bad: bytes) -> None:
    stack.upstream.respond = answer(bad, close=True)
    async with await RawClient.connect(stack.port) as client, asyncio.timeout(3):
        assert (await client.request(post + b"\r\n")).status == 502


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 2\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"]
)
async def test_a_205_is_framed_like_any_other(stack: Stack, post: bytes, framing: bytes) -> None:
    stack.upstream.respond = answer(b"HTTP/1.1 205 Reset Content\r\n" + framing)
    async with await RawClient.connect(stack.port) as client:
        for _ in range(2):
            got = await client.request(post + b"\r\n")
            assert (got.status, got.body) == (205, b"ok")


async def test_an_empty_reason_stays_empty(stack: Stack, post: bytes) -> None:
    stack.upstream.respond = answer(b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n")
    async with await RawClient.connect(stack.port) as client:
        assert (await client.request(post + b"\r\n")).start == b"HTTP/1.1 404 "
        assert (await client.request(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")).start == b"HTTP/1.1 404 Not Found"


async def test_connection_cannot_name_the_content_away(stack: Stack, post: bytes) -> None:
    stack.upstream.respond = answer(
        b"HTTP/1.1 200 OK\r\nConnection: content-type, content-encoding\r\nContent-Type: a/b\r\n"
        b"Content-Encoding: x\r\nContent-Length: 2\r\n\r\nok"
    )
    async with await RawClient.connect(stack.port) as client:
        got = await client.request(post + b"\r\n")
    assert (got.get(b"content-type"), got.get(b"content-encoding")) == (b"a/b", b"x")


async def test_a_head_that_does_not_end_is_bounded(stack: Stack) -> None:
    async with await RawClient.connect(stack.port) as client:
        await client.send(b"GET /anthropic/x HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"a" * 8000 + b"\r\n")
        await asyncio.sleep(0.05)
        assert 8000 < stack.wiring.host.held < 9000
        for _ in range(20):
            client.writer.write(b"X: " + b"a" * 8000 + b"\r\n")
        assert await client.at_end()
    await asyncio.sleep(0.05)
    assert stack.wiring.host.held == 0


async def test_a_client_that_pauses_its_upload_is_not_the_providers_delay(stack: Stack, post: bytes) -> None:
    watchdog = stack.wiring.runtime.fetcher.watchdog  # type: ignore[attr-defined]
    watchdog._limit_s, watchdog._interval_s = 0.2, 0.05  # not 300 s
    async with await RawClient.connect(stack.port) as client:
        await client.send(post + b"Content-Length: 10\r\n\r\nhello")
        await asyncio.sleep(0.6)
        assert (await client.request(b"world", "POST")).status == 200
    assert stack.upstream.requests[0].body == b"helloworld"


async def test_an_answer_that_nobody_asked_for_is_nobodys(stack: Stack, post: bytes) -> None:
    """The provider sends a second answer a little later; the next client must not get it."""
    said = asyncio.Event()

    async def respond(message: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine")
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        said.set()

    stack.upstream.respond = respond
    for _ in range(3):
        said.clear()
        async with await RawClient.connect(stack.port) as client:
            assert (await client.request(post + b"\r\n")).body == b"mine"
        await said.wait()
        await asyncio.sleep(0.05)
