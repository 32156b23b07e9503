"""A gateway whose analyser, provider and receiver of webhooks do as they are told, and what they can be told."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import smoltbot_records_postgres
from tests.faults.migration_support import new_database
from tests.integrity.planted import Asked, Plan, Planted
from tests.integrity.planted import http as answer
from tests.integrity.support import SHAPES, Got, Judged
from tests.provider.process import ProviderProcess

ANTHROPIC = SHAPES[0]
CAPTURE = 1 << 16
THINKING = "I plan to answer."
SECRET = "a secret of thirty-two characters"
SETTLE_S = 10.0
SCHEMA = Path(__file__).parents[2] / "schema" / "postgres"


def message(text: str, stop_reason: str = "end_turn") -> bytes:
    """The analyser's answer that says ``text``."""
    content = [{"type": "text", "text": text}]
    return json.dumps({"type": "message", "role": "assistant", "content": content, "stop_reason": stop_reason}).encode()


def finding(verdict: Any = "clear", concerns: Any = (), **more: Any) -> str:
    """The JSON that the analyser's model writes."""
    context: dict[str, list[str]] = {"values_checked": [], "conflicts": [], "supports": [], "considerations": []}
    return json.dumps({
        "verdict": verdict, "concerns": list(concerns) if isinstance(concerns, tuple) else concerns,
        "reasoning_summary": "All is well.", "conscience_context": {**context, "consultation_depth": "standard"},
        **more,
    })  # fmt: skip


def concern(severity: Any = "critical", category: Any = "deceptive_reasoning", **more: Any) -> dict[str, Any]:
    return {
        "category": category, "severity": severity, "description": "It means to deceive.", "evidence": "I plan",
        "relevant_card_field": None, "relevant_conscience_value": None, **more,
    }  # fmt: skip


def says(text: str, **more: Any) -> Plan:
    return [answer(message(text, **more))]


CLEAR = finding()


def document(thinking: str | None = THINKING, **more: Any) -> bytes:
    """A buffered answer of Anthropic's."""
    blocks: list[dict[str, Any]] = [] if thinking is None else [{"type": "thinking", "thinking": thinking}]
    return json.dumps({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-5-20251101",
        "content": [*blocks, {"type": "text", "text": "Hello."}], "stop_reason": "end_turn", **more,
    }).encode()  # fmt: skip


