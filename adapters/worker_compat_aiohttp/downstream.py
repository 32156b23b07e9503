"""One answer to a client: opens its request, writes its response, knows whether the connection is reusable."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp.http import HttpVersion10, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from worker_compat.errors import ConnectionLost, FetchError
from worker_compat.headers import RawHeaders
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.streams import ByteSource, ReadableStream

from . import wire

if TYPE_CHECKING:
    from .connection import Connection

log = logging.getLogger("worker_compat_aiohttp")

BODY_IDLE_S = 300.0
"""How long a client may pause in the middle of its request body."""


class Answer:
    """The two directions of one exchange with a client."""

    __slots__ = ("_connection", "_continue", "_head_sent", "_http10", "_keep_alive", "_method", "_payload", "_whole")

    def __init__(self, connection: Connection, payload: StreamReader) -> None:
        self._connection = connection
        self._payload = payload
        self._method = "GET"
        self._http10 = False
        self._keep_alive = False
        self._continue = False
        self._head_sent = False
        self._whole = False

    def open(self, message: RawRequestMessage, target: str, overload: str | None) -> Request:
        """The request, its body unread."""
        self._method = message.method
        self._http10 = message.version is HttpVersion10
        # Who was one too many makes room, so that a retry finds out whether there is some by now.
        self._keep_alive = not message.should_close and overload != "connections"
        body: ReadableStream | None = None
        payload = self._payload
        headers = message.headers
        if payload is EMPTY_PAYLOAD:
            if "Content-Length" in headers:
                body = ReadableStream.from_bytes(b"")
        else:
            length = None if message.chunked else int(headers.get("Content-Length", "0"))
            self._continue = not self._http10 and headers.get("Expect", "").lower() == "100-continue"
            body = ReadableStream(RequestBody(self, payload, length))
        return Request.incoming(
            message.method,
            target,
            message.raw_headers,
            body,
            informational=None if self._http10 else self._inform,
            overload=overload,
        )

    def begun(self) -> bool:
        """Whether anything of a response was written."""
        return self._head_sent

    def _cancel(self, error: BaseException) -> None:
        """Called by aiohttp when the connection is lost: whoever still reads the body learns it."""
        if not self._payload.is_eof():
            self._payload.set_exception(error)

    def _finish(self) -> None:
        """Called by aiohttp; nothing to do."""

    def received(self) -> bool:
        """Whether the whole request is here."""
        return self._payload.is_eof()

    def reusable(self) -> bool:
        """Whether another request may follow on the connection."""
        return self._whole and self._keep_alive and self._payload.is_eof()

    async def send(self, response: Response) -> None:
        """Write ``response``. A body that breaks off ends the connection, so that the client sees the break."""
        connection = self._connection
        if self.begun():
            raise RuntimeError("a request has one response")
        content = response._release()
        source = content.detach() if isinstance(content, ReadableStream) else None
        try:
            await self._send(response, source, content if isinstance(content, bytes) else None)
        except FetchError as error:
            log.debug("a response broke off: %s", error)
            if source is not None:
                source.close(error)
            self._break_off()
        except BaseException as error:
            if source is not None:
                source.close(error)
            if self.begun() and not isinstance(error, asyncio.CancelledError):
                self._break_off()
            raise
        if connection.writing_paused:
            await connection._drain_helper()

    async def refuse(self, response: Response) -> None:
        """Answer what is no request at all; the connection ends afterwards."""
        self._keep_alive = False
        await self.send(response)

    async def _send(self, response: Response, source: ByteSource | None, whole: bytes | None) -> None:
        bodiless = self._method == "HEAD" or response.status in wire.BODILESS
        if not self._payload.is_eof():
            # Answered before the request was read: what the client still sends is nobody's.
            self._keep_alive = False
        if source is None:
            length, whole = len(whole or b""), whole or b""
        else:
            length = -1 if source.length is None else source.length
            whole = None if bodiless else source.take()
        chunked = length == -1 and not self._http10
        if length == -1 and self._http10:
            self._keep_alive = False
        head = self._head(response, None if length == -1 and self._http10 else length, bodiless)
        if bodiless:
            self._write(head)
            if source is not None:
                source.close()
        elif whole is not None:
            if chunked:
                whole = wire.chunk(whole) + wire.LAST_CHUNK if whole else wire.LAST_CHUNK
            self._write(head + whole)
        else:
            assert source is not None
            await self._stream(head, source, chunked)
        self._whole = True

    async def _stream(self, head: bytes, source: ByteSource, chunked: bool) -> None:
        connection = self._connection
        data = source.pull_now()
        self._write(head + (wire.chunk(data) if chunked else data) if data else head)
        while True:
            if connection.writing_paused:
                await connection._drain_helper()
            data = await source.pull()
            if not data:
                break
            self._write(wire.chunk(data) if chunked else data)
        if chunked:
            self._write(wire.LAST_CHUNK)

    def _head(self, response: Response, length: int | None, bodiless: bool) -> bytes:
        if self._connection.draining:
            self._keep_alive = False
        extra = b""
        if not self._keep_alive:
            extra = wire.CLOSE
        elif self._http10:
            extra = wire.KEEP_ALIVE
        return wire.response_head(
            response.status, response.reason, response.headers.raw, length, keep_length=bodiless, extra=extra
        )

    def _write(self, data: bytes) -> None:
        transport = self._connection.transport
        if transport is None:
            raise ConnectionLost("the client is gone")
        self._head_sent = True
        transport.write(data)

    def _break_off(self) -> None:
        transport = self._connection.transport
        self._keep_alive = False
        if transport is None:
            return
        if self._http10:
            transport.abort()  # without framing, an orderly close would look like the end
        else:
            transport.close()  # what was written goes out first; the missing end says the rest

    def give_up(self) -> None:
        """The client owes bytes and does not send them: end its connection."""
        if self._connection.transport is not None:
            self._connection.transport.abort()

    def ask_for_body(self) -> None:
        """Send ``100 Continue`` once, when somebody wants the body of a client that waits for it."""
        if self._continue and not self._head_sent and self._connection.transport is not None:
            self._continue = False
            if not self._payload.total_bytes:
                self._connection.transport.write(wire.CONTINUE)

    def _inform(self, status: int, status_text: str, headers: RawHeaders) -> None:
        connection = self._connection
        # A client that does not read gets none: they are optional, and must not pile up.
        if not self._head_sent and not connection.writing_paused and connection.transport is not None:
            connection.transport.write(wire.informational_head(status, status_text, headers))


class RequestBody(ByteSource):
    """The body of a client's request as it arrives."""

    __slots__ = ("_answer", "_payload", "length")

    def __init__(self, answer: Answer, payload: StreamReader, length: int | None) -> None:
        self._answer = answer
        self._payload = payload
        self.length = length

    async def pull(self) -> bytes:
        self._answer.ask_for_body()
        try:
            if self._payload._buffer:
                return self._payload._read_nowait(-1)
            async with asyncio.timeout(BODY_IDLE_S):
                return await self._payload.readany()
        except TimeoutError:
            self._answer.give_up()
            raise ConnectionLost("the client stopped sending its request") from None
        except Exception as error:
            raise ConnectionLost(f"the client's body broke off: {type(error).__name__}") from error

    def take(self) -> bytes | None:
        payload = self._payload
        if not payload.is_eof() or payload.exception() is not None:
            return None
        data = payload._read_nowait(-1) if payload._buffer else b""
        return None if payload._buffer else data
