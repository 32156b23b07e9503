"""Nudges between real processes: each is told exactly once, waits while it cannot be told, and is not told too late."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import random
import re
import socket
import sqlite3
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from tests.gateway_process import free_port
from tests.integrity.support import SHAPES, Got, Judged, Shape
from tests.provider.process import ProviderProcess
from tests.scale import figure, scaled

MARKER = "[INTEGRITY NOTICE — Conscience Protocol]"
VIOLATION = "JUDGE:boundary_violation"
FINE = "I plan to answer."
ANTHROPIC = SHAPES[0]
PARALLEL = 50
LIMIT_S = 10.0

_NUMBER = re.compile(rb"<(\d+)>")
_CHECKPOINT = re.compile(r"Checkpoint (ic-[0-9a-f-]{36}):")


def by_name(shape: Shape) -> str:
    return shape.name


def at_once(count: int, ask: Callable[[int], Got]) -> list[Got]:
    """So many requests that leave together."""
    barrier = Barrier(count)

    def one(number: int) -> Got:
        barrier.wait()
        return ask(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def twice(member: str, body: bytes) -> bytes:
    """A body that has this member twice more; nobody knows which one counts."""
    return b'{"%b":null,"%b":null,' % (member.encode(), member.encode()) + body[1:]


def violate(judged: Judged, shape: Shape, name: str, agent_id: str, count: int = 1) -> list[str]:
    """Violations one after another, in requests that cannot carry a nudge; the ids of their checkpoints."""
    before = len(judged.checkpoints(agent_id, 0))
    body = twice(shape.nudge_at, shape.request(False))
    for _ in range(count):
        got = judged.ask(shape, agent=name, body=body, thinking=VIOLATION)
        assert (got.aip("verdict"), got.aip("nudge-count")) == ("boundary_violation", None)
    return [row["checkpoint_id"] for row in judged.checkpoints(agent_id, before + count)[before:]]


def bodies(provider: ProviderProcess) -> list[bytes]:
    """What the provider was asked since its last reset."""
    asked = [request for request in provider.requests() if request["line"].startswith("POST ")]
    return [base64.b64decode(request["body"] or "") for request in asked]


def told(provider: ProviderProcess) -> list[list[str]]:
    """Of each request at the provider that carries a notice, the checkpoints that it names."""
    return [found for body in bodies(provider) if (found := named(body))]


def named(body: bytes) -> list[str]:
    text = body.decode(errors="replace")
    return _CHECKPOINT.findall(text) if json.dumps(MARKER)[1:-1] in text else []


def counted(answers: Iterable[Got]) -> list[int]:
    """``X-AIP-Nudge-Count`` of the answers that have it."""
    return [int(count) for got in answers if (count := got.aip("nudge-count"))]


def states(folder: Path, agent_id: str) -> Counter[str]:
    """How many of the agent's nudges are in which state."""
    with closing(sqlite3.connect(folder / "data" / "smoltbot.db")) as connection:
        rows = connection.execute("SELECT status FROM enforcement_nudges WHERE agent_id = ?", (agent_id,))
        return Counter(status for (status,) in rows)


def until_states(folder: Path, agent_id: str, **expected: int) -> None:
    """Settling follows the answer."""
    deadline = time.monotonic() + LIMIT_S
    while (seen := states(folder, agent_id)) != expected:
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)


def delivered_later(judged: Judged, shape: Shape, name: str) -> Got:
    """The first request that carries nudges again."""
    deadline = time.monotonic() + LIMIT_S
    while not counted([got := judged.ask(shape, agent=name, thinking=FINE)]):
        assert time.monotonic() < deadline
    return got


