"""Runtime: dispatch of events, what a handler's failure becomes, and what surrounds a handler while it runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import worker_compat
from tests import virtual
from worker_compat.context import ExecutionContext
from worker_compat.entrypoint import WorkerEntrypoint
from worker_compat.errors import ConfigError, ConnectFailed
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import Runtime, current, fetch, wait_until
from worker_compat.scheduled import ScheduledController, ScheduledResult
from worker_compat.streams import ReadableStream
from worker_compat.testing import FakeClock, ScriptedBody, ScriptedFetcher, read_response

LINES = ((b"Host", b"h"), (b"Content-Length", b"4"), (b"X-D", b"1"))
OUTSIDE = "no runtime here"
CONTROLLER = ScheduledController(1_700_000_040_000, "* * * * *")
Handler = Callable[[WorkerEntrypoint, Request], Awaitable[Any]]


def incoming(method: str = "POST", body: ReadableStream | None = None) -> Request:
    return Request.incoming(method, "/path?q", LINES, body)


def stream(*chunks: bytes) -> ReadableStream:
    return ReadableStream(ScriptedBody(chunks))


def worker(handler: Any, **members: Any) -> type[WorkerEntrypoint]:
    """An entrypoint whose ``fetch`` is ``handler``."""
    return type("Default", (WorkerEntrypoint,), {"fetch": handler, **members})


@pytest.fixture
def fetcher() -> ScriptedFetcher:
    return ScriptedFetcher({"GET http://up/": Response("from up", 203)})


@pytest.fixture
def runtime(fetcher: ScriptedFetcher) -> Runtime:
    return Runtime(fetcher)


class Sent:
    """A host's ``send`` that keeps what it was given."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.status = 0
        self.body = b""

    async def __call__(self, response: Response) -> None:
        self.status = response.status
        self.body = await read_response(response)
        if self.error is not None:
            raise self.error


async def sent(
    runtime: Runtime, entrypoint: type[WorkerEntrypoint], request: Request | None = None
) -> tuple[int, bytes]:
    send = Sent()
    await runtime.handler(entrypoint, None)(request or incoming(), send)
    return send.status, send.body


