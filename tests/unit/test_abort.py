"""AbortSignal: what it raises, when, and that an aborted fetch lets go of everything."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit.stream_support import turns
from worker_compat import fetch
from worker_compat.abort import AbortController, AbortSignal, Until
from worker_compat.errors import AbortError
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import Runtime
from worker_compat.streams import ReadableStream
from worker_compat.testing import ScriptedBody, ScriptedFetcher

URL = "http://h.example/"
ABORTED = r"^The operation was aborted$"


class Hanging:
    """A fetcher that never answers, and notes how it ended."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.cancelled = False

    async def fetch(self, request: Request) -> Response:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise AssertionError("unreachable")


async def answered(source: ScriptedBody, signal: AbortSignal, **headers: str) -> Response:
    fetcher = ScriptedFetcher({f"GET {URL}": Response(ReadableStream(source), headers=headers)})
    with Runtime(fetcher).use():
        return await fetch(URL, signal=signal)


class TestSignal:
    def test_the_first_reason_counts(self) -> None:
        controller = AbortController()
        assert (controller.signal.aborted, controller.signal.reason) == (False, None)
        controller.signal.throw_if_aborted()
        first = ValueError("first")
        controller.abort(first)
        controller.abort(ValueError("second"))
        assert controller.signal.aborted
        with pytest.raises(ValueError, match="first") as caught:
            controller.signal.throwIfAborted()
        assert caught.value is controller.signal.reason is first

    @pytest.mark.parametrize(("reason", "message"), [(None, "The operation was aborted"), ("why", "why"), (7, "7")])
    def test_a_reason_that_is_no_exception_is_told_by_an_abort_error(self, reason: Any, message: str) -> None:
        error = AbortSignal.abort(reason).reason
        assert isinstance(error, AbortError)
        assert isinstance(error, OSError)
        assert (error.name, error.message, str(error)) == ("AbortError", message, message)

    async def test_a_time_out(self) -> None:
        signal = AbortSignal.timeout(1)
        gone = asyncio.Event()
        signal.addEventListener("abort", gone.set)
        await asyncio.wait_for(gone.wait(), 5)
        assert isinstance(signal.reason, AbortError)
        assert (signal.reason.name, str(signal.reason)) == (
            "TimeoutError", "The operation was aborted due to timeout",
        )  # fmt: skip

    def test_listeners_are_called_once_and_only_for_abort(self) -> None:
        controller, heard = AbortController(), list[str]()
        signal = controller.signal
        stays, goes = (lambda: heard.append("stays")), (lambda: heard.append("goes"))
        for listener in (stays, stays, goes):
            signal.add_event_listener("abort", listener)
        signal.add_event_listener("close", goes)
        signal.remove_event_listener("close", stays)
        signal.removeEventListener("abort", goes)
        signal.removeEventListener("abort", goes)
        controller.abort()
        controller.abort()
        signal.add_event_listener("abort", goes)
        assert heard == ["stays"]

    def test_any(self) -> None:
        one, two = AbortController(), AbortController()
        both = AbortSignal.any([one.signal, two.signal])
        outer = AbortSignal.any(iter([both]))
        assert not outer.aborted
        two.abort(ValueError("two"))
        one.abort(ValueError("one"))
        assert str(both.reason) == str(outer.reason) == "two"
        assert AbortSignal.any([one.signal, two.signal]).reason is one.signal.reason
        assert not AbortSignal.any([]).aborted

    def test_a_long_lived_signal_keeps_nothing(self) -> None:
        shutdown = AbortController()
        combined = weakref.ref(AbortSignal.any([shutdown.signal]))
        gc.collect()
        assert combined() is None
        shutdown.abort()