@pytest.fixture(scope="module")
def second(judged: Judged, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    """Another gateway on the same data."""
    shared = str(judged.folder / "data")
    setup = Judged(tmp_path_factory.mktemp("second"), judged.provider, ANALYSIS_TIMEOUT_MS="500", DATA_DIR=shared)
    with setup.gateway:
        yield setup


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    """A gateway of little patience, and a provider that can be stopped and started again where it was."""
    with ProviderProcess(free_port()) as provider:
        setup = Judged(tmp_path_factory.mktemp("fragile"), provider, UPSTREAM_READ_TIMEOUT_S="1")
        with setup.gateway:
            yield setup


@pytest.mark.proof
class TestOnce:
    """Five nudges wait, and fifty requests of their agent come at once."""

    def test_on_one_process(self, judged: Judged) -> None:
        self.rounds([judged], "one process")

    def test_on_two_processes(self, judged: Judged, second: Judged) -> None:
        self.rounds([judged, second], "two processes on one SQLite file")

    def rounds(self, gateways: Sequence[Judged], where: str) -> None:
        count, carriers = scaled(3, 50), 0
        for number in range(count):
            carriers += self.round(gateways, SHAPES[number % 4])
        figure(f"{PARALLEL} parallel requests, 5 pending nudges, {where}", f"{count} rounds: {carriers} carried all")

    def round(self, gateways: Sequence[Judged], shape: Shape) -> int:
        """How many requests carried nudges."""
        first, provider = gateways[0], gateways[0].provider
        name, agent_id = first.new_agent(shape, "nudge")
        pending = violate(first, shape, name, agent_id, 5)
        provider.reset()
        answers = at_once(
            PARALLEL, lambda number: gateways[number % len(gateways)].ask(shape, agent=name, thinking=FINE)
        )
        assert {got.status for got in answers} == {200}
        seen = told(provider)
        assert Counter(ident for found in seen for ident in found) == Counter(pending)
        assert sorted(counted(answers)) == sorted(map(len, seen))
        until_states(first.folder, agent_id, delivered=5)
        assert not counted([gateway.ask(shape, agent=name, thinking=FINE) for gateway in gateways])
        return len(seen)

    def test_more_than_a_request_carries(self, judged: Judged) -> None:
        """The oldest five first, the others with the next one."""
        name, agent_id = judged.new_agent(ANTHROPIC, "nudge")
        pending = violate(judged, ANTHROPIC, name, agent_id, 7)
        judged.provider.reset()
        answers = [judged.ask(ANTHROPIC, agent=name, thinking=FINE) for _ in range(3)]
        assert counted(answers) == [5, 2]
        assert told(judged.provider) == [pending[:5], pending[5:]]


class TestTwoProcesses:
    def test_what_one_finds_the_other_tells(self, judged: Judged, second: Judged) -> None:
        """Whether the other has met the agent or not; a process that has hears of it within a second."""
        name, agent_id = judged.new_agent(ANTHROPIC, "nudge")
        violate(judged, ANTHROPIC, name, agent_id)
        assert second.ask(ANTHROPIC, agent=name, thinking=FINE).aip("nudge-count") == "1"
        violate(judged, ANTHROPIC, name, agent_id)
        found = time.monotonic()
        delivered_later(second, ANTHROPIC, name)
        assert time.monotonic() - found < 1.5
        assert judged.ask(ANTHROPIC, agent=name, thinking=FINE).aip("nudge-count") is None
        until_states(judged.folder, agent_id, delivered=2)

    @pytest.mark.proof
    def test_violations_failures_and_deliveries_mixed(self, judged: Judged, second: Judged) -> None:
        """Whatever comes between, each violation is told by one request that the provider took, and by one only."""
        name, agent_id = judged.new_agent(ANTHROPIC, "nudge")
        gateways, chance, count = (judged, second), random.Random(4), scaled(80, 800)
        scripts: list[dict[str, Any]] = [{"thinking": FINE}, {"thinking": VIOLATION}, {"status": 500}]
        kinds = chance.choices(scripts, k=count)

        def ask(number: int) -> Got:
            body = {**ANTHROPIC.body, "messages": [{"role": "user", "content": f"<{number}>"}]}
            return gateways[number % 2].ask(ANTHROPIC, agent=name, body=json.dumps(body).encode(), **kinds[number])

        judged.provider.reset()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(count)))
        asked = {int(found[1]): named(body) for body in bodies(judged.provider) if (found := _NUMBER.search(body))}
        violations = [got.headers["x-aip-checkpoint-id"] for got in answers if got.aip("proceed") == "false"]
        assert [len(asked[number]) or None for number in range(count)] == [
            int(got.aip("nudge-count") or 0) or None for got in answers
        ]
        taken = [ident for number, got in enumerate(answers) if got.status == 200 for ident in asked[number]]
        judged.provider.reset()
        deadline = time.monotonic() + LIMIT_S
        while states(judged.folder, agent_id) != {"delivered": len(violations)}:
            assert time.monotonic() < deadline
            judged.ask(ANTHROPIC, agent=name, thinking=FINE)
        taken += [ident for found in told(judged.provider) for ident in found]
        assert Counter(taken) == Counter(violations)
        given_back = sum(len(asked[number]) for number, got in enumerate(answers) if got.status == 500)
        seen = f"{len(violations)} nudges, {given_back} times given back; each taken once"
        figure(f"{count} requests of one agent on two processes: good, violating and failing upstream", seen)


