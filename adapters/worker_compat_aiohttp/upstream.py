"""One request and its response on one upstream connection, as bytes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from worker_compat.errors import ConnectionLost, FetchError, FetchTimeout, ProtocolError
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.streams import ByteSource, ReadableStream

from . import wire
from .reading import READ_BUFFER, Watchdog, fail, read_small

if TYPE_CHECKING:
    from .fetcher import AiohttpFetcher, Origin

_REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
_CONTINUE_WAIT_S = 1.0
_MAX_INFORMATIONAL = 32


class UpstreamProtocol(ResponseHandler):
    """aiohttp's client protocol, reading in small pieces and counting the requests that it served."""

    max_headers = 2048
    max_field = 128 * 1024
    """The most header lines of a response, and the most bytes of each."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.served = 0
        self.parser_clean = False
        """Whether the parser of the last response may read the next one: nothing of it can be left over."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        read_small(transport)
        super().connection_made(transport)

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp calls this after every read; only a paused protocol has anything to do.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def expect_response(self, *, head_only: bool) -> None:
        """Be ready to parse the next response, with a new parser unless the last one is as good."""
        if self.parser_clean and not head_only and self._parser is not None:
            self.parser_clean = False
            return
        self.parser_clean = False
        self.set_response_params(
            skip_payload=head_only,
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            max_line_size=self.max_field,
            max_field_size=self.max_field,
            max_headers=self.max_headers,
        )

    def unsolicited(self) -> bool:
        """Whether something came that nobody asked for: it must not become the answer to the next request."""
        return bool(self._buffer) or self._exception is not None


class Exchange:
    """Sends one request, gives its response, and ends by releasing or closing the connection, once."""

    __slots__ = (
        "_answered", "_connection", "_content", "_continued", "_fetcher", "_length", "_origin", "_protocol",
        "_request", "_reused", "_source", "_target", "_upload",
    )  # fmt: skip

    def __init__(
        self,
        fetcher: AiohttpFetcher,
        origin: Origin,
        request: Request,
        target: str,
        content: bytes | ReadableStream | None,
    ) -> None:
        self._fetcher = fetcher
        self._origin = origin
        self._request = request
        self._target = target
        self._source = content.detach() if isinstance(content, ReadableStream) else None
        self._content = content if isinstance(content, bytes) else None
        # The client's framing is kept: a chunked body stays chunked, also when it has all arrived already.
        self._length: int | None = None if self._content is None else len(self._content)
        if self._source is not None:
            self._length = -1 if self._source.length is None else self._source.length
        self._upload: asyncio.Task[None] | None = None
        self._continued: asyncio.Event | None = None
        self._connection: Connection | None = None
        self._reused = False
        self._answered = False

    def may_retry(self) -> bool:
        """Only once the pool gave us a connection that had died, and where a second send does no harm.

        A request with side effects is never sent twice: nobody knows whether the first one arrived.
        """
        return self._reused and self._source is None and self._request._method in _REPEATABLE

    async def run(self, connection: Connection) -> Response:
        """Send the request on ``connection`` and wait for the head of the response."""
        protocol = connection.protocol
        assert isinstance(protocol, UpstreamProtocol)
        self._connection, self._protocol, self._answered = connection, protocol, False
        self._reused = protocol.served > 0
        protocol.served += 1
        try:
            self._send(protocol)
            message, payload = await self._head(protocol)
            return self._response(message, payload)
        except BaseException as error:
            self.abandon(error)
            raise

    def _send(self, protocol: UpstreamProtocol) -> None:
        request, source = self._request, self._source
        if source is not None and (whole := source.take()) is not None:
            self._content, self._source, source = whole, None, None
        try:
            head = wire.request_head(
                request._method, self._target, self._origin.host, request.headers.raw, self._length
            )
        except wire.UnsafeHead as error:
            raise ProtocolError(f"the request was not sent: {error}") from error
        protocol.expect_response(head_only=request._method == "HEAD")
        if protocol.transport is None:
            raise ConnectionLost("the connection was closed before the request was sent")
        if source is None:
            whole = self._content or b""
            if self._length == -1:
                whole = wire.chunk(whole) + wire.LAST_CHUNK if whole else wire.LAST_CHUNK
            protocol.transport.write(head + whole)
            return
        protocol.transport.write(head)
        if request.headers.has("expect"):
            self._continued = asyncio.Event()
        self._upload = asyncio.ensure_future(self._send_body(source, chunked=self._length == -1))

    async def _send_body(self, source: ByteSource, *, chunked: bool) -> None:
        """Send the body as it comes in, while the response may already be on its way."""
        protocol, limit_s = self._protocol, self._fetcher.read_limit_s
        try:
            if self._continued is not None:
                # Nothing is asked of the client before the upstream asked for it, or after a second, as clients do.
                await _within(self._continued.wait(), _CONTINUE_WAIT_S)
            # While the client takes its time nothing is owed by the upstream.
            self.watchdog.unwatch(protocol)
            while data := await source.pull():
                if protocol.transport is None:
                    return  # the reading side knows why
                protocol.transport.write(wire.chunk(data) if chunked else data)
                if protocol.writing_paused:
                    async with asyncio.timeout(limit_s):
                        await protocol._drain_helper()
            if chunked and protocol.transport is not None:
                protocol.transport.write(wire.LAST_CHUNK)
            self._source = None
            if not self._answered:
                self.watchdog.watch(protocol, "first-byte")
        except TimeoutError:
            fail(protocol, FetchTimeout("idle", limit_s))
        except (FetchError, ConnectionError) as error:
            # The body broke off: the upstream must not take what it has for the whole.
            fail(protocol, error if isinstance(error, FetchError) else ConnectionLost(str(error)))
        except Exception as error:
            fail(protocol, error)

    async def _head(self, protocol: UpstreamProtocol) -> tuple[RawResponseMessage, StreamReader]:
        watchdog = self._fetcher.watchdog
        watchdog.watch(protocol, "first-byte")
        try:
            for _ in range(_MAX_INFORMATIONAL):
                message, payload = await protocol.read()
                if message.code >= 200:
                    return message, payload
                self._informational(message)
            raise ProtocolError("one 1xx answer after the other and no final one")
        except HttpProcessingError:
            # Not chained: aiohttp quotes the bytes that it could not read.
            raise ProtocolError("what came back is not a valid HTTP response") from None
        except (aiohttp.ClientError, ConnectionError, aiohttp.EofStream) as error:
            raise ConnectionLost("the connection was closed before a response came") from error
        finally:
            self._answered = True
            watchdog.unwatch(protocol)

    def _informational(self, message: RawResponseMessage) -> None:
        if message.code < 100:
            raise ProtocolError("a status that HTTP does not have")
        if message.code == 101:
            raise ProtocolError("the upstream switched protocols unasked")
        if message.code == 100:
            if self._continued is not None:
                self._continued.set()
        elif self._request.informational is not None:
            self._request.informational(message.code, message.reason, message.raw_headers)

    def _response(self, message: RawResponseMessage, payload: StreamReader) -> Response:
        raw = message.raw_headers
        text = b"".join([value for _, value in raw])
        if b"\r" in text or b"\n" in text:
            # The response parser is lenient; a line break inside a value would become a header of its own.
            raise ProtocolError("a response header contains a line break")
        if hdrs.TRANSFER_ENCODING in message.headers:
            codings = [coding.lower() for coding in message.headers.getall(hdrs.TRANSFER_ENCODING)]
            if codings != ["chunked"]:
                raise ProtocolError("a transfer coding other than chunked")
        body: ReadableStream | None = None
        if self._request._method == "HEAD" or message.code in wire.BODILESS:
            self.finish()
        elif payload is EMPTY_PAYLOAD:
            self.finish()
            body = ReadableStream.from_bytes(b"")
        else:
            declared = None if message.chunked else message.headers.get(hdrs.CONTENT_LENGTH)
            self._protocol.parser_clean = declared is not None  # no trailers, and an end that the parser has seen
            body = ReadableStream(UpstreamBody(self, payload, None if declared is None else int(declared)))
        return Response.from_raw(message.code, message.reason, raw, body, url=self._request.url, immutable=True)

    @property
    def watchdog(self) -> Watchdog:
        """The fetcher's time limits."""
        return self._fetcher.watchdog

    @property
    def protocol(self) -> UpstreamProtocol:
        """The connection's protocol."""
        return self._protocol

    def finish(self) -> None:
        """The response is complete: the connection may serve another request, if the request is complete too."""
        if self._upload is not None and not self._upload.done():
            self.abandon(None)
        elif self._connection is not None:
            self.watchdog.unwatch(self._protocol)
            connection, self._connection = self._connection, None
            connection.release()

    def abandon(self, reason: BaseException | None) -> None:
        """Close the connection: the upstream learns that nobody waits any more."""
        if self._upload is not None:
            self._upload.cancel()
        if self._source is not None:
            source, self._source = self._source, None
            source.close(reason)
        if self._connection is not None:
            self.watchdog.unwatch(self._protocol)
            connection, self._connection = self._connection, None
            connection.close()

    def forget(self) -> None:
        """Close the connection of a response that was thrown away unread; from any thread, since garbage is."""
        if self._connection is not None:
            self._fetcher.soon(self.abandon, None)


