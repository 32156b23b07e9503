"""What the tests of the gateway share: a telemetry that remembers, and a gateway on that and dictionaries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from smoltbot_host.crypto import HostCrypto
from smoltbot_worker.admission.agents import AgentDirectory
from smoltbot_worker.admission.license import LicenseGate
from smoltbot_worker.attestation.log import CheckpointLog
from smoltbot_worker.env import Env, read_variables
from smoltbot_worker.events import Event
from smoltbot_worker.gateway import Default
from smoltbot_worker.health import State
from smoltbot_worker.integrity.analysis import Analyst
from smoltbot_worker.relay.exchanges import ExchangeQueue
from smoltbot_worker.relay.message import ExchangeMessage
from worker_compat.decoding import GzipDecoder
from worker_compat.headers import RawHeaders
from worker_compat.memory import MemoryQueueStore
from worker_compat.queues import Message, Queue
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import Runtime
from worker_compat.streams import ByteSource, ReadableStream
from worker_compat.testing import FakeClock, ScriptedFetcher, read_response
from worker_compat.testing.fakes import Answer

from .memory_records import MemoryRecords

ANTHROPIC = "https://api.anthropic.com"
OPENAI = "https://api.openai.com"
GEMINI = "https://generativelanguage.googleapis.com"
MESSAGES = f"POST {ANTHROPIC}/v1/messages"

KEY = "sk-ant-example-000"
HASH = "9d08aa51eb89d283"
AGENT = "smolt-9d08aa51"
KEY_LINE = f"x-api-key: {KEY}"

THOUGHT = b'{"content": [{"type": "thinking", "thinking": "hm"}]}'
"""An answer of Anthropic's with thinking in it, which nobody judges unless a test sets who does."""

E = TypeVar("E")


class Recorder:
    """A Telemetry that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


@dataclass(slots=True)
class Got:
    """An answer as a client has it."""

    status: int
    lines: RawHeaders
    body: bytes

    def get(self, name: str) -> str | None:
        """The first value of a header."""
        return next(iter(self.all(name)), None)

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value.decode("latin-1") for key, value in self.lines if key.decode().lower() == name.lower()]

    def json(self) -> Any:
        """The body, which must say that it is JSON."""
        assert self.get("content-type") == "application/json"
        return json.loads(self.body)


class HeldQueue(MemoryQueueStore):
    """A queue that fails with ``error`` while it is set, and waits for ``gate``."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        await super().push(bodies, delay_s)


class Gateway:
    """The gateway on fakes; ``routes`` is the world outside, ``variables`` are environment variables."""

    def __init__(self, routes: Mapping[str, Answer | list[Answer]] | None = None, **variables: str) -> None:
        self.clock = FakeClock()
        self.records = MemoryRecords()
        self.telemetry = Recorder()
        self.fetcher = ScriptedFetcher(routes or {})
        self.runtime = Runtime(self.fetcher, clock=self.clock)
        values, _ = read_variables(variables)
        self.agents = AgentDirectory(self.records, self.telemetry, card=values["default_card"], clock=self.clock)
        self.state = State()
        self.state.started = True
        self.env = Env(
            **values,
            records=self.records,
            crypto=HostCrypto(bytes(32)),
            telemetry=self.telemetry,
            agents=self.agents,
            state=self.state,
            clock=self.clock,
            **self._bindings(values),
        )

    def _bindings(self, values: dict[str, Any]) -> dict[str, Any]:
        """What the host binds beside the database, all of it real but for the network and the disk."""
        self.queue = HeldQueue()
        self._pushed: list[ExchangeMessage] = []
        crypto = HostCrypto(bytes(32))
        return {
            "checkpoints": CheckpointLog(self.records, crypto, clock=self.clock),
            "analyst": Analyst.from_values(values, self.telemetry, clock=self.clock),
            "exchanges": ExchangeQueue(Queue(self.queue, max_message_bytes=4 << 20), crypto, self.telemetry),
            "license": LicenseGate.from_values(values, None, self.records, self.telemetry, clock=self.clock),
            "egress": self.fetcher,
            "decoders": {"gzip": GzipDecoder},
        }

    async def pushed(self, count: int) -> list[ExchangeMessage]:
        """Every exchange that was pushed into the queue so far, once there are ``count``; no more may come."""
        async with asyncio.timeout(5):
            while len(self._pushed) < count:
                await asyncio.sleep(0)
                await self._claim()
        await self._claim()
        assert len(self._pushed) == count
        return self._pushed

    async def _claim(self) -> None:
        for claimed in await self.queue.claim(100, 60):
            self._pushed.append(await self.env.exchanges.open(Message.read(claimed).body))

    async def begin(
        self,
        method: str,
        target: str,
        *lines: str,
        body: bytes | ByteSource | None = None,
        overload: str | None = None,
    ) -> Response:
        """The answer, its body unread; each line is ``"name: value"``."""
        raw = [(b"Host", b"gateway.test")]
        for line in lines:
            name, _, value = line.partition(":")
            raw.append((name.encode(), value.strip().encode("latin-1")))
        stream = None
        if body is not None:
            stream = ReadableStream.from_bytes(body) if isinstance(body, bytes) else ReadableStream(body)
        request = Request.incoming(method, target, raw, stream, overload=overload)
        return await self.runtime.fetch(Default, self.env, request)

    async def ask(
        self,
        method: str,
        target: str,
        *lines: str,
        body: bytes | ByteSource | None = None,
        overload: str | None = None,
    ) -> Got:
        """The whole answer."""
        response = await self.begin(method, target, *lines, body=body, overload=overload)
        return Got(response.status, response.headers.raw, await read_response(response))

    async def message(
        self, *lines: str, body: bytes | ByteSource = b"{}", target: str = "/anthropic/v1/messages"
    ) -> Got:
        """A POST to Anthropic's generation endpoint with the usual key."""
        return await self.ask("POST", target, KEY_LINE, *lines, body=body)
