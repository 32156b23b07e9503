"""Pause and kill on two gateways: both obey within a second, and no outage of a store lets anybody out."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import statistics
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import asyncpg
import pytest

import smoltbot_records_postgres
from tests.gateway_process import free_port
from tests.integrity.support import SHAPES, Got, Judged, Shape
from tests.provider.process import ProviderProcess
from tests.scale import figure, scaled
from tests.services.postgres import PostgresServer, postgres_server
from tests.services.process import wait_for
from tests.services.redis import redis_server

pytestmark = pytest.mark.alone

SCHEMA = Path(__file__).parents[2] / "schema" / "postgres"
KEYS = {"ED25519_SIGNING_KEY": "7f" * 32, "QUEUE_ENCRYPTION_KEY": "7a" * 32}
ANTHROPIC = SHAPES[0]
LIMIT_S = 1.0
"""How long an operator's word may take to reach the other process."""
RECOVERY_S = 15.0
EVENTS = 13
STATES = {"pause": "agent_paused", "resume": None, "kill": "agent_killed", "reactivate": None}
FINE, VIOLATION = "I plan to answer.", "JUDGE:boundary_violation"

Running = TypeVar("Running")
Outage = Callable[[], AbstractContextManager[None]]


class Server(Generic[Running]):
    """A server of this module's own, at one address, which can be stopped and started again."""

    def __init__(self, open_server: Callable[[], AbstractContextManager[Running]]) -> None:
        self._open = open_server
        self._stack = ExitStack()
        self.start()

    def start(self) -> None:
        self.running = self._stack.enter_context(self._open())

    def stop(self) -> None:
        """An orderly end."""
        self._stack.close()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Stopped meanwhile."""
        self.stop()
        try:
            yield
        finally:
            self.start()


@dataclass
class Pair:
    """Two gateways of one deployment; the second enforces billing, which must make no difference here."""

    name: str
    both: tuple[Judged, Judged]
    outage: Outage
    """The database is away meanwhile."""
    redis: Outage | None = None

    def agent(self, shape: Shape = ANTHROPIC, *, met: bool = True) -> tuple[str, str]:
        """A new agent's name and id; ``met``: both processes know it."""
        name, agent_id = self.both[0].new_agent(shape)
        if met:
            assert [self.ask(judged, name) for judged in self.both] == [None, None]
        return name, agent_id

    @staticmethod
    def ask(judged: Judged, name: str) -> str | None:
        """Why a request of the agent is refused; None when it passes."""
        return why(judged.ask(ANTHROPIC, agent=name))

    def takes(self, judged: Judged, name: str, reason: str | None) -> float:
        """Seconds until the agent's requests end so."""
        begun = time.monotonic()
        while self.ask(judged, name) != reason:
            assert time.monotonic() - begun < RECOVERY_S
            time.sleep(0.005)
        return time.monotonic() - begun


def why(got: Got) -> str | None:
    if got.status == 200:
        return None
    assert (got.status, got.json()["error"], got.json()["type"]) == (403, "Agent contained", "containment_error")
    return str(got.json()["reason"])


def act(judged: Judged, agent_id: str, action: str) -> None:
    answer = judged.operate("POST", f"/agents/{agent_id}/{action}", {"reason": "a test"})
    assert answer["agent_id"] == agent_id


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server[PostgresServer]]:
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        server = Server(lambda: postgres_server(folder, port=port))
        yield server
        server.stop()


async def new_database(server: PostgresServer) -> str:
    name = f"contained_{random.getrandbits(64):x}"
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    url = f"{server.url.rpartition('/')[0]}/{name}"
    await smoltbot_records_postgres.migrate(url, SCHEMA)
    return url


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another process holds the write lock."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def silent(server: Server[PostgresServer]) -> Iterator[None]:
    """Connections stay open and nothing answers."""
    server.running.pause()
    try:
        yield
    finally:
        server.running.resume()


