"""What is kept of a body while it passes: how much, that it passes unchanged, and what waits for the record."""

from __future__ import annotations

import asyncio

import pytest

from smoltbot_worker.relay.capture import BodyTooLarge, Broken, Capture, Copied, Prefixed, Watched, read_up_to
from tests.unit.stream_support import turns
from worker_compat.errors import ConnectionLost, FetchTimeout
from worker_compat.streams import ByteSource, BytesSource
from worker_compat.testing import ScriptedBody

LOST = ConnectionLost("broke")


class Present(ByteSource):
    """Chunks that are here already; one for each ``pull_now``, which finds nothing after the first ``ready``."""

    def __init__(self, *chunks: bytes, ready: int, length: int | None = None) -> None:
        self.chunks = list(chunks)
        self.ready = ready
        self.length = length

    async def pull(self) -> bytes:
        return self.chunks.pop(0) if self.chunks else b""

    def pull_now(self) -> bytes:
        self.ready -= 1
        return self.chunks.pop(0) if self.ready >= 0 and self.chunks else b""


class World:
    """A watched body and what became of its record: ``seen`` has the pieces that left, and the ends, in order."""

    def __init__(self, source: ByteSource, limit: int = 1000) -> None:
        self.capture = Capture(limit)
        self.seen: list[bytes | str] = []
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None
        self.watched = Watched(source, self.capture, self._finish, lambda: self.seen.append("left"))

    async def _finish(self, cut: bool) -> None:
        self.seen.append("cut" if cut else "whole")
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.seen.append("recorded")

    async def read(self) -> None:
        """To the end, as a host does it."""
        if first := self.watched.pull_now():
            self.seen.append(first)
        while chunk := await self.watched.pull():
            self.seen.append(chunk)
        self.seen.append(b"")

    async def leave(self, reading: asyncio.Task[None]) -> None:
        """The client goes away."""
        reading.cancel()
        await asyncio.wait({reading})
        assert reading.cancelled()


class TestCapture:
    @pytest.mark.parametrize(
        ("limit", "kept", "truncated"),
        [(0, b"", True), (1, b"a", True), (3, b"abc", True), (5, b"abcde", True), (6, b"abcdef", False)],
    )
    def test_never_more_than_the_limit(self, limit: int, kept: bytes, truncated: bool) -> None:
        capture = Capture(limit)
        for chunk in (b"ab", b"", b"c", b"def"):
            capture.keep(chunk)
        assert (capture.data(), capture.data(), capture.truncated) == (kept, kept, truncated)

    def test_what_comes_after_the_limit_is_not_kept(self) -> None:
        capture = Capture(3)
        for chunk in (b"abcd", b"e", b"f" * 100):
            capture.keep(chunk)
        assert (capture.data(), capture.truncated) == (b"abc", True)

    def test_nothing(self) -> None:
        assert (Capture(5).data(), Capture(0).truncated) == (b"", False)

    def test_it_can_be_read_in_between(self) -> None:
        capture = Capture(10)
        for chunk, kept in ((b"ab", b"ab"), (b"cd", b"abcd"), (b"ef", b"abcdef")):
            capture.keep(chunk)
            assert capture.data() == kept


class TestCopied:
    async def test_a_body_in_pieces(self) -> None:
        capture = Capture(4)
        copied = Copied(ScriptedBody([b"ab", b"cd", b"ef"], length=6), capture, 6)
        assert copied.length == 6
        assert copied.take() is None
        assert [await copied.pull() for _ in range(4)] == [b"ab", b"cd", b"ef", b""]
        assert (capture.data(), capture.truncated) == (b"abcd", True)

    async def test_a_body_that_is_here(self) -> None:
        capture = Capture(10)
        copied = Copied(BytesSource(b"abc"), capture, 3)
        assert (copied.take(), capture.data()) == (b"abc", b"abc")

    async def test_beyond_the_limit_it_breaks_off(self) -> None:
        capture = Capture(10)
        copied = Copied(ScriptedBody([b"abc", b"d"]), capture, 3)
        assert await copied.pull() == b"abc"
        with pytest.raises(BodyTooLarge, match="MAX_BODY_BYTES"):
            await copied.pull()
        assert capture.data() == b"abc"
        with pytest.raises(BodyTooLarge):
            Copied(BytesSource(b"abcd"), Capture(10), 3).take()

    def test_it_is_closed_with_its_source(self) -> None:
        source = ScriptedBody([b"a"])
        Copied(source, Capture(1), 1).close(LOST)
        assert source.close_reasons == [LOST]


