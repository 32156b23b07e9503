"""One exchange with a provider, from the first byte of the request to the last of the answer, as it is recorded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from uuid import uuid4

from smoltbot_worker.admission.agents import Agent
from smoltbot_worker.events import ExchangeEnded
from smoltbot_worker.ports import Json, Telemetry
from worker_compat.errors import FetchError
from worker_compat.streams import ByteSource

from .capture import BodyTooLarge, Capture
from .message import ExchangeMessage
from .providers import Provider

CLIENT_CLOSED = 499
"""The status on record when the client left before there was one (nginx's convention)."""


class Exchange:
    """What is known of an exchange so far; emits one :class:`ExchangeEnded` when it is over."""

    __slots__ = (
        "_agent", "_bytes_out", "_ended", "_started", "_telemetry", "_ttfb", "action", "certificate_id", "chain_hash",
        "checkpoint_id", "checks", "created_at", "generation", "method", "mutations", "nudges", "path", "proceed",
        "provider", "quota", "reason", "recorded", "request", "request_encoding", "request_id", "response_encoding",
        "session_id", "source", "status", "streaming", "upstream_request_id", "verdict",
    )  # fmt: skip

    def __init__(
        self, telemetry: Telemetry, provider: Provider, method: str, path: str, request_id: str, now: float
    ) -> None:
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
        self.created_at = now
        self.session_id = ""
        self.generation = False
        self.checks = False
        """A 2xx answer of this exchange gets a checkpoint."""
        self.recorded = False
        """Its checkpoint is made, or its message is on its way to the observer."""
        self.request: Capture | None = None
        self.request_encoding = ""
        self.response_encoding = ""
        self.mutations: list[Mapping[str, Json]] = []
        self.nudges = 0
        self.quota: list[tuple[bytes, bytes]] = []
        self.status = 0
        self.streaming = False
        self.verdict = ""
        self.reason = ""
        self.action = ""
        self.proceed: bool | None = None
        self.source = ""
        self.checkpoint_id = ""
        self.certificate_id = ""
        self.chain_hash = ""
        self.upstream_request_id = ""

    @property
    def agent(self) -> Agent | None:
        """Whose exchange it is, once that is known."""
        return self._agent

    @property
    def is_due(self) -> bool:
        """Whether its answer, whose head is here, has to be checked."""
        return self.checks and 200 <= self.status <= 299

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

    def message(self, body: bytes, *, version: str, truncated: bool = False, cut: bool = False) -> ExchangeMessage:
        """The exchange as it waits for its check; ``body`` is what was kept of the answer, as it came."""
        agent, request = self._agent, self.request
        assert agent is not None
        if not self.checkpoint_id:
            self.checkpoint_id = f"ic-{uuid4()}"
        return ExchangeMessage(
            id=self.request_id,
            checkpoint_id=self.checkpoint_id,
            created_at=self.created_at,
            agent_id=agent.id,
            agent_hash=agent.hash,
            session_id=self.session_id,
            gateway_version=version,
            provider=self.provider.name,
            method=self.method,
            path=self.path,
            status=self.status,
            streamed=self.streaming,
            duration_ms=round((time.perf_counter() - self._started) * 1000),
            request_encoding=self.request_encoding,
            response_encoding=self.response_encoding,
            request_body=b"" if request is None else request.data(),
            response_body=body,
            body_truncated=truncated,
            cut=cut,
            mutations=self.mutations,
            nudge_count=self.nudges,
        )

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
                self.recorded,
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
