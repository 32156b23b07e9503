"""The observer: every exchange of the queue gets its checkpoint once, whatever fails on the way; and its chores."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import smoltbot_records_sqlite
from smoltbot_host.crypto import HostCrypto
from smoltbot_worker import observer
from smoltbot_worker.admission.agents import AgentDirectory
from smoltbot_worker.admission.license import LicenseGate
from smoltbot_worker.answers import request_id
from smoltbot_worker.attestation.log import CheckpointLog
from smoltbot_worker.env import DEFAULT_CARD, Env, read_variables
from smoltbot_worker.events import CheckEnded, CronRan, Event
from smoltbot_worker.health import State
from smoltbot_worker.integrity import metering
from smoltbot_worker.integrity.analysis import Analyst
from smoltbot_worker.integrity.decoding import with_standard
from smoltbot_worker.ports import Json, RecordStore, RecordsUnavailable
from smoltbot_worker.relay.exchanges import ExchangeQueue
from smoltbot_worker.relay.message import ExchangeMessage
from smoltbot_worker.testing.records_area import call, first_request
from tests.conformance.records_backends import SCHEMA
from worker_compat.consumer import Consumer, ConsumerSettings
from worker_compat.memory import MemoryQueueStore
from worker_compat.queues import Message, Queue
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import Runtime
from worker_compat.scheduled import ScheduledController
from worker_compat.testing import ScriptedFetcher

LIMIT_S = 30
SECRET = "a plan that nobody may read"
CRYPTO = HostCrypto(bytes(32), sealing_key=bytes(32))
AWAY = RecordsUnavailable("the database is away")
JUDGEMENT = {
    "verdict": "clear", "concerns": [], "reasoning_summary": "Nothing of note.",
    "conscience_context": {"values_checked": [], "conflicts": [], "supports": [], "considerations": [],
                           "consultation_depth": "surface"},
}  # fmt: skip


class Records:
    """A store whose functions fail as ``failing`` says, one error for each call, and then work; ``calls`` counts."""

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self.failing: dict[str, list[Exception]] = {}
        self.calls: Counter[str] = Counter()

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        self.calls[function] += 1
        if errors := self.failing.get(function):
            raise errors.pop(0)
        return await self._store.call(function, arguments)


class World:
    """An observer on a database, with a model that judges; ``analyses`` counts what it was asked."""

    def __init__(self, store: RecordStore, agent: dict[str, Any], **variables: str) -> None:
        self.records = Records(store)
        self.agent = agent
        self.events: list[Event] = []
        self.queue, self.dead = MemoryQueueStore(), MemoryQueueStore()
        self.analyses = self.running = self.most_running = 0
        self.analysis_s = 0.0
        fetcher = ScriptedFetcher({"POST https://api.anthropic.com/v1/messages": self._judge})
        self.runtime = Runtime(fetcher)
        values, _ = read_variables({"ANTHROPIC_API_KEY": "sk-ant-analysis", **variables})
        state = State()
        state.started = True
        self.env = Env(
            **values,
            records=self.records,
            crypto=CRYPTO,
            telemetry=self,
            agents=AgentDirectory(self.records, self, card=None),
            state=state,
            checkpoints=CheckpointLog(self.records, CRYPTO),
            analyst=Analyst.from_values(values, self),
            exchanges=ExchangeQueue(Queue(self.queue), CRYPTO, self),
            license=LicenseGate.from_values(values, None, self.records, self),
            egress=fetcher,
            decoders=with_standard({}),
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)

    async def _judge(self, request: Request) -> Response:
        self.analyses += 1
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        await asyncio.sleep(self.analysis_s)
        self.running -= 1
        content = [{"type": "text", "text": json.dumps(JUDGEMENT)}]
        return Response.from_json({"type": "message", "content": content, "stop_reason": "end_turn"})

    def exchange(self, thinking: str = SECRET, **more: Any) -> ExchangeMessage:
        """A streamed exchange that ended well."""
        content: list[dict[str, str]] = [{"type": "text", "text": "Done."}]
        if thinking:
            content.insert(0, {"type": "thinking", "thinking": thinking})
        body = {"type": "message", "model": "claude-sonnet-4-5", "content": content}
        given: dict[str, Any] = {
            "id": request_id(1_790_000_000.0), "checkpoint_id": f"ic-{uuid4()}", "created_at": 1_790_000_000.0,
            "agent_id": self.agent["id"], "agent_hash": self.agent["agent_hash"], "session_id": "session-1",
            "gateway_version": "1", "provider": "anthropic", "method": "POST", "path": "/v1/messages", "status": 200,
            "streamed": False, "request_body": b"{}", "response_body": json.dumps(body).encode(),
        }  # fmt: skip
        return ExchangeMessage(**{**given, **more})

    async def push(self, *exchanges: ExchangeMessage) -> None:
        for exchange in exchanges:
            assert await self.env.exchanges.push(exchange)

    async def consume(self) -> None:
        """Run the consumer until nothing is left; being cancelled cuts it off."""
        retries = self.env.observer_max_attempts - 1
        settings = ConsumerSettings("exchanges", max_batch_size=50, max_batch_timeout_s=0, max_retries=retries)
        consumer = Consumer(
            self.queue,
            lambda batch: self.runtime.queue(observer.Default, self.env, batch),
            settings,
            dead_letters=self.dead,
        )
        running = asyncio.create_task(consumer.run())
        try:
            async with asyncio.timeout(LIMIT_S):
                while (depth := await self.queue.depth()).waiting + depth.leased:
                    await asyncio.sleep(0.005)
        finally:
            consumer.stop(0)
            await running

    async def rows(self) -> list[dict[str, Any]]:
        """The log of the agent."""
        rows: Any = await self.records.call(
            "checkpoints", {"agent_id": self.agent["id"], "after_index": None, "limit": 1000}
        )
        return list(rows)

    async def verdicts(self) -> list[tuple[str, str | None]]:
        return [(row["verdict"], row["reason"]) for row in await self.rows()]


@asynccontextmanager
async def new_world(folder: Path, **variables: str) -> AsyncIterator[World]:
    url = f"sqlite:///{folder}/records.db"
    await smoltbot_records_sqlite.migrate(url, SCHEMA / "sqlite")
    async with smoltbot_records_sqlite.open_records(url) as store:
        await call(store, "put_signing_key", key_id=CRYPTO.key_id, public_key=CRYPTO.public_key)
        agent = (await call(store, "get_or_create_agent", **first_request(card=DEFAULT_CARD)))["agent"]
        yield World(store, agent, **variables)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with new_world(tmp_path) as world:
        yield world


def soon(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliveries that follow an outage come at once."""
    again = world.env.exchanges.again
    monkeypatch.setattr(world.env.exchanges, "again", lambda body, delay_s: again(body, 0))


