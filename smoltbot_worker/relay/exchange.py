"""One exchange with a provider, from the first byte of the request to the last of the answer, as it is recorded."""

from __future__ import annotations

import time

from smoltbot_worker.admission.agents import Agent
from smoltbot_worker.events import ExchangeEnded
from smoltbot_worker.ports import Telemetry
from worker_compat.errors import FetchError
from worker_compat.streams import ByteSource

from .providers import Provider

CLIENT_CLOSED = 499
"""The status on record when the client left before there was one (nginx's convention)."""


class Exchange:
    """What is known of an exchange so far; emits one :class:`ExchangeEnded` when it is over."""

    __slots__ = (
        "_agent", "_bytes_out", "_ended", "_started", "_telemetry", "_ttfb", "generation", "method", "path",
        "provider", "reason", "request_id", "session_id", "status", "streaming", "upstream_request_id", "verdict",
    )  # fmt: skip

    def __init__(self, telemetry: Telemetry, provider: Provider, method: str, path: str, request_id: str) -> None:
        self._telemetry = telemetry
        self._started = time.perf_counter()
        self._ttfb: float | None = None
        self._bytes_out = 0
        self._ended = False
        self._agent: Agent | None = None
        self.provider = provider
        self.method = method
        self.path = path
        self.request_id = request_id
        self.session_id = ""
        self.generation = False
        self.status = 0
        self.streaming = False
        self.verdict = ""
        self.reason = ""
        self.upstream_request_id = ""

    @property
    def agent(self) -> Agent | None:
        """Whose exchange it is, once that is known."""
        return self._agent

    def admitted(self, agent: Agent, session_id: str) -> None:
        """The agent is known."""
        self._agent = agent
        self.session_id = session_id

    def answered(self, status: int) -> None:
        """The head of the provider's answer is here."""
        self.status = status
        self._ttfb = time.perf_counter() - self._started

    def refused(self, status: int) -> None:
        """The gateway answers by itself."""
        self.status = status
        self.end("refused")

    def relayed(self, chunk: bytes) -> None:
        """Bytes of the answer pass."""
        self._bytes_out += len(chunk)

    def end(self, outcome: str) -> None:
        """It is over; only the first call counts."""
        if self._ended:
            return
        self._ended = True
        if not self.status:
            self.status = CLIENT_CLOSED
        agent = self._agent
        self._telemetry.emit(
            ExchangeEnded(
                self.provider.name,
                self.method,
                self.path,
                self.status,
                self.request_id,
                "" if agent is None else agent.id,
                self.session_id,
                self.verdict,
                self.reason,
                self.streaming,
                self._bytes_out,
                time.perf_counter() - self._started,
                self._ttfb,
                outcome,
                self.upstream_request_id,
            )
        )


class Tap(ByteSource):
    """Passes a body on unchanged and tells the exchange what went by; it never holds or delays a byte."""

    __slots__ = ("_exchange", "_source", "length")

    def __init__(self, source: ByteSource, exchange: Exchange) -> None:
        self._source = source
        self._exchange = exchange
        self.length = source.length

    async def pull(self) -> bytes:
        try:
            chunk = await self._source.pull()
        except FetchError as error:
            self._exchange.end("refused" if isinstance(error, BodyTooLarge) else "upstream-broke")
            raise
        if chunk:
            self._exchange.relayed(chunk)
        else:
            self._exchange.end("complete")
        return chunk

    def pull_now(self) -> bytes:
        chunk = self._source.pull_now()
        if chunk:
            self._exchange.relayed(chunk)
        return chunk

    def take(self) -> bytes | None:
        whole = self._source.take()
        if whole is not None:
            self._exchange.relayed(whole)
            self._exchange.end("complete")
        return whole

    def close(self, reason: BaseException | None = None) -> None:
        self._source.close(reason)
        self._exchange.end("client-left")


class BodyTooLarge(FetchError):
    """A request body went over ``MAX_BODY_BYTES`` while it was passing."""


class Limited(ByteSource):
    """Passes a request body on and breaks it off beyond ``limit`` bytes."""

    __slots__ = ("_left", "_source", "length")

    def __init__(self, source: ByteSource, limit: int) -> None:
        self._source = source
        self._left = limit
        self.length = source.length

    async def pull(self) -> bytes:
        return self._counted(await self._source.pull())

    def take(self) -> bytes | None:
        whole = self._source.take()
        return None if whole is None else self._counted(whole)

    def close(self, reason: BaseException | None = None) -> None:
        self._source.close(reason)

    def _counted(self, chunk: bytes) -> bytes:
        self._left -= len(chunk)
        if self._left < 0:
            raise BodyTooLarge("the request body is larger than MAX_BODY_BYTES")
        return chunk