def fails_with_500(judged: Judged, shape: Shape, name: str) -> None:
    assert judged.ask(shape, agent=name, status=500).status == 500


def is_refused(judged: Judged, shape: Shape, name: str) -> None:
    judged.provider.stop()
    try:
        assert judged.ask(shape, agent=name).status == 502
    finally:
        judged.provider.start()


def takes_too_long(judged: Judged, shape: Shape, name: str) -> None:
    assert judged.ask(shape, agent=name, silence="head").status == 504


def is_not_waited_for(judged: Judged, shape: Shape, name: str) -> None:
    """The client breaks its connection when the provider has the request."""
    body = shape.request(False)
    head = [f"POST /{shape.provider}{shape.path} HTTP/1.1", "Host: gateway", f"Content-Length: {len(body)}"]
    head += [f"{shape.key[0]}: {shape.key[1]}", f"x-smoltbot-agent: {name}", 'x-script: {"delay": 20}', "", ""]
    with socket.create_connection(("127.0.0.1", judged.gateway.port)) as client:
        client.sendall("\r\n".join(head).encode() + body)
        deadline = time.monotonic() + LIMIT_S
        while not told(judged.provider):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


FAILURES = (fails_with_500, is_refused, takes_too_long, is_not_waited_for)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=by_name)
def test_what_the_provider_does_not_take_waits_again(
    fragile: Judged, shape: Shape, failure: Callable[[Judged, Shape, str], None]
) -> None:
    name, agent_id = fragile.new_agent(shape, "nudge")
    pending = violate(fragile, shape, name, agent_id, 2)
    fragile.provider.reset()
    failure(fragile, shape, name)
    until_states(fragile.folder, agent_id, pending=2)
    fragile.provider.reset()
    assert counted([delivered_later(fragile, shape, name)]) == [2]
    assert told(fragile.provider) == [pending]
    until_states(fragile.folder, agent_id, delivered=2)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1, 1, 1]),
        ({"nudge_strategy": "always"}, [1, 1, 1]),
        ({"nudge_strategy": "sampling", "nudge_rate": 0}, []),
        ({"nudge_strategy": "sampling", "nudge_rate": 100}, [1, 1, 1]),
        ({"nudge_strategy": "threshold"}, [1]),
        ({"nudge_strategy": "threshold", "nudge_threshold": 2}, [1, 1]),
        ({"nudge_strategy": "off"}, []),
    ],
    ids=["default", "always", "sampling-0", "sampling-100", "threshold", "threshold-2", "off"],
)
def test_strategies(judged: Judged, settings: dict[str, Any], expected: list[int]) -> None:
    """Three violations, each followed by a request that is fine: how many nudges that one carries."""
    name, _ = judged.new_agent(ANTHROPIC, "nudge", **settings)
    answers = [judged.ask(ANTHROPIC, agent=name, thinking=said) for _ in range(3) for said in (VIOLATION, FINE)]
    assert counted(answers[::2]) == []
    assert counted(answers[1::2]) == expected


def test_an_old_nudge_is_not_told(judged: Judged) -> None:
    """After four hours."""
    agents = [judged.new_agent(ANTHROPIC, "nudge") for _ in range(2)]
    for (name, agent_id), minutes in zip(agents, (241, 238), strict=True):
        violate(judged, ANTHROPIC, name, agent_id)
        body = twice("system", ANTHROPIC.request(False))
        judged.ask(ANTHROPIC, agent=name, body=body, thinking=FINE)  # now the process knows that a nudge waits
        made = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat(timespec="milliseconds")
        with closing(sqlite3.connect(judged.folder / "data" / "smoltbot.db")) as connection, connection:
            changed = "UPDATE enforcement_nudges SET created_at = ? WHERE agent_id = ?"
            connection.execute(changed, (made.replace("+00:00", "Z"), agent_id))
    answers = [judged.ask(ANTHROPIC, agent=name, thinking=FINE).aip("nudge-count") for name, _ in agents]
    assert answers == [None, "1"]