@contextmanager
def two(folder: Path, provider: ProviderProcess, shared: dict[str, str]) -> Iterator[tuple[Judged, Judged]]:
    """Both ready; they are started at once, as a deployment does."""
    setups = []
    for number, billing in enumerate(("false", "true")):
        own = folder / str(number)
        own.mkdir()
        setups.append(Judged(own, provider, BILLING_ENFORCEMENT_ENABLED=billing, **shared))
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda setup: setup.gateway.start(), setups))
        yield setups[0], setups[1]
    finally:
        codes = [setup.gateway.stop() for setup in setups]
    assert codes == [0, 0], setups[0].gateway.tail() + setups[1].gateway.tail()


@pytest.fixture(scope="module", params=["sqlite", "postgres", "postgres-redis"])
def pair(
    request: pytest.FixtureRequest, analysing_provider: ProviderProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    folder, kind = tmp_path_factory.mktemp(request.param), request.param
    database = folder / "data" / "smoltbot.db"
    with ExitStack() as stack:
        shared, outage, redis = {"DATA_DIR": str(database.parent)}, partial(locked, database), None
        if kind != "sqlite":
            server = request.getfixturevalue("postgres")
            shared = {**KEYS, "DATABASE_URL": asyncio.run(new_database(server.running))}
            outage = partial(silent, server)
        if kind == "postgres-redis":
            port = free_port()
            cache = Server(lambda: redis_server(folder, port=port))
            stack.callback(cache.stop)
            shared["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
            outage, redis = server.away, cache.away
        yield Pair(kind, stack.enter_context(two(folder, analysing_provider, shared)), outage, redis)


@pytest.mark.proof
def test_within_a_second(pair: Pair) -> None:
    """From the operator's answer to the first request that the other process treats so, an agent it knows well."""
    took: list[float] = []
    for number in range(scaled(1, 30)):
        here, there = pair.both[:: 1 if number % 2 else -1]
        name, agent_id = pair.agent()
        for action, reason in STATES.items():
            time.sleep(random.random() / 2)  # somewhere between two looks at the feed
            act(here, agent_id, action)
            assert pair.ask(here, name) == reason, "at once where the operator asked for it"
            took.append(pair.takes(there, name, reason))
    assert max(took) < LIMIT_S
    seen = f"{len(took)} changes: median {statistics.median(took) * 1000:.0f} ms, longest {max(took) * 1000:.0f} ms"
    figure(f"pause, resume, kill and reactivate reach the other process, {pair.name}", seen)


def test_an_agent_that_the_other_process_has_not_met(pair: Pair) -> None:
    name, agent_id = pair.agent(met=False)
    act(pair.both[0], agent_id, "kill")
    assert pair.ask(pair.both[1], name) == "agent_killed"
    act(pair.both[1], agent_id, "reactivate")
    assert pair.ask(pair.both[1], name) is None
    pair.takes(pair.both[0], name, None)


def test_open_streams_are_not_cut(pair: Pair) -> None:
    """What a provider has begun to say is said to its end; it is checked, too."""
    name, agent_id = pair.agent()
    provider = pair.both[0].provider

    def stream(judged: Judged) -> Got:
        return judged.ask(ANTHROPIC, agent=name, streaming=True, thinking=FINE, events=EVENTS, event_delay=0.1)

    def streams() -> list[bool]:
        """Of each stream that the provider was asked for, whether it has ended."""
        marks = [(b64decode(request["body"] or ""), request["answered"]) for request in provider.requests()]
        return [ended for body, ended in marks if b'"stream": true' in body]

    provider.reset()
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(stream, pair.both)
        assert wait_for(lambda: len(streams()) == 2, RECOVERY_S)
        act(pair.both[0], agent_id, "kill")
        assert [pair.takes(judged, name, "agent_killed") < LIMIT_S for judged in pair.both] == [True, True]
        assert streams() == [False, False]
        for got in answers:
            assert (got.status, got.body.count(b"event: message_stop")) == (200, 1)
            assert got.body.count(b"text_delta") == EVENTS
    clear = f"/agents/{agent_id}/checkpoints?verdict=clear"
    assert wait_for(lambda: len(pair.both[1].operate("GET", clear)["checkpoints"]) == 2, RECOVERY_S)


@pytest.mark.parametrize("streaming", [False, True], ids=["buffered", "stream"])
def test_violations_in_a_row_pause_an_agent(pair: Pair, streaming: bool) -> None:
    """In any mode, from the third one's record on."""
    here, there = pair.both
    name, agent_id = pair.agent()
    here.operate("PUT", f"/agents/{agent_id}/containment-policy", {"auto_containment_threshold": 3})
    said = [VIOLATION, VIOLATION, FINE, VIOLATION, VIOLATION, VIOLATION]
    for number, thinking in enumerate(said):
        judged = pair.both[number % 2]
        assert judged.ask(ANTHROPIC, agent=name, streaming=streaming, thinking=thinking).status == 200, number
        # The two requests that made the agent known have no thinking: their records are no break in a row.
        assert len(here.checkpoints(agent_id, number + 3)) == number + 3
    if not streaming:
        assert pair.ask(there, name) == "agent_paused", "the very next request, where the last violation passed"
    assert [pair.takes(judged, name, "agent_paused") < LIMIT_S for judged in pair.both] == [True, True]
    state = there.operate("GET", f"/agents/{agent_id}/containment")
    assert (state["status"], state["contained_by"]) == ("paused", "system")
    assert [(entry["action"], entry["actor"]) for entry in state["log"]] == [("auto_pause", "system")]
    act(here, agent_id, "resume")
    pair.takes(there, name, None)


@pytest.mark.proof
def test_no_outage_of_the_database_lets_anybody_out(pair: Pair) -> None:
    """As long as it lasts, nor after it; and whoever may pass still does."""
    asked = 0
    killed, paused, passing = pair.agent(), pair.agent(), pair.agent()
    act(pair.both[0], killed[1], "kill")
    act(pair.both[1], paused[1], "pause")
    expected = [(killed[0], "agent_killed"), (paused[0], "agent_paused"), (passing[0], None)]
    for judged in pair.both:
        for name, reason in expected:
            pair.takes(judged, name, reason)
    with pair.outage():
        for _ in range(scaled(20, 1000)):
            for judged in pair.both:
                assert [pair.ask(judged, name) for name, _ in expected] == [reason for _, reason in expected]
                asked += 2
    figure(f"requests of contained agents while the database is away, {pair.name}", f"{asked}, 0 passed")
    for judged in pair.both:
        assert wait_for(judged.gateway.ready, RECOVERY_S)
        assert [pair.ask(judged, name) for name, _ in expected] == [reason for _, reason in expected]
    act(pair.both[1], killed[1], "reactivate")
    act(pair.both[0], paused[1], "resume")
    assert [pair.takes(judged, name, None) < RECOVERY_S for judged in pair.both for name, _ in expected] == [True] * 6


@pytest.mark.parametrize("pair", ["sqlite", "postgres"], indirect=True)
def test_an_outage_before_the_first_request_of_a_new_process(pair: Pair) -> None:
    """It has read who is contained when it is ready, not only when it is asked."""
    killed, passing = pair.agent(met=False), pair.agent(met=False)
    here, there = pair.both
    act(here, killed[1], "kill")
    assert there.gateway.stop() == 0
    there.gateway.start()
    with pair.outage():
        for _ in range(3):
            assert pair.ask(there, killed[0]) == "agent_killed"
            assert pair.ask(there, passing[0]) is None
    assert wait_for(there.gateway.ready, RECOVERY_S)
    assert pair.ask(there, killed[0]) == "agent_killed"


@pytest.mark.parametrize("pair", ["postgres-redis"], indirect=True)
def test_redis_has_no_say(pair: Pair) -> None:
    """It goes away and comes back empty: who is contained stays so, and an operator is obeyed as quickly meanwhile."""
    assert pair.redis is not None
    (killed, killed_id), (other, other_id) = pair.agent(), pair.agent()
    here, there = pair.both
    act(here, killed_id, "kill")
    pair.takes(there, killed, "agent_killed")
    with pair.redis():
        act(here, other_id, "pause")
        assert pair.takes(there, other, "agent_paused") < LIMIT_S
        assert [pair.ask(judged, killed) for judged in pair.both] == ["agent_killed"] * 2
    for _ in range(10):
        assert [pair.ask(judged, name) for judged in pair.both for name in (killed, other)] == [
            "agent_killed", "agent_paused", "agent_killed", "agent_paused",
        ]  # fmt: skip
    act(there, other_id, "resume")
    assert pair.takes(here, other, None) < LIMIT_S
