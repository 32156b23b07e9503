"""The gateway here and inside Cloudflare: in Pyodide, with workerd's KV and its records in Supabase over ``fetch``.

``examples/cloudflare_gateway`` runs twice, each time with a database of its own: its handler under this runtime, and
its main file on Cloudflare's SDK. Answers, what the providers were asked, and the agents on record must be the same.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import pytest

from smoltbot_records_postgres import migrate
from smoltbot_worker.variables import EnvValidationError
from tests.conformance.pyodide import ROOT, Run, Step, ask, run
from tests.provider.process import ProviderProcess
from tests.services.postgres import PostgresServer
from tests.services.rpc_bridge import KEY, rpc_bridge
from worker_compat import Env, KVNamespace, Request, Runtime
from worker_compat.config import read_config
from worker_compat.entrypoint import find_entrypoint
from worker_compat.errors import ConfigError
from worker_compat.loading import load_module
from worker_compat.memory import MemoryKVStore
from worker_compat.registry import FETCHER, find
from worker_compat.testing import read_response

GATEWAY = ROOT / "examples" / "cloudflare_gateway"
HOST = "https://gateway.example"

ANTHROPIC = ("x-api-key", "sk-ant-pyodide")
OPENAI = ("authorization", "Bearer sk-pyodide")
GEMINI = ("x-goog-api-key", "AIza-pyodide")
JSON = ("content-type", "application/json")
TEXT = "Grüezi 😀"

MESSAGES = {"model": "claude-haiku-4-5", "max_tokens": 64, "messages": [{"role": "user", "content": TEXT}]}
CHAT = {"model": "gpt-5", "messages": [{"role": "user", "content": TEXT}]}
CONTENTS = {"contents": [{"parts": [{"text": TEXT}]}]}
GEMINI_MODEL = "/gemini/v1beta/models/gemini-2.5-pro"
BIG = {**MESSAGES, "system": "0123456789abcdef" * 65_536}
"""A body of one megabyte, which may be."""
HUGE = b" " * 1_200_000


def post(path: str, body: Any, *headers: tuple[str, str], **script: Any) -> Step:
    """A request to a provider; ``script`` is what its stand-in is to do."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = [JSON, ("content-length", str(len(data))), *headers]
    if script:
        given.append(("x-script", json.dumps(script)))
    return ask(HOST + path, "POST", headers=given, body=data)


def get(path: str, *headers: tuple[str, str], method: str = "GET") -> Step:
    """A request without a body."""
    return ask(HOST + path, method, headers=headers)


