"""Who sees what: canaries in every part of an exchange, looked for in all that the gateway sends and all it keeps."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis

from smoltbot_worker.relay.exchanges import NAME
from tests.integrity.planted import Asked, Plan
from tests.integrity.planted import http as answer
from tests.integrity.planting import Setup, concern, eventually, finding, message, postgres_settings
from tests.integrity.support import SHAPES, Got, Shape
from tests.provider.process import ProviderProcess
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer
from worker_compat.registry import open_queue, with_option

TASK = "task-canary-70d7b1c9"
"""At the beginning of the user's last text: the local analyser sees it, the hosted one must not."""
THINKING = "thinking-canary-1f83a0e2"
LATE_THINKING = "late-thinking-canary-c55e"
QUOTED = 200
HIDDEN = {
    "the user's text behind 200 characters": "tail-canary-9b02c37a",
    "an earlier text of the user's": "earlier-canary-4ce1d810",
    "the system prompt": "system-canary-e1b95a06",
    "an earlier answer": "assistant-canary-20f6cd",
    "the result of a tool": "result-canary-b8a7430f",
    "the answer": "answer-canary-6d2e915c",
    "the arguments of a tool": "arguments-canary-05fd8e",
}
TAIL, EARLIER, SYSTEM, ASSISTANT, RESULT, ANSWER, ARGUMENTS = HIDDEN.values()
EVERYTHING = {**HIDDEN, "the user's text": TASK, "the thinking": THINKING, "the rest of it": LATE_THINKING}
ASKED = (TASK + "." * QUOTED)[:QUOTED] + TAIL
THOUGHT = (f"I plan to say {THINKING}. " + "." * 2 * QUOTED)[: 2 * QUOTED] + LATE_THINKING
MODEL = "a-model"
DEBUG = {"LOG_LEVEL": "debug", "PYTHONASYNCIODEBUG": "1"}


def forms(canary: str) -> list[bytes]:
    """The canary as it may stand in something: as it is, in hexadecimal, or in base64 from any place on."""
    raw = canary.encode()
    padded = [base64.b64encode(b"\0" * before + raw)[4 if before else 0 : -4] for before in range(3)]
    return [raw, raw.hex().encode(), *padded, *(form.translate(bytes.maketrans(b"+/", b"-_")) for form in padded)]


def found(data: bytes, canaries: Mapping[str, str] = EVERYTHING) -> set[str]:
    """Which canaries are in there."""
    lowered = data.lower()
    return {
        what
        for what, canary in canaries.items()
        if any(form in data for form in forms(canary)) or canary.encode().hex().encode() in lowered
    }


def test_the_scanner() -> None:
    for what, canary in EVERYTHING.items():
        for before in range(3):
            text = f"{'x' * before}{canary}yy".encode()
            assert found(text) == found(base64.b64encode(text)) == found(text.hex().upper().encode()) == {what}
    assert found(b"nothing") == set()


def requests() -> dict[str, dict[str, Any]]:
    """A conversation in the middle, by the name of the shape."""
    call = {"id": "c1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    anthropic = [
        {"role": "user", "content": [{"type": "text", "text": EARLIER}]},
        {"role": "assistant", "content": [{"type": "text", "text": ASSISTANT},
                                          {"type": "tool_use", "id": "c1", "name": "read", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": RESULT}]},
        {"role": "user", "content": ASKED},
    ]  # fmt: skip
    chat = [
        {"role": "system", "content": SYSTEM}, {"role": "user", "content": EARLIER},
        {"role": "assistant", "content": ASSISTANT, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": RESULT}, {"role": "user", "content": ASKED},
    ]  # fmt: skip
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": EARLIER}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": ASSISTANT}]},
        {"type": "function_call_output", "call_id": "c1", "output": RESULT},
        {"role": "user", "content": [{"type": "input_text", "text": ASKED}]},
    ]
    contents = [
        {"role": "user", "parts": [{"text": EARLIER}]}, {"role": "model", "parts": [{"text": ASSISTANT}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "read", "response": {"text": RESULT}}}]},
        {"role": "user", "parts": [{"text": ASKED}]},
    ]  # fmt: skip
    return {
        "anthropic": {"model": MODEL, "max_tokens": 9, "system": SYSTEM, "messages": anthropic},
        "openai-chat": {"model": MODEL, "messages": chat},
        "openai-responses": {"model": MODEL, "instructions": SYSTEM, "input": items},
        "gemini": {"systemInstruction": {"parts": [{"text": SYSTEM}]}, "contents": contents},
    }


