"""One accepted TCP connection: bytes in, bytes out, and how and when it ended."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
import time
from collections.abc import Callable
from typing import Literal, cast

HowClosed = Literal["fin", "rst", "local"]

_READ_AHEAD = 1 << 20
_WRITE_AHEAD = 1 << 16


class PeerGoneError(Exception):
    """The peer left while we were reading from it or writing to it."""


class Wire(asyncio.Protocol):
    """Buffered reads, writes with back-pressure, and a close that is exactly a FIN or exactly an RST."""

    def __init__(self, opened: "Callable[[Wire], None]", closed: "Callable[[Wire], None]") -> None:
        self._on_open = opened
        self._on_close = closed
        self._buffer = bytearray()
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()
        self.gone = asyncio.Event()
        self.how: HowClosed | None = None
        self.closed_at: float | None = None
        self.bytes_out = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_WRITE_AHEAD)
        self._on_open(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > _READ_AHEAD:
            self.transport.pause_reading()
        self._news.set()

    def eof_received(self) -> bool:
        self._ended("fin")
        self._news.set()
        return True  # a half-close: the peer may still want its answer

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()
        self._ended("local" if exc is None else "rst")
        self._news.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _ended(self, how: HowClosed) -> None:
        if self.how is None:
            self.how = how
            self.closed_at = time.monotonic()
            self.gone.set()
            self._on_close(self)

    async def read_until(self, mark: bytes, limit: int) -> bytes:
        """Everything up to and including the mark. Raises PeerGoneError; ValueError beyond the limit."""
        searched = 0
        while (at := self._buffer.find(mark, searched)) < 0:
            searched = max(0, len(self._buffer) - len(mark) + 1)
            if len(self._buffer) > limit:
                raise ValueError("line or head too long")
            await self._more()
        return self._take(at + len(mark))

    async def read_some(self, limit: int) -> bytes:
        """Between 1 and `limit` bytes. Raises PeerGoneError."""
        while not self._buffer:
            await self._more()
        return self._take(min(limit, len(self._buffer)))

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        if len(self._buffer) <= _READ_AHEAD and not self._lost.is_set():
            self.transport.resume_reading()
        return taken

    async def _more(self) -> None:
        if self.gone.is_set():
            raise PeerGoneError
        self._news.clear()
        self.transport.resume_reading()
        await self._news.wait()

    async def stop_reading(self) -> None:
        """Let the peer's bytes pile up in the kernel, until the peer is gone or the process ends."""
        self.transport.pause_reading()
        await self.gone.wait()

    async def write(self, data: bytes) -> None:
        if self._lost.is_set():
            raise PeerGoneError
        self.transport.write(data)
        self.bytes_out += len(data)
        await self._writable.wait()
        if self._lost.is_set():
            raise PeerGoneError

    async def pause(self, seconds: float) -> None:
        """Sleep, but wake with PeerGoneError as soon as the connection is broken."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._lost.wait()
                raise PeerGoneError

    async def close(self, how: Literal["fin", "rst"] = "fin") -> None:
        """Close once the peer's kernel has every written byte, so that a cut is exact even with an RST."""
        await self._flushed()
        if self._lost.is_set():
            return
        self._ended("local")
        if how == "rst":
            self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()

    async def _flushed(self) -> None:
        # The kernel tells nobody when its queue is empty.
        while not self._lost.is_set() and self._unsent():
            await asyncio.sleep(0.001)

    def _unsent(self) -> int:
        if waiting := self.transport.get_write_buffer_size():
            return waiting
        answer = fcntl.ioctl(self._socket().fileno(), termios.TIOCOUTQ, b"\0" * 4)
        return cast(int, struct.unpack("i", answer)[0])

    def _socket(self) -> socket.socket:
        return cast(socket.socket, self.transport.get_extra_info("socket"))