STEPS: dict[str, Step] = {
    "health": get("/health"),
    "live": get("/health/live"),
    "startup": get("/health/startup"),
    "ready": get("/health/ready"),
    "models": get("/models.json", ("origin", "https://app.example")),
    "head of models": get("/models.json", method="HEAD"),
    "preflight": get("/anthropic/v1/messages", ("origin", "https://app.example"), method="OPTIONS"),
    "no such path": get("/nowhere?key=1"),
    "no metrics": get("/metrics"),
    "no signing keys": get("/v1/keys"),
    "no head": get("/v1/agents/smolt-none/head"),
    "an export without a token": get("/v1/agents/smolt-none/export"),
    "no such provider": post("/mistral/v1/chat", CHAT, OPENAI),
    "no key": post("/anthropic/v1/messages", MESSAGES),
    "no key for openai": post("/openai/v1/chat/completions", CHAT, ANTHROPIC),
    "two keys": post(f"{GEMINI_MODEL}:generateContent?key=AIza-other", CONTENTS, GEMINI),
    "a name like a key": post("/agent/sk-name/anthropic/v1/messages", MESSAGES, ANTHROPIC),
    "anthropic": post("/anthropic/v1/messages", MESSAGES, ANTHROPIC, ("anthropic-version", "2023-06-01")),
    "anthropic again": post("/anthropic/v1/messages", MESSAGES, ANTHROPIC, ("anthropic-version", "2023-06-01")),
    "anthropic streamed": post("/anthropic/v1/messages", {**MESSAGES, "stream": True}, ANTHROPIC, events=40),
    "anthropic thinking": post("/anthropic/v1/messages", MESSAGES, ANTHROPIC, thinking="hm — 考える"),
    "anthropic models": get("/anthropic/v1/models?limit=1", ANTHROPIC),
    "openai": post("/openai/v1/chat/completions", CHAT, OPENAI),
    "openai streamed": post("/openai/v1/chat/completions", {**CHAT, "stream": True}, OPENAI),
    "openai responses streamed": post("/openai/v1/responses", {"model": "gpt-5", "input": "x", "stream": True}, OPENAI),
    "gemini": post(f"{GEMINI_MODEL}:generateContent", CONTENTS, GEMINI),
    "gemini streamed by a query key": post(f"{GEMINI_MODEL}:streamGenerateContent?alt=sse&key=AIza-q%2B1", CONTENTS),
    "gemini again by a header": post(f"{GEMINI_MODEL}:countTokens", CONTENTS, ("x-goog-api-key", "AIza-q+1")),
    "named in the path": post("/agent/night.shift/openai/v1/chat/completions", CHAT, OPENAI),
    "named by a header": post("/openai/v1/chat/completions", CHAT, OPENAI, ("x-smoltbot-agent", "day-shift")),
    "the path's name wins": post("/agent/a1/anthropic/v1/messages", MESSAGES, ANTHROPIC, ("x-smoltbot-agent", "b2")),
    "no JSON": post("/anthropic/v1/messages", b'{"model": ', ANTHROPIC),
    "no object": post("/openai/v1/chat/completions", b"[1, 2]", OPENAI),
    "no text": post("/anthropic/v1/messages", bytes(range(256)), ANTHROPIC),
    "no body": get("/anthropic/v1/messages", ANTHROPIC, method="POST"),
    "a big body": post("/anthropic/v1/messages", BIG, ANTHROPIC),
    "a body too large": post("/anthropic/v1/messages", HUGE, ANTHROPIC),
    "a body too large, its length untold": ask(f"{HOST}/openai/v1/responses", "POST", headers=[OPENAI], body=HUGE),
    "a big answer": post("/anthropic/v1/messages", MESSAGES, ANTHROPIC, huge=2_000_000),
    "too many requests": post("/anthropic/v1/messages", MESSAGES, ANTHROPIC, status=429),
    "a failing provider": post("/openai/v1/chat/completions", CHAT, OPENAI, status=500),
    "a stream that ends in an error": post(
        "/anthropic/v1/messages", {**MESSAGES, "stream": True}, ANTHROPIC, error_event=True
    ),
    "a provider that hangs up": post("/gemini/v1beta/models/x:generateContent", CONTENTS, GEMINI, cut=0),
    "head of a provider": get("/openai/v1/models", OPENAI, method="HEAD"),
}

MAY_DIFFER = {
    "x-smoltbot-request-id": "made anew for each request",
    "x-smoltbot-session": "ends in the hour, which may turn between the runs",
    "timestamp": "says when, in the bodies of /health/*",
    "latencyMs": "says how long a check took, in the body of /health/ready",
}
"""Header lines and members of JSON bodies that are compared by their shape only, with the reason."""

ADDED_BY_FETCH = {
    "accept": "JavaScript's fetch sends `*/*` unless told otherwise",
    "accept-encoding": "asked to be `identity` on Cloudflare, where fetch would add what nobody here can decode",
    "accept-language": "Node's fetch alone adds it",
    "sec-fetch-mode": "Node's fetch alone adds it",
    "connection": "Node's fetch spells out what HTTP/1.1 means by itself",
    "user-agent": "Node's fetch names itself",
    "content-length": "a body that streams has no length there and is sent in chunks",
    "transfer-encoding": "the same",
}
"""Header lines of requests to providers in which the runs may differ where the client did not send them."""

