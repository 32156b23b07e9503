"""What is kept of a body for the check while it passes: its first bytes, never more than a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from worker_compat.errors import FetchError
from worker_compat.streams import ByteSource, BytesSource


class Capture:
    """The first ``limit`` bytes of a body; ``truncated`` says that there were more."""

    __slots__ = ("_chunks", "_left", "truncated")

    def __init__(self, limit: int) -> None:
        self._chunks: list[bytes] = []
        self._left = limit
        self.truncated = False

    def keep(self, chunk: bytes) -> None:
        """Keep what there is room for."""
        left = self._left = self._left - len(chunk)
        if left >= 0:
            self._chunks.append(chunk)
        elif not self.truncated:
            self.truncated = True
            self._chunks.append(chunk[:left])

    def data(self) -> bytes:
        """What was kept, in one piece."""
        if len(self._chunks) > 1:
            self._chunks = [b"".join(self._chunks)]
        return self._chunks[0] if self._chunks else b""


class BodyTooLarge(FetchError):
    """A request body went over ``MAX_BODY_BYTES`` while it was passing."""


class Copied(ByteSource):
    """Passes a request body on, keeps a copy of its beginning, and breaks it off beyond ``limit`` bytes."""

    __slots__ = ("_capture", "_left", "_source", "length")

    def __init__(self, source: ByteSource, capture: Capture, limit: int) -> None:
        self._source = source
        self._capture = capture
        self._left = limit
        self.length = source.length

    async def pull(self) -> bytes:
        return self._seen(await self._source.pull())

    def take(self) -> bytes | None:
        whole = self._source.take()
        return None if whole is None else self._seen(whole)

    def close(self, reason: BaseException | None = None) -> None:
        self._source.close(reason)

    def _seen(self, chunk: bytes) -> bytes:
        self._left -= len(chunk)
        if self._left < 0:
            raise BodyTooLarge("the request body is larger than MAX_BODY_BYTES")
        self._capture.keep(chunk)
        return chunk


class Watched(ByteSource):
    """Passes a streamed answer on and keeps a copy; what ends the answer leaves once ``finish`` returned.

    ``finish(cut)`` runs once, to its end, when the whole answer is here or it broke off; ``left()`` is called instead
    when nobody reads on. The last bytes of a body of known length, and the end of any other, wait for it: a client that
    has the whole answer knows that its exchange is on record. No other byte waits.
    """

    __slots__ = ("_capture", "_finish", "_held", "_left", "_missing", "_record", "_source", "length")

    def __init__(
        self,
        source: ByteSource,
        capture: Capture,
        finish: Callable[[bool], Awaitable[None]],
        left: Callable[[], None],
    ) -> None:
        self._source = source
        self._capture = capture
        self._finish = finish
        self._left = left
        self._record: asyncio.Future[None] | None = None
        self._held = b""
        self._missing = source.length
        self.length = source.length

    async def pull(self) -> bytes:
        if not self._held:
            try:
                chunk = await self._source.pull()
            except FetchError:
                await self._end(True)
                raise
            if not chunk:
                await self._end(bool(self._missing))
            if not chunk or not self._completes(chunk):
                return chunk
            self._held = chunk  # until it leaves: a pull that is cancelled loses nothing
        await self._end(False)
        chunk, self._held = self._held, b""
        return chunk

    def pull_now(self) -> bytes:
        chunk = b"" if self._held else self._source.pull_now()
        if chunk and self._completes(chunk):
            self._held = chunk  # the next pull can wait for the record
            return b""
        return chunk

    def close(self, reason: BaseException | None = None) -> None:
        self._source.close(reason)
        if self._record is None:
            self._left()

    def _completes(self, chunk: bytes) -> bool:
        self._capture.keep(chunk)
        if self._missing is None:
            return False
        self._missing -= len(chunk)
        return self._missing <= 0

    async def _end(self, cut: bool) -> None:
        if self._record is None:
            self._record = asyncio.ensure_future(self._finish(cut))
        # Shielded: a client that leaves now must not take the record with it.
        await asyncio.shield(self._record)


class Prefixed(ByteSource):
    """Bytes that were read already, then the rest of their source."""

    __slots__ = ("_first", "_source", "length")

    def __init__(self, first: bytes, source: ByteSource) -> None:
        self._first = first
        self._source = source
        self.length: int | None = None

    async def pull(self) -> bytes:
        return self.pull_now() or await self._source.pull()

    def pull_now(self) -> bytes:
        first, self._first = self._first, b""
        return first

    def close(self, reason: BaseException | None = None) -> None:
        self._first = b""
        self._source.close(reason)


class Broken(ByteSource):
    """A body whose rest never came."""

    __slots__ = ("_error",)

    def __init__(self, error: FetchError) -> None:
        self._error = error

    async def pull(self) -> bytes:
        raise self._error


async def read_up_to(source: ByteSource, limit: int) -> tuple[bytes, ByteSource | None]:
    """What there is of a body up to about ``limit`` bytes, and what else will come: None when that was all of it.

    A body that breaks off gives what came, and a rest that breaks off; :class:`BodyTooLarge` when its request did.
    """
    whole = source.take()
    if whole is not None:
        return whole, None if len(whole) <= limit else BytesSource(b"")
    chunks: list[bytes] = []
    size = 0
    try:
        while chunk := await source.pull():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                return b"".join(chunks), source
    except BodyTooLarge as error:
        source.close(error)
        raise  # the request broke, not the answer: its sender can still be told
    except FetchError as error:
        source.close(error)
        return b"".join(chunks), Broken(error)
    except BaseException as error:
        source.close(error)
        raise
    return b"".join(chunks), None
