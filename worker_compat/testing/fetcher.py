"""The conformance kit of fetchers: every rule of the Fetcher port, against an origin on loopback.

The cases take ``fetcher``, a new one for each case, and ``server``, an :func:`worker_compat.testing.open_origin`::

    class TestMyFetcher(FetcherConformance):
        @pytest.fixture
        async def fetcher(self): ...

        @pytest.fixture
        async def server(self):
            async with open_origin() as origin:
                yield origin
"""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from worker_compat.errors import ConnectFailed, ConnectionLost, FetchError, ProtocolError
from worker_compat.headers import RawHeaders
from worker_compat.ports import Fetcher
from worker_compat.request import Informational, Request
from worker_compat.response import Response
from worker_compat.streams import ReadableStream

from .fakes import read_response
from .kit import Subjects
from .origin import Origin, Peer, open_origin

_PATIENCE_S = 5.0
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection"})
_Result = TypeVar("_Result")


def fetcher_subjects(open_fetcher: Callable[[], AbstractAsyncContextManager[Fetcher]]) -> Subjects:
    """Subjects for :func:`worker_compat.testing.kit.run`: a fetcher and an origin."""

    @asynccontextmanager
    async def subjects() -> AsyncIterator[Mapping[str, Any]]:
        async with open_origin() as server, open_fetcher() as fetcher:
            yield {"fetcher": fetcher, "server": server}

    return subjects


