"""A gateway whose answers are judged, asked in every wire format, and what it recorded."""

from __future__ import annotations

import http.client
import itertools
import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gateway_process import GatewayProcess
from tests.provider.process import ProviderProcess

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_names = itertools.count()

ADMIN = "admin-token-of-a-test"
RECORD_LIMIT_S = 10.0
"""How long the record of a stream may take to appear."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A wire format: where it is asked, how it says "stream", and how it carries the user's text."""

    name: str
    provider: str
    path: str
    stream_path: str
    key: tuple[str, str]
    body: dict[str, Any]
    nudge_at: str
    """Where a nudge ends up in the request, as a JSON pointer's first part."""

    def request(self, streaming: bool) -> bytes:
        """The request's body; Gemini says in its path that it streams."""
        body = dict(self.body)
        if streaming and self.provider != "gemini":
            body["stream"] = True
        return json.dumps(body).encode()


SHAPES = (
    Shape(
        "anthropic", "anthropic", "/v1/messages", "/v1/messages", ("x-api-key", "sk-ant-integrity"),
        {"model": "claude-opus-4-5-20251101", "max_tokens": 2048, "messages": [{"role": "user", "content": "Hello"}]},
        "system",
    ),
    Shape(
        "openai-chat", "openai", "/v1/chat/completions", "/v1/chat/completions",
        ("Authorization", "Bearer sk-integrity"),
        {"model": "gpt-5", "messages": [{"role": "user", "content": "Hello"}]},
        "messages",
    ),
    Shape(
        "openai-responses", "openai", "/v1/responses", "/v1/responses", ("Authorization", "Bearer sk-integrity"),
        {"model": "gpt-5", "input": "Hello", "reasoning": {"summary": "auto"}},
        "instructions",
    ),
    Shape(
        "gemini", "gemini", "/v1beta/models/gemini-2.5-pro:generateContent",
        "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse", ("x-goog-api-key", "AIza-integrity"),
        {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]},
        "systemInstruction",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Got:
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def aip(self, name: str) -> str | None:
        """``X-AIP-{name}``."""
        return self.headers.get(f"x-aip-{name}")

    @property
    def agent(self) -> str:
        return self.headers["x-smoltbot-agent"]

    def json(self) -> Any:
        return json.loads(self.body)


def send(port: int, path: str, body: bytes, headers: Mapping[str, str], method: str = "POST") -> Got:
    """One request on a connection of its own; the whole answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return Got(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


class Judged:
    """A gateway process with a scripted provider behind it, which is the analyser as well."""

    def __init__(self, folder: Path, provider: ProviderProcess, **variables: str) -> None:
        self.provider = provider
        self.folder = folder
        upstreams = {f"UPSTREAM_{name}_URL": provider.url for name in ("ANTHROPIC", "OPENAI", "GEMINI")}
        judge = {"ANTHROPIC_API_KEY": "sk-ant-judge", "ANALYSIS_BASE_URL": provider.analyser_url}
        self.gateway = GatewayProcess(folder, {**upstreams, **judge, "ADMIN_TOKEN": ADMIN, **variables})

    def ask(
        self,
        shape: Shape,
        *,
        streaming: bool = False,
        agent: str | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **script: Any,
    ) -> Got:
        """A generation request of the agent called ``agent``; ``script`` is what the provider does."""
        path = f"/{shape.provider}{shape.stream_path if streaming else shape.path}"
        lines = {shape.key[0]: shape.key[1], "content-type": "application/json", **(headers or {})}
        if agent is not None:
            lines["x-smoltbot-agent"] = agent
        if script:
            lines["x-script"] = json.dumps(script)
        return send(self.gateway.port, path, shape.request(streaming) if body is None else body, lines)

    def straight(self, shape: Shape, *, streaming: bool = False, **script: Any) -> Got:
        """The provider's answer to the same request without a gateway."""
        lines = {shape.key[0]: shape.key[1], "content-type": "application/json", "x-script": json.dumps(script)}
        path = shape.stream_path if streaming else shape.path
        return send(self.provider.port, path, shape.request(streaming), lines)

    def operate(self, method: str, path: str, body: Any = None) -> Any:
        """An operator's call of ``/v1``; its answer, which must be a success."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.gateway.url}/v1{path}", data, {"Authorization": f"Bearer {ADMIN}"}, method=method
        )
        with _OPENER.open(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def new_agent(self, shape: Shape, mode: str = "observe", **settings: Any) -> tuple[str, str]:
        """The name and the id of a new agent in this mode; it has no checkpoint yet."""
        name = f"agent-{next(_names)}"
        got = send(
            self.gateway.port,
            f"/{shape.provider}/v1/models",
            b"",
            {shape.key[0]: shape.key[1], "x-smoltbot-agent": name},
            "GET",
        )
        if mode != "observe":
            self.operate("PUT", f"/agents/{got.agent}/enforcement", {"mode": mode})
        if settings:
            self.operate("PUT", f"/agents/{got.agent}/settings", settings)
        return name, got.agent

    def checkpoints(self, agent_id: str, count: int = 1) -> list[dict[str, Any]]:
        """The agent's checkpoints, the oldest first, once there are ``count``."""
        found: list[dict[str, Any]] = []

        def enough() -> bool:
            found[:] = self.operate("GET", f"/agents/{agent_id}/checkpoints?limit=1000")["checkpoints"]
            return len(found) >= count

        self.wait_for(enough)
        return found[::-1]

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Poll until it happened, or long enough that it will not."""
        deadline = time.monotonic() + RECORD_LIMIT_S
        while not happened() and time.monotonic() < deadline:
            time.sleep(0.02)

    def metric(self, name: str) -> float:
        """The value of a metric, labels and all; 0 while it is not there."""
        with _OPENER.open(f"{self.gateway.url}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.rpartition(" ")[2])
        return 0.0
