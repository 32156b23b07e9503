"""Reading one HTTP/1.1 request from a wire: the head as sent, the body hashed as it arrives."""

import hashlib
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.provider.wire import PeerGoneError, Wire

_MAX_HEAD = 1 << 20
_MAX_KEPT = 64 << 20
_PIECE = 1 << 16


class BadRequestError(ValueError):
    """Not a request that we can read."""


@dataclass(slots=True)
class Request:
    """A request whose head is read; `read_body` reads the rest."""

    head: bytes
    line: str
    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    length: int = 0
    sha256: str = ""
    trailers: list[tuple[str, str]] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        """The first value of that name."""
        return next((value for field, value in self.headers if field.lower() == name), None)

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def closes(self) -> bool:
        tokens = {token.strip().lower() for token in (self.header("connection") or "").split(",")}
        return "close" in tokens or (self.version == "HTTP/1.0" and "keep-alive" not in tokens)


async def read_head(wire: Wire) -> Request | None:
    """The next request's head, or None when the peer left between two requests. Raises BadRequestError."""
    try:
        head = await wire.read_until(b"\r\n\r\n", _MAX_HEAD)
    except PeerGoneError:
        return None
    except ValueError as error:
        raise BadRequestError(str(error)) from error
    head = head.lstrip(b"\r\n")
    line, *fields = head[:-4].split(b"\r\n")
    parts = line.decode("latin-1").split(" ")
    if len(parts) != 3:
        raise BadRequestError(f"request line {line!r}")
    method, target, version = parts
    return Request(head, line.decode("latin-1"), method, target, version, _pairs(fields))


def _pairs(fields: list[bytes]) -> list[tuple[str, str]]:
    pairs = []
    for raw in fields:
        name, colon, value = raw.partition(b":")
        if not colon:
            raise BadRequestError(f"header line {raw!r}")
        pairs.append((name.decode("latin-1"), value.strip(b" \t").decode("latin-1")))
    return pairs


async def read_body(wire: Wire, request: Request, stop_after: int | None) -> bool:
    """Read and hash the body into the request, at most `stop_after` payload bytes of it; True at its end.

    Raises BadRequestError, PeerGoneError.
    """
    if (request.header("expect") or "").lower() == "100-continue":
        await wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = _Body(request, stop_after)
    try:
        if "chunked" in (request.header("transfer-encoding") or "").lower():
            return await _read_chunks(wire, body)
        return await _read_exactly(wire, body, _number(request.header("content-length") or "0", 10))
    finally:
        body.finish()


class _Body:
    def __init__(self, request: Request, stop_after: int | None) -> None:
        self.request = request
        self._hash = hashlib.sha256()
        self._kept: list[bytes] = []
        self._stop_after = stop_after

    def room(self) -> int:
        return _PIECE if self._stop_after is None else min(_PIECE, self._stop_after - self.request.length)

    def add(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.request.length += len(piece)
        if self.request.length <= _MAX_KEPT:
            self._kept.append(piece)

    def finish(self) -> None:
        self.request.sha256 = self._hash.hexdigest()
        self.request.body = b"".join(self._kept) if self.request.length <= _MAX_KEPT else b""


async def _read_exactly(wire: Wire, body: _Body, count: int) -> bool:
    while count:
        room = body.room()
        if room <= 0:
            return False
        piece = await wire.read_some(min(room, count))
        body.add(piece)
        count -= len(piece)
    return True


async def _read_chunks(wire: Wire, body: _Body) -> bool:
    while True:
        size = _number((await _line(wire)).split(b";")[0].decode("latin-1"), 16)
        if size == 0:
            break
        if not await _read_exactly(wire, body, size):
            return False
        if await _line(wire):
            raise BadRequestError("chunk longer than its size")
    fields: list[bytes] = []
    while line := await _line(wire):
        fields.append(line)
    body.request.trailers = _pairs(fields)
    return True


async def _line(wire: Wire) -> bytes:
    try:
        return (await wire.read_until(b"\r\n", _MAX_HEAD))[:-2]
    except PeerGoneError:
        raise
    except ValueError as error:
        raise BadRequestError(str(error)) from error


def _number(text: str, base: int) -> int:
    try:
        return int(text.strip(), base)
    except ValueError as error:
        raise BadRequestError(f"not a number: {text!r}") from error
