"""One client connection: aiohttp's parser and timers, our own reading of what a request is.

What is stricter than in aiohttp: one Host, one transfer coding, no fragment, no HTTP/0.9, no CONNECT, and nothing
read after trailers. aiohttp's parser prepends the last trailer field of a chunked request to the headers of the
next request on the connection, so such a connection is closed after its answer.
"""

from __future__ import annotations

import asyncio
import logging
import re
import select
from typing import TYPE_CHECKING, Any

from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from .downstream import Answer
from .reading import READ_BUFFER, read_small

if TYPE_CHECKING:
    from .host import AiohttpHost

log = logging.getLogger("worker_compat_aiohttp")

_HOST = re.compile(r"[A-Za-z0-9.\-_~:\[\]%]*\Z")
_END_OF_CHUNKS = b"\r\n0\r\n\r\n"
_PROBE_S = 0.25
_LINGER_S = 2.0
_MAX_HEAD = 128 * 1024
"""Bytes of a request's head, all lines together; what waits for the rest of one counts as held."""
_STALL_S = 300.0
"""How long a client may leave everything written to it unread."""


class BadRequest(Exception):
    """A request that has no single reading; ``status`` and a sentence for the client."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Connection(RequestHandler):
    """Serves the requests of one connection, one after the other."""

    __slots__ = (
        "_answer",
        "_chunked",
        "_half_closed",
        "_head",
        "_held",
        "_host",
        "_spoiled",
        "_stall",
        "_surplus",
        "_tail",
    )

    def __init__(self, host: AiohttpHost, server: Any, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        # None switches aiohttp's own access log off.
        super().__init__(server, loop=loop, access_log=None, auto_decompress=False, **options)  # type: ignore[arg-type]
        self._host = host
        self._chunked: StreamReader | None = None
        self._tail = b""
        self._spoiled = False
        self._half_closed = False
        self._surplus = False
        self._held = 0
        self._head = 0
        self._answer: Answer | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        read_small(transport)
        self._surplus = self._host.admit()
        super().connection_made(transport)
        if self._host.full():
            # Beyond any room for an answer: cheaper for everybody than accepting and starving.
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._host.dismiss()
        self._forget_held()
        self._host.held -= self._head
        self._head = 0
        # The handler is cancelled (handler_cancellation of the server), and with it everything it waits for.
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = len(self._messages)
        super().data_received(data)
        if len(self._messages) == before:
            if not self._receives_body():
                self._hold_head(len(data))
            if self._chunked is None:
                return
        elif self._head:
            self._host.held -= self._head
            self._head = 0
        self._watch_trailers(data, before)

    def _receives_body(self) -> bool:
        if self._messages:
            return not self._messages[-1][1].is_eof()
        return self._close or (self._answer is not None and not self._answer.received())

    def _hold_head(self, size: int) -> None:
        """Part of a request's head waits in the parser: it counts, and it has an end."""
        self._head += size
        self._host.held += size
        if self._head > _MAX_HEAD or self._host.held > self._host.max_held_bytes:
            self.force_close()

    def _watch_trailers(self, data: bytes, before: int) -> None:
        """Find out whether a chunked request ended in anything but an empty trailer section.

        Then the connection is spoiled: it ends with the next answer, so what was read behind is never served.
        """
        messages = self._messages
        for at in range(before, len(messages)):
            message, payload = messages[at]
            if isinstance(message, RawRequestMessage) and message.chunked:
                self._chunked, self._tail = payload, b""
                # With more behind it in one go, trailers cannot be ruled out.
                self._spoiled = self._spoiled or at + 1 < len(messages)
        if self._chunked is not None:
            self._tail = (self._tail + data[-len(_END_OF_CHUNKS) :])[-len(_END_OF_CHUNKS) :]
            if self._chunked.is_eof():
                self._spoiled = self._spoiled or self._tail != _END_OF_CHUNKS
                self._chunked = None

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's contract; aiohttp only ever says None
        """A half-close: with ``CLIENT_FIN=wait`` the answer to a complete request still goes out."""
        if self._host.fin_aborts or not (self._request_in_progress or self._messages) or self._incomplete():
            return False
        self._half_closed = True
        return True

    def _incomplete(self) -> bool:
        return self._answer is not None and not self._answer.received()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None:
            # What waits for this client: its write buffer, and what is read ahead from the upstream.
            self._held = self.transport.get_write_buffer_size() + 2 * READ_BUFFER
            self._host.held += self._held
            self._stall = self._loop.call_later(_STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_held()

    def _forget_held(self) -> None:
        self._host.held -= self._held
        self._held = 0
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def pause_reading(self) -> None:
        super().pause_reading()
        self._loop.call_later(_PROBE_S, self._probe)

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp calls this after every read; only a paused protocol has anything to do.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _probe(self) -> None:
        """Notice a reset while reading is paused: asyncio does not watch a paused socket."""
        transport = self.transport
        if transport is None or not self._reading_paused:
            return
        poller = select.poll()
        poller.register(transport.get_extra_info("socket").fileno(), 0)
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0)):
            transport.abort()
        else:
            self._loop.call_later(_PROBE_S, self._probe)

    async def start(self) -> None:
        """The life of the connection; replaces aiohttp's, which makes a task for every request."""
        while not self._ending():
            if not self._messages:
                if self._half_closed:
                    break
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
                if self._ending():
                    return
            message, payload = self._messages.popleft()
            self._after_pop()
            if not await self._serve(message, payload):
                self._end(linger=not payload.is_eof() or self._spoiled)
                return
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._keepalive_handle is None:
                self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        self._end(linger=False)

    def _ending(self) -> bool:
        return self._force_close or self._close

    def _after_pop(self) -> None:
        """aiohttp's flow control of pipelined requests."""
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    async def _serve(self, message: Any, payload: StreamReader) -> bool:
        """Answer one request; whether the connection may be used again."""
        self._keepalive = False
        answer = Answer(self, payload)
        try:
            if not isinstance(message, RawRequestMessage):
                raise _refusal(message.exc)
            request = answer.open(message, _target_of(message), self._overload())
        except BadRequest as error:
            await answer.refuse(self._host.refuse(error.status, str(error)))
            return False
        self._request_in_progress, self._answer = True, answer
        self._current_request = answer  # type: ignore[assignment] # aiohttp calls its _cancel when the client is gone
        self._host.begin()
        try:
            await self._host.handle(request, answer.send)
        except Exception:
            log.exception("a request failed")
            if not answer.begun():
                await answer.refuse(self._host.refuse(500, "internal error"))
        finally:
            self._request_in_progress, self._answer, self._current_request = False, None, None
            self._host.end()
        self._keepalive = answer.reusable() and not self._spoiled and not message.upgrade
        return self._keepalive

    def _overload(self) -> str | None:
        if self._surplus:
            return "connections"
        return "held-bytes" if self._host.held > self._host.max_held_bytes else None

    def _end(self, *, linger: bool) -> None:
        """Close; ``linger`` lets the client read the answer although what it still sends is dropped."""
        transport = self.transport
        if transport is None or self._force_close:
            return
        self._close = True
        if linger and not self._half_closed:
            transport.write_eof()
            self._loop.call_later(_LINGER_S, transport.abort)
        else:
            transport.close()

    @property
    def draining(self) -> bool:
        """Whether the host is ending: answers then say that the connection closes."""
        return self._host.draining

    # Nothing of a request may reach a log through aiohttp: its texts quote raw lines, keys included.
    def log_exception(self, *args: Any, **kw: Any) -> None:
        log.error("aiohttp reported an error on a client connection", exc_info=kw.get("exc_info"))

    def log_debug(self, *args: Any, **kw: Any) -> None:
        return


