"""Browsers: what a preflight and an ordinary answer tell them."""

from __future__ import annotations

import pytest

from worker_compat.errors import ConnectFailed
from worker_compat.response import Response

from .support import KEY_LINE, MESSAGES, Gateway

ORIGIN = "Origin: https://app.example"
METHODS = "GET, POST, PUT, DELETE, PATCH, OPTIONS"
ALLOWED = (
    "Content-Type, x-api-key, anthropic-version, anthropic-beta, authorization, x-goog-api-key, x-mnemom-api-key, "
    "x-smoltbot-agent, x-smoltbot-session"
)
EXPOSED = {
    "x-smoltbot-agent", "x-smoltbot-session", "x-smoltbot-request-id", "X-AIP-Verdict", "X-AIP-Checkpoint-Id",
    "X-AIP-Action", "X-AIP-Proceed", "X-AIP-Synthetic", "X-AIP-Certificate-Id", "X-AIP-Chain-Hash",
    "X-Mnemom-Usage-Warning", "X-Mnemom-Usage-Percent", "X-AIP-Enforcement", "X-AIP-Nudge-Count", "X-AIP-Source",
    "X-AIP-Reason",
}  # fmt: skip
ACAO, EXPOSE = "access-control-allow-origin", "access-control-expose-headers"


async def test_a_preflight() -> None:
    got = await Gateway().ask("OPTIONS", "/anthropic/v1/messages", ORIGIN, "Access-Control-Request-Method: POST")
    names = [name.decode() for name, _ in got.lines]
    assert names == [
        "Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers",
        "Access-Control-Expose-Headers", "Access-Control-Max-Age", "x-smoltbot-request-id",
    ]  # fmt: skip
    assert got.get(ACAO) == "*"
    assert got.get("access-control-allow-methods") == METHODS
    assert got.get("access-control-allow-headers") == ALLOWED
    assert set(str(got.get(EXPOSE)).split(", ")) == EXPOSED
    assert got.get("access-control-max-age") == "86400"


async def test_a_preflight_needs_no_origin() -> None:
    assert (await Gateway().ask("OPTIONS", "/")).get(ACAO) == "*"


@pytest.mark.parametrize("target", ["/health", "/health/live", "/models.json", "/nowhere"])
async def test_own_answers_to_a_browser(target: str) -> None:
    got = await Gateway().ask("GET", target, ORIGIN)
    assert got.all(ACAO) == ["*"]
    assert set(str(got.get(EXPOSE)).split(", ")) == EXPOSED
    assert got.get("access-control-allow-methods") is None


@pytest.mark.parametrize("target", ["/health", "/models.json", "/nowhere"])
async def test_own_answers_to_anyone_else(target: str) -> None:
    got = await Gateway().ask("GET", target)
    assert not [name for name, _ in got.lines if name.lower().startswith((b"access-control-", b"vary"))]


async def test_relayed_answers_only_for_browsers() -> None:
    gateway = Gateway({MESSAGES: Response(b"ok")})
    assert (await gateway.message(ORIGIN)).all(ACAO) == ["*"]
    got = await gateway.message()
    assert got.get(ACAO) is got.get(EXPOSE) is None


@pytest.mark.parametrize(
    "name", ["Access-Control-Allow-Origin", "access-control-allow-credentials", "ACCESS-CONTROL-X"]
)
async def test_the_cors_lines_of_a_provider_stand_alone(name: str) -> None:
    gateway = Gateway({MESSAGES: Response(b"ok", headers={name: "theirs"})})
    got = await gateway.message(ORIGIN)
    lines = [(key, value) for key, value in got.lines if key.lower().startswith(b"access-control-")]
    assert lines == [(name.encode(), b"theirs")]


async def test_refusals_too_can_be_read_by_a_browser() -> None:
    gateway = Gateway({MESSAGES: ConnectFailed("x")})
    for got in (await gateway.message(ORIGIN), await gateway.ask("POST", "/openai/v1/x", ORIGIN)):
        assert got.status in (401, 502)
        assert got.all(ACAO) == ["*"]
        assert got.get(EXPOSE)


@pytest.mark.parametrize("method", ["OPTIONS", "GET"])
async def test_a_list_of_origins(method: str) -> None:
    gateway = Gateway(CORS_ALLOW_ORIGINS="https://app.example, https://b.example")
    got = await gateway.ask(method, "/health", ORIGIN)
    assert (got.all(ACAO), got.all("vary")) == (["https://app.example"], ["Origin"])
    for other in ("https://evil.example", "https://app.example.evil.example", "https://app.exampl", "null", "*"):
        got = await gateway.ask(method, "/health", f"Origin: {other}")
        assert (got.all(ACAO), got.all("vary")) == ([], ["Origin"])


async def test_a_list_of_origins_on_relayed_answers() -> None:
    gateway = Gateway({MESSAGES: Response(b"ok", headers={"Vary": "Accept"})}, CORS_ALLOW_ORIGINS="https://app.example")
    got = await gateway.message(ORIGIN)
    assert (got.all(ACAO), got.all("vary")) == (["https://app.example"], ["Accept", "Origin"])
    got = await gateway.message("Origin: https://evil.example")
    assert (got.all(ACAO), got.all("vary")) == ([], ["Accept", "Origin"])


async def test_the_origin_passes_to_the_provider() -> None:
    gateway = Gateway({MESSAGES: Response(b"ok")})
    await gateway.ask("POST", "/anthropic/v1/messages", KEY_LINE, ORIGIN)
    assert gateway.fetcher.requests[0].headers["origin"] == "https://app.example"
