"""Entrypoints: how a module's handler is found, and with which arguments it is called."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from worker_compat.bindings import Env
from worker_compat.context import BackgroundTasks, ExecutionContext
from worker_compat.entrypoint import WorkerEntrypoint, find_entrypoint, find_entrypoints, handler, place_of, relaxed
from worker_compat.errors import ConfigError
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import Runtime
from worker_compat.scheduled import ScheduledController
from worker_compat.testing import ScriptedFetcher


class Hello(WorkerEntrypoint):
    async def fetch(self, request: Request) -> Response:
        return Response("hello")


def module(**members: Any) -> ModuleType:
    made = ModuleType("handler")
    made.__dict__.update(members)
    return made


async def answered(entrypoint: type[WorkerEntrypoint], env: Any = None) -> str:
    request = Request.incoming("GET", "/", (), None)
    return await (await Runtime(ScriptedFetcher({})).fetch(entrypoint, env, request)).text()


class TestFinding:
    def test_the_class_named_default(self) -> None:
        assert find_entrypoint(module(Default=Hello, Other=WorkerEntrypoint, fetch=len)) is Hello

    def test_nothing_there(self) -> None:
        with pytest.raises(
            ConfigError, match=r"^handler: no handler found; define `class Default\(WorkerEntrypoint\)`"
        ):
            find_entrypoint(module(Other=Hello, on_fetch="no function", on_alarm=len))

    def test_a_file_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"^/app/worker\.py: no handler found"):
            find_entrypoint(module(__file__="/app/worker.py"))

    @pytest.mark.parametrize("legacy", ["on_fetch", "on_scheduled", "on_queue"])
    def test_both_kinds_at_once(self, legacy: str) -> None:
        with pytest.raises(ConfigError, match=f"Cannot define multiple default entrypoints; remove {legacy}"):
            find_entrypoint(module(Default=Hello, **{legacy: lambda *_: None}))

    @pytest.mark.parametrize("default", [object, Hello(None, None), len, "x"])  # type: ignore[arg-type] # unused
    def test_default_is_a_class_of_the_right_kind(self, default: Any) -> None:
        with pytest.raises(ConfigError, match="Default must be a class that subclasses WorkerEntrypoint"):
            find_entrypoint(module(Default=default))

    @pytest.mark.parametrize("name", ["fetch", "scheduled", "queue"])
    def test_a_handler_is_a_method(self, name: str) -> None:
        default = type("Default", (WorkerEntrypoint,), {name: 5})
        with pytest.raises(
            ConfigError, match=rf"^handler: Default\.{name} must be a method; write `async def {name}\("
        ):
            find_entrypoint(module(Default=default))

    def test_all_restricts_what_is_found(self) -> None:
        assert find_entrypoint(module(Default=Hello, __all__=["Default"])) is Hello
        with pytest.raises(ConfigError, match="no handler found"):
            find_entrypoint(module(Default=Hello, __all__=["Other"]))


class TestNamed:
    def test_every_subclass_by_its_name(self) -> None:
        class Admin(Hello):
            pass

        found = find_entrypoints(
            module(Default=Hello, Admin=Admin, Base=WorkerEntrypoint, _Private=Admin, OTHER=1, Plain=object)
        )
        assert found == {"default": Hello, "Admin": Admin}

    def test_all_restricts_these_too(self) -> None:
        found = find_entrypoints(module(Default=Hello, A=Hello, _B=Hello, __all__=["Default", "_B", "missing"]))
        assert found == {"default": Hello, "_B": Hello}

    def test_beside_a_legacy_function(self) -> None:
        found = find_entrypoints(module(on_fetch=len, Admin=Hello))
        assert list(found) == ["default", "Admin"]
        assert found["Admin"] is Hello

    def test_the_place_of_one(self) -> None:
        assert place_of(Hello) == f"{__file__}, class Hello"
        assert place_of(find_entrypoint(module(on_fetch=answered))) == f"{__file__}, class Default"


class TestInstance:
    async def test_env_and_ctx_are_set(self) -> None:
        ctx, env = ExecutionContext(BackgroundTasks()), Env(NAME="x")
        entrypoint = WorkerEntrypoint(ctx, env)
        assert entrypoint.ctx is ctx
        assert entrypoint.env is env

    async def test_init_may_be_overridden_and_each_event_has_its_own_instance(self) -> None:
        seen: list[object] = []

        class Counting(WorkerEntrypoint):
            def __init__(self, ctx: ExecutionContext, env: Any) -> None:
                super().__init__(ctx, env)
                self.count = 0

            async def fetch(self, request: Request) -> Response:
                self.count += 1
                seen.append(self)
                return Response(f"{self.env.NAME} {self.count}")

        env = Env(NAME="x")
        assert [await answered(Counting, env), await answered(Counting, env)] == ["x 1", "x 1"]
        assert seen[0] is not seen[1]


class TestArguments:
    async def test_surplus_arguments_are_dropped(self) -> None:
        class Nothing(WorkerEntrypoint):
            async def fetch(self) -> Response:
                return Response("nothing")

        assert await answered(Nothing) == "nothing"

    @pytest.mark.parametrize("count", [2, 3])
    async def test_env_and_ctx_as_arguments_are_none(self, count: int) -> None:
        class Two(WorkerEntrypoint):
            async def fetch(self, request: Request, env: Any) -> Response:
                return Response(f"{request.target} {env} {self.env.NAME}")

        class Three(WorkerEntrypoint):
            async def fetch(self, request: Request, env: Any = 1, ctx: Any = 2) -> Response:
                return Response(f"{request.target} {env} {ctx}")

        answer = {2: "/ None x", 3: "/ None None"}[count]
        assert await answered({2: Two, 3: Three}[count], Env(NAME="x")) == answer

    async def test_star_arguments_get_everything(self) -> None:
        class Star(WorkerEntrypoint):
            async def fetch(self, *args: Any) -> Response:
                return Response(f"{args[0].target} {args[1:]}")

        assert await answered(Star) == "/ (None, None)"

    async def test_a_decorator_without_wraps(self) -> None:
        def decorated(function: Any) -> Any:
            async def call(*args: Any, **kwargs: Any) -> Response:
                response: Response = await function(*args[:2])
                return response

            return call

        class Decorated(WorkerEntrypoint):
            @decorated
            async def fetch(self, request: Request) -> Response:
                return Response(request.target)

        assert await answered(Decorated) == "/"

    async def test_more_than_there_are_is_an_error(self, caplog: pytest.LogCaptureFixture) -> None:
        class Four(WorkerEntrypoint):
            async def fetch(self, request: Request, env: Any, ctx: Any, more: Any) -> Response:
                return Response("never")

        assert await answered(Four) == "Internal Server Error"
        assert "missing 1 required positional argument: 'more'" in caplog.text

    async def test_fetch_may_be_synchronous(self) -> None:
        class Sync(WorkerEntrypoint):
            def fetch(self, request: Request) -> Response:
                return Response("sync")

        assert await answered(Sync) == "sync"

    def test_the_usual_form_is_called_without_a_wrapper(self) -> None:
        assert relaxed(Hello.fetch) is Hello.fetch


class TestLegacy:
    @pytest.mark.parametrize("count", [0, 1, 2, 3])
    async def test_on_fetch(self, count: int) -> None:
        async def none() -> Response:
            return Response("0")

        async def one(request: Request) -> Response:
            return Response(f"1 {request.target}")

        def two(request: Request, env: Any) -> Response:
            return Response(f"2 {env.NAME}")

        async def three(request: Request, env: Any, ctx: ExecutionContext) -> Response:
            ctx.wait_until(None)
            return Response(f"3 {env.NAME}")

        entrypoint = find_entrypoint(module(on_fetch=[none, one, two, three][count]))
        assert issubclass(entrypoint, WorkerEntrypoint)
        assert await answered(entrypoint, Env(NAME="x")) == ["0", "1 /", "2 x", "3 x"][count]

    async def test_the_decorator_changes_nothing(self) -> None:
        @handler
        async def on_fetch(request: Request) -> Response:
            return Response(request.target)

        assert await answered(find_entrypoint(module(on_fetch=on_fetch))) == "/"

    async def test_on_scheduled(self) -> None:
        seen: list[Any] = []
        entrypoint = find_entrypoint(
            module(on_scheduled=lambda controller, env, ctx: seen.append((controller, env, ctx)))
        )
        env = Env(NAME="x")
        told = ScheduledController(60_000, "* * * * *")
        assert (await Runtime(ScriptedFetcher({})).scheduled(entrypoint, env, told)).outcome == "ok"
        ((controller, seen_env, ctx),) = seen
        assert (controller, seen_env) == (told, env)
        assert isinstance(ctx, ExecutionContext)

    async def test_what_is_missing_is_said(self) -> None:
        entrypoint = find_entrypoint(module(on_queue=lambda *_: None))
        runtime = Runtime(ScriptedFetcher({}))
        with pytest.raises(ConfigError, match=r"Handler does not export a fetch\(\) function"):
            runtime.handler(entrypoint, None)
        with pytest.raises(ConfigError, match=r"Handler does not export a scheduled\(\) function"):
            await runtime.scheduled(entrypoint, None, ScheduledController(60_000, "* * * * *"))


class TestEnv:
    def test_bindings_are_attributes(self) -> None:
        env = Env(NAME="x", KV={"a": 1})
        assert (env.NAME, env.KV) == ("x", {"a": 1})

    def test_a_missing_binding_names_those_that_exist(self) -> None:
        with pytest.raises(AttributeError, match=r"^env has no binding 'KEY'; bindings: A, B$"):
            _ = Env(B="secret", A=1).KEY
        with pytest.raises(AttributeError, match=r"bindings: none$"):
            _ = Env().KEY
        assert not hasattr(Env(), "KEY")

    def test_it_is_not_subscriptable(self) -> None:
        with pytest.raises(TypeError, match="not subscriptable"):
            Env(A=1)["A"]  # type: ignore[index]

    def test_a_repr_shows_no_values(self) -> None:
        assert repr(Env(KEY="secret", A=1)) == "<Env ['A', 'KEY']>"
