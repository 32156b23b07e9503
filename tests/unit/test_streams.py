"""ReadableStream: reading once, locks, iterables, and what happens when a reader leaves or a source breaks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.unit.stream_support import CHUNKS, WHOLE, Guarded, collected, scripted, turns
from worker_compat.streams import ByteSource, ReadableStream
from worker_compat.testing import ScriptedBody

LOCKED = r"^This ReadableStream is currently locked to a reader\.$"
RELEASED = r"^This ReadableStream reader has been released\.$"


async def called(use: Callable[[ReadableStream], Any], stream: ReadableStream) -> None:
    result = use(stream)
    if inspect.isawaitable(result):
        await result


class TestReading:
    async def test_a_reader_gets_chunk_by_chunk(self) -> None:
        stream, source = scripted()
        assert (stream.locked, stream.disturbed) == (False, False)
        reader = stream.getReader()
        assert (stream.locked, stream.disturbed) == (True, False)
        assert [await reader.read() for _ in range(5)] == [*CHUNKS, b"", b""]
        assert stream.disturbed
        assert source.pulled == 3
        await reader.cancel()
        assert not source.closed

    async def test_read_all_joins_the_rest(self) -> None:
        stream, _ = scripted()
        reader = stream.get_reader()
        assert await reader.read() == b"one "
        reader.releaseLock()
        assert await stream.read_all() == b"two three"
        assert stream.locked

    async def test_read_all_takes_what_is_here_without_pulling(self) -> None:
        class Arrived(ByteSource):
            def take(self) -> bytes | None:
                return WHOLE

            async def pull(self) -> bytes:
                raise AssertionError("everything is here already")

        assert await ReadableStream(Arrived()).read_all() == WHOLE

    async def test_read_all_after_the_end_asks_the_source_nothing(self) -> None:
        stream, source = scripted()
        assert await collected(stream) == CHUNKS
        source.take = source.pull = None  # type: ignore[method-assign, assignment] # whoever calls them fails
        assert await stream.read_all() == b""

    async def test_an_empty_stream(self) -> None:
        assert await ReadableStream.from_bytes(b"").read_all() == b""
        assert await collected(ReadableStream.from_bytes(b"")) == []
        assert await collected(ReadableStream(ByteSource())) == []

    async def test_iteration_to_the_end_gives_the_lock_back(self) -> None:
        stream = ReadableStream.from_bytes(WHOLE)
        assert await collected(stream) == [WHOLE]
        assert (stream.locked, stream.disturbed) == (False, True)
        assert await collected(stream) == []

    async def test_leaving_an_iteration_cancels_the_stream(self) -> None:
        stream, source = scripted()
        async for chunk in stream:
            assert chunk == b"one "
            break
        await turns()
        assert source.close_reasons == [None]
        assert not stream.locked
        assert await stream.read_all() == b""

    async def test_a_released_reader_is_of_no_use(self) -> None:
        stream, source = scripted()
        reader = stream.get_reader()
        reader.release_lock()
        reader.release_lock()
        assert not stream.locked
        for call in (reader.read(), reader.cancel()):
            with pytest.raises(TypeError, match=RELEASED):
                await call
        assert not source.closed

    async def test_cancel_closes_the_source_once(self) -> None:
        stream, source = scripted()
        reason = ValueError("enough")
        await stream.cancel(reason)
        await stream.cancel()
        assert source.close_reasons == [reason]
        assert stream.disturbed
        assert await stream.get_reader().read() == b""

    async def test_a_reader_cancels_with_its_reason(self) -> None:
        stream, source = scripted()
        reader = stream.get_reader()
        await reader.read()
        reason = ValueError("enough")
        await reader.cancel(reason)
        assert source.close_reasons == [reason]
        assert await reader.read() == b""

    async def test_a_read_that_waits_while_the_stream_is_cancelled_gets_the_end(self) -> None:
        gate = asyncio.Event()
        stream, _ = scripted(gate=gate)
        reader = stream.get_reader()
        await reader.read()
        waiting = asyncio.create_task(reader.read())
        await turns()
        await reader.cancel()
        gate.set()
        assert await waiting == b""

    @pytest.mark.parametrize(
        "use",
        [
            ReadableStream.cancel,
            ReadableStream.read_all,
            ReadableStream.get_reader,
            ReadableStream.tee,
            ReadableStream.detach,
            collected,
        ],
    )
    @pytest.mark.parametrize("lock", [ReadableStream.get_reader, ReadableStream.tee, ReadableStream.detach])
    async def test_a_locked_stream_is_for_its_holder_only(
        self, lock: Callable[[ReadableStream], object], use: Callable[[ReadableStream], Any]
    ) -> None:
        stream, source = scripted()
        lock(stream)
        assert stream.locked
        with pytest.raises(TypeError, match=LOCKED):
            await called(use, stream)
        assert (source.pulled, source.closed) == (0, False)


class TestDetach:
    async def test_it_hands_out_the_source_for_good(self) -> None:
        stream, source = scripted()
        assert stream.detach() is source
        assert (stream.locked, stream.disturbed) == (True, True)

    async def test_not_of_a_stream_that_was_read_or_cancelled(self) -> None:
        read, _ = scripted()
        reader = read.get_reader()
        await reader.read()
        reader.release_lock()
        cancelled, _ = scripted()
        await cancelled.cancel()
        for stream in (read, cancelled):
            assert not stream.locked
            with pytest.raises(TypeError, match=LOCKED):
                stream.detach()

    async def test_bytes_are_taken_whole(self) -> None:
        stream = ReadableStream.from_bytes(WHOLE)
        source = stream.detach()
        assert source.length == len(WHOLE)
        assert source.pull_now() == b""
        assert source.take() == WHOLE
        assert await source.pull() == b""
        other = ReadableStream.from_bytes(WHOLE).detach()
        assert [await other.pull(), await other.pull()] == [WHOLE, b""]

    async def test_nothing_remains_of_closed_bytes(self) -> None:
        source = ReadableStream.from_bytes(WHOLE).detach()
        source.close()
        assert source.take() == b""


class TestErrors:
    async def test_what_came_before_the_error_is_read_first(self) -> None:
        error = OSError("cut off")
        stream, source = scripted(error=error, error_after=2)
        reader = stream.get_reader()
        assert [await reader.read(), await reader.read()] == CHUNKS[:2]
        with pytest.raises(OSError, match="cut off"):
            await reader.read()
        assert source.close_reasons == [error]

    async def test_a_broken_stream_never_looks_complete(self) -> None:
        stream, source = scripted(error=OSError("cut off"), error_after=1)
        reader = stream.get_reader()
        await reader.read()
        for _ in range(2):
            with pytest.raises(OSError, match="cut off"):
                await reader.read()
        reader.release_lock()
        left, _ = stream.tee()
        with pytest.raises(OSError, match="cut off"):
            await left.read_all()
        assert len(source.close_reasons) == 1

    async def test_read_all_of_a_broken_stream(self) -> None:
        error = OSError("cut off")
        stream, source = scripted(error=error)
        with pytest.raises(OSError, match="cut off"):
            await stream.read_all()
        assert source.close_reasons == [error]

    async def test_a_source_that_refuses_to_be_taken_is_closed(self) -> None:
        class TooLarge(ScriptedBody):
            def take(self) -> bytes | None:
                raise ValueError("too large")

        source = TooLarge([])
        with pytest.raises(ValueError, match="too large"):
            await ReadableStream(source).read_all()
        assert source.closed

    async def test_an_error_after_the_cancel_is_nobodys(self) -> None:
        gate = asyncio.Event()

        class Breaks(ByteSource):
            async def pull(self) -> bytes:
                await gate.wait()
                raise OSError("connection closed")

        reader = ReadableStream(Breaks()).get_reader()
        waiting = asyncio.create_task(reader.read())
        await turns()
        await reader.cancel()
        gate.set()
        assert await waiting == b""

    async def test_a_cancelled_read_loses_nothing(self) -> None:
        gate = asyncio.Event()
        stream, source = scripted(gate=gate)
        reader = stream.get_reader()
        assert await reader.read() == b"one "
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await reader.read()
        assert not source.closed
        gate.set()
        assert await reader.read() == b"two "

    async def test_a_cancelled_read_all_closes_the_source(self) -> None:
        stream, source = scripted(gate=asyncio.Event())
        reading = asyncio.create_task(stream.read_all())
        await turns()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert [type(reason) for reason in source.close_reasons] == [asyncio.CancelledError]

    async def test_a_cancelled_iteration_closes_the_source(self) -> None:
        stream, source = scripted(gate=asyncio.Event())
        reading = asyncio.create_task(collected(stream))
        await turns()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert source.closed


class TestIterables:
    @pytest.mark.parametrize(
        "chunks", [[b"a", b"", b"b"], (b"a", b"b"), iter([b"ab"]), [bytearray(b"a"), memoryview(b"xb")[1:]]]
    )
    async def test_an_iterable(self, chunks: Any) -> None:
        assert await ReadableStream.from_iterable(chunks).read_all() == b"ab"

    async def test_an_async_generator_is_read_to_its_end(self) -> None:
        generator = Guarded(b"a", b"", b"b")
        assert await collected(ReadableStream.from_iterable(generator.run())) == [b"a", b"b"]
        assert generator.ended.is_set()

    async def test_an_async_iterator_that_is_no_generator(self) -> None:
        class Countdown:
            left = 3

            def __aiter__(self) -> Countdown:
                return self

            async def __anext__(self) -> bytes:
                self.left -= 1
                if self.left < 0:
                    raise StopAsyncIteration
                return b"%d" % self.left

        assert await ReadableStream.from_iterable(Countdown()).read_all() == b"210"
        stream = ReadableStream.from_iterable(Countdown())
        async for chunk in stream:
            assert chunk == b"2"
            break
        await turns()
        assert await stream.read_all() == b""

    @pytest.mark.parametrize("chunk", ["text", 5, None, [1]])
    async def test_chunks_are_bytes(self, chunk: Any) -> None:
        generator = Guarded(b"a", chunk)
        with pytest.raises(TypeError, match=r"^This ReadableStream did not return bytes\.$"):
            await ReadableStream.from_iterable(generator.run()).read_all()
        await generator.ended.wait()

    async def test_the_error_of_a_generator_is_the_streams(self) -> None:
        def chunks() -> Iterator[bytes]:
            yield b"a"
            raise OSError("cut off")

        reader = ReadableStream.from_iterable(chunks()).get_reader()
        assert await reader.read() == b"a"
        for _ in range(2):
            with pytest.raises(OSError, match="cut off"):
                await reader.read()

    async def test_cancelling_the_stream_ends_the_generator(self) -> None:
        generator = Guarded(b"a", b"b")
        stream = ReadableStream.from_iterable(generator.run())
        reader = stream.get_reader()
        await reader.read()
        await reader.cancel()
        await generator.ended.wait()

    async def test_a_generator_that_never_ran_is_closed_quietly(self) -> None:
        generator = Guarded(b"a")
        await ReadableStream.from_iterable(generator.run()).cancel()
        await turns()
        assert not generator.ended.is_set()

    @pytest.mark.parametrize("stubborn", [False, True])
    async def test_a_host_that_is_cancelled_ends_the_generator_that_it_waits_for(self, stubborn: bool) -> None:
        generator = Guarded(b"a", b"b", gate=asyncio.Event(), stubborn=stubborn)
        source = ReadableStream.from_iterable(generator.run()).detach()
        assert await source.pull() == b"a"
        waiting = asyncio.create_task(source.pull())
        await turns()
        waiting.cancel()
        await asyncio.wait([waiting])
        source.close()
        await generator.ended.wait()

    async def test_a_generator_that_runs_while_it_is_closed_ends_with_its_pull(self) -> None:
        generator = Guarded(b"a", b"b", gate=(gate := asyncio.Event()))
        reader = ReadableStream.from_iterable(generator.run()).get_reader()
        await reader.read()
        waiting = asyncio.create_task(reader.read())
        await turns()
        await reader.cancel()
        assert not generator.ended.is_set()
        gate.set()
        assert await waiting == b""
        assert generator.ended.is_set()

    async def test_a_generator_killed_by_a_cancelled_read_never_looks_complete(self) -> None:
        generator = Guarded(b"a", b"b", gate=asyncio.Event())
        reader = ReadableStream.from_iterable(generator.run()).get_reader()
        await reader.read()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await reader.read()
        assert generator.ended.is_set()
        with pytest.raises(RuntimeError, match="cancelled before its end"):
            await reader.read()

    async def test_a_generator_that_fails_while_it_is_closed_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                yield b"a"
            finally:
                raise ValueError("in the way out")

        reader = ReadableStream.from_iterable(chunks()).get_reader()
        await reader.read()
        await reader.cancel()
        await turns()
        assert "failed while it was closed" in caplog.text