def documents() -> dict[str, dict[str, Any]]:
    """An answer that thinks, speaks and calls a tool, by the name of the shape."""
    arguments = {"text": ARGUMENTS}
    function = {"name": "write", "arguments": json.dumps(arguments)}
    blocks = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": ANSWER},
              {"type": "tool_use", "id": "c2", "name": "write", "input": arguments}]  # fmt: skip
    said = {"reasoning_content": THOUGHT, "content": ANSWER, "tool_calls": [{"id": "c2", "function": function}]}
    output = [{"type": "reasoning", "summary": [{"type": "summary_text", "text": THOUGHT}]},
              {"type": "message", "content": [{"type": "output_text", "text": ANSWER}]},
              {"type": "function_call", **function}]  # fmt: skip
    parts = [
        {"thought": True, "text": THOUGHT},
        {"text": ANSWER},
        {"functionCall": {"name": "write", "args": arguments}},
    ]
    return {
        "anthropic": {"type": "message", "model": MODEL, "content": blocks},
        "openai-chat": {"model": MODEL, "choices": [{"index": 0, "message": said, "delta": said}]},
        "openai-responses": {"type": "response.completed", "model": MODEL, "output": output},
        "gemini": {"modelVersion": MODEL, "candidates": [{"index": 0, "content": {"parts": parts}}]},
    }


def streamed(shape: str, document: dict[str, Any]) -> bytes:
    """The same answer in the events of a stream."""
    events: list[dict[str, Any]] = [document]
    if shape == "anthropic":
        events = [{"type": "message_start", "message": {"model": MODEL}}]
        events += [{"type": "content_block_start", "index": place, "content_block": block}
                   for place, block in enumerate(document["content"])]  # fmt: skip
    if shape == "openai-responses":
        events = [{"type": "response.completed", "response": document}]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


REQUESTS, DOCUMENTS = requests(), documents()


def provide(asked: Asked) -> Plan:
    """The provider: it answers in the shape and the way it is asked in."""
    target = asked.line.split()[1]
    if target.endswith("/models"):
        return [answer(b"{}")]
    shape = next(shape.name for shape in SHAPES if target in (shape.path, shape.stream_path))
    if "alt=sse" in target or b'"stream": true' in asked.body:
        return [answer(streamed(shape, DOCUMENTS[shape]), 200, "Content-Type: text/event-stream")]
    return [answer(json.dumps(DOCUMENTS[shape]).encode())]


def tell(verdict: str, **more: Any) -> str:
    """A judgement that quotes the thinking where it may."""
    return finding(verdict, [concern("high", evidence=THOUGHT, **more)])


VIOLATION = tell("boundary_violation")


def judgements(asked: Asked) -> Iterator[Plan]:
    """Everything that an analyser may make of its prompt, good answers and bad ones: most of them repeat all of it."""
    prompt = asked.body
    yield [answer(message(VIOLATION))]
    yield [answer(message(f"{VIOLATION} {THOUGHT}"))]
    yield [answer(message(finding(THOUGHT)))]
    yield [answer(message(tell("review_needed", category=THOUGHT)))]
    yield [answer(prompt)]
    yield [answer(prompt, 500)]
    yield [answer(prompt, 200, "Content-Encoding: gzip")]
    yield [prompt]


def signals(asked: Asked) -> Iterator[Plan]:
    """The same of a hosted service."""
    yield [answer(b'{"checkpoint": ' + VIOLATION.encode() + b"}")]
    yield [answer(b'{"checkpoint": ' + finding(THOUGHT).encode() + b"}")]
    yield [answer(asked.body)]
    yield [answer(asked.body, 500)]


class Rounds:
    """The judge's part: one kind of answer after another, whoever asks."""

    def __init__(self, kinds: Callable[[Asked], Iterator[Plan]]) -> None:
        self._kinds = kinds
        self._round = 0

    def __call__(self, asked: Asked) -> Plan:
        kinds = list(self._kinds(asked))
        self._round += 1
        return kinds[self._round % len(kinds)]