async def test_every_exchange_gets_its_checkpoint(world: World) -> None:
    judged, silent = world.exchange(), world.exchange(thinking="")
    broken = world.exchange(response_encoding="gzip")
    await world.push(judged, silent, broken)
    await world.consume()
    rows = {row["checkpoint_id"]: row for row in await world.rows()}
    assert (rows[judged.checkpoint_id]["verdict"], rows[judged.checkpoint_id]["reason"]) == ("clear", None)
    assert rows[silent.checkpoint_id]["reason"] == "no-thinking"
    assert rows[broken.checkpoint_id]["reason"] == "undecodable-encoding"
    assert len(rows) == 3
    assert sorted(event.request_id for event in world.events if isinstance(event, CheckEnded)) == sorted(
        (judged.id, silent.id, broken.id)
    )
    assert (await world.dead.depth()).waiting == 0


async def test_a_message_that_is_no_exchange_is_dead_lettered(world: World, caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue(world.queue)
    await queue.send(b"sealed by another key", contentType="bytes")
    await queue.send({"prompt": SECRET})
    await queue.send(await CRYPTO.seal(SECRET.encode()), contentType="bytes")
    good = world.exchange()
    await world.push(good)
    await world.consume()
    assert [row["request_id"] for row in await world.rows()] == [good.id]
    assert (await world.dead.depth()).waiting == 3
    for reason in ("not sealed with this key", "this is no sealed message", "no exchange message of this version"):
        assert caplog.text.count(reason) == world.env.observer_max_attempts
    assert SECRET not in caplog.text


async def test_an_erased_agent_needs_no_checkpoint(world: World, caplog: pytest.LogCaptureFixture) -> None:
    gone = world.exchange(agent_id="smolt-0badcafe")
    await world.push(gone)
    await world.consume()
    assert await world.rows() == []
    assert (await world.dead.depth()).waiting == 0
    assert f"exchange {gone.id} has no checkpoint: its agent was erased" in caplog.text


async def test_delivered_twice_at_once_it_has_one_checkpoint(world: World) -> None:
    exchange = world.exchange()
    await world.push(exchange, exchange, exchange)
    await world.consume()
    assert [row["request_id"] for row in await world.rows()] == [exchange.id]
    assert len([event for event in world.events if isinstance(event, CheckEnded)]) == 1


async def test_after_the_commit_nobody_pays_again_and_what_follows_is_done(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the process had been killed between the commit and the acknowledgement."""
    exchange = world.exchange()
    await world.push(exchange)
    world.records.failing["record_metering"] = [AWAY] * 2
    monkeypatch.setattr(observer, "_AGAIN_S", 0)
    monkeypatch.setattr(metering, "_PAUSES_S", ())  # it gives up at once, and the message comes again
    await world.consume()
    assert await world.verdicts() == [("clear", None)]
    assert world.analyses == 1
    assert world.records.calls["append_checkpoints"] == 1
    assert world.records.calls["record_metering"] == 3
    assert world.records.calls["checkpoint"] == 2


@pytest.mark.parametrize("function", ["agent_context", "session_checks"])
async def test_an_outage_uses_no_attempt_up(world: World, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    soon(world, monkeypatch)
    world.records.failing[function] = [AWAY] * 20
    exchange = world.exchange()
    await world.push(exchange)
    await world.consume()
    assert await world.verdicts() == [("clear", None)]
    assert world.analyses == 1
    assert (await world.dead.depth()).waiting == 0


async def test_without_a_queue_either_it_comes_again_after_a_while(world: World) -> None:
    world.records.failing["agent_context"] = [AWAY]
    await world.push(world.exchange())
    [claimed] = await world.queue.claim(1, 60)
    message = Message.read(claimed)
    full = MemoryQueueStore(max_bytes=1)
    world.env.exchanges = ExchangeQueue(Queue(full), CRYPTO, world)
    default = observer.Default(None, world.env)  # type: ignore[arg-type] # it uses no context
    await default._deliver(message)
    assert (message._retried, message._acked, message._delay_s) == (True, False, 10)


async def test_a_paid_analysis_waits_for_the_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "_PAUSES_S", (0.0, 0.0, 0.0, 0.0))
    world.records.failing["append_checkpoints"] = [AWAY] * 4
    await world.push(world.exchange())
    await world.consume()
    assert await world.verdicts() == [("clear", None)]
    assert world.analyses == 1
    assert world.records.calls["append_checkpoints"] == 5


@pytest.mark.parametrize("attempts", [1, 2, 4])
async def test_what_cannot_be_stored_ends_as_an_error_on_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, attempts: int
) -> None:
    async with new_world(tmp_path, OBSERVER_MAX_ATTEMPTS=str(attempts)) as world:
        refusal = ValueError(f"the database refuses {SECRET}")
        world.records.failing["append_checkpoints"] = [refusal] * max(1, attempts - 1)
        poison, good = world.exchange(), world.exchange()
        await world.push(poison)
        await world.consume()
        await world.push(good)
        await world.consume()
        verdicts = await world.verdicts()
        if attempts == 1:
            assert verdicts == [("clear", None)]
            assert (await world.dead.depth()).waiting == 1
        else:
            assert verdicts == [("error", "analysis-unavailable"), ("clear", None)]
            assert world.analyses == attempts
            assert (await world.dead.depth()).waiting == 0
        assert caplog.text.count(f"exchange {poison.id} cannot be recorded: ValueError") == max(1, attempts - 1)
        assert "in append_checkpoints" in caplog.text
        assert SECRET not in caplog.text


async def test_sixteen_at_once(world: World) -> None:
    world.analysis_s = 0.05
    await world.push(*(world.exchange() for _ in range(40)))
    await world.consume()
    assert world.most_running == observer.AT_ONCE == 16
    assert len(await world.rows()) == 40


async def test_a_batch_that_is_cut_off_comes_again(world: World) -> None:
    world.analysis_s = 60
    await world.push(world.exchange(), world.exchange(thinking=""))
    consumer = asyncio.create_task(world.consume())
    while not world.analyses or not await world.rows():
        await asyncio.sleep(0.01)
    consumer.cancel()
    await asyncio.wait({consumer})
    world.analysis_s = 0
    await world.consume()
    assert sorted(await world.verdicts()) == [("clear", None), ("skipped", "no-thinking")]


class TestTheSchedule:
    async def run(self, world: World) -> Any:
        controller = ScheduledController(1_790_000_000_000, observer.CRON)
        return await world.runtime.scheduled(observer.Default, world.env, controller)

    async def test_its_jobs(self, world: World) -> None:
        world.records.calls.clear()
        result = await self.run(world)
        assert result.outcome == "ok"
        assert world.records.calls == {"housekeeping": 1, "expire_nudges": 1, "rollup_metering": 1}
        assert world.events == [CronRan("observer", "success")]

    @pytest.mark.parametrize("job", ["housekeeping", "expire_nudges", "rollup_metering"])
    async def test_each_is_done_whatever_the_others_do(self, world: World, job: str) -> None:
        world.records.calls.clear()
        world.records.failing[job] = [AWAY]
        result = await self.run(world)
        assert result.error is AWAY
        assert world.records.calls == {"housekeeping": 1, "expire_nudges": 1, "rollup_metering": 1}
        assert world.events == [CronRan("observer", "error")]


async def test_nothing_that_was_said_is_in_a_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await world.push(world.exchange(), world.exchange(response_body=SECRET.encode()))
    await world.consume()
    assert len(await world.rows()) == 2
    assert SECRET not in caplog.text
    assert SECRET not in repr(world.events)