class UpstreamBody(ByteSource):
    """The body of a response as it arrives."""

    __slots__ = ("_exchange", "_payload", "length")

    def __init__(self, exchange: Exchange, payload: StreamReader, length: int | None) -> None:
        self._exchange = exchange
        self._payload = payload
        self.length = length

    async def pull(self) -> bytes:
        payload, exchange = self._payload, self._exchange
        if payload._buffer:
            return payload._read_nowait(-1)
        exchange.watchdog.watch(exchange.protocol, "idle")
        try:
            data = await payload.readany()
        except (aiohttp.ClientError, ConnectionError, RuntimeError) as error:
            exchange.abandon(error)
            raise ConnectionLost("the connection broke in the middle of the response") from error
        except FetchError as error:
            exchange.abandon(error)
            raise
        finally:
            exchange.watchdog.unwatch(exchange.protocol)
        if not data:
            exchange.finish()
        return data

    def pull_now(self) -> bytes:
        payload = self._payload
        return payload._read_nowait(-1) if payload._buffer else b""

    def take(self) -> bytes | None:
        payload = self._payload
        if not payload.is_eof() or payload.exception() is not None:
            return None
        data = payload._read_nowait(-1) if payload._buffer else b""
        if payload._buffer:
            return None
        self._exchange.finish()
        return data

    def close(self, reason: BaseException | None = None) -> None:
        self._exchange.abandon(reason)

    def __del__(self) -> None:
        # Nobody read to the end and nobody can any more, as when a handler looks at the status only.
        self._exchange.forget()


async def _within(awaitable: object, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await awaitable  # type: ignore[misc] # an Event's wait
    except TimeoutError:
        return