class TestDispatch:
    async def test_the_answer_is_sent(self, runtime: Runtime) -> None:
        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            return Response(f"{request.method} {request.target} {self.env} {await request.text()}", 201)

        send = Sent()
        await runtime.handler(worker(handler), "env")(incoming(body=stream(b"bo", b"dy")), send)
        assert (send.status, send.body) == (201, b"POST /path?q env body")

    async def test_without_a_host(self, runtime: Runtime) -> None:
        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            return Response(stream(b"a", b"b"))

        response = await runtime.fetch(worker(handler), None, incoming())
        assert not response.body_used
        assert await response.text() == "ab"

    @pytest.mark.parametrize("result", [None, "text", b"bytes", {"status": 200}, 404, Response, ["x"]])
    async def test_a_wrong_return_value_is_a_500(
        self, runtime: Runtime, caplog: pytest.LogCaptureFixture, result: Any
    ) -> None:
        async def handler(self: WorkerEntrypoint, request: Request) -> Any:
            return result

        assert await sent(runtime, worker(handler)) == (500, b"Internal Server Error")
        assert "Incorrect type for Promise: the Promise did not resolve to 'Response'" in caplog.text

    @pytest.mark.parametrize("error", [ValueError("secret"), ConnectFailed("secret"), SystemExit("secret")])
    async def test_an_exception_is_a_500_without_details(
        self, runtime: Runtime, caplog: pytest.LogCaptureFixture, error: BaseException
    ) -> None:
        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            raise error

        assert await sent(runtime, worker(handler)) == (500, b"Internal Server Error")
        assert "secret" in caplog.text

    @pytest.mark.parametrize("origin", [None, ScriptedFetcher({})])
    async def test_aborting_is_a_500_even_where_failing_is_not(
        self, origin: ScriptedFetcher | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            self.ctx.pass_through_on_exception()
            self.ctx.wait_until(asyncio.get_running_loop().create_future())
            try:
                self.ctx.abort("secret")
            except Exception:
                return Response("nothing catches it")

        runtime = Runtime(ScriptedFetcher({}), origin=origin)
        assert await sent(runtime, worker(handler)) == (500, b"Internal Server Error")
        assert "the event was aborted: secret" in caplog.text
        assert await runtime.background.drain(1) == 0

    async def test_so_is_one_of_the_constructor(self, runtime: Runtime) -> None:
        def init(self: WorkerEntrypoint, ctx: Any, env: Any) -> None:
            raise ValueError("secret")

        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            raise AssertionError("never called")

        assert await sent(runtime, worker(handler, __init__=init)) == (500, b"Internal Server Error")

    async def test_something_cancelled_inside_the_handler_is_an_exception_like_others(self, runtime: Runtime) -> None:
        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task
            raise AssertionError("never reached")

        assert await sent(runtime, worker(handler)) == (500, b"Internal Server Error")

    @pytest.mark.parametrize("how", ["read", "locked", "disturbed", "bytes"])
    async def test_a_used_response_is_a_500(self, runtime: Runtime, caplog: pytest.LogCaptureFixture, how: str) -> None:
        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            response = Response(b"x" if how == "bytes" else stream(b"x", b"y"))
            if how in ("read", "bytes"):
                await response.text()
            elif response.body is not None:
                reader = response.body.get_reader()
                if how == "disturbed":
                    await reader.read()
                    reader.release_lock()
            return response

        assert await sent(runtime, worker(handler)) == (500, b"Internal Server Error")
        assert "Body has already been used. It can only be used once." in caplog.text

    async def test_a_response_cannot_be_returned_twice(self, runtime: Runtime) -> None:
        kept = Response("x")

        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            return kept

        assert [await sent(runtime, worker(handler)) for _ in range(2)] == [
            (200, b"x"),
            (500, b"Internal Server Error"),
        ]

    async def test_an_error_of_the_host_is_the_hosts(self, runtime: Runtime) -> None:
        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            self.ctx.wait_until(asyncio.sleep(0))
            return Response("x")

        with pytest.raises(ConnectionError):
            await runtime.handler(worker(handler), None)(incoming(), Sent(ConnectionError()))
        assert await runtime.background.drain(1) == 0


class TestClientLeaves:
    async def test_the_handler_is_cancelled_and_its_background_work_is_not(self, runtime: Runtime) -> None:
        started, finish, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def record() -> None:
            await finish.wait()
            done.set()

        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            self.ctx.wait_until(record())
            started.set()
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return] # never

        request = asyncio.create_task(sent(runtime, worker(handler)))
        await started.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        finish.set()
        assert await runtime.background.drain(1) == 0
        assert done.is_set()

    async def test_what_a_stream_registers_at_its_end_runs(self, runtime: Runtime) -> None:
        done: list[str] = []

        async def record() -> None:
            await asyncio.sleep(0)
            done.append("recorded")

        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            async def body() -> AsyncIterator[bytes]:
                try:
                    yield b"one"
                    yield b"two"
                finally:
                    self.ctx.wait_until(record())

            return Response(body())

        assert await sent(runtime, worker(handler)) == (200, b"onetwo")
        await runtime.background.drain(1)
        assert done == ["recorded"]

    async def test_a_teed_answer_is_recorded_to_its_end(self, runtime: Runtime) -> None:
        gate, first = asyncio.Event(), asyncio.Event()
        source = ScriptedBody([b"one ", b"two ", b"three"], gate=gate)
        recorded: list[bytes] = []

        async def record(copy: ReadableStream) -> None:
            recorded.append(await copy.read_all())

        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            answer, copy = ReadableStream(source).tee()
            self.ctx.wait_until(record(copy))
            return Response(answer)

        async def send(response: Response) -> None:
            assert response.body is not None
            body = response.body.detach()
            try:
                while await body.pull():
                    first.set()
            except BaseException as error:
                body.close(error)
                raise

        request = asyncio.ensure_future(runtime.handler(worker(handler), None)(incoming(), send))
        await first.wait()
        request.cancel()
        await asyncio.wait([request])
        while not recorded:
            gate.set()
            await asyncio.sleep(0)
        assert recorded == [b"one two three"]
        assert not source.closed


