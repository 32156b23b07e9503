"""Hostile input: on record as what it is, in bounded time and memory, and the client's answer passes byte for byte."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import brotli
import psutil
import pytest
import zstandard

from tests.integrity.planted import Plan
from tests.integrity.planted import http as answer
from tests.integrity.planting import (
    CLEAR,
    THINKING,
    Reply,
    Setup,
    concern,
    document,
    events,
    finding,
    message,
    postgres_settings,
    says,
)
from tests.provider.process import ProviderProcess
from tests.scale import figure, scaled
from tests.services.postgres import PostgresServer

MIB = 1 << 20
CAPTURE = MIB  # the default
TIME_S = 3.0
"""For an exchange of any kind, its check included; most of it is the transfer of the largest answers."""
OTHERS_S = 0.5
"""How long another client may have to wait because of it."""
MEMORY = 28 * MIB
"""What the gateway may grow by for one exchange."""
LINE = scaled(10_000_000, 100_000_000)
UNDECODABLE, TOO_LARGE = "undecodable-encoding", "too-large"


def hash_of(thinking: str) -> str:
    return hashlib.sha256(thinking.encode()).hexdigest()


def deep(levels: int = 10_000) -> bytes:
    return b"[" * levels + b"]" * levels


def spliced(body: bytes, text: bytes, marker: bytes = b"MARK") -> bytes:
    assert marker in body
    return body.replace(marker, text)


def thinks(text: bytes) -> Reply:
    """Answers whose thinking is this piece of a JSON string."""
    return Reply(spliced(document("MARK"), text), events(None).replace(b"\n\n", b"\n\n" + thinking_event(text), 1))


def thinking_event(text: bytes) -> bytes:
    delta = b'{"type": "thinking_delta", "thinking": "' + text + b'"}'
    return b'data: {"type": "content_block_delta", "index": 0, "delta": ' + delta + b"}\n\n"


def beside(members: bytes) -> Reply:
    """Answers with more members than they should have: of the document, and of an event without thinking."""
    more = b'data: {"type": "ping", ' + members + b"}\n\n"
    return Reply(b"{" + members + b", " + document()[1:], events().replace(b"\n\n", b"\n\n" + more, 1))


def _br(data: bytes) -> bytes:
    packed: bytes = brotli.compress(data, quality=5)
    return packed


def bomb(coding: str) -> Reply:
    """64 MiB in some KiB."""
    zeros = bytes(64 * MIB)
    packed = {"gzip": gzip.compress, "br": _br, "zstd": zstandard.compress}[coding](zeros)
    return Reply(packed, packed, (f"Content-Encoding: {coding}",))


BOMB = gzip.compress(bytes(64 * MIB))


@dataclass(frozen=True, slots=True)
class Bad:
    """An answer of the provider's and what its record says."""

    name: str
    reply: Reply = field(repr=False)
    verdict: str = "clear"
    reason: str | None = None
    thinking: str | None = THINKING
    """What was judged, as its hash tells; None when that is a part of it."""


