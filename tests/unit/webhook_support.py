"""What the tests of webhooks share: an outbox in a real SQLite file, the real egress, and a sink made of bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from smoltbot_host.crypto import HostCrypto
from smoltbot_records_sqlite import migrate, open_records
from smoltbot_worker.control.webhooks import seal_secret
from smoltbot_worker.env import Env, read_variables
from smoltbot_worker.events import Event, WebhookSettled
from smoltbot_worker.ports import Json, RecordStore, RecordsUnavailable
from smoltbot_worker.records import webhooks as records
from tests.wire.raw import Message, RawUpstream, Respond, answer
from worker_compat.ports import Clock, Fetcher
from worker_compat.testing import FakeClock
from worker_compat_aiohttp.egress import open_egress

SCHEMA = Path(__file__).parents[2] / "schema" / "sqlite"
SECRET = "0123456789abcdef0123456789abcdef"
CRYPTO = HostCrypto(bytes(32), sealing_key=bytes(range(32)))
DIGEST = "9d08aa51eb89d283" * 4
NO_CONTENT = answer(b"HTTP/1.1 204 No Content\r\n\r\n")


class Settled:
    """A Telemetry that remembers what became of deliveries."""

    def __init__(self) -> None:
        self.events: list[WebhookSettled] = []

    def emit(self, event: Event) -> None:
        assert isinstance(event, WebhookSettled)
        self.events.append(event)

    @property
    def outcomes(self) -> list[str]:
        """The outcomes in their order."""
        return [event.outcome for event in self.events]


class Failing:
    """A store whose functions in ``away`` cannot be reached, and those in ``silent`` never answer."""

    def __init__(self, store: RecordStore) -> None:
        self.store = store
        self.away: set[str] = set()
        self.silent: set[str] = set()
        self.calls: list[str] = []

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        self.calls.append(function)
        if function in self.away:
            raise RecordsUnavailable("away")
        if function in self.silent:
            await asyncio.Event().wait()
        return await self.store.call(function, arguments)


def env_of(store: RecordStore, egress: Fetcher, clock: Clock, **variables: str) -> Env:
    """An Env with what webhooks use of it, and nothing else."""
    values, _ = read_variables(variables)
    nothing = cast(Any, None)
    return Env(
        **values, records=store, crypto=CRYPTO, telemetry=Settled(), egress=egress, clock=clock, agents=nothing,
        state=nothing, checkpoints=nothing, analyst=nothing, exchanges=nothing, license=nothing,
    )  # fmt: skip


def settled_of(env: Env) -> Settled:
    """The telemetry of an Env of :func:`env_of`."""
    assert isinstance(env.telemetry, Settled)
    return env.telemetry


class Outbox:
    """The database's side: registrations, events and deliveries of one agent."""

    def __init__(self, store: RecordStore) -> None:
        self.store = store
        self.agent = ""

    async def call(self, function: str, **arguments: Json) -> Any:
        """Call a database function."""
        return await self.store.call(function, arguments)

    async def begin(self, digest: str = DIGEST) -> Outbox:
        """With an agent."""
        seen = "2026-05-10T08:00:00.000Z"
        made = await self.call(
            "get_or_create_agent", agent_hash=digest[:16], key_hash=digest, name=None, card=None, seen_at=seen
        )
        self.agent = made["agent"]["id"]
        return self

    async def register(self, url: str, events: Sequence[str] = ("*",), secret: str = SECRET) -> str:
        """A new registration's id."""
        sealed = await seal_secret(CRYPTO, secret)
        row = await records.register(self.store, f"awh-{uuid4().hex}", self.agent, url, sealed, events)
        return str(row["registration_id"])

    async def tell(self, *numbers: int, event: str = "drift_alert") -> None:
        """Queue an event for each number."""
        told: list[Json] = [
            {"delivery_key": str(uuid4()), "event": event, "data": {"number": number}} for number in numbers
        ]
        await self.call("enqueue_webhooks", agent_id=self.agent, events=told)

    async def deliveries(self) -> list[dict[str, Any]]:
        """What the database says of deliveries, the oldest first."""
        rows = await self.call("webhook_deliveries", agent_id=self.agent, limit=1000)
        return list(reversed(rows))


@asynccontextmanager
async def opened(path: Path, clock: Clock) -> AsyncIterator[RecordStore]:
    """The records in a file, migrated."""
    await migrate(f"sqlite:///{path}", SCHEMA)
    async with open_records(f"sqlite:///{path}", clock=clock) as store:
        yield store


@asynccontextmanager
async def sink(respond: Respond = NO_CONTENT) -> AsyncIterator[RawUpstream]:
    """A receiver on this machine."""
    upstream = RawUpstream()
    upstream.respond = respond
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.stop()


@asynccontextmanager
async def working(
    path: Path, *, allow_private: bool = True, timeout_s: float = 5.0, clock: FakeClock | None = None
) -> AsyncIterator[tuple[Env, Outbox, FakeClock]]:
    """An Env and an outbox with an agent, on one clock."""
    clock = FakeClock() if clock is None else clock
    async with (
        opened(path, clock) as store,
        open_egress(allow_private=allow_private, timeout_s=timeout_s) as egress,
    ):
        failing = Failing(store)
        yield env_of(failing, egress, clock), await Outbox(store).begin(), clock


def failing_of(env: Env) -> Failing:
    """The store of an Env of :func:`working`."""
    assert isinstance(env.records, Failing)
    return env.records


def numbers_of(upstream: RawUpstream) -> list[int]:
    """The numbers of the events that a sink received."""
    return [json.loads(message.body)["number"] for message in upstream.requests]


def header(message: Message, name: str) -> str:
    """The only value of a header."""
    (value,) = message.all(name.lower().encode())
    return value.decode()