class TestPassThrough:
    @staticmethod
    async def failing(self: WorkerEntrypoint, request: Request) -> Response:
        self.ctx.pass_through_on_exception()
        raise ValueError("secret")

    async def test_an_unread_body_goes_along_whole(self) -> None:
        origin = ScriptedFetcher({"POST http://h/path": Response("from origin", 203)})
        runtime = Runtime(ScriptedFetcher({}), origin=origin)
        assert await sent(runtime, worker(self.failing), incoming(body=stream(b"bo", b"dy"))) == (203, b"from origin")
        (seen,) = origin.requests
        assert (seen.method, seen.url, seen.raw_headers, seen.body) == ("POST", "http://h/path?q", LINES, b"body")

    @pytest.mark.parametrize("how", ["read", "copied"])
    async def test_a_body_that_was_read_is_gone(self, how: str) -> None:
        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            self.ctx.pass_through_on_exception()
            if how == "read":
                await request.text()
            else:
                Request(request)
            raise ValueError("secret")

        origin = ScriptedFetcher({"POST http://h/path?q": Response("from origin")})
        runtime = Runtime(ScriptedFetcher({}), origin=origin)
        assert await sent(runtime, worker(handler), incoming(body=stream(b"body"))) == (200, b"from origin")
        assert (origin.requests[0].raw_headers, origin.requests[0].has_body) == (LINES, False)

    async def test_it_is_armed_per_event_and_needs_an_origin(self, runtime: Runtime) -> None:
        async def unarmed(self: WorkerEntrypoint, request: Request) -> Response:
            raise ValueError("secret")

        with_origin = Runtime(ScriptedFetcher({}), origin=ScriptedFetcher({"POST http://h/path": Response("never")}))
        for run, handler in ((with_origin, unarmed), (runtime, self.failing)):
            assert await sent(run, worker(handler)) == (500, b"Internal Server Error")

    @pytest.mark.parametrize("error", [ConnectFailed("secret"), ValueError("secret")])
    async def test_an_origin_that_fails(self, error: Exception) -> None:
        runtime = Runtime(ScriptedFetcher({}), origin=ScriptedFetcher({"POST http://h/path": error}))
        assert await sent(runtime, worker(self.failing)) == (500, b"Internal Server Error")

    async def test_a_failing_background_task_does_not_trigger_it(self, caplog: pytest.LogCaptureFixture) -> None:
        async def broken() -> None:
            raise ValueError("in the background")

        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            self.ctx.pass_through_on_exception()
            self.ctx.wait_until(broken())
            await asyncio.sleep(0)
            return Response("fine")

        runtime = Runtime(ScriptedFetcher({}), origin=ScriptedFetcher({}))
        assert await sent(runtime, worker(handler)) == (200, b"fine")
        await runtime.background.drain(1)
        assert "in the background" in caplog.text