class FetcherConformance:
    """What every :class:`worker_compat.ports.Fetcher` does. A failing case says which rule is broken."""

    async def test_the_request_is_sent_as_it_is(self, fetcher: Fetcher, server: Origin) -> None:
        """Method, path and query go out byte for byte, header lines in their order and case, repeats apart."""
        server.routes["/a%2Fb/../c"] = _OK
        lines = ((b"X-b", b"1"), (b"x-A", b"a  b"), (b"X-B", b"2"), (b"Accept", b"\xc3\xa9\xff"))
        await _read(fetcher, _request(server, "/a%2Fb/../c?x=1&&y=%zz", "PROPFIND", lines))
        (seen,) = server.requests
        assert (seen.method, seen.target) == ("PROPFIND", "/a%2Fb/../c?x=1&&y=%zz"), (
            f"the method and target are not changed; the origin was asked {seen.method} {seen.target}"
        )
        given = [pair for pair in seen.headers if pair[0].lower() not in _FRAMING]
        assert given == list(lines), f"header lines keep order, case and repeats, and none is added: {given}"

    async def test_host_is_that_of_the_url(self, fetcher: Fetcher, server: Origin) -> None:
        """Host comes from the URL, once."""
        server.routes["/"] = _OK
        await _read(fetcher, _request(server, "/", lines=((b"Host", b"other.example"),)))
        hosts = [value for name, value in server.requests[0].headers if name.lower() == b"host"]
        assert hosts == [server.url.removeprefix("http://").encode()], f"one Host, that of the URL, not {hosts}"

    async def test_a_body_of_bytes_has_its_length(self, fetcher: Fetcher, server: Origin) -> None:
        """Bytes are sent exactly, under the right Content-Length whatever the headers say."""
        server.routes["/"] = _OK
        body = bytes(range(256)) * 300
        await _read(fetcher, _request(server, "/", "POST", ((b"Content-Length", b"7"),), body))
        (seen,) = server.requests
        assert seen.body == body, "the body is sent byte for byte"
        lengths = [value for name, value in seen.headers if name.lower() == b"content-length"]
        assert lengths == [str(len(body)).encode()], f"one Content-Length, that of the body, not {lengths}"

    async def test_a_stream_is_sent_as_it_is_made(self, fetcher: Fetcher, server: Origin) -> None:
        """A body of unknown length goes out in chunks, each before the next one is made."""
        arrived = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            await _within(arrived.wait(), "the first chunk is sent before the second is asked for")
            yield b"second"

        async def answer(peer: Peer) -> None:
            await peer.read_chunk()
            arrived.set()
            await peer.read_body()
            await peer.send(_OK)

        server.routes["/"] = answer
        await _read(fetcher, _request(server, "/", "POST", body=ReadableStream.from_iterable(chunks())))
        assert server.requests[0].body == b"firstsecond", "a stream is sent byte for byte"

    async def test_a_response_comes_as_it_is(self, fetcher: Fetcher, server: Origin) -> None:
        """Status, reason and header lines come byte for byte, and are immutable."""
        server.routes["/"] = (
            b"HTTP/1.1 299 Quite  fine\r\nx-B: 1\r\nX-A: \xc3\xa9\r\nX-b: 2\r\nSet-Cookie: a=1\r\n"
            b"Set-Cookie: b=2\r\ncontent-length: 2\r\n\r\nok"
        )
        response = await fetcher.fetch(_request(server, "/?q"))
        assert (response.status, response.reason) == (299, "Quite  fine"), "status and reason come as they are"
        raw = [(b"x-B", b"1"), (b"X-A", b"\xc3\xa9"), (b"X-b", b"2"), (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")]
        assert list(response.headers.raw)[:5] == raw, f"header lines keep order, case and repeats: {response.headers}"
        assert response.headers.immutable, "the headers of a fetched response are immutable"
        assert response.url == f"{server.url}/?q", "url is that of the request"
        assert await read_response(response) == b"ok", "the body comes byte for byte"

    async def test_encoded_bodies_stay_encoded(self, fetcher: Fetcher, server: Origin) -> None:
        """A body under Content-Encoding is not decoded."""
        data = gzip.compress(b"x" * 1000)
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(data)
        server.routes["/"] = head + data
        assert await _read(fetcher, _request(server, "/")) == data, "an encoded body comes as it is"

    async def test_redirects_are_answers(self, fetcher: Fetcher, server: Origin) -> None:
        """A redirect is not followed."""
        server.routes["/"] = b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n"
        response = await fetcher.fetch(_request(server, "/"))
        await read_response(response)
        assert response.status == 302, f"a redirect is the answer, not {response.status}"
        assert len(server.requests) == 1, "a redirect is not followed"

    async def test_a_response_streams(self, fetcher: Fetcher, server: Origin) -> None:
        """The head is there before the body, and each part of the body before the next one."""
        go = asyncio.Event()

        async def answer(peer: Peer) -> None:
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            await go.wait()
            await peer.send(b"6\r\nsecond\r\n0\r\n\r\n")

        server.routes["/"] = answer
        response = await _within(fetcher.fetch(_request(server, "/")), "the head does not wait for the body")
        assert response.body is not None, "a chunked response has a body"
        source = response.body.detach()
        assert source.length is None, "the length of a chunked body is not known"
        first = source.pull_now() or await _within(source.pull(), "a part of the body does not wait for the rest")
        assert first == b"first", f"the first part comes alone, not as {first!r}"
        go.set()
        rest = b""
        while part := await _within(source.pull(), "the rest of the body comes"):
            rest += part
        assert rest == b"second", f"the rest of the body comes, not {rest!r}"

    async def test_a_response_may_come_before_the_request_has_ended(self, fetcher: Fetcher, server: Origin) -> None:
        """Both directions flow at once."""
        answered = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            yield b"ping"
            await _within(answered.wait(), "the response is here before the request has ended")
            yield b"bye"

        async def answer(peer: Peer) -> None:
            await peer.read_chunk()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npo")
            await peer.read_body()
            await peer.send(b"ng")

        server.routes["/"] = answer
        request = _request(server, "/", "POST", body=ReadableStream.from_iterable(chunks()))
        response = await _within(fetcher.fetch(request), "the head does not wait for the request's end")
        answered.set()
        assert await _within(read_response(response), "the body comes") == b"pong", "the response is whole"
        assert server.requests[0].body == b"pingbye", "the request is whole"

    async def test_a_known_length_is_told(self, fetcher: Fetcher, server: Origin) -> None:
        """The stream of a body under Content-Length knows how much is to come."""
        server.routes["/"] = _OK
        response = await fetcher.fetch(_request(server, "/"))
        assert response.body is not None, "a response with a length has a body"
        source = response.body.detach()
        assert source.length == 2, f"the length of the body is known, not {source.length}"
        source.close()

    async def test_some_answers_have_no_body(self, fetcher: Fetcher, server: Origin) -> None:
        """HEAD, 204 and 304 have none, whatever length they tell, and the next request is not disturbed."""
        server.routes["/head"] = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"
        server.routes["/204"] = b"HTTP/1.1 204 No Content\r\n\r\n"
        server.routes["/304"] = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"
        server.routes["/"] = _OK
        for method, path in (("HEAD", "/head"), ("GET", "/204"), ("GET", "/304")):
            response = await _within(fetcher.fetch(_request(server, path, method)), f"{method} {path} is answered")
            assert response.body is None, f"the answer to {method} {path} has no body"
            assert await _read(fetcher, _request(server, "/")) == b"ok", f"the request after {method} {path} is whole"

    async def test_informational_answers_are_passed_on(self, fetcher: Fetcher, server: Origin) -> None:
        """A 103 is told with its lines, a 100 is not, and the final answer is the response."""
        hints: list[tuple[int, RawHeaders]] = []
        server.routes["/"] = (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nlink: </b>\r\n\r\n" + _OK
        )
        request = _request(server, "/", informational=lambda status, text, lines: hints.append((status, list(lines))))
        assert await _read(fetcher, request) == b"ok", "the final answer is the response"
        assert hints == [(103, [(b"Link", b"</a>"), (b"link", b"</b>")])], f"a 103 is told as it came: {hints}"

    async def test_a_refused_connection(self, fetcher: Fetcher) -> None:
        """Nobody listens: ConnectFailed, an OSError."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/?key=secret"
            error = await _failure(fetcher.fetch(Request.outgoing(url, "GET", (), None)))
        assert isinstance(error, ConnectFailed), f"a refused connection is ConnectFailed, not {error!r}"
        assert "secret" not in str(error), "no error shows a query"

    async def test_a_connection_cut_before_the_head(self, fetcher: Fetcher, server: Origin) -> None:
        """No answer: ConnectionLost, and a request with side effects is not sent again."""
        server.routes["/"] = _OK
        await _read(fetcher, _request(server, "/"))

        async def cut(peer: Peer) -> None:
            await peer.read_body()
            peer.abort()

        server.routes["/cut"] = cut
        error = await _failure(fetcher.fetch(_request(server, "/cut", "POST", body=b"order")))
        assert isinstance(error, ConnectionLost), f"a connection cut before the head is ConnectionLost, not {error!r}"
        sent = [request for request in server.requests if request.target == "/cut"]
        assert len(sent) == 1, "a POST is sent once: nobody knows whether the first one arrived"

    async def test_a_body_that_is_cut(self, fetcher: Fetcher, server: Origin) -> None:
        """A body that ends too early raises ConnectionLost; it never looks complete."""
        for head in (b"Content-Length: 9\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n4\r\n"):

            async def cut(peer: Peer, head: bytes = head) -> None:
                await peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"part")
                peer.close()

            server.routes["/"] = cut
            response = await fetcher.fetch(_request(server, "/"))
            error = await _failure(read_response(response))
            assert isinstance(error, ConnectionLost), f"a body that is cut is ConnectionLost, not {error!r}"

    async def test_what_is_no_response(self, fetcher: Fetcher, server: Origin) -> None:
        """Bytes that are no HTTP response raise ProtocolError, without quoting them."""

        async def garble(peer: Peer) -> None:
            await peer.send(b"garbage secret\r\n\r\n")
            peer.close()

        server.routes["/"] = garble
        error = await _failure(fetcher.fetch(_request(server, "/")))
        assert isinstance(error, ProtocolError), f"what is no response is ProtocolError, not {error!r}"
        assert "secret" not in str(error), "no error quotes what came"

    async def test_cancelling_the_call_closes_the_connection(self, fetcher: Fetcher, server: Origin) -> None:
        """An origin that lets wait learns that nobody waits any more."""
        asked, gone = asyncio.Event(), asyncio.Event()

        async def hang(peer: Peer) -> None:
            asked.set()
            await peer.closed()
            gone.set()

        server.routes["/"] = hang
        call = asyncio.ensure_future(fetcher.fetch(_request(server, "/")))
        await _within(asked.wait(), "the request arrives")
        call.cancel()
        await _within(gone.wait(), "cancelling the call closes the connection")

    async def test_giving_up_a_body_closes_the_connection(self, fetcher: Fetcher, server: Origin) -> None:
        """An origin that still sends learns that nobody reads any more."""
        gone = asyncio.Event()

        async def endless(peer: Peer) -> None:
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
            await peer.closed()
            gone.set()

        server.routes["/"] = endless
        response = await fetcher.fetch(_request(server, "/"))
        assert response.body is not None, "a chunked response has a body"
        await response.body.cancel()
        await _within(gone.wait(), "giving up the body closes the connection")

    async def test_many_at_once(self, fetcher: Fetcher, server: Origin) -> None:
        """Answers do not get crossed."""

        async def echo(peer: Peer) -> None:
            body = await peer.read_body()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        server.routes["/"] = echo
        bodies = [f"body {number}".encode() * number for number in range(1, 40)]
        answers = await asyncio.gather(*(_read(fetcher, _request(server, "/", "POST", body=body)) for body in bodies))
        assert answers == bodies, "every request gets its own answer"


def _request(
    server: Origin,
    target: str,
    method: str = "GET",
    lines: RawHeaders = (),
    body: bytes | ReadableStream | None = None,
    informational: Informational | None = None,
) -> Request:
    return Request.outgoing(f"{server.url}{target}", method, lines, body, informational)


async def _read(fetcher: Fetcher, request: Request) -> bytes:
    response: Response = await _within(fetcher.fetch(request), "the request is answered")
    return await _within(read_response(response), "the response ends")


async def _within(waiting: Awaitable[_Result], rule: str) -> _Result:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await waiting
    except TimeoutError:
        raise AssertionError(rule) from None


async def _failure(call: Awaitable[object]) -> FetchError | None:
    """What the call raises; None when it raises nothing."""
    try:
        await _within(call, "a failure is told, not waited for")
    except FetchError as error:
        return error
    return None
