"""Sending one answer under its script: framing, compression, pace, and the cut or silence that ends it."""

import asyncio
import zlib
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Protocol

import brotli

from tests.provider.answer import Answer
from tests.provider.http1 import Request
from tests.provider.script import HeaderPairs, Script
from tests.provider.wire import Wire

_EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n"


class ClosedError(Exception):
    """The script ended the connection."""


class Outlet:
    """Writes to the wire at the script's pace, and cuts after exactly its byte."""

    def __init__(self, wire: Wire, script: Script) -> None:
        self._wire = wire
        self._script = script
        self.sent = 0

    async def send(self, data: bytes) -> None:
        if self._script.drip is None:
            await self._send(data)
            return
        count, seconds = self._script.drip
        for start in range(0, len(data), count):
            await self._send(data[start : start + count])
            await self._wire.pause(seconds)

    async def _send(self, data: bytes) -> None:
        cut = self._script.cut
        if cut is not None and self.sent + len(data) >= cut:
            await self._write(data[: cut - self.sent])
            await self.close()
        await self._write(data)

    async def _write(self, data: bytes) -> None:
        if data:
            self.sent += len(data)
            await self._wire.write(data)

    async def close(self) -> None:
        await self._wire.close(self._script.cut_with)
        raise ClosedError

    async def hold(self) -> None:
        """Say nothing more until the peer leaves."""
        await self._wire.gone.wait()
        raise ClosedError


async def send(wire: Wire, request: Request, script: Script, answer: Answer) -> None:
    """Send the answer. Raises ClosedError once the connection must not be reused."""
    outlet = Outlet(wire, script)
    if script.early_hints:
        await outlet.send(_EARLY_HINTS)
    if script.delay:
        await wire.pause(script.delay)
    if script.silence == "head":
        await outlet.hold()
    if script.cut == 0:
        await outlet.close()
    if script.raw is not None:
        await outlet.send(script.raw)
        if script.keep_alive is not True:
            await outlet.close()
        return
    await _send_framed(outlet, wire, request, script, answer)


async def _send_framed(outlet: Outlet, wire: Wire, request: Request, script: Script, answer: Answer) -> None:
    bodiless = request.method == "HEAD" or answer.status in (204, 304)
    pieces, length = _encoded(answer, script)
    framing = _framing(script, request, length)
    if framing == "length" and length is None:
        pieces = list(pieces)
        length = sum(map(len, pieces))
    closes = request.closes or script.keep_alive is False or script.early or framing == "close"
    head = _head(answer, script, framing, None if answer.status in (204, 304) else length, closes)
    whole = None if answer.length is None or bodiless else _whole(pieces, framing, script)
    if whole is not None:
        await outlet.send(head + whole)
    else:
        await outlet.send(head)
        if not bodiless:
            await _send_body(outlet, wire, script, framing, pieces)
    if closes:
        await outlet.close()


def _whole(pieces: Iterable[bytes], framing: str, script: Script) -> bytes | None:
    """A small document's framed body, to be sent with the head in one write."""
    if not isinstance(pieces, list) or framing != "length" or script.silence is not None:
        return None
    return b"".join(pieces)


async def _send_body(outlet: Outlet, wire: Wire, script: Script, framing: str, pieces: Iterable[bytes]) -> None:
    left = script.silence if isinstance(script.silence, int) else None
    for number, piece in enumerate(pieces):
        if number and script.event_delay:
            await wire.pause(script.event_delay)
        if left is not None:
            piece, left = piece[:left], left - len(piece)
        if piece:
            await outlet.send(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
        if left is not None and left <= 0:
            await outlet.hold()
        await asyncio.sleep(0)
    if left is not None:
        await outlet.hold()
    if framing == "chunked":
        await outlet.send(b"0\r\n" + _lines(script.trailers) + b"\r\n")


def _framing(script: Script, request: Request, length: int | None) -> str:
    if script.until_close or request.version == "HTTP/1.0":
        return "close"
    if script.trailers or script.chunked is True:
        return "chunked"
    return "length" if script.chunked is False or length is not None else "chunked"


def _head(answer: Answer, script: Script, framing: str, length: int | None, closes: bool) -> bytes:
    # 529 is no HTTP standard; the CDN in front of the provider that invented it really prints this reason.
    reason = "<none>" if answer.status == 529 else _reason(answer.status)
    fields = [("Content-Type", answer.content_type), *answer.headers]
    if closes:
        fields = [pair for pair in fields if pair[0].lower() != "connection"] + [("Connection", "close")]
    if script.encoding:
        fields.append(("Content-Encoding", script.encoding))
    if framing == "chunked":
        fields.append(("Transfer-Encoding", "chunked"))
    elif framing == "length" and length is not None:
        fields.append(("Content-Length", str(length)))
    if script.trailers:
        fields.append(("Trailer", ", ".join(name for name, _ in script.trailers)))
    line = f"HTTP/1.1 {answer.status} {reason}\r\n".encode("latin-1")
    return line + _lines((*fields, *script.headers)) + b"\r\n"


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _lines(pairs: HeaderPairs) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in pairs).encode("latin-1")


class _Compressor(Protocol):
    def compress(self, data: bytes) -> bytes: ...
    def flush(self) -> bytes: ...
    def finish(self) -> bytes: ...


class _Zlib:
    def __init__(self, window: int) -> None:
        self._stream = zlib.compressobj(wbits=window)

    def compress(self, data: bytes) -> bytes:
        return self._stream.compress(data)

    def flush(self) -> bytes:
        return self._stream.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._stream.flush(zlib.Z_FINISH)


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Compressor(quality=4)

    def compress(self, data: bytes) -> bytes:
        return bytes(self._stream.process(data))

    def flush(self) -> bytes:
        return bytes(self._stream.flush())

    def finish(self) -> bytes:
        return bytes(self._stream.finish())


def _compressor(encoding: str) -> _Compressor:
    return _Brotli() if encoding == "br" else _Zlib(31 if encoding == "gzip" else 15)


def _encoded(answer: Answer, script: Script) -> tuple[Iterable[bytes], int | None]:
    """The body's pieces and their length: a stream is flushed per event, a document compressed whole."""
    if script.encoding is None:
        return answer.pieces, answer.length
    compressor = _compressor(script.encoding)
    if answer.length is None:
        return _flushed(compressor, answer.pieces), None
    whole = b"".join([*map(compressor.compress, answer.pieces), compressor.finish()])
    return [whole], len(whole)


def _flushed(compressor: _Compressor, pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield compressor.compress(piece) + compressor.flush()
    yield compressor.finish()