class TestAmbient:
    async def test_parallel_requests_each_see_their_own_context(self, runtime: Runtime) -> None:
        turn = asyncio.Event()
        contexts: list[ExecutionContext] = []

        async def note(request: Request, ctx: ExecutionContext) -> None:
            await turn.wait()
            ctx.noted = request.target  # type: ignore[attr-defined] # as handlers may

        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            contexts.append(self.ctx)
            if len(contexts) == 10:
                turn.set()
            await turn.wait()
            wait_until(note(request, self.ctx))
            assert self.ctx._tasks is not None
            return Response(f"{request.target} {len(self.ctx._tasks)}")

        requests = [Request.incoming("GET", f"/{number}", (), None) for number in range(10)]
        handle = worker(handler)
        answers = await asyncio.gather(*(sent(runtime, handle, request) for request in requests))
        assert [body for _, body in answers] == [f"/{number} 1".encode() for number in range(10)]
        await runtime.background.drain(1)
        assert sorted(ctx.noted for ctx in contexts) == [f"/{number}" for number in range(10)]  # type: ignore[attr-defined]

    async def test_background_work_keeps_its_runtime(self, fetcher: ScriptedFetcher) -> None:
        clock = FakeClock()
        runtime = Runtime(fetcher, clock=clock)
        finish = asyncio.Event()
        seen: list[Any] = []

        async def later() -> None:
            await finish.wait()
            seen.append((await (await fetch("http://up/")).text(), current().clock()))
            wait_until(nested())

        async def nested() -> None:
            await asyncio.sleep(0)
            seen.append(current() is runtime)

        async def handler(self: WorkerEntrypoint, request: Request) -> Response:
            self.ctx.wait_until(later())
            return Response()

        await sent(runtime, worker(handler))
        with pytest.raises(ConfigError, match=OUTSIDE):
            current()
        clock.advance(60)
        finish.set()
        assert await runtime.background.drain(1) == 0
        assert seen == [("from up", 1_700_000_060.0), True]

    async def test_use_nests_and_ends(self, runtime: Runtime) -> None:
        other = Runtime(ScriptedFetcher({}))
        with runtime.use() as used:
            assert used is current() is runtime
            with other.use():
                assert current() is other
            assert current() is runtime
        with pytest.raises(ConfigError, match=OUTSIDE):
            current()

    async def test_outside_of_events(self) -> None:
        with pytest.raises(ConfigError, match=OUTSIDE):
            await fetch("http://up/")
        with pytest.raises(ConfigError, match="no event here"):
            wait_until(asyncio.get_running_loop().create_future())
        assert worker_compat.waitUntil is worker_compat.wait_until is wait_until


