"""The same handlers here and inside Cloudflare: in Pyodide, with Cloudflare's SDK and workerd's KV.

Each portable handler runs three times: under this runtime, unmodified on Cloudflare's SDK, and written against this
runtime through ``worker_compat_cloudflare.entrypoint``. Answers, KV contents and effects of events must be the same.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.pyodide import ROOT, Run, Step, ask, run, tick
from tests.conformance.upstream import upstream
from worker_compat import Env, KVNamespace, Request, Runtime
from worker_compat.entrypoint import find_entrypoint
from worker_compat.loading import load_module
from worker_compat.memory import MemoryKVStore
from worker_compat.registry import FETCHER, find
from worker_compat.scheduled import ScheduledController
from worker_compat.testing import read_response

HOST = "http://host.example"
HANDLERS = Path(__file__).with_name("handlers")
EXAMPLES = ROOT / "examples"
UTF8 = "é€😀".encode()


@dataclass(frozen=True)
class Program:
    """A handler that both worlds understand, and what it is asked."""

    file: Path
    steps: Sequence[Step]
    kv: str = "KV"
    vars: Mapping[str, Any] = field(default_factory=dict)


PROGRAMS = {
    "hello": Program(EXAMPLES / "hello.py", [ask(f"{HOST}/a?b=c"), ask(f"{HOST}/", "POST", body=UTF8)]),
    "kv_cron_stream": Program(
        EXAMPLES / "kv_cron_stream" / "worker.py",
        [
            ask(f"{HOST}/report"),
            ask(f"{HOST}/notes/one", "PUT", headers=[("content-type", "image/x")], body=bytes(range(256)) * 1000),
            ask(f"{HOST}/notes/%C3%A9", "PUT", body=b""),
            ask(f"{HOST}/notes/one"),
            ask(f"{HOST}/notes/none"),
            ask(f"{HOST}/notes"),
            tick("*/5 * * * *", 1_700_000_100_000),
            ask(f"{HOST}/report"),
            ask(f"{HOST}/elsewhere"),
        ],
        kv="NOTES",
        vars={"TITLE": "Notes"},
    ),
    "portable": Program(
        HANDLERS / "portable.py",
        [
            ask(f"{HOST}/echo?q=%20", "POST", headers=[("x-one", "1"), ("X-One", "2")], body=UTF8),
            ask(f"{HOST}/cookies"),
            ask(f"{HOST}/bytes", "PUT", body=b"\x00\xff"),
            ask(f"{HOST}/empty"),
            ask(f"{HOST}/json", "POST", body=b'{"a": [1, 2.5, null]}'),
            ask(f"{HOST}/nowhere"),
            *(ask(f"{HOST}/{path}") for path in ("proxy", "read", "missing", "redirected", "unreachable")),
            *(ask(f"{HOST}/{path}") for path in ("kv", "refused", "later")),
            tick("0 0 1 * SUN", 1_700_000_000_000),
        ],
    ),
}
EDGE_STEPS: dict[str, Step] = {
    **{name: ask(f"{HOST}/{name}") for name in ("generator", "tee", "errors", "env", "immutable", "raises", "send")},
    **{name: ask(f"{HOST}/{name}", "POST", body=bytes(range(256))) for name in ("upload", "streams")},
    "endless": {"fetch": {"url": f"{HOST}/endless", "cancelAfter": 2}},
    "left": ask(f"{HOST}/left"),
    "tick": tick("* * * * *", 1_700_000_000_000),
    "failed tick": tick("fails", 1),
    "batch": {
        "queue": {
            "queue": "jobs",
            "messages": [
                {"id": "1", "body": {"n": [1, None]}, "attempts": 1},
                {"id": "2", "body": "bad", "attempts": 2},
                {"id": "3", "body": "unmarked", "attempts": 1},
            ],
        }
    },
    "poison": {"queue": {"queue": "jobs", "messages": [{"id": "1", "body": "raise", "attempts": 3}]}},
}
EDGE_VARS = {"SETTINGS": {"nested": {"value": 1.5}, "list": [1, None]}, "FLAG": True, "NUMBER": 3}
FLAVOURS = {"sdk": "workers", "entrypoint": "worker_compat"}

ODDITIES = {
    "unpaired surrogates become replacement characters": "Miniflare's proxy in Node repairs text on its way",
}
"""KV cases that come out otherwise on the way from Node to workerd; they hold inside workerd."""

IMPORTS = """
async def check():
    import sys, worker_compat, worker_compat.workers, worker_compat_cloudflare
    return [sys.platform, sorted(worker_compat.__all__)]
"""
KIT = """
from contextlib import asynccontextmanager
from worker_compat.memory import MemoryKVStore
from worker_compat.testing import kit
from worker_compat.testing.kv import KVStoreConformance, kv_subjects

@asynccontextmanager
async def opened(clock):
    yield MemoryKVStore(clock=clock)

async def check():
    outcomes = await kit.run(KVStoreConformance, kv_subjects(opened))
    return [f"{outcome.case.name}: {outcome.error}" for outcome in outcomes if not outcome.passed] + [len(outcomes)]
