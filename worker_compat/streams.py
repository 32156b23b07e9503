"""ReadableStream over byte sources: pulled chunk by chunk, closed by whoever stops reading, tee-able."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable

log = logging.getLogger("worker_compat")

_LOCKED = "This ReadableStream is currently locked to a reader."
_NOT_BYTES = "This ReadableStream did not return bytes."


class ByteSource:
    """Where a stream's bytes come from. Subclass it and override what applies.

    ``length`` is the number of bytes still to come when that is known for certain, else None.
    """

    __slots__ = ()
    length: int | None = None

    async def pull(self) -> bytes:
        """The next bytes; ``b""`` at the end. Raises what broke the source.

        Cancelling the call loses nothing: the next one goes on, or raises where that is impossible.
        """
        return b""

    def pull_now(self) -> bytes:
        """What is here already, ``b""`` if nothing is. Never waits, never means the end."""
        return b""

    def take(self) -> bytes | None:
        """Everything that remains if all of it is here already, else None. Never waits."""
        return None

    def close(self, reason: BaseException | None = None) -> None:
        """Give up the rest: release what the source holds. Called at most once, never after the end.

        After an error of ``pull`` it is called with that error.
        """


class ReadableStream:
    """A stream of ``bytes`` chunks that is read once.

    https://developers.cloudflare.com/workers/runtime-apis/streams/readablestream/
    """

    __slots__ = ("_disturbed", "_ended", "_error", "_locked", "_source")

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._locked = False
        self._disturbed = False
        self._ended = False
        self._error: BaseException | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> ReadableStream:
        """A stream of one chunk."""
        return cls(BytesSource(data))

    @classmethod
    def from_iterable(cls, chunks: AsyncIterable[bytes] | Iterable[bytes]) -> ReadableStream:
        """A stream over an iterable or async iterable of bytes."""
        return cls(_IterableSource(chunks))

    @property
    def locked(self) -> bool:
        """Whether a reader, a tee or a response holds this stream."""
        return self._locked

    @property
    def disturbed(self) -> bool:
        """Whether anything was read or cancelled."""
        return self._disturbed

    def detach(self) -> ByteSource:
        """Lock the stream for good and hand out its source: the way of hosts and fetchers.

        ``TypeError`` when it is locked or was read from.
        """
        if self._locked or self._disturbed:
            raise TypeError(_LOCKED)
        self._locked = self._disturbed = True
        return self._source

    def get_reader(self) -> StreamReader:
        """A reader; the stream stays locked until ``release_lock``."""
        if self._locked:
            raise TypeError(_LOCKED)
        self._locked = True
        return StreamReader(self)

    getReader = get_reader

    def tee(self) -> tuple[ReadableStream, ReadableStream]:
        """Two streams with the same bytes; what one branch has not read yet is kept in memory.

        The source is closed once both branches were cancelled.
        """
        if self._locked:
            raise TypeError(_LOCKED)
        self._locked = True
        shared = _Tee(self)
        # The source's length is that of a whole; what is left of a read stream is not known.
        length = None if self._disturbed else self._source.length
        return ReadableStream(_TeeBranch(shared, 0, length)), ReadableStream(_TeeBranch(shared, 1, length))

    async def cancel(self, reason: BaseException | None = None) -> None:
        """Stop reading and release the source."""
        if self._locked:
            raise TypeError(_LOCKED)
        self._close(reason)

    async def read_all(self) -> bytes:
        """The rest of the stream as one value."""
        if self._locked:
            raise TypeError(_LOCKED)
        self._locked = self._disturbed = True
        chunks = []
        try:
            whole = None if self._ended else self._source.take()
            if whole is not None:
                self._ended = True
                return whole
            while chunk := await self._pull():
                chunks.append(chunk)
        except BaseException as error:
            self._close(error)
            raise
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        reader = self.get_reader()
        try:
            while chunk := await reader.read():
                yield chunk
        finally:
            self._close(None)
            reader.release_lock()

    async def _pull(self) -> bytes:
        self._disturbed = True
        if self._ended:
            if self._error is not None:
                raise self._error
            return b""
        try:
            chunk = await self._source.pull()
        except Exception as error:
            return self._broke(error)
        if not chunk:
            self._ended = True
        # Somebody may have cancelled the stream meanwhile.
        return b"" if self._ended else chunk

    def _broke(self, error: Exception) -> bytes:
        if self._ended:
            return b""
        # Remembered: a stream that broke must not look complete to whoever reads on.
        self._error = error
        self._close(error)
        raise error

    def _buffered(self) -> bytes | None:
        """The whole stream, without reading it, if it was made from bytes and nobody touched it."""
        source = self._source
        if self._locked or self._disturbed or not isinstance(source, BytesSource):
            return None
        return source._data

    def _close(self, reason: BaseException | None) -> None:
        self._disturbed = True
        if not self._ended:
            self._ended = True
            self._source.close(reason)


class StreamReader:
    """The default reader of a stream."""

    __slots__ = ("_stream",)

    def __init__(self, stream: ReadableStream) -> None:
        self._stream: ReadableStream | None = stream

    async def read(self) -> bytes:
        """The next chunk; ``b""`` at the end."""
        return await self._held()._pull()

    async def cancel(self, reason: BaseException | None = None) -> None:
        """Cancel the stream behind this reader."""
        self._held()._close(reason)

    def release_lock(self) -> None:
        """Let another reader take the stream."""
        if self._stream is not None:
            self._stream._locked = False
            self._stream = None

    releaseLock = release_lock

    def _held(self) -> ReadableStream:
        if self._stream is None:
            raise TypeError("This ReadableStream reader has been released.")
        return self._stream


class BytesSource(ByteSource):
    """Bytes that are here already."""

    __slots__ = ("_data", "length")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length: int | None = len(data)

    async def pull(self) -> bytes:
        data, self._data = self._data, b""
        return data

    def take(self) -> bytes:
        data, self._data = self._data, b""
        return data

    def close(self, reason: BaseException | None = None) -> None:
        self._data = b""


class _IterableSource(ByteSource):
    """Chunks of an iterable; ``close`` ends a generator so that its ``finally`` runs."""

    __slots__ = ("_chunks", "_closed", "_closing", "_cut")

    def __init__(self, chunks: AsyncIterable[bytes] | Iterable[bytes]) -> None:
        self._chunks = aiter(chunks) if isinstance(chunks, AsyncIterable) else _as_async(chunks)
        self._closing: asyncio.Task[None] | None = None
        self._closed = False
        self._cut = False

    async def pull(self) -> bytes:
        if self._cut:
            raise RuntimeError("the generator of this stream was cancelled before its end")
        try:
            async for chunk in self._chunks:
                if self._closed:
                    await self._end()
                    break
                if not isinstance(chunk, bytes | bytearray | memoryview):
                    raise TypeError(_NOT_BYTES)
                # An empty chunk is not the end of an iterable.
                if chunk:
                    return bytes(chunk)
        except asyncio.CancelledError:
            # Most generators do not survive this; without a note their end would look like the stream's.
            self._cut = self._over()
            raise
        return b""

    def close(self, reason: BaseException | None = None) -> None:
        self._closed = True
        # A generator that is just running is ended by the pull that runs it.
        if not self._over() and not getattr(self._chunks, "ag_running", False):
            self._closing = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        aclose = getattr(self._chunks, "aclose", None)
        try:
            if aclose is not None:
                await aclose()
        except Exception:
            log.exception("the generator behind a stream failed while it was closed")

    def _over(self) -> bool:
        return getattr(self._chunks, "ag_frame", self) is None


async def _as_async(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


class _Tee:
    """What two branches share: one source, and for each branch the chunks it has not read yet."""

    __slots__ = ("closed", "error", "pulling", "queues", "stream")

    def __init__(self, stream: ReadableStream) -> None:
        self.stream = stream
        self.queues: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        self.closed = [False, False]
        self.error = stream._error
        self.pulling: asyncio.Task[None] | None = None

    async def next(self, branch: int) -> bytes:
        queue = self.queues[branch]
        while not queue:
            if self.closed[branch]:
                return b""
            if self.error is not None:
                raise self.error
            if self.stream._ended:
                return b""
            if self.pulling is None:
                self.pulling = asyncio.ensure_future(self._fill())
            # Shielded: the reader of one branch may be cancelled without harm to the other.
            await asyncio.shield(self.pulling)
        return queue.popleft()

    async def _fill(self) -> None:
        try:
            chunk = await self.stream._pull()
        except BaseException as error:
            self.error = error
            return
        finally:
            self.pulling = None
        for queue, closed in zip(self.queues, self.closed, strict=True):
            if chunk and not closed:
                queue.append(chunk)

    def close(self, branch: int, reason: BaseException | None) -> None:
        self.closed[branch] = True
        self.queues[branch].clear()
        if all(self.closed):
            if self.pulling is not None:
                self.pulling.cancel()
            self.stream._close(reason)


class _TeeBranch(ByteSource):
    __slots__ = ("_branch", "_shared", "length")

    def __init__(self, shared: _Tee, branch: int, length: int | None) -> None:
        self._shared = shared
        self._branch = branch
        self.length = length

    async def pull(self) -> bytes:
        return await self._shared.next(self._branch)

    def close(self, reason: BaseException | None = None) -> None:
        self._shared.close(self._branch, reason)