LENGTHS = """
import js
from pyodide.ffi import to_js
from worker_compat_cloudflare.messages import request_from_native

async def check():
    found = []
    for headers in ([["content-length", "3"]], [], [["content-length", "3, 3"]]):
        given = {"method": "POST", "headers": js.Headers.new(to_js(headers)), "body": "abc"}
        found.append(request_from_native(js.Request.new("https://h.example/", **given)).body.detach().length)
    return [repr(length) for length in found]
"""

_SHAPES = (
    (rb'"(timestamp)":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"', rb'"\1":"TIME"'),
    (rb'"(latencyMs)":[\d.]+', rb'"\1":MS'),
)
_LAST_MIGRATION = max(path.name for path in (ROOT / "schema" / "postgres").glob("*.sql"))
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


Answers = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Side:
    """What one of the two runs left behind."""

    answers: Answers
    asked: list[dict[str, Any]]
    agents: list[dict[str, Any]]


@dataclass(frozen=True)
class Sides:
    """Both runs, and the lengths of bodies that were looked at inside."""

    here: Side
    inside: Side
    lengths: list[str]


@pytest.fixture(scope="module")
def sides(postgres_service: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    with ProviderProcess() as provider:
        yield asyncio.run(both(postgres_service, provider, tmp_path_factory.mktemp("gateway")))


async def both(server: PostgresServer, provider: ProviderProcess, folder: Path) -> Sides:
    """The same steps here and inside, one after the other."""
    dsn = await _new_database(server, "gateway_here")
    async with rpc_bridge(dsn) as bridge:
        here = await _here(variables(provider.url, bridge.url))
    ours = Side(here, provider.requests(), await _agents(dsn))
    provider.reset()
    dsn = await _new_database(server, "gateway_inside")
    async with rpc_bridge(dsn) as bridge:
        inside, lengths = await asyncio.to_thread(_inside, variables(provider.url, bridge.url), folder)
    return Sides(ours, Side(inside, provider.requests(), await _agents(dsn)), lengths)


def variables(provider: str, bridge: str) -> dict[str, Any]:
    """The variables of wrangler.toml, with these addresses in them."""
    upstreams = {f"UPSTREAM_{name}_URL": provider for name in ("ANTHROPIC", "OPENAI", "GEMINI")}
    config = read_config(GATEWAY / "wrangler.toml")
    return {**config.vars, **upstreams, "SUPABASE_URL": bridge, "SUPABASE_KEY": KEY, "MAX_BODY_BYTES": "1100000"}


async def _new_database(server: PostgresServer, name: str) -> str:
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {name}")
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    dsn = server.url.removesuffix("/postgres") + f"/{name}"
    await migrate(dsn, ROOT / "schema" / "postgres")
    return dsn


async def _agents(dsn: str) -> list[dict[str, Any]]:
    """Who is on record with which card; times say only whether there is one."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("""
            SELECT agent.id, agent_hash, key_hash, name, aip_enabled, last_seen IS NOT NULL AS seen,
                card.id AS card, version, is_active, card_json - 'issued_at' AS content
            FROM smoltbot.agents AS agent LEFT JOIN smoltbot.alignment_cards AS card ON card.agent_id = agent.id
            ORDER BY agent_hash, version
        """)
    finally:
        await connection.close()
    return [dict(row) for row in rows]


def handler() -> ModuleType:
    return load_module(GATEWAY / "handler.py")


async def _here(given: Mapping[str, Any]) -> Answers:
    entrypoint = find_entrypoint(handler())
    env = Env(KV=KVNamespace(MemoryKVStore()), **given)
    answers = {}
    async with AsyncExitStack() as stack:
        runtime = Runtime(await stack.enter_async_context(find(FETCHER, "aiohttp")()))
        for name, step in STEPS.items():
            asked = step["fetch"]
            body = base64.b64decode(asked["body"]) if "body" in asked else None
            request = Request(asked["url"], method=asked["method"], headers=asked["headers"], body=body)
            response = await runtime.fetch(entrypoint, env, request)
            content = await read_response(response)
            answers[name] = _answer(response.status, response.reason, response.headers.items(), content)
        assert await runtime.background.drain(10) == 0
    return answers


def _inside(given: Mapping[str, Any], folder: Path) -> tuple[Answers, list[str]]:
    only = Run("gateway", "main", list(STEPS.values()), vars=given, overlapping=True)
    found = run(folder, [only], {}, {"lengths": LENGTHS}, [GATEWAY])
    steps = found["runs"]["gateway"]["steps"]
    for step in steps:
        # What follows an answer must be waited for: that an agent was seen is written a second later.
        relayed = any(name == "x-smoltbot-agent" for name, _ in step["headers"])
        assert set(step["tasks"]) == ({"fulfilled"} if relayed else set())
    answers = {
        name: _answer(step["status"], step["statusText"], step["headers"], base64.b64decode(step["body"]))
        for name, step in zip(STEPS, steps, strict=True)
    }
    return answers, found["checks"]["lengths"]


def _answer(status: int, reason: str | None, lines: Sequence[Sequence[str]], body: bytes) -> dict[str, Any]:
    """An answer with what may differ in its shape only; header lines as JavaScript gives them, sorted."""
    headers = joined(lines)
    for name, shape in (("x-smoltbot-request-id", _UUID), ("x-smoltbot-session", re.compile(r"[0-9a-f]{16}-\d{6}"))):
        if name in headers:
            assert shape.fullmatch(headers[name])
            headers[name] = headers[name][:16] if name == "x-smoltbot-session" else "NEW"
    for pattern, text in _SHAPES:
        body = re.sub(pattern, text, body)
    return {"status": status, "reason": reason or "", "headers": headers, "body": body}


def joined(lines: Sequence[Sequence[str]]) -> dict[str, str]:
    """Header lines by name in lower case, repeats in one value."""
    found: dict[str, str] = {}
    for name, value in sorted(lines, key=lambda line: line[0].lower()):
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found


def test_enough_is_asked() -> None:
    assert len(STEPS) >= 30


@pytest.mark.parametrize("name", STEPS)
def test_the_same_answer(name: str, sides: Sides) -> None:
    here, inside = sides.here.answers[name], sides.inside.answers[name]
    assert inside["status"] == here["status"]
    assert inside["headers"] == here["headers"]
    assert inside["body"] == here["body"]
    assert inside["reason"] == here["reason"]


def test_the_answers_are_those_of_a_gateway(sides: Sides) -> None:
    answers = sides.inside.answers
    assert {name: answer["status"] for name, answer in answers.items() if answer["status"] != 200} == {
        "preflight": 204, "no such path": 404, "no metrics": 404, "no such provider": 404, "no key": 401,
        "no key for openai": 401, "two keys": 400, "a name like a key": 400, "too many requests": 429,
        "a failing provider": 500, "a provider that hangs up": 502, "head of a provider": 404,
        "no head": 404, "an export without a token": 403,
        "a body too large": 413, "a body too large, its length untold": 413,
    }  # fmt: skip
    assert json.loads(answers["ready"]["body"].replace(b"MS", b"0"))["checks"] == {
        "redis": {"ok": True, "status": "ok", "latencyMs": 0},
        "supabase": {"ok": True, "status": "ok", "schema": _LAST_MIGRATION, "latencyMs": 0},
        "license": {"ok": True, "status": "valid"},
    }
    assert answers["anthropic"]["headers"]["x-aip-verdict"] == "disabled"
    assert answers["anthropic streamed"]["body"].count(b"text_delta") == 40
    assert len(answers["a big answer"]["body"]) == 2_000_000


def test_the_same_requests_to_providers(sides: Sides) -> None:
    assert len(sides.here.asked) == len(sides.inside.asked) == 25
    for here, inside in zip(sides.here.asked, sides.inside.asked, strict=True):
        assert (inside["line"], inside["body_sha256"]) == (here["line"], here["body_sha256"])
        ours, theirs = joined(here["headers"]), joined(inside["headers"])
        assert {name for name in ours | theirs if ours.get(name) != theirs.get(name)} <= set(ADDED_BY_FETCH)


def test_the_same_agents_on_record(sides: Sides) -> None:
    assert sides.inside.agents == sides.here.agents
    assert sorted(row["name"] or "" for row in sides.here.agents) == ["", "", "", "", "a1", "day-shift", "night.shift"]
    assert all(row["seen"] and row["is_active"] and row["version"] == 1 for row in sides.here.agents)


def test_a_request_inside_knows_how_long_its_body_is(sides: Sides) -> None:
    assert sides.lengths == ["3", "None", "None"]


def test_what_wrangler_reads() -> None:
    config = read_config(GATEWAY / "wrangler.toml")
    assert (config.main, [each.binding for each in config.kv_namespaces]) == (GATEWAY / "main.py", ["KV"])
    assert set(config.vars) == {"SUPABASE_URL", "AIP_ENABLED"}


KEY_CANARY = "sb_secret_canary"
COMPLETE: dict[str, Any] = {
    "KV": None,
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_KEY": KEY_CANARY,
    "AIP_ENABLED": "false",
}


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"SUPABASE_KEY": ""}, EnvValidationError, "SUPABASE_KEY"),
        ({"SUPABASE_URL": ""}, ConfigError, "SUPABASE_URL is missing"),
        ({"SUPABASE_URL": "https://db.example:5432"}, EnvValidationError, "names a PostgreSQL server"),
        ({"AIP_ENABLED": "true"}, ConfigError, "AIP_ENABLED must be false"),
        ({"AIP_ENABLED": ""}, ConfigError, "AIP_ENABLED must be false"),
        ({"MAX_BODY_BYTES": "many"}, EnvValidationError, "MAX_BODY_BYTES"),
        ({"MNEMOM_LICENSE_JWT": "a.b.c"}, ConfigError, "MNEMOM_LICENSE_JWT must not be set"),
    ],
)
def test_what_is_missing_or_wrong(changed: dict[str, str], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        handler().gateway_env(Env(**{**COMPLETE, **changed}))


def test_variables_may_have_the_types_of_toml() -> None:
    given = {"AIP_ENABLED": False, "MAX_BODY_BYTES": 1000, "DEFAULT_CARD": {"values": {"declared": ["candour"]}}}
    env = handler().gateway_env(Env(**{**COMPLETE, **given}))
    assert (env.aip_enabled, env.max_body_bytes) == (False, 1000)
    assert env.default_card == {"values": {"declared": ["candour"]}}


async def test_nothing_is_signed() -> None:
    crypto = handler().gateway_env(Env(**COMPLETE)).crypto
    for ask_it in (crypto.sign(b""), crypto.verify(bytes(32), b"", bytes(64)), crypto.seal(b""), crypto.open(b"")):
        with pytest.raises(ConfigError, match="need a signing key"):
            await ask_it
    with pytest.raises(ConfigError, match="need a signing key"):
        _ = crypto.key_id


async def test_a_wrong_setting_is_for_the_log_and_not_for_the_client(caplog: pytest.LogCaptureFixture) -> None:
    env = Env(**{**COMPLETE, "AIP_ENABLED": "true"})
    async with find(FETCHER, "aiohttp")() as fetcher:
        response = await Runtime(fetcher).fetch(find_entrypoint(handler()), env, Request(f"{HOST}/health"))
    assert (response.status, await read_response(response)) == (500, b"Internal Server Error")
    assert "AIP_ENABLED must be false" in caplog.text
    assert KEY_CANARY not in caplog.text