"""


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with upstream() as address:
        yield address


@pytest.fixture(scope="module")
def inside(origin: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything that runs inside Cloudflare, in one process."""
    runs, modules = [], {name: (HANDLERS / f"{name}.py").read_text() for name in ("edge", "kv_player")}
    for name, program in PROGRAMS.items():
        for flavour, source in sources(program).items():
            modules[f"{name}_{flavour}"] = source
            main = f"{name}_{flavour}" if flavour == "sdk" else f"{name}_main"
            given = {**program.vars, "UPSTREAM": origin}
            runs.append(Run(f"{name} {flavour}", main, program.steps, program.kv, given))
        modules[f"{name}_main"] = main_file(f"{name}_entrypoint")
    modules["edge_main"], modules["cases_main"] = main_file("edge"), main_file("kv_player")
    runs.append(Run("cases", "cases_main", [ask(HOST)]))
    runs.append(Run("edge", "edge_main", list(EDGE_STEPS.values()), vars={**EDGE_VARS, "UPSTREAM": origin}))
    return run(tmp_path_factory.mktemp("pyodide"), runs, modules, {"imports": IMPORTS, "kit": KIT})


def sources(program: Program) -> dict[str, str]:
    """The handler with its import as Cloudflare's SDK and as this runtime spell it."""
    text = program.file.read_text()
    spelt = re.compile("^from (workers|worker_compat) import", re.MULTILINE)
    return {flavour: spelt.sub(f"from {package} import", text) for flavour, package in FLAVOURS.items()}


def main_file(module: str) -> str:
    """The main file of a Worker around ``module``, as in docs/cloudflare.md."""
    return f"import {module}\nfrom worker_compat_cloudflare.entrypoint import wrap\n\nDefault = wrap({module})\n"


async def outside(program: Program, origin: str) -> dict[str, Any]:
    """What ``program`` does under this runtime."""
    entrypoint = find_entrypoint(load_module(program.file))
    store = MemoryKVStore()
    env = Env(**{program.kv: KVNamespace(store), "UPSTREAM": origin, **program.vars})
    steps = []
    async with find(FETCHER, "aiohttp")() as fetcher:
        runtime = Runtime(fetcher)
        for step in program.steps:
            if "fetch" in step:
                response = await runtime.fetch(entrypoint, env, _request(step["fetch"]))
                body = await read_response(response)
                steps.append(_answer(response.status, response.headers.items(), body))
            else:
                given = step["scheduled"]
                controller = ScheduledController(given["scheduledTime"], given["cron"])
                steps.append({"outcome": (await runtime.scheduled(entrypoint, env, controller)).outcome})
            assert await runtime.background.drain(5) == 0
    keys = (await store.list("", 1000, None)).keys
    entries = [(key, await store.get(key.name)) for key in keys]
    kv = [[key.name, entry.value, _parsed(key.metadata), key.expiration] for key, entry in entries if entry]
    return {"steps": steps, "kv": kv}


def _request(given: dict[str, Any]) -> Request:
    body = base64.b64decode(given["body"]) if "body" in given else None
    return Request(given["url"], method=given["method"], headers=given["headers"], body=body)


def _answer(status: int, headers: Sequence[Sequence[str]], body: bytes) -> dict[str, Any]:
    kept = [list(pair) for pair in headers if pair[0] not in ("date", "server")]
    return {"status": status, "headers": kept, "body": body}


def _parsed(metadata: str | None) -> Any:
    return None if metadata is None else json.loads(metadata)


def plain(result: dict[str, Any]) -> dict[str, Any]:
    """A run inside, in the shape of one outside."""
    steps = []
    for step in result["steps"]:
        assert all(task == "fulfilled" for task in step["tasks"])
        shown = {"outcome": step.get("outcome")}
        if "status" in step:
            shown = _answer(step["status"], step["headers"], base64.b64decode(step["body"]))
        steps.append(shown)
    return {"steps": steps, "kv": [[name, base64.b64decode(value), *rest] for name, value, *rest in result["kv"]]}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_handler_does_the_same_inside(name: str, flavour: str, inside: dict[str, Any], origin: str) -> None:
    here, there = await outside(PROGRAMS[name], origin), plain(inside["runs"][f"{name} {flavour}"])
    assert len(there["steps"]) == len(PROGRAMS[name].steps)
    for step, ours, theirs in zip(PROGRAMS[name].steps, here["steps"], there["steps"], strict=True):
        assert ours == theirs, f"{step} gave {ours} here and {theirs} inside"
    assert _without_expirations(here["kv"]) == _without_expirations(there["kv"])
    for ours, theirs in zip(here["kv"], there["kv"], strict=True):
        # The runs began at different seconds.
        assert (ours[3] is None) == (theirs[3] is None)
        assert ours[3] is None or abs(ours[3] - theirs[3]) < 120


def _without_expirations(kv: list[list[Any]]) -> list[list[Any]]:
    return [row[:3] for row in kv]


