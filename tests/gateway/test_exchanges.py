"""Every exchange is reported once, whichever way it ends; what went wrong upstream is told in shape and no more."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from smoltbot_worker.events import ExchangeEnded, RequestAnswered, UpstreamFailed
from smoltbot_worker.ports import RecordsUnavailable
from worker_compat.errors import ConnectFailed, ConnectionLost, FetchError, FetchTimeout, ProtocolError
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.streams import ReadableStream
from worker_compat.testing import ScriptedBody, read_response

from .support import AGENT, ANTHROPIC, HASH, KEY_LINE, MESSAGES, THOUGHT, Gateway

SECRET = "connect to 10.1.2.3:443 with sk-ant-leak failed"


def ended(gateway: Gateway) -> ExchangeEnded:
    """The one event of the one exchange."""
    [event] = gateway.telemetry.of(ExchangeEnded)
    assert gateway.telemetry.of(RequestAnswered) == []
    return event


def streaming(source: ScriptedBody, status: int = 200) -> Response:
    return Response.from_raw(status, "", ((b"content-type", b"text/event-stream"),), ReadableStream(source))


async def begin(gateway: Gateway) -> Response:
    return await gateway.begin("POST", "/anthropic/v1/messages", KEY_LINE, body=b"{}")


class TestComplete:
    @pytest.mark.parametrize(
        ("body", "verdict", "reason"),
        [(THOUGHT, "skipped", "no-analysis-configured"), (b"", "error", "undecodable-encoding")],
    )
    async def test_an_answer_that_is_here(self, body: bytes, verdict: str, reason: str) -> None:
        gateway = Gateway({MESSAGES: Response.from_raw(200, "", ((b"request-id", b"req_1"),), body)})
        got = await gateway.message(target="/agent/a/anthropic/v1/messages?key=secret")
        event = ended(gateway)
        assert (event.provider, event.method, event.path) == ("anthropic", "POST", "/v1/messages")
        assert (event.status, event.outcome, event.bytes_out) == (200, "complete", len(body))
        assert event.request_id == got.get("x-smoltbot-request-id")
        assert event.agent_id == got.get("x-smoltbot-agent")
        assert event.session_id == got.get("x-smoltbot-session")
        assert (event.verdict, event.reason, event.checked) == (verdict, reason, True)
        assert (event.upstream_request_id, event.streaming) == ("req_1", False)
        assert event.ttfb_s is not None
        assert 0 <= event.ttfb_s <= event.duration_s < 1

    async def test_an_answer_in_pieces(self) -> None:
        gateway = Gateway({MESSAGES: streaming(ScriptedBody([b"ab", b"cde", b"f"]))})
        response = await begin(gateway)
        assert gateway.telemetry.of(ExchangeEnded) == []
        assert await read_response(response) == b"abcdef"
        event = ended(gateway)
        assert (event.outcome, event.bytes_out, event.streaming) == ("complete", 6, True)

    @pytest.mark.parametrize(("method", "status"), [("GET", 204), ("GET", 304), ("HEAD", 200)])
    async def test_an_answer_without_a_body(self, method: str, status: int) -> None:
        gateway = Gateway({f"{method} {ANTHROPIC}/v1/models": Response.from_raw(status, "", (), None)})
        assert (await gateway.ask(method, "/anthropic/v1/models", KEY_LINE)).status == status
        event = ended(gateway)
        assert (event.status, event.outcome, event.bytes_out) == (status, "complete", 0)

    async def test_the_duration_includes_the_body(self) -> None:
        gate = asyncio.Event()
        gateway = Gateway({MESSAGES: streaming(ScriptedBody([b"a", b"b"], gate=gate))})
        response = await begin(gateway)
        reading = asyncio.create_task(read_response(response))
        await asyncio.sleep(0.05)
        gate.set()
        await reading
        event = ended(gateway)
        assert event.ttfb_s is not None
        assert event.ttfb_s < 0.04 < event.duration_s


class TestRefused:
    @pytest.mark.parametrize(
        ("target", "lines", "overload", "status"),
        [
            ("/anthropic/v1/messages", (), None, 401),
            ("/agent/-/anthropic/v1/messages", (KEY_LINE,), None, 400),
            ("/anthropic/v1/messages", (KEY_LINE, "Upgrade: websocket"), None, 501),
            ("/anthropic/v1/messages", (KEY_LINE,), "held-bytes", 503),
        ],
    )
    async def test_before_anyone_is_known(
        self, target: str, lines: tuple[str, ...], overload: str | None, status: int
    ) -> None:
        gateway = Gateway()
        got = await gateway.ask("POST", target, *lines, overload=overload)
        event = ended(gateway)
        assert got.status == event.status == status
        assert (event.outcome, event.agent_id, event.ttfb_s) == ("refused", "", None)
        assert (event.bytes_out, event.upstream_request_id) == (0, "")
        assert event.request_id == got.get("x-smoltbot-request-id")

    async def test_without_a_database(self) -> None:
        gateway = Gateway(DB_FAILURE_MODE="closed")
        gateway.records.error = RecordsUnavailable("gone")
        await gateway.message()
        assert (ended(gateway).status, ended(gateway).outcome) == (503, "refused")
        await gateway.runtime.background.drain(0)

    async def test_too_large(self) -> None:
        gateway = Gateway(MAX_BODY_BYTES="1")
        await gateway.message()
        event = ended(gateway)
        assert (event.status, event.outcome, event.agent_id, event.reason) == (413, "refused", AGENT, "too-large")
        assert gateway.telemetry.of(UpstreamFailed) == []

    @pytest.mark.parametrize(
        ("error", "status", "kind", "cause"),
        [
            (ConnectFailed(SECRET), 502, "upstream_error", "connect"),
            (ConnectionLost(SECRET), 502, "upstream_error", "lost"),
            (ProtocolError(SECRET), 502, "upstream_error", "protocol"),
            (FetchError(SECRET), 502, "upstream_error", "lost"),
            (FetchTimeout("connect", 10), 504, "upstream_timeout", "timeout"),
            (FetchTimeout("first-byte", 300), 504, "upstream_timeout", "timeout"),
            (FetchTimeout("idle", 300), 504, "upstream_timeout", "timeout"),
        ],
    )
    async def test_no_answer_from_the_provider(self, error: FetchError, status: int, kind: str, cause: str) -> None:
        gateway = Gateway({MESSAGES: error})
        got = await gateway.message()
        assert got.status == status
        assert got.json() == {"error": "Upstream provider unavailable", "type": kind}
        assert (got.get("x-smoltbot-agent"), got.get("x-smoltbot-session")) == (AGENT, f"{HASH}-472222")
        assert str(error) not in str(got.lines)
        event = ended(gateway)
        assert (event.status, event.outcome, event.ttfb_s) == (status, "refused", None)
        [failed] = gateway.telemetry.of(UpstreamFailed)
        assert failed == UpstreamFailed("anthropic", cause, str(error), event.request_id)


class TestUpstreamBroke:
    @pytest.mark.parametrize(
        "error",
        [ConnectionLost("broke"), FetchTimeout("idle", 300), ProtocolError("bad chunk")],
        ids=lambda e: type(e).__name__,
    )
    async def test_in_the_middle(self, error: FetchError) -> None:
        source = ScriptedBody([b"ab", b"cd", b"never"], error=error, error_after=2)
        gateway = Gateway({MESSAGES: streaming(source)})
        with pytest.raises(type(error)):
            await read_response(await begin(gateway))
        event = ended(gateway)
        assert (event.status, event.outcome, event.bytes_out) == (200, "upstream-broke", 4)
        assert (event.verdict, event.agent_id, event.checked) == ("pending", AGENT, True)
        [message] = await gateway.pushed(1)
        assert (message.response_body, message.cut) == (b"abcd", True)

    async def test_whoever_closes_afterwards(self) -> None:
        gateway = Gateway({MESSAGES: streaming(ScriptedBody([b"ab"], error=ConnectionLost("broke")))})
        response = await begin(gateway)
        assert response.body is not None
        source = response.body.detach()
        assert await source.pull() == b"ab"
        with pytest.raises(ConnectionLost) as caught:
            await source.pull()
        source.close(caught.value)
        assert ended(gateway).outcome == "upstream-broke"


class TestClientLeft:
    async def test_while_the_agent_is_looked_up(self) -> None:
        gateway = Gateway()
        gateway.records.gate = asyncio.Event()
        asked = asyncio.create_task(gateway.message())
        await gateway.records.called.wait()
        await self.leave(asked)
        event = ended(gateway)
        assert (event.status, event.outcome, event.agent_id, event.verdict) == (499, "client-left", "", "")
        await gateway.runtime.background.drain(0)

    async def test_before_the_provider_answers(self) -> None:
        asked_it = asyncio.Event()

        async def silent(request: Request) -> Response:
            asked_it.set()
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        gateway = Gateway({MESSAGES: silent})
        asked = asyncio.create_task(gateway.message())
        await asked_it.wait()
        await self.leave(asked)
        event = ended(gateway)
        assert (event.status, event.outcome, event.agent_id) == (499, "client-left", AGENT)
        assert (event.ttfb_s, event.bytes_out) == (None, 0)

    async def test_in_the_middle_of_the_answer(self) -> None:
        source = ScriptedBody([b"ab", b"never"], gate=asyncio.Event())
        gateway = Gateway({MESSAGES: streaming(source, 429)})
        response = await begin(gateway)
        assert response.body is not None
        tapped = response.body.detach()
        assert await tapped.pull() == b"ab"
        waiting = asyncio.ensure_future(tapped.pull())
        await asyncio.sleep(0)
        await self.leave(waiting)
        tapped.close(asyncio.CancelledError())
        event = ended(gateway)
        assert (event.status, event.outcome, event.bytes_out) == (429, "client-left", 2)
        assert (event.verdict, event.reason) == ("skipped", "upstream-status")
        assert source.closed

    async def test_before_the_first_byte_of_the_answer(self) -> None:
        source = ScriptedBody([b"never"])
        gateway = Gateway({MESSAGES: streaming(source)})
        response = await begin(gateway)
        assert response.body is not None
        response.body.detach().close()
        assert (ended(gateway).outcome, ended(gateway).bytes_out) == ("client-left", 0)
        assert source.closed

    @staticmethod
    async def leave(task: asyncio.Future[Any]) -> None:
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


class TestBackground:
    async def test_its_failure_does_not_touch_the_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        gateway = Gateway({MESSAGES: Response(b"ok")})

        async def breaks() -> bool:
            raise RuntimeError("in the background")

        done: list[BaseException | None] = []
        gateway.runtime.background.on_done = lambda name, error: done.append(error)
        gateway.agents._flush_soon = breaks  # type: ignore[method-assign,assignment] # background work that breaks
        with caplog.at_level(logging.ERROR):
            assert (await gateway.message()).status == 200
            assert await gateway.runtime.background.drain(1) == 0
        assert "in the background" in caplog.text
        assert [type(error) for error in done] == [type(None), RuntimeError]  # the lookup, and what broke

    async def test_it_does_not_delay_the_answer(self) -> None:
        gateway = Gateway({MESSAGES: Response(b"ok")}, AIP_ENABLED="false")  # a check would wait for its record
        await gateway.message()
        gateway.records.gate = asyncio.Event()
        flushing = asyncio.create_task(gateway.agents.flush())
        async with asyncio.timeout(1):
            assert (await gateway.message()).status == 200
        gateway.records.gate.set()
        assert await flushing