WITHOUT: list[Any] = [
    *(
        pytest.param(shape, lambda shape: twice(shape.nudge_at, shape.request(False)), {}, id=f"{shape.name}-twice")
        for shape in SHAPES
    ),
    pytest.param(SHAPES[3], lambda _: b'{"systemInstruction":{},"system_instruction":{}}', {}, id="gemini-both-names"),
    *(pytest.param(shape, lambda _: b'{"messages": [', {}, id=f"{shape.name}-cut") for shape in SHAPES),
    pytest.param(ANTHROPIC, lambda _: b"\x00\xff no JSON", {}, id="no-json"),
    pytest.param(ANTHROPIC, lambda _: b"[]", {}, id="no-object"),
    pytest.param(ANTHROPIC, lambda _: b'{"system": 7}', {}, id="system-of-another-type"),
    pytest.param(SHAPES[1], lambda _: b'{"messages": "Hello"}', {}, id="messages-of-another-type"),
    pytest.param(ANTHROPIC, lambda shape: shape.request(False).decode().encode("utf-16"), {}, id="utf-16"),
    *(
        pytest.param(shape, lambda shape: gzip.compress(shape.request(False)), {"content-encoding": "gzip"},
                     id=f"{shape.name}-compressed")
        for shape in SHAPES
    ),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "make", "headers"), WITHOUT)
def test_a_body_that_cannot_take_it_passes_as_it_is(
    judged: Judged, shape: Shape, make: Callable[[Shape], bytes], headers: dict[str, str]
) -> None:
    name, agent_id = judged.new_agent(shape, "nudge")
    pending = violate(judged, shape, name, agent_id)
    judged.provider.reset()
    body = make(shape)
    got = judged.ask(shape, agent=name, body=body, headers=headers, thinking=FINE)
    assert bodies(judged.provider) == [body]
    assert (got.aip("nudge-count"), got.aip("enforcement"), got.headers.get("x-smoltbot-mutated")) == (None,) * 3
    assert states(judged.folder, agent_id) == {"pending": 1}
    assert judged.ask(shape, agent=name, thinking=FINE).aip("nudge-count") == "1"
    assert told(judged.provider) == [pending]


@pytest.mark.parametrize("streaming", [False, True], ids=["buffered", "stream"])
@pytest.mark.parametrize("shape", SHAPES, ids=by_name)
def test_the_ledger_says_what_was_changed(judged: Judged, shape: Shape, streaming: bool) -> None:
    name, agent_id = judged.new_agent(shape, "nudge")
    violate(judged, shape, name, agent_id)
    judged.provider.reset()
    got = judged.ask(shape, agent=name, streaming=streaming, thinking=FINE)
    assert got.headers["x-smoltbot-mutated"] == "nudge"
    (mutation,) = judged.checkpoints(agent_id, 2)[-1]["mutations"]
    (received,) = bodies(judged.provider)
    sent = shape.request(streaming)
    assert (mutation["kind"], mutation["setting"]) == ("nudge", "aip_enforcement_mode")
    assert mutation["location"] == f"/{shape.nudge_at}"
    assert mutation["before_sha256"] == value_hash(sent, shape.nudge_at)
    assert mutation["after_sha256"] == value_hash(received, shape.nudge_at)


def value_hash(body: bytes, member: str) -> str | None:
    """SHA-256 of the bytes of a member's value; None without it."""
    text = body.decode()
    _, found, rest = text.partition(f'"{member}":')
    if not found:
        return None
    value = rest.lstrip()
    return hashlib.sha256(value[: json.JSONDecoder().raw_decode(value)[1]].encode()).hexdigest()


def test_a_chunked_request_stays_chunked(judged: Judged) -> None:
    name, agent_id = judged.new_agent(ANTHROPIC, "nudge")
    pending = violate(judged, ANTHROPIC, name, agent_id)
    judged.provider.reset()
    body = ANTHROPIC.request(False)
    connection = http.client.HTTPConnection("127.0.0.1", judged.gateway.port, timeout=30)
    with closing(connection):
        lines = {ANTHROPIC.key[0]: ANTHROPIC.key[1], "x-smoltbot-agent": name}
        connection.request("POST", "/anthropic/v1/messages", iter([body[:20], body[20:]]), lines, encode_chunked=True)
        assert connection.getresponse().status == 200
    (request,) = judged.provider.requests()
    headers = {line.lower(): value for line, value in request["headers"]}
    assert headers["transfer-encoding"] == "chunked"
    assert "content-length" not in headers
    assert told(judged.provider) == [pending]
