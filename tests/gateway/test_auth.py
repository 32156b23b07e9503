"""Whose key it is, and which address a path becomes."""

from __future__ import annotations

from hashlib import sha256

import pytest

from worker_compat.response import Response

from .support import ANTHROPIC, GEMINI, KEY, KEY_LINE, MESSAGES, OPENAI, Gateway

BASES = {"anthropic": ANTHROPIC, "openai": OPENAI, "gemini": GEMINI}
KEYS = {"anthropic": f"x-api-key: {KEY}", "openai": f"Authorization: Bearer {KEY}", "gemini": f"x-goog-api-key: {KEY}"}
MISSING = {
    "anthropic": "Missing x-api-key header",
    "openai": "Missing Authorization: Bearer <key> header",
    "gemini": "Missing x-goog-api-key header",
}


def agent_of(key: str) -> str:
    return f"smolt-{sha256(key.encode()).hexdigest()[:8]}"


async def identity(provider: str, *lines: str, query: str = "") -> str | int:
    """The key that decided who it was, out of those that the tests use; or the status of the refusal."""
    gateway = Gateway({f"GET {BASES[provider]}/v1/x": Response(b"ok")})
    got = await gateway.ask("GET", f"/{provider}/v1/x{query}", *lines)
    if got.status != 200:
        if got.status == 401:
            assert got.json() == {"error": MISSING[provider], "type": "authentication_error"}
        else:
            assert got.json()["error"] == "More than one key"
        assert not gateway.fetcher.requests
        assert not gateway.records.calls
        assert got.get("x-smoltbot-agent") is got.get("x-aip-verdict") is None
        return got.status
    assert gateway.fetcher.requests[0].url == f"{BASES[provider]}/v1/x{query}"
    known = {agent_of(key): key for key in ("one", "two", "one two", "a/b c", "%")}
    return known[str(got.get("x-smoltbot-agent"))]


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        (["x-api-key: one"], "one"),
        (["X-API-KEY: one"], "one"),
        (["Authorization: Bearer one"], "one"),
        (["authorization: bEARER   one"], "one"),
        (["x-api-key: one", "Authorization: Bearer two"], "one"),
        (["Authorization: Bearer two", "x-api-key: one"], "one"),
        (["x-api-key:", "Authorization: Bearer two"], "two"),
        (["x-api-key: one", "x-api-key: two"], 400),
        (["x-api-key: one", "X-Api-Key: one"], "one"),
        (["Authorization: Bearer one", "authorization: Bearer two"], 400),
        ([], 401),
        (["x-api-key:"], 401),
        (["Authorization: Bearer"], 401),
        (["Authorization: Basic one"], 401),
        (["Authorization: Bearerone"], 401),
        (["x-goog-api-key: one"], 401),
        (["x-mnemom-api-key: one"], 401),
    ],
)
async def test_the_key_of_anthropic(lines: list[str], key: str | int) -> None:
    assert await identity("anthropic", *lines) == key
    assert await identity("anthropic", *lines, query="?key=two") == key  # a query is no place for this key


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        (["Authorization: Bearer one"], "one"),
        (["AUTHORIZATION: bearer one"], "one"),
        (["Authorization: Bearer one two"], "one two"),
        ([], 401),
        (["x-api-key: one"], 401),
        (["Authorization: one"], 401),
        (["Authorization: Token one"], 401),
    ],
)
async def test_the_key_of_openai(lines: list[str], key: str | int) -> None:
    assert await identity("openai", *lines) == key


@pytest.mark.parametrize(
    ("lines", "query", "key"),
    [
        (["x-goog-api-key: one"], "", "one"),
        (["X-Goog-Api-Key: one"], "?key=two", 400),
        (["X-Goog-Api-Key: one"], "?key=one", "one"),
        ([], "?key=one", "one"),
        ([], "?alt=sse&key=one&key=two", 400),
        ([], "?key=a%2Fb+c", "a/b c"),
        ([], "?key=%25", "%"),
        (["x-goog-api-key:"], "?key=two", "two"),
        ([], "?key=", 401),
        ([], "?monkey=one", 401),
        ([], "?a=key=one", 401),
        ([], "", 401),
        (["Authorization: Bearer one"], "", 401),
        (["x-api-key: one"], "", 401),
    ],
)
async def test_the_key_of_gemini(lines: list[str], query: str, key: str | int) -> None:
    assert await identity("gemini", *lines, query=query) == key


