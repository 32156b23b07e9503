"""ExecutionContext: wait_until, its time limit, and the drain of a whole process."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Generator
from typing import Any

import pytest

from worker_compat.context import WAIT_UNTIL_LIMIT_S, BackgroundTasks, ExecutionContext

CANCELLED = "waitUntil() tasks did not complete within the allowed time after invocation end and have been cancelled."


@pytest.fixture
def background() -> BackgroundTasks:
    return BackgroundTasks()


@pytest.fixture
def ctx(background: BackgroundTasks) -> ExecutionContext:
    return ExecutionContext(background)


def short(background: BackgroundTasks) -> ExecutionContext:
    """A context whose limit is over as soon as the loop has nothing else to do."""
    return ExecutionContext(background, limit_s=0.001)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def failing() -> None:
    raise ValueError("in the background")


class TestWaitUntil:
    async def test_the_order_of_things(self, ctx: ExecutionContext, background: BackgroundTasks) -> None:
        seen = []
        turn = asyncio.Event()

        async def work(name: str) -> None:
            seen.append(f"{name} starts")
            await turn.wait()
            seen.append(f"{name} ends")

        ctx.wait_until(work("first"))
        ctx.waitUntil(work("second"))
        seen.append("handler returns")
        ctx.finish()
        await asyncio.sleep(0)
        turn.set()
        assert await background.drain(1) == 0
        assert seen == ["handler returns", "first starts", "second starts", "first ends", "second ends"]

    async def test_no_argument(self, ctx: ExecutionContext) -> None:
        with pytest.raises(TypeError) as caught:
            ctx.wait_until()
        assert str(caught.value) == (
            "Failed to execute 'waitUntil' on 'ExecutionContext': parameter 1 is not of type 'Promise'."
        )

    @pytest.mark.parametrize("value", [None, 5, "x", b"", {}, forever])
    async def test_what_cannot_be_awaited_is_accepted(
        self, ctx: ExecutionContext, background: BackgroundTasks, value: Any
    ) -> None:
        ctx.wait_until(value)
        assert len(background) == 0

    async def test_anything_that_can_be_awaited(self, ctx: ExecutionContext, background: BackgroundTasks) -> None:
        seen = []

        class Lazy:
            def __await__(self) -> Generator[Any, None, None]:
                seen.append("awaited")
                return asyncio.sleep(0).__await__()

        loop = asyncio.get_running_loop()
        future = loop.create_future()
        awaitables: list[Awaitable[Any]] = [asyncio.sleep(0), asyncio.create_task(asyncio.sleep(0)), future, Lazy()]
        for awaitable in awaitables:
            ctx.wait_until(awaitable)
        assert len(background) == 4
        loop.call_soon(future.set_result, None)
        assert await background.drain(1) == 0
        assert seen == ["awaited"]

    async def test_a_task_that_nobody_holds_lives_on(self, ctx: ExecutionContext, background: BackgroundTasks) -> None:
        done = asyncio.Event()

        async def work() -> None:
            # Nothing but the task itself refers to this future's waiter.
            await asyncio.sleep(0)
            done.set()

        ctx.wait_until(work())
        gc.collect()
        await done.wait()

    async def test_an_error_is_logged_and_stops_nobody_else(
        self, ctx: ExecutionContext, background: BackgroundTasks, caplog: pytest.LogCaptureFixture
    ) -> None:
        done = asyncio.Event()

        async def other() -> None:
            await asyncio.sleep(0)
            done.set()

        ctx.wait_until(failing())
        ctx.wait_until(other())
        assert await background.drain(1) == 0
        assert done.is_set()
        assert "a background task failed" in caplog.text
        assert "in the background" in caplog.text

    async def test_an_error_that_is_there_already(
        self, ctx: ExecutionContext, background: BackgroundTasks, caplog: pytest.LogCaptureFixture
    ) -> None:
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failed.set_exception(ValueError("in the background"))
        ctx.wait_until(failed)
        await background.drain(1)
        assert "in the background" in caplog.text


class TestLimit:
    async def test_it_is_thirty_seconds_as_on_workers(self) -> None:
        assert WAIT_UNTIL_LIMIT_S == 30

    async def test_all_tasks_of_the_event_are_cancelled_together(
        self, background: BackgroundTasks, caplog: pytest.LogCaptureFixture
    ) -> None:
        ctx, other = short(background), ExecutionContext(background)
        mine = [asyncio.create_task(forever()) for _ in range(2)]
        others = asyncio.create_task(forever())
        for task in mine:
            ctx.wait_until(task)
        other.wait_until(others)
        ctx.finish()
        other.finish()
        await asyncio.wait(mine)
        assert all(task.cancelled() for task in mine)
        assert caplog.messages == [CANCELLED]
        assert not others.done()
        others.cancel()

    async def test_it_does_not_run_before_the_event_is_over(self, background: BackgroundTasks) -> None:
        ctx = short(background)
        task = asyncio.create_task(forever())
        ctx.wait_until(task)
        later = asyncio.create_task(asyncio.sleep(0.005))
        await asyncio.wait({task, later}, return_when=asyncio.FIRST_COMPLETED)
        assert not task.done()
        ctx.finish()
        await asyncio.wait([task])
        assert task.cancelled()

    async def test_it_counts_from_the_end_of_the_event_not_from_the_call(self, background: BackgroundTasks) -> None:
        ctx = ExecutionContext(background, limit_s=0.02)
        ctx.finish()
        await asyncio.sleep(0.03)  # the limit itself has to pass
        late = asyncio.create_task(forever())
        ctx.wait_until(late)
        for _ in range(5):
            await asyncio.sleep(0)
        assert late.cancelled()

    async def test_nested_calls_share_it(self, background: BackgroundTasks) -> None:
        ctx = short(background)
        tasks: list[asyncio.Task[None]] = []

        async def outer() -> None:
            tasks.append(asyncio.create_task(forever()))
            ctx.wait_until(tasks[0])

        first = asyncio.create_task(outer())
        ctx.wait_until(first)
        ctx.finish()
        await first
        await asyncio.wait(tasks)
        assert tasks[0].cancelled()

    async def test_nor_can_a_task_escape_by_starting_another_while_it_is_cancelled(
        self, background: BackgroundTasks
    ) -> None:
        ctx = short(background)
        tasks: list[asyncio.Task[None]] = []

        async def stubborn() -> None:
            try:
                await forever()
            finally:
                tasks.append(asyncio.create_task(forever()))
                ctx.wait_until(tasks[-1])

        first = asyncio.create_task(stubborn())
        ctx.wait_until(first)
        ctx.finish()
        await asyncio.wait([first])
        await asyncio.wait(tasks)
        assert tasks[0].cancelled()
        assert len(background) == 0

    async def test_work_that_is_done_in_time_leaves_nothing_behind(
        self, background: BackgroundTasks, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Mark:
            pass

        ctx = ExecutionContext(background)
        mark = Mark()
        ctx.mark = mark  # type: ignore[attr-defined] # as handlers may
        alive = weakref.ref(mark)
        del mark
        ctx.wait_until(asyncio.sleep(0))
        ctx.finish()
        assert await background.drain(1) == 0
        del ctx
        gc.collect()
        # Not even the timer of the limit keeps the event in memory.
        assert alive() is None
        assert caplog.messages == []


class TestNested:
    async def test_a_task_may_extend_the_wait(self, ctx: ExecutionContext, background: BackgroundTasks) -> None:
        seen = []

        async def work(left: int) -> None:
            await asyncio.sleep(0)
            seen.append(left)
            if left:
                ctx.wait_until(work(left - 1))

        ctx.wait_until(work(3))
        ctx.finish()
        assert await background.drain(1) == 0
        assert seen == [3, 2, 1, 0]


class TestAbort:
    async def test_it_ends_the_task_that_calls_it_and_cancels_the_others(
        self, ctx: ExecutionContext, background: BackgroundTasks, caplog: pytest.LogCaptureFixture
    ) -> None:
        other, loose = asyncio.create_task(forever()), asyncio.create_task(forever())
        ctx.wait_until(other)
        ctx.adopt(loose)

        async def aborting() -> None:
            await asyncio.sleep(0)
            ctx.abort("no more")
            raise AssertionError("never reached")

        mine = asyncio.create_task(aborting())
        ctx.wait_until(mine)
        ctx.finish()
        await asyncio.wait([mine, other, loose])
        assert mine.cancelled()
        assert other.cancelled()
        assert loose.cancelled()
        assert caplog.messages == ["the event was aborted: no more"]
        assert len(background) == 0

    async def test_it_disarms_pass_through(self, ctx: ExecutionContext) -> None:
        ctx.pass_through_on_exception()
        with pytest.raises(asyncio.CancelledError):
            ctx.abort()
        assert not ctx.pass_through


class TestMembers:
    async def test_pass_through_on_exception(self, ctx: ExecutionContext) -> None:
        armed = [ctx.pass_through]
        ctx.pass_through_on_exception()
        armed.append(ctx.pass_through)
        assert armed == [False, True]
        assert ExecutionContext.passThroughOnException is ExecutionContext.pass_through_on_exception

    async def test_props(self, background: BackgroundTasks) -> None:
        first, second = ExecutionContext(background), ExecutionContext(background, {"a": 1})
        assert (first.props, second.props) == ({}, {"a": 1})
        assert first.props is not ExecutionContext(background).props

    async def test_attributes_may_be_added(self, ctx: ExecutionContext) -> None:
        ctx.foo = 1  # type: ignore[attr-defined] # as on Workers
        assert ctx.foo == 1  # type: ignore[attr-defined]


class TestDrain:
    async def test_nothing_to_wait_for(self, background: BackgroundTasks) -> None:
        assert await background.drain(1) == 0
        assert await background.drain(0) == 0

    async def test_tasks_that_start_tasks_are_waited_for(self, background: BackgroundTasks) -> None:
        contexts = [ExecutionContext(background) for _ in range(3)]
        seen: list[int] = []

        async def work(ctx: ExecutionContext, left: int) -> None:
            await asyncio.sleep(0)
            if left:
                ctx.wait_until(work(ctx, left - 1))
            else:
                seen.append(len(background))

        for ctx in contexts:
            ctx.wait_until(work(ctx, 5))
        assert len(background) == 3
        assert await background.drain(1) == 0
        assert len(background) == 0
        assert len(seen) == 3

    async def test_what_is_left_is_cancelled_and_counted(
        self, ctx: ExecutionContext, background: BackgroundTasks, caplog: pytest.LogCaptureFixture
    ) -> None:
        tasks = [asyncio.create_task(forever()) for _ in range(2)]
        for task in tasks:
            ctx.wait_until(task)
        ctx.wait_until(asyncio.sleep(0))
        assert await background.drain(0.001) == 2
        assert all(task.cancelled() for task in tasks)
        assert caplog.messages == ["2 background tasks did not finish within 0.001 s and were cancelled"]

    async def test_without_time_everything_is_cancelled(
        self, ctx: ExecutionContext, background: BackgroundTasks
    ) -> None:
        ctx.wait_until(forever())
        assert await background.drain(0) == 1
        assert len(background) == 0


async def test_every_end_is_told() -> None:
    ended: list[tuple[str, type[BaseException] | None]] = []
    background = BackgroundTasks(lambda name, error: ended.append((name, None if error is None else type(error))))
    ctx = ExecutionContext(background)
    cancelled = asyncio.create_task(forever())
    for task in (asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(failing()), cancelled):
        ctx.wait_until(task)
    ctx.wait_until(future := asyncio.get_running_loop().create_future())
    future.set_result(None)
    cancelled.cancel()
    await background.drain(1)
    assert set(ended) == {
        ("failing", ValueError),
        ("forever", asyncio.CancelledError),
        ("sleep", None),
        ("future", None),
    }
