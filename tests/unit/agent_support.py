"""What the tests of agents share: one process of several on a real database, which can fail or hang in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from smoltbot_records_sqlite import migrate, open_records
from smoltbot_worker.admission.agents import Agent, AgentDirectory
from smoltbot_worker.env import DEFAULT_CARD
from smoltbot_worker.events import Event, RecordsChanged
from smoltbot_worker.ports import Json, RecordStore, RecordsUnavailable
from worker_compat.context import BackgroundTasks, ExecutionContext
from worker_compat.ports import Clock
from worker_compat.testing import FakeClock

SCHEMA = Path(__file__).parents[2] / "schema"
LIMIT_S = 20


class Between:
    """A store behind a line that can break and stall.

    ``error`` is raised by each call while it is set. What the database answers to the functions in ``held`` is kept
    back until ``release`` (``kept`` counts, ``waiting`` tells of the first); ``answers`` are given in place of the
    database's.
    """

    def __init__(self, store: RecordStore) -> None:
        self.store = store
        self.calls: list[str] = []
        self.error: Exception | None = None
        self.held: set[str] = set()
        self.answers: dict[str, Json] = {}
        self.waiting = asyncio.Event()
        self.kept = 0
        self._released = asyncio.Event()

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        self.calls.append(function)
        if self.error is not None:
            raise self.error
        if function in self.answers:
            return self.answers[function]
        answer = await self.store.call(function, arguments)
        if function in self.held:
            self.waiting.set()
            self.kept += 1
            await self._released.wait()
        return answer

    def count(self, function: str) -> int:
        """How often a function was called."""
        return self.calls.count(function)

    def release(self) -> None:
        """Hand over what was kept back, and keep nothing back any more."""
        self.held.clear()
        self._released.set()


class Process:
    """What one gateway process knows of agents, over a line of its own to the database that all share."""

    def __init__(self, store: RecordStore, clock: Clock) -> None:
        self.line = Between(store)
        self.events: list[Event] = []
        self.agents = AgentDirectory(self.line, self, card=DEFAULT_CARD, clock=clock)
        self.background = BackgroundTasks()
        self.ctx = ExecutionContext(self.background)

    def emit(self, event: Event) -> None:
        """A Telemetry that remembers."""
        self.events.append(event)

    @property
    def outages(self) -> list[bool]:
        """The changes of the database's availability."""
        return [event.available for event in self.events if isinstance(event, RecordsChanged)]

    async def admit(self, digest: str) -> Agent:
        """Who a request with this key is, as the proxy decides it."""
        agent = self.agents.known(digest) or await self.agents.find(digest, None, self.ctx)
        return agent or Agent.derived(digest, None)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """The feed of changes is followed, and was looked at once already."""
        following = asyncio.create_task(self.agents.follow())
        try:
            await self.looked()
            yield
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    async def looked(self) -> None:
        """A look at the feed that began after this call is over."""
        looks = self.line.count("changes_since")
        await until(lambda: self.line.count("changes_since") > looks + 1)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(LIMIT_S):
        while not holds():
            await asyncio.sleep(0.005)


def key() -> str:
    """The digest of a key that nobody else has."""
    return uuid4().hex + uuid4().hex


async def act(store: RecordStore, agent_id: str, action: str) -> None:
    """What an operator does to an agent, in some other process."""
    given = {"agent_id": agent_id, "action": action, "log_id": f"ctl-{uuid4().hex}", "actor": "test"}
    answer: Any = await store.call("set_containment", given)
    assert answer["status"] == "changed"


@asynccontextmanager
async def sqlite_stores(folder: Path) -> AsyncIterator[tuple[RecordStore, RecordStore]]:
    """Two stores on one SQLite file, each with connections of its own."""
    url = f"sqlite:///{folder / 'smoltbot.db'}"
    await migrate(url, SCHEMA / "sqlite")
    async with open_records(url, clock=FakeClock()) as first, open_records(url, clock=FakeClock()) as second:
        yield first, second


def outage() -> RecordsUnavailable:
    """What a store raises while its database is away."""
    return RecordsUnavailable("the database cannot be used at the moment")
