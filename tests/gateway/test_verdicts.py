"""Verdicts where nobody judged: never one that looks as if a check had passed, and always with its reason."""

from __future__ import annotations

import pytest

from smoltbot_worker.events import ExchangeEnded
from smoltbot_worker.ports import RecordsUnavailable
from worker_compat.errors import ConnectFailed
from worker_compat.response import Response
from worker_compat.streams import ReadableStream
from worker_compat.testing import ScriptedBody

from .support import ANTHROPIC, GEMINI, KEY_LINE, MESSAGES, THOUGHT, Gateway, Got

MODELS = f"GET {ANTHROPIC}/v1/models"


def verdict(got: Got) -> tuple[str | None, str | None]:
    return got.get("x-aip-verdict"), got.get("x-aip-reason")


async def ask(gateway: Gateway, generation: bool = True) -> Got:
    if generation:
        return await gateway.message()
    return await gateway.ask("GET", "/anthropic/v1/models", KEY_LINE)


def gateway(status: int = 200, **variables: str) -> Gateway:
    def answer() -> Response:
        return Response.from_raw(status, "", (), None if status in (204, 304) else THOUGHT)

    return Gateway({MESSAGES: [answer(), answer()], MODELS: [answer(), answer()]}, **variables)


@pytest.mark.parametrize(
    ("status", "generation", "reason"),
    [
        (200, True, "no-analysis-configured"),
        (201, True, "no-analysis-configured"),
        (299, True, "no-analysis-configured"),
        (200, False, "not-generation"),
        (204, False, "not-generation"),
        (301, True, "upstream-status"),
        (304, False, "upstream-status"),
        (400, True, "upstream-status"),
        (401, True, "upstream-status"),
        (403, False, "upstream-status"),
        (413, True, "upstream-status"),
        (429, True, "upstream-status"),
        (500, True, "upstream-status"),
        (529, True, "upstream-status"),
        (999, True, "upstream-status"),
    ],
)
async def test_skipped(status: int, generation: bool, reason: str) -> None:
    here = gateway(status)
    got = await ask(here, generation)
    assert got.status == status
    assert verdict(got) == ("skipped", reason)
    [event] = here.telemetry.of(ExchangeEnded)
    assert (event.status, event.verdict, event.reason) == (status, "skipped", reason)
    assert event.checked == (reason == "no-analysis-configured")
    rows = [(row["request_id"], row["verdict"], row["reason"]) for row in here.records.checkpoints]
    assert rows == ([(event.request_id, "skipped", reason)] if event.checked else [])


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("generation", [True, False])
async def test_skipped_while_nothing_can_be_recorded(status: int, generation: bool) -> None:
    here = gateway(status)
    here.records.error = RecordsUnavailable("gone")
    assert verdict(await ask(here, generation)) == ("skipped", "storage-unavailable")
    await here.runtime.background.drain(0)


async def test_skipped_for_a_known_agent_while_the_database_is_away() -> None:
    here = gateway()
    assert verdict(await ask(here)) == ("skipped", "no-analysis-configured")
    here.records.error = RecordsUnavailable("gone")
    assert not await here.agents.flush()
    got = await ask(here)
    assert verdict(got) == ("skipped", "storage-unavailable")
    [message] = await here.pushed(1)
    assert (message.id, message.response_body) == (got.get("x-smoltbot-request-id"), THOUGHT)


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("generation", [True, False])
async def test_disabled_by_the_variable(status: int, generation: bool) -> None:
    here = gateway(status, AIP_ENABLED="false")
    here.records.error = RecordsUnavailable("gone") if generation else None
    got = await ask(here, generation)
    assert verdict(got) == ("disabled", None)
    [event] = here.telemetry.of(ExchangeEnded)
    assert (event.verdict, event.reason) == ("disabled", "")
    await here.runtime.background.drain(0)


async def test_disabled_for_one_agent() -> None:
    here = gateway()
    here.records.settings["aip_enabled"] = False
    assert verdict(await ask(here)) == ("disabled", None)
    here.records.settings.clear()
    got = await here.ask("POST", "/agent/other/anthropic/v1/messages", KEY_LINE)
    assert verdict(got) == ("skipped", "no-analysis-configured")


async def test_aap_off_changes_no_verdict() -> None:
    here = gateway()
    here.records.settings["aap_enabled"] = False
    assert verdict(await ask(here)) == ("skipped", "no-analysis-configured")


async def test_a_provider_that_does_not_answer() -> None:
    got = await Gateway({MESSAGES: ConnectFailed("x")}).message()
    assert (got.status, *verdict(got)) == (502, "skipped", "upstream-status")


async def test_a_refusal_without_an_agent_has_no_verdict() -> None:
    here = Gateway(DB_FAILURE_MODE="closed")
    here.records.error = RecordsUnavailable("gone")
    answers = [
        await here.ask("POST", "/anthropic/v1/messages"),
        await here.ask("POST", "/agent/-/anthropic/v1/messages", KEY_LINE),
        await here.ask("GET", "/anthropic/v1/x", KEY_LINE, "Upgrade: websocket"),
        await here.ask("POST", "/anthropic/v1/messages", KEY_LINE, overload="connections"),
        await here.message(),
    ]
    assert [got.status for got in answers] == [401, 400, 501, 503, 503]
    for got in answers:
        assert verdict(got) == (None, None)
        assert got.get("x-smoltbot-agent") is got.get("x-smoltbot-session") is None
    for event in here.telemetry.of(ExchangeEnded):
        assert (event.agent_id, event.session_id, event.verdict, event.reason) == ("", "", "", "")
    await here.runtime.background.drain(0)


@pytest.mark.parametrize(
    ("target", "content_type", "streaming"),
    [
        ("/anthropic/v1/messages", "text/event-stream", True),
        ("/anthropic/v1/messages", "Text/Event-Stream; charset=utf-8", True),
        ("/anthropic/v1/messages", "application/json", False),
        ("/anthropic/v1/messages", None, False),
        ("/gemini/v1beta/models/g:streamGenerateContent", "application/json", True),
        ("/gemini/v1beta/models/g:generateContent", "application/json", False),
        ("/gemini/v1beta/models/g:generateContent", "text/event-stream", True),
    ],
)
async def test_streams_are_told_from_documents(target: str, content_type: str | None, streaming: bool) -> None:
    lines = () if content_type is None else ((b"Content-Type", content_type.encode()),)
    url = target.replace("/anthropic", ANTHROPIC).replace("/gemini", GEMINI)
    answer = Response.from_raw(200, "", lines, ReadableStream(ScriptedBody([b"{}"])))
    here = Gateway({f"POST {url}": answer})
    got = await here.ask("POST", target, KEY_LINE, "x-goog-api-key: k")
    assert verdict(got) == (("pending", None) if streaming else ("skipped", "no-thinking"))
    [event] = here.telemetry.of(ExchangeEnded)
    assert event.streaming == streaming
    assert len(here.records.checkpoints) == (not streaming)
    assert [message.streamed for message in await here.pushed(streaming)] == [True] * streaming
