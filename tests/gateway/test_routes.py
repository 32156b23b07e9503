"""Which path is whose, and what every answer has."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest

from smoltbot_worker.events import ExchangeEnded, RequestAnswered
from worker_compat import __version__
from worker_compat.errors import ConnectFailed
from worker_compat.response import Response

from .support import KEY_LINE, MESSAGES, Gateway

NOW = "2023-11-14T22:13:20.000Z"
NOT_FOUND = {
    "error": "Not found",
    "type": "not_found",
    "message": "This gateway handles /health, /anthropic/*, /openai/*, and /gemini/* endpoints",
}
UUID7 = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def with_metrics(**variables: str) -> Gateway:
    gateway = Gateway({MESSAGES: [Response(b"ok"), ConnectFailed("x"), RuntimeError("x")]}, **variables)
    gateway.env.metrics_page = lambda: ("text/plain; version=1", b"a 1\n")
    return gateway


@pytest.mark.parametrize(
    "target", ["/", "*", "/nowhere", "/health/live", "/metrics", "/anthropic/v1/messages", "/agent/x/openai/v1/models"]
)
async def test_options_is_answered_here_on_any_path(target: str) -> None:
    gateway = Gateway()
    got = await gateway.ask("OPTIONS", target, KEY_LINE)
    assert (got.status, got.body) == (204, b"")
    assert gateway.records.calls == []


async def test_live() -> None:
    got = await Gateway().ask("GET", "/health/live")
    assert (got.status, got.json()) == (200, {"status": "ok", "timestamp": NOW})


async def test_startup() -> None:
    gateway = Gateway()
    gateway.state.started = False
    got = await gateway.ask("GET", "/health/startup")
    assert (got.status, got.json()) == (503, {"status": "starting"})
    gateway.state.started = True
    got = await gateway.ask("GET", "/health/startup")
    assert (got.status, got.json()) == (200, {"status": "ok", "timestamp": NOW})


async def test_metrics() -> None:
    got = await with_metrics().ask("GET", "/metrics")
    assert (got.status, got.get("content-type"), got.body) == (200, "text/plain; version=1", b"a 1\n")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "PROPFIND"])
@pytest.mark.parametrize("target", ["/health", "/health/", "/health?x=1"])
async def test_health_by_any_method(method: str, target: str) -> None:
    got = await Gateway().ask(method, target)
    assert got.status == 200
    assert got.json() == {"status": "ok", "version": __version__, "timestamp": NOW, "aip_enabled": True}


@pytest.mark.parametrize(("text", "enabled"), [("false", False), ("true", True), ("0", True), ("False", True)])
async def test_health_says_whether_aip_is_on(text: str, enabled: bool) -> None:
    body = (await Gateway(AIP_ENABLED=text, GATEWAY_VERSION="9.9").ask("GET", "/health")).json()
    assert (body["aip_enabled"], body["version"]) == (enabled, "9.9")


@pytest.mark.parametrize("target", ["/health/live", "/health/ready", "/health/startup", "/metrics", "/models.json"])
async def test_own_routes_are_for_reading(target: str) -> None:
    gateway = with_metrics()
    assert (await gateway.ask("HEAD", target)).status == 200
    assert (await gateway.ask("GET", f"{target}?probe=1")).status == 200
    for method in ("POST", "PUT", "DELETE"):
        got = await gateway.ask(method, target)
        assert (got.status, got.json()) == (404, NOT_FOUND)


@pytest.mark.parametrize(
    "target",
    [
        "/", "", "?", "/anthropicfoo", "/anthropicfoo/v1", "/anthropic%2Fv1", "/Anthropic/v1", "/openai2/v1",
        "//anthropic/v1", "/ anthropic/v1", "/healthz", "/health/live/", "/metrics/", "/models.json/x", "/agent",
        "/agent/", "/agent/x", "/agent/x/", "/agent/x/openaix/v1", "/agent/x/y/openai/v1", "/agents/x/openai/v1",
        "/x/anthropic/v1",
    ],
)  # fmt: skip
async def test_what_nobody_serves_is_404(target: str) -> None:
    gateway = with_metrics()
    got = await gateway.ask("POST", target, KEY_LINE, body=b"{}")
    assert (got.status, got.json()) == (404, NOT_FOUND)
    assert gateway.fetcher.requests == []


async def test_metrics_without_a_page_are_404() -> None:
    assert (await Gateway().ask("GET", "/metrics")).status == 404


@pytest.mark.parametrize(
    "target",
    ["/anthropic/v1/messages", "/openai", "/gemini/x", "/agent/a/openai/v1/models", "/models.json", "/nowhere"],
)
async def test_a_scheduler_serves_no_provider_route(target: str) -> None:
    gateway = with_metrics(SMOLTBOT_ROLE="scheduler")
    got = await gateway.ask("GET", target, KEY_LINE)
    assert got.status == 404
    assert got.json()["type"] == "not_found"
    assert "scheduler" in got.json()["message"]
    assert not gateway.fetcher.requests
    assert not gateway.records.calls


@pytest.mark.parametrize("role", ["scheduler", "gateway", "all"])
async def test_every_role_serves_health_and_metrics(role: str) -> None:
    gateway = with_metrics(SMOLTBOT_ROLE=role)
    targets = ["/health", "/health/live", "/health/ready", "/health/startup", "/metrics"]
    assert [(await gateway.ask("GET", target)).status for target in targets] == [200] * 5


@pytest.mark.parametrize("role", ["gateway", "all"])
async def test_other_roles_relay(role: str) -> None:
    assert (await Gateway({MESSAGES: Response(b"ok")}, SMOLTBOT_ROLE=role).message()).body == b"ok"


async def test_every_answer_has_a_request_id_of_its_own() -> None:
    gateway = with_metrics()
    asked: list[tuple[Any, ...]] = [
        ("OPTIONS", "/"), ("GET", "/health"), ("GET", "/health/live"), ("GET", "/health/ready"),
        ("GET", "/health/startup"), ("GET", "/metrics"), ("GET", "/models.json"), ("GET", "/nowhere"),
        ("POST", "/openai/v1/models"), ("POST", "/agent/-/openai/v1"),
        *[("POST", "/anthropic/v1/messages", KEY_LINE)] * 3,
    ]  # fmt: skip
    answers = [await gateway.ask(*request, "x-smoltbot-request-id: mine") for request in asked]
    assert [got.status for got in answers] == [204, *[200] * 6, 404, 401, 400, 200, 502, 500]
    ids = [got.all("x-smoltbot-request-id") for got in answers]
    assert len({identity for [identity] in ids}) == len(answers)
    for [identity] in ids:
        matched = UUID7.fullmatch(identity)
        assert matched, identity
        assert int(matched[1] + matched[2], 16) == 1_700_000_000_000


async def test_request_ids_do_not_repeat() -> None:
    answers = await asyncio.gather(*(Gateway().ask("GET", "/health/live") for _ in range(2000)))
    assert len({got.get("x-smoltbot-request-id") for got in answers}) == 2000


async def test_an_error_inside_the_gateway_says_nothing_but_its_id(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> tuple[str, bytes]:
        raise RuntimeError("the secret detail")

    gateway = Gateway()
    gateway.env.metrics_page = broken
    with caplog.at_level(logging.ERROR):
        got = await gateway.ask("GET", "/metrics", "Origin: https://a.example")
    request_id = got.get("x-smoltbot-request-id")
    assert got.status == 500
    assert (got.json()["error"], got.json()["type"]) == ("Internal server error", "gateway_error")
    assert request_id
    assert request_id in got.json()["message"]
    assert b"secret detail" not in got.body
    assert got.get("access-control-allow-origin") == "*"
    [record] = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert request_id in record.getMessage()
    assert "the secret detail" in caplog.text
    assert [event.status for event in gateway.telemetry.of(RequestAnswered)] == [500]


async def test_an_error_inside_the_relay_is_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway({MESSAGES: RuntimeError("the secret detail")})
    got = await gateway.message()
    request_id = got.get("x-smoltbot-request-id")
    assert got.status == 500
    assert (got.json()["error"], got.json()["type"]) == ("Internal gateway error", "gateway_error")
    assert str(request_id) in got.json()["message"]
    assert b"secret detail" not in got.body
    assert str(request_id) in caplog.text
    [event] = gateway.telemetry.of(ExchangeEnded)
    assert (event.status, event.outcome, event.request_id) == (500, "refused", request_id)
    assert gateway.telemetry.of(RequestAnswered) == []


async def test_what_is_no_exchange_is_reported_with_its_path_and_without_its_query() -> None:
    gateway = Gateway()
    got = await gateway.ask("GET", "/nowhere?key=secret")
    [event] = gateway.telemetry.of(RequestAnswered)
    assert event == RequestAnswered("GET", "/nowhere", 404, str(got.get("x-smoltbot-request-id")))