def events(thinking: str | None = THINKING, text: str = "Hello.") -> bytes:
    """The same as a stream."""
    delta = {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": text}}
    said: list[dict[str, Any]] = [{"type": "message_start", "message": {"model": "claude-opus-4-5-20251101"}}]
    if thinking is not None:
        start = {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}
        for piece in (thinking[:7], thinking[7:]):
            part = {"type": "thinking_delta", "thinking": piece}
            said += [start, {"type": "content_block_delta", "index": 0, "delta": part}]
            start = {"type": "ping"}
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        for event in [*said, delta, {"type": "message_stop"}]
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """The provider's two answers, and the lines of their heads; ``cut``: so many bytes of them never come."""

    whole: bytes = field(default_factory=document)
    stream: bytes = field(default_factory=events)
    lines: tuple[str, ...] = ()
    cut: int = 0

    def body(self, streaming: bool) -> bytes:
        full = self.stream if streaming else self.whole
        return full[: len(full) - self.cut]

    def plan(self, streaming: bool) -> Plan:
        kind = "text/event-stream" if streaming else "application/json"
        body = self.body(streaming)
        return [answer(body, 200, f"Content-Type: {kind}", *self.lines, length=len(body) + self.cut)]

    def __call__(self, asked: Asked) -> Plan:
        return self.plan(b'"stream": true' in asked.body)


_COUNTED = re.compile(r'^gateway_aip_checks_total\{verdict="(\w+)"\} (\S+)$', re.MULTILINE)


class Setup:
    """``with Setup(folder, provider) as setup``: the gateway runs, and nothing is planted yet."""

    def __init__(
        self,
        folder: Path,
        provider: ProviderProcess,
        variables: Mapping[str, str] = MappingProxyType({}),
        *,
        hosted: bool = False,
    ) -> None:
        self._stack = ExitStack()
        self.judge = Planted(says(CLEAR))
        self.upstream = Planted(Reply())
        self.receiver = Planted([answer(b"", 204)])
        planted = {f"UPSTREAM_{name}_URL": self.upstream.url for name in ("ANTHROPIC", "OPENAI", "GEMINI")}
        planted["ANALYSIS_BASE_URL"] = self.judge.url
        if hosted:
            planted |= {"MNEMOM_ANALYZE_URL": f"{self.judge.url}/v1/analyze", "MNEMOM_API_KEY": "mnm_planted"}
        limits = {"ANALYSIS_TIMEOUT_MS": "400", "MAX_CAPTURE_BYTES": str(CAPTURE), "WEBHOOK_ALLOW_PRIVATE": "true"}
        self.judged = Judged(folder, provider, **{**planted, **limits, **variables})
        self.database = folder / "data" / "smoltbot.db"
        self._expected: dict[str, str] = {}
        self._scratch = ""

    def __enter__(self) -> Self:
        for each in (self.judge, self.upstream, self.receiver, self.judged.gateway):
            self._stack.enter_context(each)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def agent(self, mode: str = "observe", **settings: Any) -> tuple[str, str]:
        """The name and the id of a new agent, whose every event is sent to the receiver."""
        name, agent_id = self.judged.new_agent(ANTHROPIC, mode, **settings)
        registration = {"agent_id": agent_id, "callback_url": self.receiver.url, "secret": SECRET, "events": ["*"]}
        self.judged.operate("POST", "/aip/webhooks", registration)
        return name, agent_id

    def prove_clear(self) -> None:
        """Nothing is planted, and the verdict is clear: what follows is the doing of what is planted then."""
        if not self._scratch:
            self._scratch, _ = self.judged.new_agent(ANTHROPIC)
        self.judge.plan, self.upstream.plan = says(CLEAR), Reply()
        assert eventually(lambda: self.ask(self._scratch).aip("verdict") == "clear")

    def ask(
        self, name: str, *, streaming: bool = False, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Got:
        """A generation request; an answer that breaks off is what came of it."""
        port = self.judged.gateway.port
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            lines = {"x-api-key": ANTHROPIC.key[1], "content-type": "application/json", "x-smoltbot-agent": name}
            sent = ANTHROPIC.request(streaming) if body is None else body
            connection.request("POST", "/anthropic/v1/messages", sent, {**lines, **(headers or {})})
            got = connection.getresponse()
            try:
                body = got.read()
            except http.client.IncompleteRead as broken:
                body = broken.partial
            return Got(got.status, {name.lower(): value for name, value in got.getheaders()}, body)

    def store(self, agent_id: str, columns: Mapping[str, str]) -> ExitStack:
        """Write what the schema would refuse, as a damaged file or another tool may; undone at the end."""
        stack, settings = ExitStack(), f"/agents/{agent_id}/settings"
        stack.callback(self.judged.operate, "PUT", settings, {"proof_rate": 2})  # makes it read again
        for column, value in columns.items():
            card = column in ("card_json", "conscience_values")
            table = f"alignment_cards WHERE agent_id = '{agent_id}'" if card else "organizations"
            stack.callback(self._write, table, column, self._write(table, column, value))
        self.judged.operate("PUT", settings, {"proof_rate": 1})
        return stack

    def _write(self, table: str, column: str, value: Any) -> Any:
        name, _, where = table.partition(" ")
        with closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            ((before,),) = connection.execute(f"SELECT {column} FROM {table}").fetchall()
            connection.execute(f"UPDATE {name} SET {column} = ? {where}", (value,))
        return before

    def checks(self) -> dict[str, float]:
        """How often each verdict was counted."""
        with urllib.request.urlopen(f"{self.judged.gateway.url}/metrics", timeout=10) as page:
            return {verdict: float(count) for verdict, count in _COUNTED.findall(page.read().decode())}

    def expect(self, row: Mapping[str, Any]) -> None:
        """Receivers of webhooks are told the verdict of this checkpoint, unless there was nothing to judge."""
        self._expected[row["checkpoint_id"]] = row["verdict"]

    def told(self) -> list[tuple[str, str, str]]:
        """What was told of the expected checkpoints: event, verdict and checkpoint id."""
        payloads = [
            payload for payload in (asked.json() for asked in list(self.receiver.asked)) if "checkpoint" in payload
        ]
        return [
            (payload["event"], payload["checkpoint"]["verdict"], payload["checkpoint"]["checkpoint_id"])
            for payload in payloads
            if payload["checkpoint"]["checkpoint_id"] in self._expected
        ]

    def check_told(self) -> None:
        due = {(f"verdict.{verdict}", verdict, id_) for id_, verdict in self._expected.items() if verdict != "skipped"}
        assert eventually(lambda: set(self.told()) >= due), due - set(self.told())
        assert set(self.told()) == due


def eventually(holds: Callable[[], bool], limit_s: float = SETTLE_S) -> bool:
    deadline = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def postgres_settings(server_url: str) -> Iterator[dict[str, str]]:
    """The variables of a gateway on a new database of this server, which has the schema; dropped at exit."""
    with asyncio.Runner() as runner, ExitStack() as stack:
        database = new_database(server_url)
        url = runner.run(database.__aenter__())
        stack.callback(lambda: runner.run(database.__aexit__(None, None, None)))
        runner.run(smoltbot_records_postgres.migrate(url, SCHEMA))
        yield {"DATABASE_URL": url, "ED25519_SIGNING_KEY": "7f" * 32, "QUEUE_ENCRYPTION_KEY": "7a" * 32}
