"""Tasks of a handler's own code: they end with their event unless they were given to wait_until."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from worker_compat.entrypoint import WorkerEntrypoint
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import Runtime, wait_until
from worker_compat.scheduled import ScheduledController
from worker_compat.services import ServiceBinding, Worker
from worker_compat.tasks import end_with_event
from worker_compat.testing import ScriptedFetcher, read_response

HERE = Path(__file__).parent
Body = Callable[[WorkerEntrypoint], Awaitable[Any]]


@pytest.fixture
async def runtime() -> Runtime:
    end_with_event(HERE)
    return Runtime(ScriptedFetcher({}))


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def answered(runtime: Runtime, body: Body) -> None:
    """One request whose handler is ``body``; it is answered when this returns."""

    async def handler(self: WorkerEntrypoint, request: Request) -> Response:
        return await body(self) or Response("done")

    async def send(response: Response) -> None:
        await read_response(response)

    entrypoint = type("Default", (WorkerEntrypoint,), {"fetch": handler})
    await runtime.handler(entrypoint, None)(Request.incoming("GET", "/", (), None), send)


async def test_a_task_begins_and_ends_with_its_event(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    began: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def work() -> None:
        began.append("work")
        await forever()

    async def body(self: WorkerEntrypoint) -> None:
        tasks.append(asyncio.create_task(work()))

    await answered(runtime, body)
    await settle()
    assert began == ["work"]
    assert tasks[0].cancelled()
    assert caplog.messages == ["tasks that were not given to wait_until and ended with their event: 1"]


async def test_without_the_rule_it_goes_on() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def body(self: WorkerEntrypoint) -> None:
        tasks.append(asyncio.create_task(forever()))

    await answered(Runtime(ScriptedFetcher({})), body)
    await settle()
    assert not tasks[0].done()
    tasks[0].cancel()


@pytest.mark.parametrize("how", ["ensure_future", "gather", "wait_for", "group", "sleep", "nested"])
async def test_however_it_was_started(runtime: Runtime, how: str) -> None:
    outer: list[asyncio.Future[Any]] = []

    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(forever())
            group.create_task(forever())

    async def nested() -> None:
        outer.append(asyncio.create_task(forever()))
        await forever()

    async def body(self: WorkerEntrypoint) -> None:
        started: dict[str, Callable[[], Any]] = {
            "ensure_future": lambda: asyncio.ensure_future(forever()),
            "gather": lambda: asyncio.gather(forever(), forever()),
            "wait_for": lambda: asyncio.create_task(asyncio.wait_for(forever(), 60)),
            "group": lambda: asyncio.create_task(grouped()),
            "sleep": lambda: asyncio.create_task(asyncio.sleep(60)),
            "nested": lambda: asyncio.create_task(nested()),
        }
        outer.append(started[how]())
        await asyncio.sleep(0)

    before = asyncio.all_tasks()
    await answered(runtime, body)
    await settle()
    assert asyncio.all_tasks() == before
    ends = await asyncio.gather(*outer, return_exceptions=True)
    assert {type(end) for end in ends} == {asyncio.CancelledError}


async def test_it_goes_on_while_something_is_registered(runtime: Runtime) -> None:
    gate, ended = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    async def loose() -> None:
        while True:
            await asyncio.sleep(0)
            if gate.is_set() and not seen:
                seen.append("still here")

    async def registered() -> None:
        await gate.wait()
        await settle()
        ended.set()

    tasks: list[asyncio.Task[None]] = []

    async def body(self: WorkerEntrypoint) -> None:
        tasks.append(asyncio.create_task(loose()))
        self.ctx.wait_until(registered())

    await answered(runtime, body)
    await settle()
    assert not tasks[0].done()
    gate.set()
    await ended.wait()
    await settle()
    assert seen == ["still here"]
    assert tasks[0].cancelled()


async def test_what_waited_for_a_registered_task_may_register_more(runtime: Runtime) -> None:
    done: list[str] = []

    async def more() -> None:
        await settle()
        done.append("more")

    async def loose(first: asyncio.Task[None]) -> None:
        await first
        wait_until(more())

    async def body(self: WorkerEntrypoint) -> None:
        first = asyncio.create_task(settle())
        self.ctx.wait_until(first)
        self.kept = asyncio.create_task(loose(first))  # type: ignore[attr-defined] # so that it is not collected

    await answered(runtime, body)
    await settle()
    await settle()
    await settle()
    assert done == ["more"]


async def test_a_registered_task_is_not_ended(runtime: Runtime) -> None:
    done: list[str] = []

    async def work() -> None:
        await settle()
        done.append("work")

    async def body(self: WorkerEntrypoint) -> None:
        self.ctx.wait_until(asyncio.create_task(work()))
        self.ctx.wait_until(asyncio.gather(work(), work()))
        self.ctx.wait_until(work())

    await answered(runtime, body)
    assert await runtime.background.drain(1) == 0
    assert done == ["work"] * 4


async def test_it_goes_on_while_the_response_streams(runtime: Runtime) -> None:
    async def body(self: WorkerEntrypoint) -> Response:
        pipe: asyncio.Queue[bytes] = asyncio.Queue()

        async def produce() -> None:
            for part in (b"one", b"two", b""):
                await settle()
                await pipe.put(part)

        async def chunks() -> AsyncIterator[bytes]:
            while part := await pipe.get():
                yield part
            received.append("all")

        self.kept = asyncio.create_task(produce())  # type: ignore[attr-defined] # so that it is not collected
        return Response(chunks())

    received: list[str] = []
    await answered(runtime, body)
    assert received == ["all"]


@pytest.mark.parametrize("pending", [True, False])
async def test_a_client_that_leaves_ends_it_too(runtime: Runtime, pending: bool) -> None:
    tasks: list[asyncio.Task[None]] = []
    gate = asyncio.Event()

    async def body(self: WorkerEntrypoint) -> None:
        tasks.append(asyncio.create_task(forever()))
        if pending:
            self.ctx.wait_until(gate.wait())
        await forever()

    request = asyncio.create_task(answered(runtime, body))
    await settle()
    request.cancel()
    await asyncio.wait([request])
    await settle()
    assert tasks[0].cancelled() is not pending
    gate.set()
    await settle()
    assert tasks[0].cancelled()


async def test_a_task_that_is_started_when_the_event_is_over(runtime: Runtime) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def body(self: WorkerEntrypoint) -> None:
        asyncio.get_running_loop().call_later(0.001, lambda: tasks.append(asyncio.create_task(forever())))

    await answered(runtime, body)
    while not tasks:
        await asyncio.sleep(0.001)
    await settle()
    assert tasks[0].cancelled()


@pytest.mark.parametrize(
    ("module", "file", "ends"),
    [
        ("handler", HERE / "handler.py", True),
        ("package.part", HERE / "package" / "part.py", True),
        ("library", Path("/usr/lib/python3/library.py"), False),
        ("library", HERE / ".venv" / "lib" / "site-packages" / "library.py", False),
        ("library", HERE.parent / "library.py", False),
        ("worker_compat_redis.pool", HERE / "worker_compat_redis" / "pool.py", False),
    ],
)
async def test_whose_task_it_is(runtime: Runtime, module: str, file: Path, ends: bool) -> None:
    names: dict[str, Any] = {"__name__": module, "asyncio": asyncio}
    exec(compile("def start(work):\n    return asyncio.create_task(work)\n", str(file), "exec"), names)
    tasks: list[asyncio.Task[None]] = []

    async def body(self: WorkerEntrypoint) -> None:
        tasks.append(names["start"](forever()))

    await answered(runtime, body)
    await settle()
    assert tasks[0].cancelled() is ends
    tasks[0].cancel()


async def test_tasks_outside_of_events_are_nobodys(runtime: Runtime) -> None:
    tasks = [asyncio.create_task(forever())]

    async def body(self: WorkerEntrypoint) -> None:
        tasks.append(asyncio.create_task(forever(), context=contextvars.Context()))

    await answered(runtime, body)
    await settle()
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()


async def test_options_of_tasks_are_kept(runtime: Runtime) -> None:
    seen: list[str] = []

    async def body(self: WorkerEntrypoint) -> None:
        context = contextvars.copy_context()
        task = asyncio.create_task(forever(), name="mine", context=context)
        seen.append(task.get_name())

    await answered(runtime, body)
    assert seen == ["mine"]


async def test_a_scheduled_event_ends_them_as_well(runtime: Runtime) -> None:
    tasks: list[asyncio.Task[None]] = []

    class Default(WorkerEntrypoint):
        async def scheduled(self, controller: Any, env: None, ctx: None) -> None:
            tasks.append(asyncio.create_task(forever()))

    await runtime.scheduled(Default, None, ScheduledController(0, "* * * * *"))
    await settle()
    assert tasks[0].cancelled()


async def test_a_called_worker_has_the_life_of_its_caller(runtime: Runtime) -> None:
    tasks: list[asyncio.Task[None]] = []
    running: list[bool] = []

    class Other(WorkerEntrypoint):
        async def fetch(self, request: Request) -> Response:
            tasks.append(asyncio.create_task(forever()))
            return Response("other")

    other = Worker("other", {"default": Other}, runtime)

    async def body(self: WorkerEntrypoint) -> None:
        await ServiceBinding(other, "default", {}).fetch("http://other/")
        await settle()
        running.append(not tasks[0].done())

    await answered(runtime, body)
    await settle()
    assert running == [True]
    assert tasks[0].cancelled()


async def test_it_is_quiet_when_there_is_nothing_to_end(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    async def body(self: WorkerEntrypoint) -> None:
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

    with caplog.at_level(logging.DEBUG, "worker_compat"):
        await answered(runtime, body)
        await settle()
    assert caplog.messages == []