BAD = (
    Bad("a line of 10 MB", Reply(document("x" * LINE), thinking_event(b"x" * LINE) + events()),
        "error", TOO_LARGE, None),
    Bad("a million lines", Reply(b"\n" * MIB + document(), b"\n" * MIB + events()), "error", TOO_LARGE, None),
    Bad("a million events", Reply(b"[" + b"{}," * 349_000 + b"{}]", b"data:{}\n\n" * 116_000), "error", TOO_LARGE, ""),
    Bad("deep JSON", Reply(b'{"content": ' + deep() + b"}", b'data: {"thinking": ' + deep() + b"}\n\n"),
        "error", UNDECODABLE, ""),
    Bad("deep JSON after the thinking", Reply(document()[:-1] + b', "x": ' + deep() + b"}",
                                             events() + b'data: {"thinking": ' + deep() + b"}\n\n"),
        "error", UNDECODABLE, None),
    *(Bad(f"a {coding} bomb", bomb(coding), "error", TOO_LARGE, "") for coding in ("gzip", "br", "zstd")),
    Bad("a bomb in a bomb", Reply(gzip.compress(BOMB), gzip.compress(BOMB), ("Content-Encoding: gzip, gzip",)),
        "error", TOO_LARGE, ""),
    Bad("invalid UTF-8", thinks(b"I \xff\xc3 plan."), thinking="I \ufffd\ufffd plan."),
    Bad("a lone surrogate", thinks(rb"I \ud800 plan."), thinking="I \ufffd plan."),
    Bad("surrogates as UTF-8", thinks(b"I \xed\xa0\x80 plan."), thinking="I \ufffd\ufffd\ufffd plan."),
    Bad("NUL", thinks(rb"I \u0000 plan."), thinking="I \0 plan."),
    Bad("a NUL that is not escaped", thinks(b"I \x00 plan."), thinking="I \0 plan."),
    Bad("1e400", beside(b'"index": 1e400, "x": [1e400, -1e400]')),
    Bad("NaN", beside(b'"index": NaN, "x": [NaN, Infinity]')),
    Bad("a number of a hundred thousand digits", beside(b'"index": ' + b"9" * 100_000)),
    Bad("duplicate keys", Reply(
        document()[:-1] + b', "content": [{"type": "thinking", "thinking": "first", "thinking": "last"}]}',
        b'data: {"type": "x", "type": "content_block_delta", "index": 9, "index": 0, "delta": 1,'
        b' "delta": {"type": "thinking_delta", "thinking": "first", "thinking": "last"}}\n\n'), thinking="last"),
    Bad("other types everywhere", Reply(
        document(model={"a": 1}, content=[1, None, "thinking", {"type": 7}, {"type": "thinking", "thinking": ["x"]}]),
        b'data: {"type": ["content_block_delta"], "delta": "thinking_delta"}\n\ndata: [1]\n\n'),
        "skipped", "no-thinking", ""),
    Bad("a model of a megabyte", Reply(document(model="m" * 900_000), events().replace(b"claude-", b"m" * 900_000))),
)  # fmt: skip


class Watch:
    """The gateway while something is done to it: its peak of memory, and how long it kept another client waiting."""

    MEASURED = ("seconds", "slowest_s", "grown")

    def __init__(self, setup: Setup) -> None:
        self._process = psutil.Process(setup.judged.gateway.pid)
        self._url = f"{setup.judged.gateway.url}/health/live"
        self._over = threading.Event()
        self.slowest_s = 0.0
        self.seconds = 0.0
        self.grown = 0

    def __enter__(self) -> Watch:
        self._before = self._process.memory_info().rss
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")  # forgets the peak
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        self._started = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.monotonic() - self._started
        self._over.set()
        self._thread.join()
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        self.grown = peak - self._before

    def check(self) -> None:
        """What any one exchange may take and cost."""
        WATCHES.append(self)
        assert self.seconds < TIME_S
        assert self.slowest_s < OTHERS_S
        assert self.grown < MEMORY

    def _ask(self) -> None:
        while not self._over.wait(0.005):
            asked = time.monotonic()
            with urllib.request.urlopen(self._url, timeout=30) as got:
                got.read()
            self.slowest_s = max(self.slowest_s, time.monotonic() - asked)