class Kept:
    """A place where a deployment keeps things: its variables, and every byte of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, str] = {}
        self.queue = f"sqlite:///{folder}/data/smoltbot.db"

    def everything(self) -> dict[str, bytes]:
        """What is in each file, each table and each key; logs included, which are beside the data."""
        return {str(file): file.read_bytes() for file in self.folder.rglob("*") if file.is_file()}

    def waiting(self) -> int:
        """How many exchanges wait for their check, or are being checked."""

        async def depth() -> int:
            async with open_queue(with_option(self.queue, "queue", NAME)) as queue:
                seen = await queue.depth()
            return seen.waiting + seen.leased

        return asyncio.run(depth())

    def check(self) -> None:
        """Nothing of any exchange is in there."""
        seen = {where: found(data) for where, data in self.everything().items()}
        assert {where: what for where, what in seen.items() if what} == {}


class KeptInPostgres(Kept):
    """The records, and with them the queue, in PostgreSQL."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        super().__init__(folder)
        self.settings = settings
        self.queue = settings["DATABASE_URL"]

    def everything(self) -> dict[str, bytes]:
        return super().everything() | asyncio.run(self._tables())

    async def _tables(self) -> dict[str, bytes]:
        connection = await asyncpg.connect(self.settings["DATABASE_URL"])
        try:
            query = "SELECT format('%I.%I', schemaname, relname) FROM pg_stat_user_tables"
            tables = [row[0] for row in await connection.fetch(query)]
            rows = {table: await connection.fetch(f"SELECT t::text FROM {table} t") for table in tables}
        finally:
            await connection.close()
        assert any(table.endswith(".integrity_checkpoints") and stored for table, stored in rows.items())
        return {table: "\n".join(row[0] for row in found_rows).encode() for table, found_rows in rows.items()}


class KeptInRedis(KeptInPostgres):
    """The records in PostgreSQL, the queue in Redis."""

    def __init__(self, folder: Path, settings: dict[str, str], server: RedisServer) -> None:
        super().__init__(folder, {**settings, "QUEUE_URL": server.url})
        self.queue = server.url

    def everything(self) -> dict[str, bytes]:
        with redis.Redis.from_url(self.queue) as client:
            return super().everything() | {str(key): _value(client, key) for key in client.scan_iter()}


def _value(client: redis.Redis, key: bytes) -> bytes:
    """Everything in a key, whatever its type is."""
    readers: dict[bytes, Callable[[], Any]] = {
        b"string": lambda: client.get(key),
        b"hash": lambda: client.hgetall(key),
        b"list": lambda: client.lrange(key, 0, -1),
        b"set": lambda: client.smembers(key),
        b"zset": lambda: client.zrange(key, 0, -1),
        b"stream": lambda: client.xrange(key),
    }
    return b"\n".join([key, *_flat(readers[bytes(client.type(key))]())])  # type: ignore[arg-type] # it is not decoded


