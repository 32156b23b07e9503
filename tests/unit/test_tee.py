"""ReadableStream.tee: two readers of one source, neither of which can harm the other."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.stream_support import CHUNKS, WHOLE, Guarded, collected, scripted, turns
from worker_compat.streams import ByteSource, ReadableStream
from worker_compat.testing import ScriptedBody


async def test_both_branches_get_all_bytes() -> None:
    stream, source = scripted()
    left, right = stream.tee()
    assert stream.locked
    whole, chunks = await asyncio.gather(left.read_all(), collected(right))
    assert (whole, chunks) == (WHOLE, CHUNKS)
    assert source.pulled == 3
    assert not source.closed


async def test_nothing_is_read_before_somebody_asks() -> None:
    stream, source = scripted()
    stream.tee()
    await turns()
    assert source.pulled == 0
    assert not stream.disturbed


async def test_a_slow_branch_finds_everything() -> None:
    stream, _ = scripted()
    left, right = stream.tee()
    slow = right.get_reader()
    assert await slow.read() == b"one "
    assert await left.read_all() == WHOLE
    assert [await slow.read() for _ in range(4)] == [b"two ", b"three", b"", b""]


async def test_branches_may_be_teed_again() -> None:
    stream, _ = scripted()
    left, right = stream.tee()
    second, third = right.tee()
    assert [await part.read_all() for part in (third, left, second)] == [WHOLE] * 3


async def test_the_length_goes_along_while_it_is_right() -> None:
    fresh, _ = scripted(length=13)
    assert [branch.detach().length for branch in fresh.tee()] == [13, 13]
    begun, _ = scripted(length=13)
    reader = begun.get_reader()
    await reader.read()
    reader.release_lock()
    assert [branch.detach().length for branch in begun.tee()] == [None, None]
    unknown, _ = scripted()
    assert unknown.tee()[0].detach().length is None


@pytest.mark.parametrize("leaver", [0, 1])
async def test_cancelling_one_branch_does_not_harm_the_other(leaver: int) -> None:
    stream, source = scripted()
    branches = stream.tee()
    reader = branches[leaver].get_reader()
    await reader.read()
    await reader.cancel()
    assert await branches[1 - leaver].read_all() == WHOLE
    assert await reader.read() == b""
    assert not source.closed


async def test_a_cancelled_branch_keeps_nothing() -> None:
    stream, source = scripted()
    left, right = stream.tee()
    await right.cancel()
    await left.read_all()
    assert await right.get_reader().read() == b""
    assert not source.closed


@pytest.mark.parametrize("leaver", [0, 1])
async def test_cancelling_the_task_that_reads_one_branch_does_not_harm_the_other(leaver: int) -> None:
    gate = asyncio.Event()
    stream, source = scripted(gate=gate)
    branches = stream.tee()
    tasks = [asyncio.create_task(branch.read_all()) for branch in branches]
    await turns()
    tasks[leaver].cancel()
    await asyncio.wait([tasks[leaver]])
    assert tasks[leaver].cancelled()
    for _ in CHUNKS[1:]:
        gate.set()
        await turns()
    assert await tasks[1 - leaver] == WHOLE
    assert not source.closed


async def test_a_cancelled_read_of_a_branch_loses_nothing() -> None:
    gate = asyncio.Event()
    stream, _ = scripted(gate=gate)
    left, right = stream.tee()
    reader = left.get_reader()
    await reader.read()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await reader.read()
    gate.set()
    assert await reader.read() == b"two "
    assert await right.get_reader().read() == b"one "


async def test_a_host_that_closes_its_branch_leaves_the_other() -> None:
    """A client goes away while a background task records the answer."""
    gate = asyncio.Event()
    stream, source = scripted(gate=gate)
    to_client, to_record = stream.tee()
    recording = asyncio.create_task(to_record.read_all())
    host = to_client.detach()
    assert await host.pull() == b"one "
    sending = asyncio.create_task(host.pull())
    await turns()
    sending.cancel()
    await asyncio.wait([sending])
    host.close(asyncio.CancelledError())
    for _ in CHUNKS[1:]:
        gate.set()
        await turns()
    assert await recording == WHOLE
    assert not source.closed


async def test_cancelling_both_closes_the_source_with_the_last_reason() -> None:
    stream, source = scripted()
    left, right = stream.tee()
    await left.cancel(ValueError("first"))
    assert not source.closed
    reason = ValueError("second")
    await right.cancel(reason)
    assert source.close_reasons == [reason]


async def test_cancelling_both_ends_the_pull_that_waits_and_those_who_wait_for_it() -> None:
    class Silent(ByteSource):
        cancelled = False

        async def pull(self) -> bytes:
            try:
                return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return] # never comes
            except asyncio.CancelledError:
                self.cancelled = True
                raise

    source = Silent()
    left, right = (branch.get_reader() for branch in ReadableStream(source).tee())
    waiting = [asyncio.create_task(left.read()), asyncio.create_task(right.read())]
    await turns()
    await left.cancel()
    await right.cancel()
    assert await asyncio.gather(*waiting) == [b"", b""]
    assert source.cancelled


async def test_cancelling_both_ends_a_generator_in_the_middle() -> None:
    generator = Guarded(b"a", b"b", gate=asyncio.Event())
    left, right = ReadableStream.from_iterable(generator.run()).tee()
    reader = left.get_reader()
    await reader.read()
    waiting = asyncio.create_task(reader.read())
    await turns()
    await reader.cancel()
    await right.cancel()
    await generator.ended.wait()
    assert await waiting == b""


async def test_an_error_reaches_both_after_what_came_before_it() -> None:
    error = OSError("cut off")
    source = ScriptedBody(CHUNKS, error=error, error_after=2)
    left, right = (branch.get_reader() for branch in ReadableStream(source).tee())
    for reader in (left, right):
        assert [await reader.read(), await reader.read()] == CHUNKS[:2]
        for _ in range(2):
            with pytest.raises(OSError, match="cut off"):
                await reader.read()
    assert source.close_reasons == [error]


async def test_an_error_reaches_those_who_wait_together() -> None:
    source = ScriptedBody([], error=OSError("cut off"))
    left, right = ReadableStream(source).tee()
    results = await asyncio.gather(left.read_all(), right.read_all(), return_exceptions=True)
    assert [str(result) for result in results] == ["cut off", "cut off"]