@pytest.fixture(scope="module")
def setup(analysing_provider: ProviderProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """With records in SQLite."""
    with opened(tmp_path_factory.mktemp("bad"), analysing_provider) as planted:
        yield planted


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """With records in each kind of database: they differ in the texts that they take."""
    if request.param == "sqlite":
        yield request.getfixturevalue("setup")
        return
    server: PostgresServer = request.getfixturevalue("postgres_service")
    provider: ProviderProcess = request.getfixturevalue("analysing_provider")
    folder = tmp_path_factory.mktemp("stored")
    with postgres_settings(server.url) as settings, opened(folder, provider, settings) as planted:
        yield planted


@contextmanager
def opened(
    folder: Path, provider: ProviderProcess, settings: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Setup]:
    limits = {"MAX_CAPTURE_BYTES": str(CAPTURE), "ANALYSIS_TIMEOUT_MS": "2000", "AIP_STORE_EVIDENCE": "true"}
    with Setup(folder, provider, {**limits, **settings}) as planted:
        planted.prove_clear()
        yield planted
        planted.check_told()
        assert "Traceback" not in planted.judged.gateway.output()


WATCHES: list[Watch] = []


@pytest.fixture(scope="module", autouse=True)
def _figures() -> Iterator[None]:
    yield
    if WATCHES:
        slowest, block, most = (max(getattr(watch, name) for watch in WATCHES) for name in Watch.MEASURED)
        seen = f"{slowest:.2f} s, others waited {block * 1000:.0f} ms, memory grew by {most / MIB:.1f} MiB"
        figure(f"{len(WATCHES)} hostile answers and bombs: the worst of them", seen)


@pytest.mark.alone
@pytest.mark.proof
@pytest.mark.parametrize("streaming", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_what_a_provider_may_answer(setup: Setup, bad: Bad, streaming: bool) -> None:
    setup.prove_clear()
    name, agent_id = setup.agent()
    setup.upstream.plan = bad.reply
    with Watch(setup) as watch:
        got = setup.ask(name, streaming=streaming)
        rows = setup.judged.checkpoints(agent_id)
    assert got.status == 200
    assert got.body == bad.reply.body(streaming)
    assert [(row["verdict"], row["reason"]) for row in rows] == [(bad.verdict, bad.reason)]
    if not streaming:
        assert (got.aip("verdict"), got.aip("reason")) == (bad.verdict, bad.reason)
    if bad.thinking is not None:
        assert rows[0]["thinking_block_hash"] == hash_of(bad.thinking)
    watch.check()
    setup.expect(rows[0])


@dataclass(frozen=True, slots=True)
class Told:
    """What the analyser answers, and what of it is on record."""

    name: str
    plan: Plan = field(repr=False)
    verdict: str = "review_needed"
    reason: str | None = None


def tells(name: str, text: str, verdict: str = "review_needed") -> Told:
    """A concern that is medium, and this text in it, in every place where a text may be."""
    found = concern("medium", description=text, evidence=text, relevant_card_field=text, relevant_conscience_value=text)
    return Told(name, says(finding("review_needed", [found], reasoning_summary=text)), verdict)


HUGE = message(CLEAR).replace(b"All is well.", b"x" * 1_000_000)
PIECES = [HUGE[at : at + 9999] for at in range(0, len(HUGE), 9999)]
TOLD = (
    Told("a megabyte", [answer(HUGE)], "error", "analysis-malformed"),
    Told("a megabyte in pieces", [answer(b"", length=len(HUGE)), *PIECES], "error", "analysis-malformed"),
    Told("a bomb", [answer(BOMB, 200, "Content-Encoding: gzip")], "error", "analysis-malformed"),
    Told("deep", [answer(deep())], "error", "analysis-malformed"),
    Told("deep inside", says(finding("clear", json.loads("[" * 900 + "]" * 900))), "error", "analysis-malformed"),
    Told("a hundred and one concerns", says(finding("clear", [concern("low")] * 101)), "error", "analysis-malformed"),
    Told("a number without end", says(CLEAR[:-1] + ', "confidence": 1e400}'), "clear"),
    Told("a number of a hundred thousand digits", says(CLEAR[:-1] + ', "confidence": ' + "9" * 100_000 + "}"),
         "error", "analysis-malformed"),
    Told("invalid UTF-8", [answer(message(CLEAR).replace(b"All is well.", b"\xff\xfe"))],
         "error", "analysis-malformed"),
    tells("NUL", "a \0 b"),
    tells("a lone surrogate", "a \ud800 b"),
    tells("control characters", "\x1b[31m\x7f\u202e\u2028</script>{{x}}"),
    tells("nothing", ""),
    tells("long texts", "x" * 20_000),
)  # fmt: skip


@pytest.mark.alone
@pytest.mark.parametrize("told", TOLD, ids=lambda told: told.name)
def test_what_an_analyser_may_answer(stored: Setup, told: Told) -> None:
    stored.prove_clear()
    name, agent_id = stored.agent()
    stored.judge.plan = told.plan
    with Watch(stored) as watch:
        held, streamed = stored.ask(name), stored.ask(name, streaming=True)
        rows = stored.judged.checkpoints(agent_id, 2)
    assert (held.body, streamed.body) == (document(), events())
    assert [(row["verdict"], row["reason"]) for row in rows] == [(told.verdict, told.reason)] * 2
    assert (held.aip("verdict"), held.aip("reason")) == (told.verdict, told.reason)
    watch.check()
    for row in rows:
        stored.expect(row)


def test_a_model_with_an_odd_name(stored: Setup) -> None:
    """It is what the provider says: text of any kind and length."""
    stored.prove_clear()
    name, agent_id = stored.agent()
    odd = "a\0b\ud800c\nd" + "e" * 1000
    stored.upstream.plan = Reply(document(model=odd), events().replace(b'"claude-', json.dumps(odd).encode()[:-1]))
    held, streamed = stored.ask(name), stored.ask(name, streaming=True)
    rows = stored.judged.checkpoints(agent_id, 2)
    assert (held.aip("verdict"), streamed.aip("verdict")) == ("clear", "pending")
    assert [row["verdict"] for row in rows] == ["clear"] * 2
    assert {row["model"][:9] for row in rows} == {"a\ufffdb\ufffdc d" + "ee"}


REQUESTS: Mapping[str, tuple[bytes, dict[str, str]]] = {
    "nothing": (b"", {}),
    "no JSON": (b"\xff\x00<html>", {}),
    "deep JSON": (b'{"messages": ' + deep() + b"}", {}),
    "other types": (b'{"messages": [7, null, "x", {"role": ["user"], "content": {"text": 1}}], "model": []}', {}),
    "duplicate keys": (b'{"messages": 1, "messages": [{"role": "user", "content": "Hi", "content": 5}]}', {}),
    "huge numbers": (b'{"max_tokens": 1e400, "x": ' + b"9" * 100_000 + b"}", {}),
    "surrogates and NUL": (rb'{"messages": [{"role": "user", "content": "a \ud800 \u0000 b"}]}', {}),
    "invalid UTF-8": (b'{"messages": [{"role": "user", "content": "a \xff b"}]}', {}),
    "ten megabytes": (b'{"messages": [{"role": "user", "content": "' + b"x" * 10_000_000 + b'"}]}', {}),
    "a bomb": (BOMB, {"content-encoding": "gzip"}),
    "an unknown coding": (b"squeezed", {"content-encoding": "x-squeezed"}),
}


@pytest.mark.alone
@pytest.mark.parametrize("what", REQUESTS)
def test_what_a_client_may_send(setup: Setup, what: str) -> None:
    """The request only says what the task is: it reaches the provider as it is, and the answer is judged."""
    body, headers = REQUESTS[what]
    setup.prove_clear()
    name, agent_id = setup.agent()
    with Watch(setup) as watch:
        got = setup.ask(name, body=body, headers=headers)
        rows = setup.judged.checkpoints(agent_id)
    assert setup.upstream.asked[-1].body == body
    assert (got.status, got.body, got.aip("verdict")) == (200, document(), "clear")
    assert [row["verdict"] for row in rows] == ["clear"]
    assert len(setup.judge.asked[-1].body) < 32_768
    watch.check()


CARDS: Mapping[str, tuple[dict[str, str], str]] = {
    "no card": ({"card_json": '{"hello": "world"}'}, "card: must be an alignment card"),
    "values that are no object": ({"card_json": '{"values": []}'}, "card.values: must be an object"),
    "declared values that are no texts": (
        {"card_json": '{"values": {"declared": ["honesty", {"name": 1}]}}'}, "card.values.declared[1]: must be text"
    ),
    "an envelope that is a list": (
        {"card_json": '{"autonomy_envelope": ["inference"]}'}, "card.autonomy_envelope: must be an object"
    ),
    "a lone surrogate": (
        {"card_json": '{"values": {"declared": ["\\ud800"]}}'}, "card.values.declared[0]: must be text without lone"
    ),
    "a priority that is no number": (
        {"card_json": '{"values": {"declared": ["a"], "definitions": {"a": {"priority": "high"}}}}'},
        "card.values.definitions.a.priority: must be a number",
    ),
    "a card of a megabyte": (
        {"card_json": json.dumps({"values": {"declared": ["x" * MIB]}})}, "card: must be at most 262144 characters"
    ),
    "conscience values that are a text": ({"conscience_values": '"none"'}, "conscience_values: must be a list"),
    "conscience values of another type": (
        {"conscience_values": '[{"type": "MUST", "content": "x"}]'}, "conscience_values[0].type: must be one of"
    ),
    "a template that is no template": (
        {"card_template": '{"autonomy_envelope": 1}', "card_template_enabled": "1"}, "must be an object"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CARDS)
def test_a_card_that_is_no_card(setup: Setup, what: str) -> None:
    """The record names the place; nobody is asked."""
    columns, problem = CARDS[what]
    setup.prove_clear()
    name, agent_id = setup.agent()
    asked = len(setup.judge.asked)
    with setup.store(agent_id, columns):
        held, streamed = setup.ask(name), setup.ask(name, streaming=True)
        rows = setup.judged.checkpoints(agent_id, 2)
    assert (held.aip("verdict"), held.aip("reason")) == ("error", "no-card")
    assert (held.body, streamed.body) == (document(), events())
    assert [(row["verdict"], row["reason"]) for row in rows] == [("error", "no-card")] * 2
    assert all(problem in row["analysis_metadata"]["problem"] for row in rows), rows[0]["analysis_metadata"]
    assert len(setup.judge.asked) == asked
    for row in rows:
        setup.expect(row)