class TestScheduled:
    async def test_it_is_called_as_on_workers(self, runtime: Runtime) -> None:
        calls: list[Any] = []

        async def scheduled(self: WorkerEntrypoint, controller: Any, env: Any, ctx: Any) -> None:
            calls.append((controller, env, ctx, self.env, current()))

        result = await runtime.scheduled(worker(None, scheduled=scheduled), "env", CONTROLLER)
        assert calls == [(CONTROLLER, None, None, "env", runtime)]
        assert result == ScheduledResult("ok", False)

    async def test_it_may_be_synchronous_and_its_value_is_ignored(self, runtime: Runtime) -> None:
        calls: list[Any] = []

        def scheduled(self: WorkerEntrypoint, *args: Any) -> str:
            calls.append(args)
            return "value"

        entrypoint = worker(None, scheduled=scheduled)
        assert await runtime.scheduled(entrypoint, None, CONTROLLER) == ScheduledResult("ok", False)
        assert calls == [(CONTROLLER, None, None)]

    async def test_fewer_arguments_are_an_error(self, runtime: Runtime) -> None:
        async def scheduled(self: WorkerEntrypoint, controller: Any) -> None:
            raise AssertionError("never called")

        result = await runtime.scheduled(worker(None, scheduled=scheduled), None, CONTROLLER)
        assert result.outcome == "exception"
        assert "takes 2 positional arguments but 4 were given" in str(result.error)

    async def test_without_a_handler(self, runtime: Runtime) -> None:
        with pytest.raises(ConfigError, match=r"^Handler does not export a scheduled\(\) function; add `async def"):
            await runtime.scheduled(worker(None), None, CONTROLLER)

    async def test_it_lasts_until_its_tasks_are_done(self, runtime: Runtime) -> None:
        seen: list[str] = []

        async def later(name: str, follower: str | None) -> None:
            await asyncio.sleep(0.001)
            seen.append(name)
            if follower:
                wait_until(later(follower, None))

        async def scheduled(self: WorkerEntrypoint, controller: Any, env: Any, ctx: Any) -> None:
            self.ctx.wait_until(later("first", "nested"))

        assert (await runtime.scheduled(worker(None, scheduled=scheduled), None, CONTROLLER)).outcome == "ok"
        assert seen == ["first", "nested"]

    @pytest.mark.parametrize("where", ["handler", "task", "nested task", "constructor"])
    async def test_whatever_fails_is_the_outcome(self, runtime: Runtime, where: str) -> None:
        done: list[str] = []

        async def broken() -> None:
            raise ValueError("broken")

        async def nesting() -> None:
            wait_until(broken())

        async def fine() -> None:
            await asyncio.sleep(0.001)
            done.append("fine")

        async def scheduled(self: WorkerEntrypoint, controller: Any, env: Any, ctx: Any) -> None:
            self.ctx.wait_until(fine())
            if where == "handler":
                raise ValueError("broken")
            self.ctx.wait_until(broken() if where == "task" else nesting())

        def init(self: WorkerEntrypoint, ctx: Any, env: Any) -> None:
            if where == "constructor":
                raise ValueError("broken")
            WorkerEntrypoint.__init__(self, ctx, env)

        entrypoint = worker(None, scheduled=scheduled, __init__=init)
        result = await runtime.scheduled(entrypoint, None, CONTROLLER)
        assert (result.outcome, str(result.error)) == ("exception", "broken")
        assert done == ([] if where == "constructor" else ["fine"])

    async def test_so_is_leaving_the_process(self, runtime: Runtime) -> None:
        async def scheduled(self: WorkerEntrypoint, controller: Any, env: Any, ctx: Any) -> None:
            sys.exit(3)

        result = await runtime.scheduled(worker(None, scheduled=scheduled), None, CONTROLLER)
        assert (result.outcome, str(result.error)) == ("exception", "the handler called sys.exit(3)")

    async def test_no_retry_is_in_the_result(self, runtime: Runtime) -> None:
        def scheduled(self: WorkerEntrypoint, controller: ScheduledController, env: Any, ctx: Any) -> None:
            controller.noRetry()
            raise ValueError("broken")

        told = ScheduledController(60_000, "* * * * *")
        result = await runtime.scheduled(worker(None, scheduled=scheduled), None, told)
        assert (result.outcome, result.noRetry) == ("exception", True)

    async def test_something_cancelled_inside_does_not_cancel_the_caller(self, runtime: Runtime) -> None:
        async def scheduled(self: WorkerEntrypoint, controller: Any, env: Any, ctx: Any) -> None:
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task

        result = await runtime.scheduled(worker(None, scheduled=scheduled), None, CONTROLLER)
        assert result.outcome == "exception"
        assert "something that was cancelled" in str(result.error)

    async def test_but_its_caller_may_be_cancelled(self, runtime: Runtime) -> None:
        started = asyncio.Event()

        async def scheduled(self: WorkerEntrypoint, controller: Any, env: Any, ctx: Any) -> None:
            started.set()
            await asyncio.get_running_loop().create_future()

        running = asyncio.create_task(runtime.scheduled(worker(None, scheduled=scheduled), None, CONTROLLER))
        await started.wait()
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()

    @pytest.mark.parametrize("where", ["handler", "task"])
    def test_it_has_fifteen_minutes(self, where: str) -> None:
        ended: list[float] = []

        async def endless() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append(asyncio.get_running_loop().time())

        async def scheduled(self: WorkerEntrypoint, controller: Any, env: Any, ctx: Any) -> None:
            self.ctx.wait_until(endless()) if where == "task" else await endless()

        async def main() -> ScheduledResult:
            return await Runtime(ScriptedFetcher({})).scheduled(worker(None, scheduled=scheduled), None, CONTROLLER)

        result = virtual.run(main())
        assert (result.outcome, type(result.error)) == ("exception", TimeoutError)
        assert ended == [900]
