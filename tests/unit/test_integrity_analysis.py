"""The analyst: whom it asks and how, what it takes for an answer, and what opens its circuit breaker."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time
from typing import Any

import pytest

from smoltbot_worker.env import read_variables
from smoltbot_worker.events import BreakerChanged
from smoltbot_worker.integrity import analysis
from smoltbot_worker.integrity.analysis import MOST_ANSWER, Analyst, resolved_mode
from smoltbot_worker.integrity.failures import AnalysisFailed
from tests.unit.integrity_support import (
    HYBRID_URL,
    KEY,
    MNEMOM_KEY,
    MODEL_URL,
    NOW,
    Told,
    analyst,
    judge_fetcher,
    messages_answer,
)
from worker_compat.errors import ConnectFailed, ConnectionLost, FetchTimeout, ProtocolError
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import Runtime
from worker_compat.streams import ReadableStream
from worker_compat.testing import FakeClock, ScriptedBody, ScriptedFetcher

TIMEOUT, UNAVAILABLE, MALFORMED = "analysis-timeout", "analysis-unavailable", "analysis-malformed"


ENDS: list[Any] = ["max_tokens", "refusal", "tool_use", "pause_turn", "new", 7, [], {}]
CONTENTS: list[Any] = [
    None, [], {}, "text", ["text"], [None], [{"type": "text"}], [{"type": "text", "text": 7}],
    [{"type": "text", "text": "a"}, {"type": "text", "text": None}], [{"type": "thinking", "thinking": "a"}],
    [{"type": "text", "text": "a"}, {"type": "tool_use", "name": "x", "input": {}}],
]  # fmt: skip


async def ask(judge: Analyst, answer: Any) -> str:
    with Runtime(judge_fetcher(answer)).use():
        return await judge.ask("system", "user")


async def failure(judge: Analyst, answer: Any) -> AnalysisFailed:
    with pytest.raises(AnalysisFailed) as caught:
        await ask(judge, answer)
    return caught.value


class TestMode:
    @pytest.mark.parametrize(("environ", "mode"), [
        ({}, "off"),
        ({"ANTHROPIC_API_KEY": "k"}, "local"),
        ({"MNEMOM_ANALYZE_URL": HYBRID_URL, "MNEMOM_API_KEY": "k"}, "hybrid"),
        ({"MNEMOM_ANALYZE_URL": HYBRID_URL, "MNEMOM_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}, "hybrid"),
        ({"MNEMOM_API_KEY": "k"}, "off"),
        ({"MNEMOM_ANALYZE_URL": HYBRID_URL, "MNEMOM_API_KEY": "k", "ANTHROPIC_API_KEY": "k",
          "ANALYSIS_MODE": "local"}, "local"),
        ({"ANTHROPIC_API_KEY": "k", "ANALYSIS_MODE": "off"}, "off"),
        ({"MNEMOM_ANALYZE_URL": HYBRID_URL, "MNEMOM_API_KEY": "k", "ANALYSIS_MODE": "hybrid"}, "hybrid"),
    ])  # fmt: skip
    def test_auto_takes_who_is_there(self, environ: dict[str, str], mode: str) -> None:
        values = read_variables(environ, signs=False)[0]
        assert resolved_mode(values) == mode
        assert Analyst.from_values(values, Told()).mode == mode

    @pytest.mark.parametrize(("environ", "warned"), [
        ({}, True), ({"ANALYSIS_MODE": "off"}, False), ({"AIP_ENABLED": "false"}, False),
        ({"ANTHROPIC_API_KEY": "k"}, False),
    ])  # fmt: skip
    def test_nobody_judging_by_default_is_told_once(
        self, environ: dict[str, str], warned: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, "smoltbot")
        Analyst.from_values(read_variables(environ, signs=False)[0], Told())
        assert len(caplog.records) == warned

    @pytest.mark.parametrize("mode", ["local", "off"])
    async def test_it_can_be_warmed(self, mode: str) -> None:
        await analyst(mode).warm()


class TestLocalRequest:
    async def test_what_is_sent(self) -> None:
        fetcher = judge_fetcher(messages_answer("said"))
        with Runtime(fetcher).use():
            assert await analyst().ask("S", "U \N{SNOWMAN}") == "said"
        (request,) = fetcher.requests
        assert (request.method, request.url) == ("POST", MODEL_URL)
        sent = {name: request.headers.get(name) for name in ("content-type", "x-api-key", "anthropic-version")}
        assert sent == {"content-type": "application/json", "x-api-key": KEY, "anthropic-version": "2023-06-01"}
        assert json.loads(request.body) == {
            "model": "claude-haiku-4-5-20251001",
            "max_tokens": 1024,
            "system": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": "U \N{SNOWMAN}"}],
        }

    async def test_model_and_place_are_those_of_the_variables(self) -> None:
        fetcher = ScriptedFetcher({"POST https://models.example/base/v1/messages": messages_answer("said")})
        judge = analyst(ANALYSIS_BASE_URL="https://models.example/base/", ANALYSIS_MODEL="qwen3")
        with Runtime(fetcher).use():
            await judge.ask("S", "U")
        assert json.loads(fetcher.requests[0].body)["model"] == "qwen3" == judge.model

    async def test_no_redirect_takes_the_key_elsewhere(self) -> None:
        away = Response(None, 307, headers={"location": "https://elsewhere.example/v1/messages"})
        fetcher = judge_fetcher(away)
        with Runtime(fetcher).use(), pytest.raises(AnalysisFailed, match="HTTP 307"):
            await analyst().ask("S", "U")
        assert len(fetcher.requests) == 1


class TestAnswers:
    @pytest.mark.parametrize(("content", "text"), [
        ([{"type": "text", "text": "a"}], "a"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "thinking", "thinking": "no"}, {"type": "text", "text": "a"}], "a"),
    ])  # fmt: skip
    async def test_text(self, content: list[Any], text: str) -> None:
        assert await ask(analyst(), messages_answer("", content=content)) == text

    @pytest.mark.parametrize("reason", ["end_turn", "stop_sequence", None])
    async def test_an_end(self, reason: str | None) -> None:
        assert await ask(analyst(), messages_answer("a", stop_reason=reason)) == "a"

    @pytest.mark.parametrize("answer", [
        *({"stop_reason": reason} for reason in ENDS), *({"content": content} for content in CONTENTS),
    ], ids=lambda answer: json.dumps(answer)[:50])  # fmt: skip
    async def test_what_is_no_answer(self, answer: dict[str, Any]) -> None:
        told = Told()
        judge = analyst(telemetry=told)
        for _ in range(6):
            assert (await failure(judge, messages_answer("a", **answer))).reason == MALFORMED
        assert told.events == [], "what a model says does not close the road for others"

    @pytest.mark.parametrize("body", [
        b"", b"garbage", b"<html>", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"content": [', b"{} {}", b'{"a": NaN}',
        b'{"content": [], "content": []}', b"[" * 200_000, b'{"a":' * 50_000,
    ], ids=lambda body: repr(body[:20]))  # fmt: skip
    async def test_what_is_no_message(self, body: bytes) -> None:
        found = await failure(analyst(), Response(body))
        assert (found.reason, found.detail) == (MALFORMED, "the answer is no JSON object")

    async def test_an_answer_without_a_body(self) -> None:
        assert (await failure(analyst(), Response(None, 204))).reason == MALFORMED

    @pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 408, 413, 429, 500, 502, 503, 504, 529])
    async def test_other_statuses(self, status: int) -> None:
        body = ScriptedBody([b"CANARY"] * 9)
        found = await failure(analyst(), lambda request: Response(ReadableStream(body), status))
        assert (found.reason, found.detail) == (UNAVAILABLE, f"HTTP {status}")
        assert (body.pulled, body.closed) == (0, True)

    @pytest.mark.parametrize(("error", "reason"), [
        (ConnectFailed("CANARY"), UNAVAILABLE), (ProtocolError("CANARY"), UNAVAILABLE),
        (ConnectionLost("CANARY"), UNAVAILABLE), (FetchTimeout("first-byte", 5), TIMEOUT),
        (FetchTimeout("connect", 5), TIMEOUT), (TimeoutError("CANARY"), TIMEOUT), (RuntimeError("CANARY"), UNAVAILABLE),
        (OSError("CANARY"), UNAVAILABLE), (ValueError("CANARY"), UNAVAILABLE),
    ], ids=repr)  # fmt: skip
    async def test_no_answer(self, error: Exception, reason: str) -> None:
        found = await failure(analyst(), error)
        assert found.reason == reason
        assert "CANARY" not in f"{found}{found.__cause__}"

    async def test_an_answer_that_breaks_off(self) -> None:
        body = ScriptedBody([b'{"content"'], error=ConnectionLost("gone"))
        assert (await failure(analyst(), lambda request: Response(ReadableStream(body)))).reason == UNAVAILABLE
        broken = Response(gzip.compress(b"{}")[:-4], headers={"content-encoding": "gzip"}, encodeBody="manual")
        assert (await failure(analyst(), broken)).reason == UNAVAILABLE


class TestLimits:
    @pytest.mark.parametrize("chunk", [1 << 20, 65_536, 1_000])
    async def test_an_answer_of_a_megabyte_is_given_up_at_once(self, chunk: int) -> None:
        body = ScriptedBody([b" " * chunk] * ((1 << 20) // chunk + 1))
        begun = time.perf_counter()
        found = await failure(analyst(), lambda request: Response(ReadableStream(body)))
        assert (found.reason, found.detail) == (MALFORMED, f"the answer has more than {MOST_ANSWER} bytes")
        assert body.closed
        assert body.pulled <= MOST_ANSWER // chunk + 1
        assert time.perf_counter() - begun < 1

    async def test_the_largest_answer_that_is_read(self) -> None:
        answer = await messages_answer("x").bytes()
        padded = answer + b" " * (MOST_ANSWER - len(answer))
        assert await ask(analyst(), Response(padded)) == "x"
        assert (await failure(analyst(), Response(padded + b" "))).reason == MALFORMED

    async def test_a_bomb(self) -> None:
        bomb = Response(gzip.compress(b" " * (64 << 20)), headers={"content-encoding": "gzip"}, encodeBody="manual")
        begun = time.perf_counter()
        assert (await failure(analyst(), bomb)).reason == MALFORMED
        assert time.perf_counter() - begun < 1

    async def test_a_compressed_answer_is_read(self) -> None:
        data = gzip.compress(await messages_answer("x").bytes())
        answer = Response(data, headers={"content-encoding": "gzip"}, encodeBody="manual")
        assert await ask(analyst(), answer) == "x"

    @pytest.mark.parametrize("stalls", ["before", "in the body"])
    async def test_the_time_limit_is_over_the_whole_call(self, stalls: str) -> None:
        body = ScriptedBody([b"{", b"}"], gate=asyncio.Event())

        async def slow(request: Request) -> Response:
            if stalls == "before":
                await asyncio.sleep(60)
            return Response(ReadableStream(body))

        begun = time.perf_counter()
        found = await failure(analyst(ANALYSIS_TIMEOUT_MS="50"), slow)
        assert (found.reason, found.detail) == (TIMEOUT, "no answer in time")
        assert 0.04 < time.perf_counter() - begun < 2
        assert body.closed == (stalls == "in the body")

    async def test_a_caller_that_leaves_closes_the_answer_and_is_no_failure(self) -> None:
        told, body = Told(), ScriptedBody([b"{", b"}"], gate=asyncio.Event())
        judge = analyst(telemetry=told)
        for _ in range(6):
            task = asyncio.create_task(ask(judge, lambda request: Response(ReadableStream(body))))
            while not body.pulled:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert body.closed
        assert told.events == []


class TestBreaker:
    @pytest.mark.parametrize("answer", [
        Response(None, 500), Response(None, 429), Response(None, 401), ConnectFailed("x"), FetchTimeout("idle", 1),
        Response(b"garbage"), Response(b" " * (1 << 20)), Response(None, 302), RuntimeError("x"),
    ], ids=repr)  # fmt: skip
    async def test_it_opens_and_nobody_is_asked_for_a_minute(self, answer: Any) -> None:
        told, clock = Told(), FakeClock(NOW)
        judge, fetcher = analyst(telemetry=told, clock=clock), judge_fetcher(answer)
        with Runtime(fetcher).use():
            for _ in range(7):
                with pytest.raises(AnalysisFailed) as caught:
                    await judge.ask("S", "U")
            assert (caught.value.reason, caught.value.detail) == (
                UNAVAILABLE, "not asked, because it failed too often just now",
            )  # fmt: skip
            assert len(fetcher.requests) == 5
            clock.advance(60)
            with pytest.raises(AnalysisFailed):
                await judge.ask("S", "U")
        assert len(fetcher.requests) == 6
        assert told.events == [BreakerChanged(open=True), BreakerChanged(open=False)]

    async def test_an_answer_closes_it(self) -> None:
        told = Told()
        judge = analyst(telemetry=told)
        failures = [Response(None, 500)] * 4
        with Runtime(judge_fetcher([*failures, messages_answer("x")] * 2)).use():
            for place in range(10):
                if place in (4, 9):
                    assert await judge.ask("S", "U") == "x"
                else:
                    with pytest.raises(AnalysisFailed):
                        await judge.ask("S", "U")
        assert told.events == []

    @pytest.mark.parametrize("status", [400, 413, 422])
    async def test_a_request_that_is_at_fault_counts_for_nothing(self, status: int) -> None:
        told = Told()
        judge = analyst(telemetry=told)
        for _ in range(20):
            assert (await failure(judge, Response(None, status))).reason == UNAVAILABLE
        assert told.events == []
        for _ in range(4):
            await failure(judge, Response(None, 500))
        await failure(judge, Response(None, status))
        await failure(judge, Response(None, 500))
        assert told.events == [BreakerChanged(open=True)], "nor does it interrupt a row of failures"

    async def test_calls_at_the_same_time(self) -> None:
        told, clock = Told(), FakeClock(NOW)
        judge, waiting = analyst(telemetry=told, clock=clock), asyncio.Event()

        async def answer(request: Request) -> Response:
            await waiting.wait()
            return Response(None, 503)

        fetcher = judge_fetcher(answer)
        with Runtime(fetcher).use():
            calls = [asyncio.create_task(judge.ask("S", "U")) for _ in range(50)]
            while len(fetcher.requests) < 50:
                await asyncio.sleep(0)
            waiting.set()
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(error, AnalysisFailed) for error in found)
            with pytest.raises(AnalysisFailed):
                await judge.ask("S", "U")
        assert len(fetcher.requests) == 50
        assert told.events == [BreakerChanged(open=True)]

    async def test_it_is_that_of_hybrid_analysis_too(self) -> None:
        told = Told()
        judge, fetcher = analyst("hybrid", told), judge_fetcher(Response(None, 503))
        with Runtime(fetcher).use():
            for _ in range(6):
                with pytest.raises(AnalysisFailed):
                    await judge.delegate({})
        assert len(fetcher.requests) == 5
        assert told.events == [BreakerChanged(open=True)]


async def test_no_key_is_in_a_repr_an_error_or_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def quoting(request: Request) -> Response:
        raise ConnectFailed(f"{list(request.headers.raw)}")

    judge, hybrid = analyst(), analyst("hybrid")
    seen = [repr(judge), repr(hybrid), str(await failure(judge, quoting))]
    with Runtime(judge_fetcher(quoting)).use(), pytest.raises(AnalysisFailed) as caught:
        await hybrid.delegate({})
    seen += [str(caught.value), repr(caught.value.__cause__), caplog.text]
    assert [text for text in seen if KEY in text or MNEMOM_KEY in text] == []


async def test_the_limit_of_hybrid_analysis_is_its_own() -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(0.2)
        return Response(b"{}")

    with Runtime(judge_fetcher(slow)).use():
        assert await analyst("hybrid", ANALYSIS_TIMEOUT_MS="10").delegate({}) == {}
    assert analysis.HYBRID_LIMIT_S == 10