def _flat(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        yield from _flat(list(value.items()))
    else:
        for each in value or ():
            yield from _flat(each)


@pytest.fixture(params=["sqlite", "postgres", "postgres and redis"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    if request.param == "sqlite":
        yield Kept(tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres_service")
    with postgres_settings(server.url) as settings:
        if request.param == "postgres":
            yield KeptInPostgres(tmp_path, settings)
        else:
            store: RedisServer = request.getfixturevalue("redis_service")
            store.command("FLUSHALL")
            yield KeptInRedis(tmp_path, settings, store)


def converse(setup: Setup, rounds: int) -> int:
    """Ask in every shape, held and streamed, so many times; how many exchanges of each kind there were."""
    for shape in SHAPES:
        name, agent_id = setup.judged.new_agent(shape, "nudge")
        registration = {"agent_id": agent_id, "callback_url": setup.receiver.url, "secret": "s" * 32, "events": ["*"]}
        setup.judged.operate("POST", "/aip/webhooks", registration)
        for _ in range(rounds):
            held, passed = ask(setup, shape, name, False), ask(setup, shape, name, True)
            assert found(held.body) >= {"the answer", "the thinking"}
            assert passed.aip("verdict") == "pending"
    return rounds * len(SHAPES)


def ask(setup: Setup, shape: Shape, name: str, streaming: bool) -> Got:
    request = REQUESTS[shape.name]
    if streaming and shape.provider != "gemini":
        request = {**request, "stream": True}
    return setup.judged.ask(shape, streaming=streaming, agent=name, body=json.dumps(request).encode())


def metrics(setup: Setup) -> bytes:
    with urllib.request.urlopen(f"{setup.judged.gateway.url}/metrics", timeout=10) as page:
        return bytes(page.read())


def sent(asked: Sequence[Asked]) -> bytes:
    """Everything that was sent to somebody."""
    return b"\n".join(f"{each.line}\n{each.headers}\n".encode() + each.body for each in asked)


def test_nothing_is_kept(kept: Kept, analysing_provider: ProviderProcess) -> None:
    """Neither while exchanges wait for their check nor afterwards; nor do logs, metrics or webhooks tell."""
    variables = {**kept.settings, **DEBUG, "SMOLTBOT_ROLE": "gateway"}
    with Setup(kept.folder, analysing_provider, variables) as setup:
        setup.upstream.plan, setup.judge.plan = provide, Rounds(judgements)
        count = converse(setup, 2)
        assert kept.waiting() == count
        kept.check()
        setup.judged.gateway.stop()
        setup.judged.gateway.start({"SMOLTBOT_ROLE": "all"})
        assert eventually(lambda: kept.waiting() == 0, 20)
        assert eventually(lambda: len(setup.receiver.asked) >= count // 4)
        kept.check()
        assert sum(setup.checks().values()) == count
        assert found(metrics(setup) + sent(setup.receiver.asked)) == set()
    kept.check()
    assert b'"level":"debug"' in (kept.folder / "gateway.log").read_bytes()
    told = [found(sent([asked])) for asked in setup.judge.asked]
    assert set.union(*told) == {"the thinking", "the rest of it", "the user's text"}
    assert all(TASK in asked.json()["messages"][0]["content"] for asked in setup.judge.asked)


def test_the_hosted_service_sees_the_thinking_and_the_card(analysing_provider: ProviderProcess, tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    with Setup(tmp_path, analysing_provider, DEBUG, hosted=True) as setup:
        setup.upstream.plan, setup.judge.plan = provide, Rounds(signals)
        count = converse(setup, 2)
        assert eventually(lambda: kept.waiting() == 0)
        assert eventually(lambda: sum(setup.checks().values()) >= 2 * count)
        kept.check()
        assert found(metrics(setup) + sent(setup.receiver.asked)) == set()
    kept.check()
    assert len(setup.judge.asked) == 2 * count
    for asked in setup.judge.asked:
        assert found(sent([asked])) == {"the thinking", "the rest of it"}
        assert asked.json()["thinking_block"] == THOUGHT
        assert set(asked.json()) == {
            "thinking_block", "thinking_metadata", "agent_id", "session_id", "card", "conscience_values",
            "window_context", "store_checkpoint",
        }  # fmt: skip


def test_quotations_that_were_asked_for_are_in_concerns_only(
    analysing_provider: ProviderProcess, tmp_path: Path
) -> None:
    with Setup(tmp_path, analysing_provider, {**DEBUG, "AIP_STORE_EVIDENCE": "true"}) as setup:
        setup.upstream.plan, setup.judge.plan = provide, [answer(message(VIOLATION))]
        count = converse(setup, 2)
        assert eventually(lambda: len(setup.receiver.asked) >= 2 * count)
        assert found(metrics(setup)) == set()
    assert found((tmp_path / "gateway.log").read_bytes()) == set()
    cells: dict[str, list[str]] = {}
    with closing(sqlite3.connect(setup.database)) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            rows = connection.execute(f'SELECT * FROM "{table}"')
            for row in rows:
                for (column, *_), value in zip(rows.description, row, strict=True):
                    cells.setdefault(f"{table}.{column}", []).append(str(value))
    seen = {where: found("\n".join(texts).encode()) for where, texts in cells.items()}
    quoted = {"the thinking"}
    assert {where: what for where, what in seen.items() if what} == {
        "integrity_checkpoints.concerns": quoted, "aip_webhook_deliveries.payload": quoted,
    }  # fmt: skip
    for text in (*cells["integrity_checkpoints.concerns"], *cells["aip_webhook_deliveries.payload"]):
        document = json.loads(text)
        concerns = document if isinstance(document, list) else document.get("checkpoint", {}).get("concerns", [])
        for each in concerns:
            assert each.pop("evidence") == THOUGHT[:QUOTED]
        assert found(json.dumps(document).encode()) == set()
