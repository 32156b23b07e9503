"""Answers are held until they were checked, and ends of streams until they are on record: what passes, and when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from smoltbot_worker.events import AnswerBlocked, ExchangeEnded
from smoltbot_worker.ports import RecordsUnavailable
from tests.unit.integrity_support import concern, finding, messages_answer
from tests.unit.stream_support import turns
from worker_compat.errors import ConnectionLost, FetchTimeout, StoreUnavailable
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.streams import ByteSource, ReadableStream
from worker_compat.testing import ScriptedBody, read_response

from .support import AGENT, ANTHROPIC, KEY_LINE, MESSAGES, THOUGHT, Gateway, Got

LIMIT = 1024
LARGE = [THOUGHT[:-1] + b" " * 1000, b" " * 1000, b" " * 999 + b"}"]
PIECES = [THOUGHT[:7], THOUGHT[7:20], THOUGHT[20:]]
JUDGE = "POST http://judge.internal/v1/messages"
JUDGED: Mapping[str, Any] = {"ANTHROPIC_API_KEY": "k", "ANALYSIS_BASE_URL": "http://judge.internal"}
CLOSED: Mapping[str, Any] = {"mode": "enforce", "AIP_FAILURE_POLICY": "fail_closed"}
EVENTS = [b'data: {"type": "message_start"}\n\n', b"data: {}\n\n"]
EVENT_STREAM = (b"Content-Type", b"text/event-stream")


def gateway(
    source: ByteSource | None, *lines: tuple[bytes, bytes], mode: str = "observe", status: int = 200, **more: Any
) -> Gateway:
    """One whose provider answers a generation request with this body, for agents in this mode."""
    answer = Response.from_raw(status, "", lines, None if source is None else ReadableStream(source))
    routes = {MESSAGES: answer, f"GET {ANTHROPIC}/v1/models": Response(b"ok"), **more.pop("routes", {})}
    here = Gateway(routes, **more)
    here.records.settings["aip_enforcement_mode"] = mode
    return here


async def begin(here: Gateway) -> Response:
    return await here.begin("POST", "/anthropic/v1/messages", KEY_LINE, body=b"{}")


async def met(here: Gateway) -> None:
    """The agent is known from now on."""
    await here.ask("GET", "/anthropic/v1/models", KEY_LINE)
    here.telemetry.events.clear()


def body_of(response: Response) -> ByteSource:
    assert response.body is not None
    return response.body.detach()


def verdict(response: Response | Got) -> tuple[str | None, str | None]:
    get = response.get if isinstance(response, Got) else response.headers.get
    return get("x-aip-verdict"), get("x-aip-reason")


def ended(here: Gateway) -> ExchangeEnded:
    [event] = here.telemetry.of(ExchangeEnded)
    return event


class TestFraming:
    @pytest.mark.parametrize("length", [None, len(THOUGHT)])
    async def test_it_is_kept(self, length: int | None) -> None:
        lines = ((b"Content-Length", b"%d" % length),) if length else ((b"X-Other", b"1"),)
        here = gateway(ScriptedBody(PIECES, length=length), *lines)
        response = await begin(here)
        assert tuple(response.headers.raw)[:1] == lines
        source = body_of(response)
        assert (source.length, source.take()) == (length, THOUGHT)
        assert verdict(response) == ("skipped", "no-analysis-configured")

    async def test_the_whole_answer_is_awaited(self) -> None:
        gate = asyncio.Event()
        here = gateway(ScriptedBody(PIECES, gate=gate))
        answering = asyncio.create_task(begin(here))
        for _ in PIECES[1:]:
            await turns(20)
            assert not answering.done()
            assert here.records.checkpoints == []
            gate.set()
        assert await read_response(await answering) == THOUGHT
        assert len(here.records.checkpoints) == 1

    async def test_its_record_is_awaited(self) -> None:
        here = gateway(ScriptedBody(PIECES))
        await met(here)
        here.records.gate = asyncio.Event()
        answering = asyncio.create_task(begin(here))
        await turns(50)
        assert not answering.done()
        here.records.gate.set()
        response = await answering
        assert response.headers.get("x-aip-checkpoint-id") == here.records.checkpoints[0]["checkpoint_id"]

    @pytest.mark.parametrize(
        ("source", "status"),
        [(None, 204), (None, 200), (ScriptedBody([], length=0), 200), (ScriptedBody([]), 200)],
        ids=["no content", "no body", "empty", "empty chunked"],
    )
    @pytest.mark.parametrize("lines", [(), (EVENT_STREAM,)], ids=["document", "stream"])
    async def test_nothing_to_hold(
        self, source: ByteSource | None, status: int, lines: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        here = gateway(source, *lines, status=status)
        response = await begin(here)
        assert (response.body is None) == (source is None)
        assert (response.status, await read_response(response)) == (status, b"")
        assert (ended(here).outcome, ended(here).checked) == ("complete", True)
        if lines and source is not None and source.length is None:
            assert verdict(response) == ("pending", None)
            [message] = await here.pushed(1)
            assert (message.response_body, message.cut) == (b"", False)
        else:
            assert verdict(response) == ("error", "undecodable-encoding")
            assert [row["verdict"] for row in here.records.checkpoints] == ["error"]

    async def test_a_request_without_a_body_is_no_way_round(self) -> None:
        here = gateway(ScriptedBody(PIECES))
        got = await here.ask("POST", "/anthropic/v1/messages", KEY_LINE)
        assert not here.fetcher.requests[0].has_body
        assert verdict(got) == ("skipped", "no-analysis-configured")
        assert len(here.records.checkpoints) == 1


class TestTooLarge:
    @pytest.mark.parametrize("length", [None, len(b"".join(LARGE))])
    async def test_it_passes_unchecked_and_says_so(self, length: int | None) -> None:
        source = ScriptedBody(LARGE, length=length)
        here = gateway(source, MAX_CAPTURE_BYTES=str(LIMIT))
        response = await begin(here)
        assert source.pulled == (1 if length is None else 0), "no more is held than may be"
        assert verdict(response) == ("error", "too-large")
        assert response.headers.get("x-aip-checkpoint-id") is None
        body = body_of(response)
        assert body.length == length
        assert await ReadableStream(body).read_all() == b"".join(LARGE)
        [message] = await here.pushed(1)
        assert message.response_body == b"".join(LARGE)[:LIMIT]
        assert (message.body_truncated, message.cut, message.streamed) == (True, False, False)
        assert here.records.checkpoints == []
        assert (ended(here).outcome, ended(here).reason, ended(here).checked) == ("complete", "too-large", True)

    async def test_one_that_was_here_at_once(self) -> None:
        here = Gateway({MESSAGES: Response(b"".join(LARGE))}, MAX_CAPTURE_BYTES=str(LIMIT))
        got = await here.message()
        assert (got.body, *verdict(got)) == (b"".join(LARGE), "error", "too-large")
        [message] = await here.pushed(1)
        assert (len(message.response_body), message.body_truncated) == (LIMIT, True)

    async def test_what_just_fits_is_checked(self) -> None:
        whole = THOUGHT[:-1] + b" " * (LIMIT - len(THOUGHT)) + b"}"
        for length in (None, LIMIT):
            here = gateway(ScriptedBody([whole[:9], whole[9:]], length=length), MAX_CAPTURE_BYTES=str(LIMIT))
            assert verdict(await begin(here)) == ("skipped", "no-analysis-configured")

    @pytest.mark.parametrize("length", [None, len(b"".join(LARGE))])
    async def test_where_checks_fail_closed_it_does_not_pass(self, length: int | None) -> None:
        source = ScriptedBody(LARGE, length=length)
        here = gateway(source, MAX_CAPTURE_BYTES=str(LIMIT), **CLOSED)
        got = await here.message()
        assert (got.status, got.json()["type"], *verdict(got)) == (503, "integrity_unavailable", "error", "too-large")
        assert len(source.close_reasons) == 1
        [message] = await here.pushed(1)
        assert (message.status, message.body_truncated) == (200, True)
        assert here.telemetry.of(AnswerBlocked) == [AnswerBlocked(AGENT, message.id, "integrity_unavailable")]
        assert (ended(here).status, ended(here).outcome) == (503, "refused")

    async def test_the_client_leaves_in_between(self) -> None:
        source = ScriptedBody(LARGE, length=len(b"".join(LARGE)))
        here = gateway(source, MAX_CAPTURE_BYTES=str(LIMIT))
        body = body_of(await begin(here))
        await body.pull()
        body.close()
        [message] = await here.pushed(1)
        assert (len(message.response_body), message.cut) == (LIMIT, True)
        assert (source.closed, ended(here).outcome) == (True, "client-left")


@pytest.mark.parametrize("error", [ConnectionLost("broke"), FetchTimeout("idle", 300)], ids=lambda e: type(e).__name__)
class TestProviderBreaksOff:
    @pytest.mark.parametrize("length", [None, len(THOUGHT)])
    @pytest.mark.parametrize("pieces", [PIECES[:2], []], ids=["some", "nothing"])
    async def test_what_came_passes_and_breaks_off(
        self, error: Exception, length: int | None, pieces: list[bytes]
    ) -> None:
        source = ScriptedBody(pieces, error=error, length=length)
        here = gateway(source)
        response = await begin(here)
        assert (response.status, *verdict(response)) == (200, "error", "undecodable-encoding")
        body = body_of(response)
        assert body.length == length
        if pieces:
            assert await body.pull() == b"".join(pieces)
        with pytest.raises(type(error)):
            await body.pull()
        [message] = await here.pushed(1)
        assert (message.response_body, message.cut, message.body_truncated) == (b"".join(pieces), True, False)
        assert source.close_reasons == [error]
        assert (ended(here).outcome, ended(here).bytes_out) == ("upstream-broke", len(b"".join(pieces)))

    async def test_where_checks_fail_closed_nothing_passes(self, error: Exception) -> None:
        here = gateway(ScriptedBody(PIECES[:2], error=error), **CLOSED)
        got = await here.message()
        assert (got.status, *verdict(got)) == (503, "error", "undecodable-encoding")
        assert PIECES[0] not in got.body
        [message] = await here.pushed(1)
        assert (message.response_body, message.cut, message.body_truncated) == (b"".join(PIECES[:2]), True, False)


class TestClientLeaves:
    @staticmethod
    async def leave(here: Gateway) -> None:
        """Ask, and go away while nothing has come back."""
        answering = asyncio.create_task(begin(here))
        await turns(50)
        assert not answering.done()
        answering.cancel()
        await asyncio.wait({answering})
        assert answering.cancelled()
        assert (ended(here).outcome, ended(here).status, ended(here).checked) == ("client-left", 200, True)

    async def test_while_the_answer_comes(self) -> None:
        source = ScriptedBody(PIECES, gate=asyncio.Event())
        here = gateway(source)
        await self.leave(here)
        [message] = await here.pushed(1)
        assert (message.cut, message.status) == (True, 200)
        assert source.closed

    async def test_while_it_is_judged(self) -> None:
        async def ponder(request: Request) -> Response:
            await asyncio.Event().wait()
            raise AssertionError

        here = gateway(ScriptedBody(PIECES), routes={JUDGE: ponder}, **JUDGED)
        await self.leave(here)
        [message] = await here.pushed(1)
        assert (message.response_body, message.cut) == (THOUGHT, False)

    async def test_while_it_is_recorded(self) -> None:
        here = gateway(ScriptedBody(PIECES))
        await met(here)
        here.records.gate = asyncio.Event()
        await self.leave(here)
        here.records.gate.set()
        [message] = await here.pushed(1)
        assert (message.response_body, message.cut) == (THOUGHT, False)
        stored = [row["checkpoint_id"] for row in here.records.checkpoints]
        assert stored in ([], [message.checkpoint_id]), "whoever makes it, it is the same checkpoint"


class TestNoRecord:
    """The answer cannot be put on record: a message waits for the observer, and the policies decide what passes."""

    @pytest.fixture(params=[RecordsUnavailable("gone"), ValueError("odd: the-secret")], ids=["away", "refused"])
    def error(self, request: pytest.FixtureRequest) -> Exception:
        error: Exception = request.param
        return error

    @pytest.mark.parametrize("function", ["session_checks", "log_head", "append_checkpoints"])
    async def test_open(self, error: Exception, function: str, caplog: pytest.LogCaptureFixture) -> None:
        here = gateway(
            ScriptedBody(PIECES, length=len(THOUGHT)),
            routes={JUDGE: messages_answer(finding("clear"))},
            **JUDGED,
        )
        here.records.errors[function] = error
        with caplog.at_level(logging.ERROR):
            response = await begin(here)
        body = body_of(response)
        assert (response.status, body.length, body.take()) == (200, len(THOUGHT), THOUGHT)
        if function == "session_checks" and isinstance(error, ValueError):
            assert verdict(response) == ("error", "analysis-unavailable"), "that is a failed check, which is on record"
            return
        assert verdict(response) == ("error", "storage-unavailable")
        assert response.headers.get("x-aip-checkpoint-id") is response.headers.get("x-aip-certificate-id") is None
        [message] = await here.pushed(1)
        assert (message.response_body, message.cut) == (THOUGHT, False)
        assert here.records.checkpoints == []
        logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(logged) == isinstance(error, ValueError)

    async def test_closed(self, error: Exception) -> None:
        here = gateway(ScriptedBody(PIECES), DB_FAILURE_MODE="closed")
        here.records.errors["append_checkpoints"] = error
        got = await here.message()
        assert (got.status, got.json()["type"], got.get("retry-after")) == (503, "storage_unavailable", "2")
        assert (got.get("x-smoltbot-agent"), *verdict(got)) == (AGENT, "error", "storage-unavailable")
        assert len(await here.pushed(1)) == 1
        assert (ended(here).status, ended(here).outcome, ended(here).checked) == (503, "refused", True)

    async def test_where_checks_fail_closed(self, error: Exception) -> None:
        here = gateway(ScriptedBody(PIECES), **CLOSED)
        here.records.errors["append_checkpoints"] = error
        got = await here.message()
        assert (got.status, got.json()["type"]) == (503, "integrity_unavailable")
        assert len(await here.pushed(1)) == 1


class TestViolation:
    @pytest.mark.parametrize(("mode", "status"), [("observe", 200), ("nudge", 200), ("enforce", 403)])
    async def test_it_is_withheld_where_it_must_be(self, mode: str, status: int) -> None:
        found = finding("boundary_violation", concern("deceptive_reasoning", "high"))
        here = gateway(
            ScriptedBody(PIECES),
            routes={JUDGE: messages_answer(found)},
            mode=mode,
            **JUDGED,
        )
        got = await here.message()
        assert (got.status, *verdict(got)) == (status, "boundary_violation", None)
        [row] = here.records.checkpoints
        assert got.get("x-aip-checkpoint-id") == row["checkpoint_id"]
        assert (got.body == THOUGHT) == (status == 200)
        if status == 403:
            assert got.json()["checkpoint"]["checkpoint_id"] == row["checkpoint_id"]
            assert here.telemetry.of(AnswerBlocked) == [AnswerBlocked(AGENT, row["request_id"], "boundary_violation")]
            assert (ended(here).status, ended(here).outcome) == (403, "refused")

    @pytest.mark.parametrize("error", [RecordsUnavailable("gone"), ValueError("odd")], ids=["away", "refused"])
    async def test_it_is_withheld_even_if_it_cannot_be_recorded(self, error: Exception) -> None:
        found = finding("boundary_violation", concern("deceptive_reasoning", "high"))
        here = gateway(ScriptedBody(PIECES), routes={JUDGE: messages_answer(found)}, mode="enforce", **JUDGED)
        here.records.errors["append_checkpoints"] = error
        got = await here.message()
        assert (got.status, got.json()["type"], *verdict(got)) == (
            403, "integrity_violation", "boundary_violation", None,
        )  # fmt: skip
        assert got.get("x-aip-certificate-id") is None
        assert len(await here.pushed(1)) == 1


class TestStreams:
    @staticmethod
    def stream(length: int | None, **variables: Any) -> Gateway:
        return gateway(ScriptedBody(EVENTS, length=length), EVENT_STREAM, **variables)

    @pytest.mark.parametrize("length", [None, len(b"".join(EVENTS))])
    async def test_durable(self, length: int | None) -> None:
        here = self.stream(length)
        here.queue.gate = asyncio.Event()
        response = await begin(here)
        assert verdict(response) == ("pending", None)
        body = body_of(response)
        assert body.length == length
        passing = EVENTS if length is None else EVENTS[:1]
        assert [await body.pull() for _ in passing] == passing
        end = asyncio.ensure_future(body.pull())
        await turns(50)
        assert not end.done()
        here.queue.gate.set()
        assert await end == (b"" if length is None else EVENTS[1])
        [message] = await here.pushed(1)
        assert (message.response_body, message.cut, message.streamed) == (b"".join(EVENTS), False, True)

    @pytest.mark.parametrize("length", [None, len(b"".join(EVENTS))])
    async def test_async(self, length: int | None) -> None:
        here = self.stream(length, EXCHANGE_DURABILITY="async", DB_FAILURE_MODE="closed")
        here.queue.gate = asyncio.Event()
        response = await begin(here)
        async with asyncio.timeout(5):
            assert await read_response(response) == b"".join(EVENTS)
        here.queue.gate.set()
        [message] = await here.pushed(1)
        assert message.response_body == b"".join(EVENTS)

    @pytest.mark.parametrize("length", [None, len(b"".join(EVENTS))])
    @pytest.mark.parametrize("policy", ["open", "closed"])
    async def test_the_queue_is_away(self, length: int | None, policy: str) -> None:
        here = self.stream(length, DB_FAILURE_MODE=policy)
        here.queue.error = StoreUnavailable("gone")
        body = body_of(await begin(here))
        got = [await body.pull()]
        if policy == "open":
            assert [*got, await body.pull(), await body.pull()] == [*EVENTS, b""]
        else:
            if length is None:
                got.append(await body.pull())
            assert got == (EVENTS if length is None else EVENTS[:1])
            with pytest.raises(ConnectionLost, match="DB_FAILURE_MODE is closed"):
                await body.pull()
        here.queue.error = None
        [message] = await here.pushed(1)
        assert message.response_body == b"".join(EVENTS)

    async def test_the_client_leaves_before_the_end(self) -> None:
        here = self.stream(None)
        body = body_of(await begin(here))
        await body.pull()
        body.close()
        [message] = await here.pushed(1)
        assert (message.response_body, message.cut) == (EVENTS[0], True)
        assert ended(here).outcome == "client-left"

    async def test_the_client_leaves_while_it_is_put_on_record(self) -> None:
        here = self.stream(None)
        here.queue.gate = asyncio.Event()
        body = body_of(await begin(here))
        for _ in EVENTS:
            await body.pull()
        end = asyncio.ensure_future(body.pull())
        await turns(20)
        end.cancel()
        await asyncio.wait({end})
        body.close()
        here.queue.gate.set()
        [message] = await here.pushed(1)
        assert (message.response_body, message.cut) == (b"".join(EVENTS), False)