def test_the_handlers_do_something(inside: dict[str, Any]) -> None:
    notes = plain(inside["runs"]["kv_cron_stream sdk"])
    assert [step.get("status") for step in notes["steps"]] == [200, 201, 201, 200, 404, 200, None, 200, 404]
    assert json.loads(notes["steps"][7]["body"]) == {"notes": 2, "cron": "*/5 * * * *"}
    assert [row[0] for row in notes["kv"]] == ["note:one", "note:é", "report"]
    portable = plain(inside["runs"]["portable sdk"])
    assert portable["steps"][6]["body"] == b"chunk 0\nchunk 1\nchunk 2\n"
    assert portable["steps"][6]["status"] == 203
    assert {row[0] for row in portable["kv"]} >= {"later", "cron", "cron-later", "bytes"}


@pytest.fixture
def edge(inside: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The steps of the handler at the edge by name; bodies are bytes."""
    steps = zip(EDGE_STEPS, inside["runs"]["edge"]["steps"], strict=True)
    return {name: {**step, "body": base64.b64decode(step.get("body", ""))} for name, step in steps}


@pytest.fixture
def edge_kv(inside: dict[str, Any]) -> dict[str, bytes]:
    """What the handler at the edge left in KV."""
    return {row[0]: base64.b64decode(row[1]) for row in inside["runs"]["edge"]["kv"]}


def test_a_generator_streams_inside_its_event(edge: dict[str, Any], edge_kv: dict[str, bytes]) -> None:
    assert edge["generator"]["body"] == b"chunk 0\nchunk 1\nchunk 2\nno such thing"
    assert edge["generator"]["headers"] == [["content-type", "text/event-stream"]]
    assert edge["generator"]["tasks"] == ["fulfilled"]
    assert edge_kv["streamed"] == b"to the end"


def test_a_client_that_leaves_closes_the_generator(edge: dict[str, Any]) -> None:
    assert edge["endless"]["body"] == b"more\nmore\n"
    assert json.loads(edge["left"]["body"]) == ["closed"]


def test_bodies_cross_the_edge_in_both_directions(edge: dict[str, Any], edge_kv: dict[str, bytes]) -> None:
    everything = bytes(range(256))
    assert edge["upload"]["body"] == b"<" + everything + b">"
    assert ["x-accepted", "identity"] in edge["upload"]["headers"]
    assert edge["streams"]["body"] == everything
    assert edge["streams"]["headers"] == [["x-metadata", "[1]"]]
    assert edge_kv["stream"] == everything
    assert (edge["tee"]["status"], edge["tee"]["body"]) == (203, b"chunk 0\nchunk 1\nchunk 2\n")
    assert edge_kv["recorded"] == edge["tee"]["body"]


def test_errors_inside_are_ours(edge: dict[str, Any]) -> None:
    assert json.loads(edge["errors"]["body"]) == [
        "KVError TypeError: Key name cannot be empty.",
        "TypeError KV put() takes 'expirationTtl'; Cloudflare silently ignores 'expiration_ttl'",
        "KVError Error: KV PUT failed: 400 Invalid expiration_ttl of 1. Expiration TTL must be at least 60.",
        True,
    ]
    assert (edge["raises"]["status"], edge["raises"]["body"]) == (500, b"Internal Server Error")
    assert edge["immutable"]["body"] == b"Can't modify immutable headers."


def test_variables_are_python_values(edge: dict[str, Any]) -> None:
    missing = "env has no binding 'MISSING'; bindings: FLAG, KV, NUMBER, QUEUE, SETTINGS, UPSTREAM"
    assert json.loads(edge["env"]["body"]) == [missing, 1.5, [1, None], True, 3]


def test_native_queues(edge: dict[str, Any], edge_kv: dict[str, bytes], inside: dict[str, Any]) -> None:
    assert inside["runs"]["edge"]["sent"] == [
        [{"n": 1}, {"delaySeconds": 5}],
        [[{"body": "a", "contentType": "text"}, {"body": {"b": None}}], {}],
    ]
    assert edge["batch"]["outcome"] == "ok"
    assert edge["batch"]["verdicts"] == {"all": None, "each": ["ack", ["retry", {"delaySeconds": 7}], None]}
    assert edge["poison"]["outcome"] == "exception: RuntimeError: poison"
    assert json.loads(edge_kv["batch"]) == ["jobs", [["1", "raise", 3]]]


def test_scheduled_events(edge: dict[str, Any], edge_kv: dict[str, bytes]) -> None:
    assert (edge["tick"]["outcome"], edge["tick"]["verdicts"]) == ("ok", {"refused": True})
    assert edge_kv["tick"] == b"* * * * * 1700000000000"
    assert edge["failed tick"]["outcome"] == "exception: RuntimeError: the cron failed"


def test_the_runtime_works_in_pyodide(inside: dict[str, Any]) -> None:
    platform, names = inside["checks"]["imports"]
    assert platform == "emscripten"
    assert "KVNamespace" in names
    *failures, count = inside["checks"]["kit"]
    assert failures == []
    assert count > 20


def test_native_kv_gives_what_the_cases_expect(inside: dict[str, Any]) -> None:
    found = json.loads(plain(inside["runs"]["cases"])["steps"][0]["body"])
    assert len(found) > 50
    assert {case for case, differences in found.items() if differences} == set(ODDITIES), found