@pytest.mark.parametrize("provider", list(BASES))
@pytest.mark.parametrize(
    ("rest", "target"),
    [
        ("", "/"),
        ("/", "/"),
        ("?", "/?"),
        ("?a=1", "/?a=1"),
        ("/?", "/?"),
        ("?a=/b/c", "/?a=/b/c"),
        ("/v1/messages", "/v1/messages"),
        ("/v1/messages?beta=true&beta=true", "/v1/messages?beta=true&beta=true"),
        ("//v1//messages/", "//v1//messages/"),
        ("/v1/../x/./y", "/v1/../x/./y"),
        ("/%2e%2e/%2F?%3F=%26", "/%2e%2e/%2F?%3F=%26"),
        ("/v1beta/models/gemini-2.5-pro:generateContent", "/v1beta/models/gemini-2.5-pro:generateContent"),
        ("/anthropic/x", "/anthropic/x"),
        ("/agent/x/openai/y", "/agent/x/openai/y"),
        ("/a?b?c=/d?", "/a?b?c=/d?"),
        ("/|[]{}^`<>\"\\", "/|[]{}^`<>\"\\"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "/agent/my-coder"])
async def test_only_the_prefix_is_taken_away(provider: str, rest: str, target: str, prefix: str) -> None:
    url = BASES[provider] + target
    gateway = Gateway({f"GET {url}": Response(b"ok")})
    got = await gateway.ask("GET", f"{prefix}/{provider}{rest}", KEYS[provider])
    assert got.body == b"ok"
    assert [request.url for request in gateway.fetcher.requests] == [url]


async def test_another_base_may_have_a_path() -> None:
    gateway = Gateway(
        {"GET http://10.0.0.1:8080/openai/v1/models?a=1": Response(b"ok")},
        UPSTREAM_OPENAI_URL="http://10.0.0.1:8080/openai/",
    )
    assert (await gateway.ask("GET", "/openai/v1/models?a=1", "Authorization: Bearer k")).body == b"ok"


@pytest.mark.parametrize("line", ["Upgrade: websocket", "upgrade: WebSocket"])
async def test_websockets_are_refused(line: str) -> None:
    gateway = Gateway()
    got = await gateway.ask("GET", "/openai/v1/realtime", "Connection: Upgrade", line, "Authorization: Bearer k")
    assert got.status == 501
    assert got.json() == {
        "error": "WebSocket is not supported; use the HTTP endpoints", "type": "invalid_request",
    }  # fmt: skip
    assert gateway.fetcher.requests == []


async def test_another_upgrade_is_not_taken() -> None:
    gateway = Gateway({MESSAGES: Response(b"ok")})
    assert (await gateway.message("Connection: Upgrade", "Upgrade: h2c")).status == 200
    assert not gateway.fetcher.requests[0].headers.has("upgrade")
    assert not gateway.fetcher.requests[0].headers.has("connection")


async def test_neither_key_nor_query_reaches_the_events() -> None:
    gateway = Gateway({f"GET {GEMINI}/v1/x": Response(b"ok")})
    for _ in range(2):
        await gateway.ask("GET", "/gemini/v1/x?key=the-secret-key", "Authorization: Bearer the-secret-key")
    await gateway.ask("GET", "/gemini/v1/y?kex=the-secret-key")
    assert "the-secret-key" not in repr(gateway.telemetry.events)
    assert "the-secret-key" not in repr(gateway.records.calls)


async def test_overload_is_refused_before_anything_else() -> None:
    gateway = Gateway()
    for lines in ([], [KEY_LINE]):
        got = await gateway.ask("POST", "/anthropic/v1/messages", *lines, overload="connections")
        assert (got.status, got.get("retry-after")) == (503, "1")
        assert got.json() == {"error": "Gateway overloaded", "type": "overloaded", "reason": "connections"}
    assert gateway.records.calls == []
    assert (await gateway.ask("GET", "/health/live", overload="connections")).status == 200
