"""What the tests of the gateway share: a database of dictionaries, a telemetry that remembers, a gateway on both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from smoltbot_host.crypto import HostCrypto
from smoltbot_worker.admission.agents import AgentDirectory
from smoltbot_worker.env import Env, read_variables
from smoltbot_worker.events import Event
from smoltbot_worker.gateway import Default
from smoltbot_worker.health import State
from smoltbot_worker.ports import Json
from worker_compat.headers import RawHeaders
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import Runtime
from worker_compat.streams import ByteSource, ReadableStream
from worker_compat.testing import FakeClock, ScriptedFetcher, read_response
from worker_compat.testing.fakes import Answer

ANTHROPIC = "https://api.anthropic.com"
OPENAI = "https://api.openai.com"
GEMINI = "https://generativelanguage.googleapis.com"
MESSAGES = f"POST {ANTHROPIC}/v1/messages"

KEY = "sk-ant-example-000"
HASH = "9d08aa51eb89d283"
AGENT = "smolt-9d08aa51"
KEY_LINE = f"x-api-key: {KEY}"

E = TypeVar("E")


class MemoryRecords:
    """The database functions over dictionaries.

    ``calls`` has every call; ``error`` is raised by each one while it is set, ``gate`` holds each one back.
    ``settings`` are columns of agents made from now on.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.agents: dict[str, dict[str, Json]] = {}
        self.cards: dict[str, Json] = {}
        self.seen: dict[str, str] = {}
        self.settings: dict[str, Json] = {}
        self.error: BaseException | None = None
        self.gate: asyncio.Event | None = None
        self.called = asyncio.Event()

    def count(self, function: str) -> int:
        """How often a function was called."""
        return sum(name == function for name, _ in self.calls)

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        self.calls.append((function, dict(arguments)))
        self.called.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        match function:
            case "get_or_create_agent":
                return self._get_or_create(dict(arguments))
            case "touch_agents":
                return self._touch(dict(arguments)["seen"])
            case "ping":
                return {"ok": True, "schema": "0001_agents_and_cards.sql"}
        raise LookupError(function)

    def _get_or_create(self, given: dict[str, Json]) -> Json:
        digest = str(given["agent_hash"])
        is_new = digest not in self.agents
        if is_new:
            row: dict[str, Json] = {"id": f"smolt-{digest[:8]}", "agent_hash": digest, "name": given["name"]}
            self.agents[digest] = {**row, "aip_enabled": True, "aap_enabled": True, **self.settings}
            self.cards[digest] = given["card"]
        return {"agent": self.agents[digest], "is_new": is_new}

    def _touch(self, pairs: Any) -> Json:
        for agent_id, at in pairs:
            self.seen[agent_id] = max(at, self.seen.get(agent_id, ""))
        return len(pairs)


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
        )

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
