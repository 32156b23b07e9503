"""The conformance kit of hosts: every rule of the Host port, asked over plain sockets.

The cases take ``host``, a new one for each case that does not serve yet, and ``address``, where it will listen.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from worker_compat.ports import Handle, Host, Send
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.streams import ReadableStream

from .fakes import ScriptedBody
from .kit import Subjects

_PATIENCE_S = 5.0
_GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
_Result = TypeVar("_Result")
Address = tuple[str, int]


def host_subjects(open_host: Callable[[Address], AbstractAsyncContextManager[Host]], address: Address) -> Subjects:
    """Subjects for :func:`worker_compat.testing.kit.run`: a host on ``address``, whose port must be free."""

    @asynccontextmanager
    async def subjects() -> AsyncIterator[Mapping[str, Any]]:
        async with open_host(address) as host:
            yield {"host": host, "address": address}

    return subjects


class Client:
    """A plain connection to a host."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, data: bytes) -> tuple[bytes, list[bytes], bytes]:
        """Send ``data``; start line, header lines and body of the answer."""
        self.writer.write(data)
        return await self.answer(head_only=data.startswith(b"HEAD"))

    async def head(self) -> tuple[bytes, list[bytes]]:
        """Start line and header lines."""
        text = await _within(self.reader.readuntil(b"\r\n\r\n"), "the request is answered")
        start, *lines = text[:-4].split(b"\r\n")
        return start, lines

    async def answer(self, *, head_only: bool = False) -> tuple[bytes, list[bytes], bytes]:
        """One whole answer."""
        start, lines = await self.head()
        body = b""
        length = next((line for line in lines if line.lower().startswith(b"content-length:")), None)
        if not head_only and length is not None:
            body = await _within(self.reader.readexactly(int(length.split(b":")[1])), "the whole body comes")
        elif not head_only and b"transfer-encoding: chunked" in [line.lower() for line in lines]:
            while chunk := await self.chunk():
                body += chunk
        return start, lines, body

    async def chunk(self) -> bytes:
        """The next chunk; ``b""`` at the end."""
        size = int(await _within(self.reader.readuntil(b"\r\n"), "the next chunk comes"), 16)
        return (await _within(self.reader.readexactly(size + 2), "the whole chunk comes"))[:-2]

    def abort(self) -> None:
        """Reset the connection: an orderly end could mean that the client still reads."""
        sock = self.writer.get_extra_info("socket")
        if not self.writer.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class HostConformance:
    """What every :class:`worker_compat.ports.Host` does. A failing case says which rule is broken."""

    async def test_a_request_arrives_as_it_is(self, host: Host, address: Address) -> None:
        """Method, target and header lines come byte for byte; the headers are immutable."""
        seen: list[Request] = []

        async def handle(request: Request, send: Send) -> None:
            seen.append(request)
            await send(Response("ok"))

        async with serving(host, address, handle), connected(address) as client:
            lines = b"Host: H\r\nx-B: 1\r\nX-A: \xc3\xa9\r\nX-b: 2\r\n"
            await client.ask(b"PROPFIND /a%2Fb/../c?x=1&& HTTP/1.1\r\n" + lines + b"\r\n")
        (request,) = seen
        assert (request.method, request.target) == ("PROPFIND", "/a%2Fb/../c?x=1&&"), (
            f"method and target are not changed, but {request.method} {request.target}"
        )
        raw = [(b"Host", b"H"), (b"x-B", b"1"), (b"X-A", b"\xc3\xa9"), (b"X-b", b"2")]
        assert list(request.headers.raw) == raw, f"header lines keep order, case and repeats: {request.headers}"
        assert request.headers.immutable, "the headers of an incoming request are immutable"
        assert request.body is None, "a request without framing has no body"

    async def test_a_response_leaves_as_it_is(self, host: Host, address: Address) -> None:
        """Status, reason and header lines go out byte for byte, with framing and nothing else."""
        lines = ((b"x-B", b"1"), (b"X-A", b"\xc3\xa9"), (b"X-b", b"2"))

        async def handle(request: Request, send: Send) -> None:
            await send(Response.from_raw(299, "Quite fine", lines, b"ok"))

        async with serving(host, address, handle), connected(address) as client:
            start, given, body = await client.ask(_GET)
        assert start == b"HTTP/1.1 299 Quite fine", f"status and reason go out as they are, not {start!r}"
        own = [line for line in given if line.partition(b":")[0].lower() not in (b"content-length", b"connection")]
        assert own == [b"x-B: 1", b"X-A: \xc3\xa9", b"X-b: 2"], f"header lines go out as they are: {given}"
        assert body == b"ok", "the body goes out under its length"

    async def test_a_request_body_streams(self, host: Host, address: Address) -> None:
        """The handler reads a part of the body before the rest was sent, whatever the framing."""
        arrived = asyncio.Event()
        async with serving(host, address, _reader(arrived)):
            for framing, first, rest in (
                (b"Content-Length: 10", b"first", b"later"),
                (b"Transfer-Encoding: chunked", b"5\r\nfirst\r\n", b"5\r\nlater\r\n0\r\n\r\n"),
            ):
                arrived.clear()
                async with connected(address) as client:
                    client.writer.write(b"POST / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n" + first)
                    await _within(arrived.wait(), "a part of the body does not wait for the rest")
                    client.writer.write(rest)
                    _, _, body = await client.answer()
                assert body == b"firstlater", f"the body comes whole, not {body!r}"

    async def test_a_response_streams(self, host: Host, address: Address) -> None:
        """A body of unknown length goes out in chunks, each before the next one is made."""
        arrived = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            await _within(arrived.wait(), "the first chunk leaves before the second is asked for")
            yield b"second"

        async def handle(request: Request, send: Send) -> None:
            await send(Response(chunks()))

        async with serving(host, address, handle), connected(address) as client:
            client.writer.write(_GET)
            await client.head()
            assert await client.chunk() == b"first", "the first chunk comes alone"
            arrived.set()
            assert [await client.chunk(), await client.chunk()] == [b"second", b""], "the rest comes, and the end"

    async def test_head_and_null_statuses_have_no_body(self, host: Host, address: Address) -> None:
        """HEAD keeps a length without the body, 204 and 304 have neither body nor a length of their own."""

        async def handle(request: Request, send: Send) -> None:
            if request.target == "/":
                await send(Response("four", headers={"Content-Length": "4"}))
            else:
                await send(Response(None, int(request.target[1:])))

        async with serving(host, address, handle), connected(address) as client:
            _, lines, _ = await client.ask(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert b"content-length: 4" in [line.lower() for line in lines], f"HEAD keeps the length: {lines}"
            for status in (b"204", b"304"):
                start, lines, _ = await client.ask(b"GET /" + status + b" HTTP/1.1\r\nHost: h\r\n\r\n")
                assert start.split()[1] == status, f"the answer to the request before was followed by {start!r}"
                assert b"content-length" not in [line.partition(b":")[0].lower() for line in lines], (
                    f"a {status.decode()} has no length of its own: {lines}"
                )

    async def test_a_connection_serves_many(self, host: Host, address: Address) -> None:
        """Requests on one connection are answered one after the other, also when they came together."""

        async def handle(request: Request, send: Send) -> None:
            await send(Response(request.target))

        async with serving(host, address, handle), connected(address) as client:
            client.writer.write(b"".join(_GET.replace(b" / ", f" /{number} ".encode()) for number in range(5)))
            answers = [(await client.answer())[2] for _ in range(5)]
        assert answers == [f"/{number}".encode() for number in range(5)], f"answers come in order, not {answers}"

    async def test_a_client_that_leaves_cancels_the_handler(self, host: Host, address: Address) -> None:
        """A connection that breaks before the answer cancels the handler."""
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def handle(request: Request, send: Send) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with serving(host, address, handle), connected(address) as client:
            client.writer.write(_GET)
            await _within(begun.wait(), "the request arrives")
            client.abort()
            await _within(cancelled.wait(), "a client that leaves cancels the handler")

    async def test_a_client_that_leaves_closes_the_body(self, host: Host, address: Address) -> None:
        """A connection that breaks in the middle of the answer closes the body's source."""
        closed = asyncio.Event()

        class Source(ScriptedBody):
            def close(self, reason: BaseException | None = None) -> None:
                closed.set()

        source = Source([b"first", b"second"], gate=asyncio.Event())

        async def handle(request: Request, send: Send) -> None:
            await send(Response(ReadableStream(source)))

        async with serving(host, address, handle), connected(address) as client:
            client.writer.write(_GET)
            await client.head()
            await client.chunk()
            client.abort()
            await _within(closed.wait(), "a client that leaves closes the body's source")

    async def test_a_body_that_breaks_does_not_look_complete(self, host: Host, address: Address) -> None:
        """When the source fails, the client sees the connection end without the last chunk."""

        async def handle(request: Request, send: Send) -> None:
            await send(Response(ReadableStream(ScriptedBody([b"first"], error=ConnectionResetError("gone")))))

        with _quiet():
            async with serving(host, address, handle), connected(address) as client:
                client.writer.write(_GET)
                rest = await _within(client.reader.read(), "a broken answer ends the connection")
        assert not rest.endswith(b"0\r\n\r\n"), "a broken body has no last chunk"

    async def test_a_handler_that_raises_hurts_nobody_else(self, host: Host, address: Address) -> None:
        """A handler that raises leaves no client waiting, and the next request is served."""

        async def handle(request: Request, send: Send) -> None:
            if request.target == "/bad":
                raise LookupError("a bug")
            await send(Response("ok"))

        with _quiet():
            async with serving(host, address, handle):
                async with connected(address) as client:
                    client.writer.write(b"GET /bad HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                    answer = await _within(client.reader.read(), "a handler that raises leaves nobody waiting")
                    assert b" 200 " not in answer.partition(b"\r\n")[0], "a handler that raises is no success"
                async with connected(address) as client:
                    assert (await client.ask(_GET))[2] == b"ok", "the next request is served"

    async def test_garbage_is_refused(self, host: Host, address: Address) -> None:
        """Bytes that are no HTTP get a 4xx or a closed connection, and never reach the handler."""
        asked: list[str] = []

        async def handle(request: Request, send: Send) -> None:
            asked.append(request.target)
            await send(Response("ok"))

        async with serving(host, address, handle), connected(address) as client:
            client.writer.write(b"no request at all\r\n\r\n")
            answer = await _within(client.reader.read(), "garbage does not leave the client waiting")
        assert not answer or answer.split()[1].startswith(b"4"), f"garbage is refused, not answered {answer[:40]!r}"
        assert not asked, "garbage is no request"

    async def test_stop_lets_requests_end(self, host: Host, address: Address) -> None:
        """After stop() a request that is being answered goes on; serve() returns when it is done."""
        begun, go = asyncio.Event(), asyncio.Event()

        async def handle(request: Request, send: Send) -> None:
            begun.set()
            await go.wait()
            await send(Response("late"))

        async with serving(host, address, handle) as served, connected(address) as client:
            client.writer.write(_GET)
            await _within(begun.wait(), "the request arrives")
            host.stop(_PATIENCE_S)
            # Time for a host that cuts its requests off to do so.
            await asyncio.sleep(0.1)
            go.set()
            assert (await client.answer())[2] == b"late", "a request that is being answered goes on"
            await _within(served, "serve() returns once every request was answered")

    async def test_stop_ends_an_idle_host_at_once(self, host: Host, address: Address) -> None:
        """With nothing in flight serve() returns at once, and nobody listens any more."""
        async with serving(host, address, _reader(asyncio.Event())) as served:
            host.stop(_PATIENCE_S * 10)
            await _within(served, "an idle host ends at once")
        try:
            _, writer = await asyncio.open_connection(*address)
        except ConnectionRefusedError:
            return
        writer.close()
        raise AssertionError("a host that has ended does not listen")

    async def test_the_grace_period_ends(self, host: Host, address: Address) -> None:
        """A request that takes longer than the grace period is cut off."""
        begun = asyncio.Event()

        async def handle(request: Request, send: Send) -> None:
            begun.set()
            await asyncio.Event().wait()

        with _quiet():
            async with serving(host, address, handle) as served, connected(address) as client:
                client.writer.write(_GET)
                await _within(begun.wait(), "the request arrives")
                host.stop(0.05)
                await _within(served, "serve() returns after the grace period")
                rest = await _within(_rest(client.reader), "a request that is cut off ends its connection")
        assert b" 200 " not in rest, "a request that is cut off is no success"


@asynccontextmanager
async def serving(host: Host, address: Address, handle: Handle) -> AsyncIterator[asyncio.Task[None]]:
    """The host while it serves; stopped at the end unless the case does that itself."""
    served = asyncio.ensure_future(host.serve(handle))
    try:
        await _until_listening(address, served)
        yield served
    finally:
        if not served.done():
            host.stop(1)
            await asyncio.wait([served], timeout=_PATIENCE_S)
        served.cancel()


@asynccontextmanager
async def connected(address: Address) -> AsyncIterator[Client]:
    """A connection, broken off at the end."""
    client = Client(*await asyncio.open_connection(*address))
    try:
        yield client
    finally:
        client.abort()


def _reader(arrived: asyncio.Event) -> Handle:
    """Answers with the request's body, and tells when its first part is there."""

    async def handle(request: Request, send: Send) -> None:
        body = b""
        if request.body is not None:
            async for chunk in request.body:
                body += chunk
                arrived.set()
        await send(Response(body))

    return handle


async def _until_listening(address: Address, served: asyncio.Task[None]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not served.done():
            try:
                _, writer = await asyncio.open_connection(*address)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return
    served.result()
    raise AssertionError("serve() returns once the host was stopped, not before")


async def _within(waiting: Awaitable[_Result], rule: str) -> _Result:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await waiting
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        raise AssertionError(rule) from None


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what a host logs about planted failures out of the report."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