class TestFetch:
    async def test_aborted_before(self) -> None:
        fetcher = ScriptedFetcher({})
        with Runtime(fetcher).use(), pytest.raises(AbortError, match=ABORTED):
            await fetch(URL, signal=AbortSignal.abort())
        assert fetcher.requests == []

    @pytest.mark.parametrize("reason", [None, ValueError("mine"), KeyboardInterrupt()])
    async def test_aborted_while_nothing_comes(self, reason: BaseException | None) -> None:
        controller, fetcher = AbortController(), Hanging()
        with Runtime(fetcher).use():
            call = asyncio.ensure_future(_outcome(fetch(URL, signal=controller.signal)))
        await fetcher.asked.wait()
        controller.abort(reason)
        assert await call is controller.signal.reason
        assert fetcher.cancelled
        assert not controller.signal._listeners

    async def test_a_time_out(self) -> None:
        with Runtime(Hanging()).use(), pytest.raises(AbortError, match=r"^The operation was aborted due to timeout$"):
            await fetch(URL, signal=AbortSignal.timeout(1))

    async def test_the_signal_of_a_request(self) -> None:
        controller = AbortController()
        request = Request(URL, signal=controller.signal)
        controller.abort()
        with Runtime(ScriptedFetcher({})).use():
            for one in (request, request.clone(), Request(request)):
                assert one.signal is controller.signal
                with pytest.raises(AbortError):
                    await fetch(one)
        assert Request(URL).signal is None
        assert Request.incoming("GET", "/", (), None).signal is None

    async def test_somebody_elses_cancellation_stays_one(self) -> None:
        controller, fetcher = AbortController(), Hanging()
        with Runtime(fetcher).use():
            call = asyncio.ensure_future(fetch(URL, signal=controller.signal))
        await fetcher.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()

    async def test_both_at_once_are_a_cancellation(self) -> None:
        controller, fetcher = AbortController(), Hanging()
        with Runtime(fetcher).use():
            call = asyncio.ensure_future(fetch(URL, signal=controller.signal))
        await fetcher.asked.wait()
        call.cancel()
        controller.abort()
        with pytest.raises(asyncio.CancelledError):
            await call

    async def test_no_cancellation_is_left_over(self) -> None:
        controller = AbortController()

        async def block() -> str:
            try:
                async with Until(controller.signal):
                    controller.abort()
            except AbortError:
                await asyncio.sleep(0)
                task = asyncio.current_task()
                assert task is not None
                return f"{task.cancelling()}"
            return "not raised"

        assert await asyncio.ensure_future(block()) == "0"


class TestBody:
    async def test_aborted_while_a_read_waits(self) -> None:
        controller, source = AbortController(), ScriptedBody([b"one", b"two"], gate=asyncio.Event())
        response = await answered(source, controller.signal)
        call = asyncio.ensure_future(_outcome(response.text()))
        await turns()
        controller.abort()
        assert await call is controller.signal.reason
        assert len(source.close_reasons) == 1

    async def test_aborted_while_nobody_reads(self) -> None:
        controller, source = AbortController(), ScriptedBody([b"one", b"two"])
        response = await answered(source, controller.signal)
        controller.abort()
        assert source.close_reasons == [controller.signal.reason]
        with pytest.raises(AbortError, match=ABORTED):
            await response.text()
        assert len(source.close_reasons) == 1

    async def test_aborted_after_the_end(self) -> None:
        controller, source = AbortController(), ScriptedBody([b"one"])
        response = await answered(source, controller.signal)
        assert await response.text() == "one"
        controller.abort()
        assert not source.closed

    async def test_cancelled_before(self) -> None:
        controller, source = AbortController(), ScriptedBody([b"one"])
        response = await answered(source, controller.signal)
        assert response.body is not None
        await response.body.cancel()
        controller.abort()
        assert source.close_reasons == [None]
        assert not controller.signal._listeners

    async def test_an_encoded_body(self) -> None:
        controller, source = AbortController(), ScriptedBody([b"\x1f\x8b\x08", b"two"], gate=asyncio.Event())
        response = await answered(source, controller.signal, **{"Content-Encoding": "gzip"})
        call = asyncio.ensure_future(_outcome(response.text()))
        await turns()
        controller.abort()
        assert await call is controller.signal.reason
        assert source.closed

    async def test_a_response_that_is_passed_on_breaks_off(self) -> None:
        controller, source = AbortController(), ScriptedBody([b"one", b"two"], length=6)
        response = await answered(source, controller.signal)
        assert response.body is not None
        detached = response.body.detach()
        assert (detached.length, await detached.pull()) == (6, b"one")
        controller.abort()
        with pytest.raises(AbortError):
            await detached.pull()
        assert detached.pull_now() == b""
        assert detached.take() is None

    async def test_a_body_that_is_here_whole_is_taken(self) -> None:
        controller = AbortController()
        fetcher = ScriptedFetcher({f"GET {URL}": Response("whole")})
        with Runtime(fetcher).use():
            response = await fetch(URL, signal=controller.signal)
        assert await response.text() == "whole"
        assert not controller.signal._listeners

    async def test_the_reading_task_may_abort_itself(self) -> None:
        controller = AbortController()

        async def chunks() -> AsyncIterator[bytes]:
            yield b"one"
            controller.abort()
            yield b"two"

        fetcher = ScriptedFetcher({f"GET {URL}": Response(ReadableStream.from_iterable(chunks()))})
        with Runtime(fetcher).use():
            response = await fetch(URL, signal=controller.signal)
        with pytest.raises(AbortError):
            await response.text()


async def _outcome(call: Any) -> Any:
    try:
        return await call
    except BaseException as error:
        return error
