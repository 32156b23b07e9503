"""Bindings: env from a configuration, stores shared by id, the module-level env, and services within a process."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import worker_compat.workers as sdk
from worker_compat.bindings import Env, StorageUrls, Stores, open_bindings, open_stores, patch_env
from worker_compat.bindings import env as event_env
from worker_compat.config import KVNamespaceConfig, ProducerConfig, ServiceConfig, WorkerConfig
from worker_compat.entrypoint import WorkerEntrypoint
from worker_compat.errors import AdapterNotFound, ConfigError
from worker_compat.headers import Headers
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.rpc import python_from_rpc, python_to_rpc
from worker_compat.runtime import Runtime
from worker_compat.services import ServiceBinding, Worker
from worker_compat.streams import ReadableStream
from worker_compat.testing import ScriptedBody, ScriptedFetcher

MAIN = Path("worker.py")


def config(name: str = "w", **sections: Any) -> WorkerConfig:
    return WorkerConfig(name, MAIN, file=Path("wrangler.toml"), **sections)


@pytest.fixture
async def stores() -> AsyncIterator[Stores]:
    async with open_stores(StorageUrls()) as opened:
        yield opened


async def bound(stores: Stores, workers: Mapping[str, Worker] | None = None, **sections: Any) -> Any:
    return await open_bindings(config(**sections), stores, workers or {})


class TestVariables:
    async def test_types_stay(self, stores: Stores) -> None:
        env = await bound(stores, vars={"T": "a", "N": 1, "R": 0.5, "B": False, "X": None})
        assert vars(env) == {"T": "a", "N": 1, "R": 0.5, "B": False, "X": None}

    async def test_tables_are_read_by_attribute(self, stores: Stores) -> None:
        env = await bound(stores, vars={"T": {"a": {"b": [1, {"c": 2}]}}})
        assert env.T.a.b[1].c == 2
        assert env.T == {"a": {"b": [1, {"c": 2}]}}

    async def test_a_secret_wins(self, stores: Stores) -> None:
        env = await bound(stores, vars={"A": 1}, secrets={"A": "secret", "B": "other"})
        assert (env.A, env.B) == ("secret", "other")
        assert "secret" not in repr(env)


class TestStores:
    async def test_a_namespace_is_shared_by_id_and_apart_from_others(self, stores: Stores) -> None:
        first = await bound(stores, kv_namespaces=(KVNamespaceConfig("A", "1"), KVNamespaceConfig("B", "2")))
        second = await bound(stores, kv_namespaces=(KVNamespaceConfig("C", "1"),))
        await first.A.put("k", "v")
        assert await second.C.get("k") == "v"
        assert await first.B.get("k") is None

    async def test_a_url_of_its_own(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'a.sqlite'}"
        for expected in (None, "v"):
            async with open_stores(StorageUrls(kv={"A": url})) as stores:
                env = await bound(stores, kv_namespaces=(KVNamespaceConfig("A", "1"), KVNamespaceConfig("B", "1")))
                assert await env.A.get("k") == expected
                await env.A.put("k", "v")
                assert await env.B.get("k") is None

    async def test_a_queue_is_shared_by_name(self, stores: Stores) -> None:
        env = await bound(stores, queue_producers=(ProducerConfig("A", "q"), ProducerConfig("B", "q", 60)))
        store = await stores.queue("q")
        told: list[str] = []
        store.on_push.append(lambda: told.append("pushed"))
        await env.A.send({"n": 1})
        await env.B.send({"n": 2})
        assert told == ["pushed", "pushed"]
        assert len(await store.claim(10, 60)) == 1, "the other one is delayed"
        assert await (await stores.queue("other")).claim(10, 60) == []

    async def test_an_unknown_scheme(self) -> None:
        async with open_stores(StorageUrls(kv={"A": "nowhere://"})) as stores:
            with pytest.raises(AdapterNotFound, match=r"no worker_compat\.kv adapter for nowhere://"):
                await bound(stores, kv_namespaces=(KVNamespaceConfig("A", "1"),))


class Echo(WorkerEntrypoint):
    async def fetch(self, request: Request) -> Response:
        text = f"{request.method} {request.url} {await request.text()} {self.env.NAME} {dict(self.ctx.props)}"
        return Response(text, 201, headers={"x-a": request.headers.get("x-a") or ""})

    async def add(self, first: int, second: int) -> int:
        return first + second

    def sync(self, value: Any) -> Any:
        return value

    async def fails(self) -> None:
        raise LookupError("theirs")

    async def wrong(self) -> tuple[int, ...]:
        return (1, 2)

    async def later(self, seen: Any) -> None:
        async def work() -> None:
            await asyncio.sleep(0)
            seen()

        self.ctx.wait_until(work())

    async def count(self) -> int:
        self.calls: int = getattr(self, "calls", 0) + 1
        return self.calls

    def _private(self) -> str:
        return "private"


class Admin(WorkerEntrypoint):
    async def fetch(self, request: Request) -> Response:
        if request.url.endswith("/loop"):
            return Response.redirect("http://x/end", 302)
        return Response("admin")


class Front(WorkerEntrypoint):
    """Calls whatever the test put there."""

    async def fetch(self, request: Request) -> Response:
        return Response(str(await self.env.RUN(self)))


def workers(*names: str) -> dict[str, Worker]:
    runtime = Runtime(ScriptedFetcher({}))
    return {name: Worker(name, {"default": Echo, "Admin": Admin}, runtime) for name in names}


async def service(stores: Stores, entrypoint: str | None = None, **props: Any) -> ServiceBinding:
    running = workers("other")
    running["other"].env = Env(NAME="theirs")
    env = await bound(stores, running, services=(ServiceConfig("S", "other", entrypoint, props),))
    found: ServiceBinding = env.S
    return found


class TestServiceFetch:
    async def test_it_has_its_own_env_and_the_props_of_the_binding(self, stores: Stores) -> None:
        binding = await service(stores, level=1)
        response = await binding.fetch("http://x/p?q", method="POST", body="body", headers={"x-a": "1"})
        assert await response.text() == "POST http://x/p?q body theirs {'level': 1}"
        assert (response.status, response.headers["x-a"], response.url) == (201, "1", "http://x/p?q")

    async def test_a_request_is_handed_over_with_its_body(self, stores: Stores) -> None:
        request = Request("http://x/", method="PUT", body=ReadableStream(ScriptedBody([b"bo", b"dy"])))
        response = await (await service(stores)).fetch(request)
        assert await response.text() == "PUT http://x/ body theirs {}"
        assert request.body_used

    async def test_the_headers_of_an_answer_are_immutable(self, stores: Stores) -> None:
        response = await (await service(stores)).fetch("http://x/")
        with pytest.raises(TypeError, match="immutable"):
            response.headers["a"] = "b"

    async def test_a_named_entrypoint_and_its_redirects(self, stores: Stores) -> None:
        binding = await service(stores, "Admin")
        followed = await binding.fetch("http://x/loop")
        assert (await followed.text(), followed.redirected) == ("admin", True)
        assert (await binding.fetch("http://x/loop", redirect="manual")).status == 302

    async def test_a_coded_body_is_decoded_when_read(self, stores: Stores) -> None:
        class Packed(WorkerEntrypoint):
            async def fetch(self, request: Request) -> Response:
                return Response("plain", headers={"content-encoding": "gzip"})

        running = {"other": Worker("other", {"default": Packed}, Runtime(ScriptedFetcher({})))}
        env = await bound(stores, running, services=(ServiceConfig("S", "other"),))
        assert await (await env.S.fetch("http://x/")).text() == "plain"

    async def test_a_relative_url_is_refused(self, stores: Stores) -> None:
        with pytest.raises(TypeError, match="Invalid URL"):
            await (await service(stores)).fetch("/path")

    async def test_a_failure_is_a_500_for_the_caller(self, stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
        class Broken(WorkerEntrypoint):
            async def fetch(self, request: Request) -> Response:
                raise ValueError("inside")

        running = {"other": Worker("other", {"default": Broken}, Runtime(ScriptedFetcher({})))}
        env = await bound(stores, running, services=(ServiceConfig("S", "other"),))
        assert (await env.S.fetch("http://x/")).status == 500
        assert "inside" in caplog.text

    async def test_a_worker_may_be_bound_to_itself(self, stores: Stores) -> None:
        running = workers("w")
        running["w"].env = await bound(
            stores, running, vars={"NAME": "own"}, services=(ServiceConfig("SELF", "w", "Admin"),)
        )
        assert await (await running["w"].env.SELF.fetch("http://x/")).text() == "admin"

    @pytest.mark.parametrize(
        ("entry", "sentence"),
        [
            (
                ServiceConfig("S", "gone"),
                "which does not run here; add -c path/to/its/wrangler.toml (running: a, b)",
            ),
            (ServiceConfig("S", "a", "Gone"), "which has no entrypoint Gone; entrypoints: Admin, default"),
        ],
    )
    async def test_one_that_is_not_there(self, stores: Stores, entry: ServiceConfig, sentence: str) -> None:
        with pytest.raises(ConfigError) as caught:
            await bound(stores, workers("a", "b"), services=(entry,))
        assert str(caught.value) == f"wrangler.toml: services names {entry.service}, {sentence}"


class TestRpc:
    async def test_a_method_is_called_on_a_new_instance(self, stores: Stores) -> None:
        binding = await service(stores)
        assert await binding.add(1, 2) == 3
        assert [await binding.count(), await binding.count()] == [1, 1]

    async def test_values_are_copied(self, stores: Stores) -> None:
        given = {"a": [1, {"b": {2}}]}
        got = await (await service(stores)).sync(given)
        assert got == given
        assert got is not given
        assert got.a[1].b == {2}

    async def test_keywords_become_one_object(self, stores: Stores) -> None:
        assert await (await service(stores)).sync(limit=1, prefix="a") == {"limit": 1, "prefix": "a"}

    async def test_an_error_reaches_the_caller(self, stores: Stores) -> None:
        with pytest.raises(LookupError, match="theirs"):
            await (await service(stores)).fails()

    @pytest.mark.parametrize("name", ["_private", "missing", "NAME", "__class_getitem__x"])
    async def test_what_is_private_or_missing(self, stores: Stores, name: str) -> None:
        binding = await service(stores)
        if name.startswith("__"):
            assert not hasattr(binding, name)
        else:
            with pytest.raises(TypeError, match=f'^The RPC receiver does not implement the method "{name}".$'):
                await getattr(binding, name)()

    @pytest.mark.parametrize("value", [(1,), bytearray(b"x"), [{"a": (1,)}], object(), Path("x")])
    async def test_what_cannot_be_sent(self, stores: Stores, value: Any) -> None:
        with pytest.raises(TypeError, match=r"cannot be sent over RPC\.$|does not support serialization\.$"):
            await (await service(stores)).sync(value)

    async def test_a_result_that_cannot_be_sent(self, stores: Stores) -> None:
        with pytest.raises(TypeError, match=r"^<class 'tuple'> cannot be sent over RPC\.$"):
            await (await service(stores)).wrong()

    async def test_an_awaitable_cannot_be_sent(self, stores: Stores) -> None:
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(TypeError, match=r"^Awaitable <class '.*Future'> cannot be sent over RPC\.$"):
            await (await service(stores)).sync(future)

    def test_what_passes_over_as_it_is(self) -> None:
        moment = datetime.datetime.now(datetime.UTC)
        kept: Sequence[Any] = (None, True, 1, 0.5, "x", b"x", moment, ValueError("x"), len, Response("x"), Headers())
        for value in kept:
            assert python_to_rpc(value) is value
            assert python_from_rpc(value) is value

    async def test_props_and_env_during_an_event_are_those_of_the_binding(self, stores: Stores) -> None:
        binding = await service(stores, level=1)

        async def run(front: Front) -> str:
            return await (await binding.fetch("http://x/")).text()

        env = Env(NAME="mine", RUN=run)
        response = await Runtime(ScriptedFetcher({})).fetch(Front, env, Request.incoming("GET", "/", (), None))
        assert await response.text() == "GET http://x/  theirs {'level': 1}"

    async def test_its_background_work_lives_as_long_as_the_event_of_the_caller(self, stores: Stores) -> None:
        done = asyncio.Event()
        binding = await service(stores)
        runtime = Runtime(ScriptedFetcher({}))

        async def run(front: Front) -> str:
            await binding.later(done.set)
            assert front.ctx._tasks, "the task is the caller's"
            return "answered"

        response = await runtime.fetch(Front, Env(RUN=run), Request.incoming("GET", "/", (), None))
        assert await response.text() == "answered"
        await asyncio.wait_for(done.wait(), 5)


class TestModuleLevelEnv:
    async def test_it_is_that_of_the_running_event(self) -> None:
        async def run(front: Front) -> str:
            name: str = event_env.NAME
            return name

        for name in ("a", "b"):
            env = Env(NAME=name, RUN=run)
            response = await Runtime(ScriptedFetcher({})).fetch(Front, env, Request.incoming("GET", "/", (), None))
            assert await response.text() == name

    async def test_events_at_once_do_not_mix(self) -> None:
        both = asyncio.Barrier(2)

        async def run(front: Front) -> str:
            await both.wait()
            name: str = event_env.NAME
            return name

        runtime = Runtime(ScriptedFetcher({}))
        requests = [Request.incoming("GET", "/", (), None) for _ in range(2)]
        envs = [Env(NAME=name, RUN=run) for name in ("a", "b")]
        answers = await asyncio.gather(*map(runtime.fetch, (Front, Front), envs, requests))
        assert [await answer.text() for answer in answers] == ["a", "b"]

    async def test_a_service_sees_its_own_and_the_caller_his(self, stores: Stores) -> None:
        class Names(WorkerEntrypoint):
            async def name(self) -> str:
                found: str = event_env.NAME
                return found

        other = Worker("other", {"default": Names}, Runtime(ScriptedFetcher({})))
        other.env = Env(NAME="theirs")
        env = await bound(stores, {"other": other}, services=(ServiceConfig("S", "other"),))

        async def run(front: Front) -> str:
            return f"{await env.S.name()} {event_env.NAME}"

        mine = Env(NAME="mine", RUN=run)
        response = await Runtime(ScriptedFetcher({})).fetch(Front, mine, Request.incoming("GET", "/", (), None))
        assert await response.text() == "theirs mine"

    async def test_background_work_keeps_it(self) -> None:
        seen: list[str] = []

        async def work() -> None:
            await asyncio.sleep(0)
            seen.append(event_env.NAME)

        async def run(front: Front) -> None:
            sdk.wait_until(work())

        runtime = Runtime(ScriptedFetcher({}))
        await runtime.fetch(Front, Env(NAME="a", RUN=run), Request.incoming("GET", "/", (), None))
        await runtime.background.drain(5)
        assert seen == ["a"]

    def test_outside_of_an_event(self) -> None:
        with pytest.raises(ConfigError, match=r"^no event here: `env` works while a handler runs"):
            _ = event_env.NAME
        assert repr(event_env) == "<env of the running event>"

    def test_it_can_be_patched(self) -> None:
        with patch_env({"A": 1}, B=2), patch_env([("B", 3)]):
            assert (event_env.A, event_env.B) == (1, 3)
        with pytest.raises(ConfigError):
            _ = event_env.A

    async def test_a_patch_lies_over_that_of_the_event(self) -> None:
        async def run(front: Front) -> str:
            with patch_env(A="patched"):
                return f"{event_env.A} {event_env.NAME} {hasattr(front.env, 'A')}"

        env = Env(NAME="a", RUN=run)
        response = await Runtime(ScriptedFetcher({})).fetch(Front, env, Request.incoming("GET", "/", (), None))
        assert await response.text() == "patched a False"
