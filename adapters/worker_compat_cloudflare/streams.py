"""Bodies across the edge: JavaScript's ReadableStream as a byte source, and a byte source as a ReadableStream.

``js`` and ``pyodide`` exist only inside Cloudflare, so they are imported where they are used.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from worker_compat.errors import ConnectionLost
from worker_compat.streams import ByteSource, ReadableStream

_NOT_BYTES = "This ReadableStream did not return bytes."


class NativeSource(ByteSource):
    """The bytes of a JavaScript stream. It is not locked before it is read, so that it can be passed on whole."""

    __slots__ = ("_reader", "_reading", "_stream", "length")

    def __init__(self, stream: Any, length: int | None = None) -> None:
        self._stream = stream
        self.length = length
        self._reader: Any = None
        self._reading: asyncio.Future[bytes] | None = None

    def untouched(self) -> Any:
        """The JavaScript stream, or None once reading has begun."""
        return self._stream if self._reader is None else None

    async def pull(self) -> bytes:
        """The next bytes; ``ConnectionLost`` when the stream breaks."""
        if self._reader is None:
            self._reader = self._stream.getReader()
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
        reading = self._reading
        try:
            # Shielded: what JavaScript hands over after a cancelled call belongs to the next one.
            return await asyncio.shield(reading)
        finally:
            if reading.done():
                self._reading = None

    def close(self, reason: BaseException | None = None) -> None:
        """Cancel the stream."""
        asyncio.ensure_future(_cancelled(self._stream if self._reader is None else self._reader))  # noqa: RUF006

    async def _read(self) -> bytes:
        from pyodide.ffi import JsException

        while True:
            try:
                result = await self._reader.read()
            except JsException as error:
                raise ConnectionLost(str(error.message)) from None
            if result.done:
                return b""
            if not hasattr(result.value, "to_bytes"):
                raise TypeError(_NOT_BYTES)
            if chunk := bytes(result.value.to_bytes()):
                return chunk


async def _cancelled(holder: Any) -> None:
    from pyodide.ffi import JsException

    try:
        await holder.cancel()
    except JsException:
        # It was broken or locked by somebody else: there is nothing left to give up.
        return


class _Pump:
    """The underlying source of a JavaScript stream: pulls a byte source, in the context of the event that made it."""

    def __init__(self, source: ByteSource, finished: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        from pyodide.ffi import create_proxy

        self._source = source
        self._finished = finished
        self._failed = failed
        self._context = contextvars.copy_context()
        self._pull = create_proxy(self._begin)
        self._cancel = create_proxy(self._give_up)

    def stream(self) -> Any:
        """The JavaScript stream; nothing is pulled before somebody reads."""
        import js

        underlying = js.Object.new()
        underlying.pull, underlying.cancel = self._pull, self._cancel
        return js.ReadableStream.new(underlying, highWaterMark=0)

    def _begin(self, controller: Any) -> asyncio.Future[None]:
        # JavaScript calls from outside of every event; a task takes the context it is made in.
        return self._context.run(asyncio.ensure_future, self._step(controller))

    async def _step(self, controller: Any) -> None:
        import js
        from pyodide.ffi import to_js

        try:
            chunk = await self._source.pull()
        except Exception as error:
            self._source.close(error)
            self._failed(error)
            controller.error(js.Error.new(str(error)))
            self._end()
            return
        if chunk:
            controller.enqueue(to_js(chunk))
        else:
            controller.close()
            self._end()

    def _give_up(self, _reason: Any = None) -> None:
        self._source.close()
        self._end()

    def _end(self) -> None:
        self._finished()
        # Not now: one of them is being called.
        loop = asyncio.get_running_loop()
        loop.call_soon(self._pull.destroy)
        loop.call_soon(self._cancel.destroy)


def from_native(stream: Any, length: int | None = None) -> ReadableStream | None:
    """A JavaScript stream, null or undefined; ``length`` in bytes where that is certain."""
    return ReadableStream(NativeSource(stream, length)) if stream else None


def to_native(
    content: bytes | ReadableStream | None, finished: Callable[[], None], failed: Callable[[Exception], None]
) -> Any:
    """A body as JavaScript takes it.

    ``finished`` is called once Python has nothing more to do with it, ``failed`` before that when it broke in Python.
    """
    from pyodide.ffi import to_js

    if isinstance(content, ReadableStream):
        source = content.detach()
        untouched = source.untouched() if isinstance(source, NativeSource) else None
        content = None if untouched is not None else source.take()
        if content is None and untouched is None:
            return _Pump(source, finished, failed).stream()
        finished()
        return untouched if content is None else to_js(content)
    finished()
    return None if content is None else to_js(content)