def _target_of(message: RawRequestMessage) -> str:
    """The request target in origin form; :class:`BadRequest` where a second reading is possible."""
    version, target = message.version, message.path
    # The parser gives these two objects for their versions, and new ones for any other.
    if version is not HttpVersion11 and version is not HttpVersion10:
        raise BadRequest(400, "HTTP version must be 1.1 or 1.0")
    if message.method == "CONNECT":
        raise BadRequest(400, "CONNECT is not served here; send the request to a path")
    headers = message.headers
    if message.chunked and (version is HttpVersion10 or headers["Transfer-Encoding"].lower() != "chunked"):
        raise BadRequest(400, "the only transfer coding understood is chunked, in HTTP/1.1")
    if not _HOST.match(headers.get("Host", "")):
        raise BadRequest(400, "the Host header is not a host name")
    if "#" in target:
        raise BadRequest(400, "a request target has no fragment; encode # as %23")
    if target[0] == "/" or target == "*":
        return target
    # Absolute form: its authority replaces Host (RFC 9112, 3.2.2), which this gateway does not use.
    _, _, rest = target.partition("://")
    at = min((i for i in (rest.find("/"), rest.find("?")) if i != -1), default=-1)
    path = "" if at == -1 else rest[at:]
    return path if path.startswith("/") else f"/{path}"


def _refusal(error: BaseException) -> BadRequest:
    """What to tell a client whose bytes are no HTTP request; never the bytes themselves."""
    text = str(error)
    if isinstance(error, LineTooLong):
        return BadRequest(431, "a header or the request target is too long; the limit is 8190 bytes each")
    if "Too many headers" in text:
        return BadRequest(431, "too many headers; the limit is 256")
    if isinstance(error, HttpProcessingError) and "Host" in text:
        return BadRequest(400, "a request has exactly one Host header")
    return BadRequest(400, "this is not a valid HTTP/1.1 request; check request line, headers and framing")
