"""HTTP/1.1 with nothing in between: a client and an upstream that see and make every byte."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

Pairs = list[tuple[bytes, bytes]]


class CutOff(Exception):
    """The connection ended before the message did."""

    def __init__(self, so_far: Message | None) -> None:
        super().__init__("the connection ended before the message did")
        self.so_far = so_far


@dataclass(slots=True)
class Message:
    """One request or response as it was on the wire."""

    start: bytes
    headers: Pairs
    body: bytes = b""
    trailers: Pairs = field(default_factory=list)
    informational: list[Message] = field(default_factory=list)

    def get(self, name: bytes) -> bytes | None:
        """The first value of a header, by lower-case name."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def all(self, name: bytes) -> list[bytes]:
        """Every value of a header, by lower-case name."""
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def status(self) -> int:
        """The status of a response."""
        return int(self.start.split(b" ", 2)[1])


async def read_head(reader: asyncio.StreamReader) -> Message:
    """Start line and header lines; the value is what stands between colon-space and CRLF."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            raise EOFError from None
        raise CutOff(None) from None
    start, *lines = head[:-4].split(b"\r\n")
    pairs = []
    for line in lines:
        name, colon, value = line.partition(b":")
        assert colon, f"not a header line: {line!r}"
        pairs.append((name, value.removeprefix(b" ")))
    return Message(start, pairs)


async def read_body(reader: asyncio.StreamReader, message: Message, *, until_close: bool) -> None:
    """The body by its framing; :class:`CutOff` with what came where it breaks off."""
    length = message.get(b"content-length")
    coding = message.get(b"transfer-encoding")
    assert length is None or coding is None, "two framings"
    try:
        if coding is not None:
            await _read_chunks(reader, message)
        elif length is not None:
            while len(message.body) < int(length):
                part = await reader.read(int(length) - len(message.body))
                if not part:
                    raise CutOff(message)
                message.body += part
        elif until_close:
            message.body = await reader.read(-1)
    except asyncio.IncompleteReadError as error:
        message.body += error.partial
        raise CutOff(message) from None
    except ConnectionError:
        raise CutOff(message) from None


async def _read_chunks(reader: asyncio.StreamReader, message: Message) -> None:
    while True:
        line = await _line(reader, message)
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        while size:
            part = await reader.read(size)
            if not part:
                raise CutOff(message)
            message.body += part
            size -= len(part)
        assert await _line(reader, message) == b""
    while line := await _line(reader, message):
        name, _, value = line.partition(b":")
        message.trailers.append((name, value.strip()))


async def _line(reader: asyncio.StreamReader, message: Message) -> bytes:
    try:
        return (await reader.readuntil(b"\r\n"))[:-2]
    except asyncio.IncompleteReadError:
        raise CutOff(message) from None


class RawClient:
    """One client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, *, receive_buffer: int | None = None) -> RawClient:
        """Connect to a port of this machine; a small receive buffer makes a slow reader."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or 1 << 20)
        return cls(reader, writer)

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def response(self, method: str = "GET") -> Message:
        """The next response; 1xx before it are kept in ``informational``."""
        before: list[Message] = []
        while True:
            message = await read_head(self.reader)
            if message.status >= 200:
                break
            before.append(message)
        message.informational = before
        if method != "HEAD" and message.status not in (204, 304):
            await read_body(self.reader, message, until_close=True)
        return message

    async def request(self, data: bytes, method: str = "GET") -> Message:
        """Send and read the answer."""
        await self.send(data)
        return await self.response(method)

    async def at_end(self) -> bool:
        """Whether the other side has closed; waits for it a little."""
        try:
            async with asyncio.timeout(3):
                return await self.reader.read(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def half_close(self) -> None:
        """FIN: nothing more is sent, but answers are still read."""
        self.writer.write_eof()

    def reset(self) -> None:
        """RST: gone, now."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        """An orderly close."""
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


Respond = Callable[[Message, asyncio.StreamWriter], Awaitable[None]]


class RawUpstream:
    """A provider made of bytes: keeps every request, answers as ``respond`` says."""

    def __init__(self) -> None:
        self.requests: list[Message] = []
        self.respond: Respond = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        self.arrived = asyncio.Event()
        self.open = 0
        self.closed = asyncio.Condition()
        self.close_times: list[float] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_closed(self, limit_s: float) -> None:
        """Wait until no connection is open."""
        async with asyncio.timeout(limit_s), self.closed:
            await self.closed.wait_for(lambda: self.open == 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        try:
            while True:
                message = await read_head(reader)
                if (message.get(b"expect") or b"").lower() == b"100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await read_body(reader, message, until_close=False)
                self.requests.append(message)
                self.arrived.set()
                answering = asyncio.ensure_future(self.respond(message, writer))
                gone = asyncio.ensure_future(self._gone(reader))
                try:
                    await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
                    if not answering.done():
                        return
                    await answering
                finally:
                    answering.cancel()
                    gone.cancel()
                    await asyncio.gather(answering, gone, return_exceptions=True)
                if writer.is_closing():
                    return
        except (EOFError, CutOff, ConnectionError):
            return
        except asyncio.CancelledError:
            return
        finally:
            self._tasks.discard(task)
            self.open -= 1
            self.close_times.append(asyncio.get_running_loop().time())
            writer.transport.abort()
            async with self.closed:
                self.closed.notify_all()
            with suppress(OSError):
                await writer.wait_closed()  # takes note of how it ended, so that asyncio does not report it

    async def _gone(self, reader: asyncio.StreamReader) -> None:
        """Ends when the gateway closes; looks without reading what belongs to the next request."""
        while not reader.at_eof() and reader.exception() is None:
            await asyncio.sleep(0.005)


def answer(data: bytes, *, close: bool = False) -> Respond:
    """Always the same bytes."""

    async def respond(message: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if close:
            writer.close()

    return respond