class TestOrder:
    async def test_the_end_of_unknown_length_waits_for_the_record(self) -> None:
        world = World(ScriptedBody([b"ab", b"cd"]))
        await world.read()
        assert world.seen == [b"ab", b"cd", "whole", "recorded", b""]
        assert world.capture.data() == b"abcd"

    async def test_the_last_bytes_of_known_length_wait_for_the_record(self) -> None:
        world = World(ScriptedBody([b"ab", b"cd", b"ef"], length=6))
        await world.read()
        assert world.seen == [b"ab", b"cd", "whole", "recorded", b"ef", b""]
        assert (world.capture.data(), world.watched.length) == (b"abcdef", 6)

    async def test_nothing_else_waits(self) -> None:
        for length in (None, 6):
            world = World(ScriptedBody([b"ab", b"cd", b"ef"], length=length))
            world.gate = asyncio.Event()
            reading = asyncio.create_task(world.read())
            await turns()
            assert world.seen == [b"ab", b"cd", *([] if length else [b"ef"]), "whole"]
            world.gate.set()
            await reading
            assert world.seen[-1] == b""

    async def test_an_empty_body(self) -> None:
        for length in (None, 0):
            world = World(ScriptedBody([], length=length))
            await world.read()
            assert world.seen == ["whole", "recorded", b""]

    async def test_a_body_shorter_than_it_said(self) -> None:
        world = World(ScriptedBody([b"ab"], length=6))
        await world.read()
        assert world.seen == [b"ab", "cut", "recorded", b""]

    async def test_a_record_that_fails_takes_the_end_with_it(self) -> None:
        for length, gone in ((None, []), (4, [b"cd"])):
            world = World(ScriptedBody([b"ab", b"cd"], length=length))
            world.error = LOST
            with pytest.raises(ConnectionLost):
                await world.read()
            assert world.seen == [chunk for chunk in (b"ab", b"cd") if chunk not in gone] + ["whole"]
            world.watched.close(LOST)
            assert world.seen[-1] == "whole"


class TestPullNow:
    async def test_what_completes_the_answer_is_held_until_somebody_can_wait(self) -> None:
        world = World(Present(b"ab", b"cd", ready=2, length=4))
        assert world.watched.pull_now() == b"ab"
        assert (world.watched.pull_now(), world.watched.pull_now()) == (b"", b"")
        assert world.seen == []
        await world.read()
        assert world.seen == ["whole", "recorded", b"cd", b""]
        assert world.capture.data() == b"abcd"

    async def test_an_answer_that_is_here_at_once(self) -> None:
        world = World(Present(b"abcd", ready=1, length=4))
        await world.read()
        assert world.seen == ["whole", "recorded", b"abcd", b""]

    async def test_what_has_no_length_passes(self) -> None:
        world = World(Present(b"ab", b"cd", ready=1))
        await world.read()
        assert world.seen == [b"ab", b"cd", "whole", "recorded", b""]

    def test_nothing_is_here(self) -> None:
        world = World(Present(b"ab", ready=0, length=2))
        assert world.watched.pull_now() == b""

    def test_it_is_never_taken_whole(self) -> None:
        assert World(BytesSource(b"abcd")).watched.take() is None


class TestBroken:
    @pytest.mark.parametrize("length", [None, 6])
    @pytest.mark.parametrize("error", [LOST, FetchTimeout("idle", 300)])
    async def test_the_record_comes_before_the_error(self, length: int | None, error: Exception) -> None:
        source = ScriptedBody([b"ab"], error=error, length=length)
        world = World(source)
        with pytest.raises(type(error)):
            await world.read()
        assert world.seen == [b"ab", "cut", "recorded"]
        world.watched.close(error)
        assert world.seen == [b"ab", "cut", "recorded"], "one exchange is one record"
        assert source.close_reasons == [error]


class TestClosed:
    async def test_before_the_end(self) -> None:
        source = ScriptedBody([b"ab", b"cd"])
        world = World(source)
        await world.watched.pull()
        world.watched.close(LOST)
        assert world.seen == ["left"]
        assert world.capture.data() == b"ab"
        assert source.close_reasons == [LOST]

    async def test_with_the_last_bytes_in_hand(self) -> None:
        world = World(Present(b"ab", ready=1, length=2))
        assert world.watched.pull_now() == b""
        world.watched.close()
        assert world.seen == ["left"]
        assert world.capture.data() == b"ab"

    async def test_while_it_waits_for_bytes(self) -> None:
        world = World(ScriptedBody([b"ab", b"cd"], gate=asyncio.Event()))
        reading = asyncio.create_task(world.read())
        await turns()
        await world.leave(reading)
        world.watched.close()
        assert world.seen == [b"ab", "left"]

    async def test_while_it_waits_for_the_record(self) -> None:
        for length in (None, 2):
            world = World(ScriptedBody([b"ab"], length=length))
            world.gate = asyncio.Event()
            reading = asyncio.create_task(world.read())
            await turns()
            await world.leave(reading)
            world.watched.close()
            world.gate.set()
            await turns()
            assert world.seen == [*([] if length else [b"ab"]), "whole", "recorded"], "it is made nevertheless, once"

    async def test_a_record_that_fails_when_nobody_is_there(self) -> None:
        world = World(ScriptedBody([b"ab"]))
        world.gate, world.error = asyncio.Event(), LOST
        reading = asyncio.create_task(world.read())
        await turns()
        await world.leave(reading)
        world.watched.close()
        world.gate.set()
        await turns()
        assert world.seen == [b"ab", "whole"]


class TestCancelled:
    """A pull that is cancelled loses nothing, and what it waited for is still waited for."""

    @pytest.mark.parametrize("length", [None, 4])
    async def test_while_it_waits_for_the_record(self, length: int | None) -> None:
        world = World(ScriptedBody([b"ab", b"cd"], length=length))
        world.gate = asyncio.Event()
        reading = asyncio.create_task(world.read())
        await turns()
        await world.leave(reading)
        again = asyncio.create_task(world.read())
        await turns()
        assert world.seen == [b"ab", *([] if length else [b"cd"]), "whole"]
        world.gate.set()
        await again
        end = [b"cd", b""] if length else [b""]
        assert world.seen == [b"ab", *([] if length else [b"cd"]), "whole", "recorded", *end]
        assert world.capture.data() == b"abcd"

    async def test_while_it_waits_for_bytes(self) -> None:
        gate = asyncio.Event()
        world = World(ScriptedBody([b"ab", b"cd"], gate=gate))
        reading = asyncio.create_task(world.read())
        await turns()
        await world.leave(reading)
        gate.set()
        await world.read()
        assert world.seen == [b"ab", b"cd", "whole", "recorded", b""]


class TestPrefixed:
    async def test_first_what_was_read_then_the_rest(self) -> None:
        source = ScriptedBody([b"c", b"d"])
        prefixed = Prefixed(b"ab", source)
        assert (prefixed.length, prefixed.take()) == (None, None)
        assert [await prefixed.pull() for _ in range(4)] == [b"ab", b"c", b"d", b""]

    async def test_what_was_read_is_here_already(self) -> None:
        prefixed = Prefixed(b"ab", ScriptedBody([b"c"]))
        assert (prefixed.pull_now(), prefixed.pull_now()) == (b"ab", b"")
        assert await prefixed.pull() == b"c"

    async def test_closed(self) -> None:
        source = ScriptedBody([b"c"])
        prefixed = Prefixed(b"ab", source)
        prefixed.close(LOST)
        assert prefixed.pull_now() == b""
        assert source.close_reasons == [LOST]


async def test_a_broken_body_breaks_whenever_it_is_read() -> None:
    broken = Broken(LOST)
    assert (broken.length, broken.pull_now(), broken.take()) == (None, b"", None)
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            await broken.pull()


class TestReadUpTo:
    @pytest.mark.parametrize("chunks", [[], [b"a"], [b"ab", b"c"], [b"abc"]])
    async def test_all_of_it(self, chunks: list[bytes]) -> None:
        source = ScriptedBody(chunks)
        assert await read_up_to(source, 3) == (b"".join(chunks), None)
        assert not source.closed

    async def test_all_of_it_at_once(self) -> None:
        for data in (b"", b"abc"):
            assert await read_up_to(BytesSource(data), 3) == (data, None)

    async def test_a_larger_one_is_read_no_further(self) -> None:
        source = ScriptedBody([b"ab", b"cd", b"ef"])
        data, rest = await read_up_to(source, 3)
        assert (data, rest, source.pulled, source.closed) == (b"abcd", source, 2, False)
        assert await source.pull() == b"ef"

    async def test_a_larger_one_that_is_here(self) -> None:
        data, rest = await read_up_to(BytesSource(b"abcd"), 3)
        assert (data, type(rest)) == (b"abcd", BytesSource)
        assert rest is not None
        assert await rest.pull() == b""

    async def test_one_that_breaks_off(self) -> None:
        source = ScriptedBody([b"ab"], error=LOST)
        data, rest = await read_up_to(source, 3)
        assert (data, type(rest)) == (b"ab", Broken)
        assert rest is not None
        with pytest.raises(ConnectionLost):
            await rest.pull()
        assert source.close_reasons == [LOST]

    async def test_nobody_waits_for_it_any_more(self) -> None:
        source = ScriptedBody([b"ab", b"c"], gate=asyncio.Event())
        reading = asyncio.create_task(read_up_to(source, 3))
        await turns()
        reading.cancel()
        await asyncio.wait({reading})
        assert reading.cancelled()
        assert [type(reason) for reason in source.close_reasons] == [asyncio.CancelledError]
