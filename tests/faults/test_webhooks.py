"""Webhooks through kills, restarts and outages of receivers: nothing is lost, nothing overtakes, nothing piles up."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest

from smoltbot_worker.control.webhooks import DELAYS_S, LEASE_S, PARALLEL, deliver_due, run
from smoltbot_worker.ports import Json
from tests.scale import figure, scaled
from tests.unit.webhook_support import (
    NO_CONTENT,
    Outbox,
    env_of,
    header,
    numbers_of,
    opened,
    settled_of,
    sink,
    working,
)
from tests.wire.raw import Message, RawUpstream
from worker_compat_aiohttp.egress import open_egress

ROOT = Path(__file__).parents[2]
ENVIRON = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"}
SERIES = 3


@contextmanager
def worker(path: Path, offset: float) -> Iterator[subprocess.Popen[bytes]]:
    """A process that delivers; killed in the end."""
    command = [sys.executable, "-m", "tests.faults.webhook_process", str(path), str(offset)]
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRON) as process:
        try:
            yield process
        finally:
            process.kill()


async def until_received(receiver: RawUpstream, count: int, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(30):
        while len(receiver.requests) < count:
            assert process.poll() is None, "the worker ended by itself"
            await asyncio.sleep(0.002)


def firsts(receiver: RawUpstream, path: str) -> tuple[list[int], dict[str, int]]:
    """The numbers that one registration received, in the order of their first time; the number of each delivery id."""
    ids: dict[str, int] = {}
    for message in receiver.requests:
        if message.start.startswith(f"POST {path} ".encode()):
            number = json.loads(message.body)["number"]
            assert ids.setdefault(header(message, "X-Webhook-Id"), number) == number
    return list(ids.values()), ids


@pytest.mark.proof
async def test_killed_workers_lose_nothing_and_keep_the_order(tmp_path: Path) -> None:
    """SIGKILL between claiming, sending and settling: each event arrives, in order; twice only under the same id."""
    kills = scaled(4, 50)
    events = kills * 10
    path, chance = tmp_path / "records.db", random.Random(5)

    async def respond(message: Message, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(chance.random() * 0.01)
        await NO_CONTENT(message, writer)

    async with sink(respond) as receiver, opened(path, time.time) as store:
        outbox = await Outbox(store).begin()
        for number in range(SERIES):
            await outbox.register(f"{receiver.url}/{number}")
        await outbox.tell(*range(events))
        for kill in range(kills):
            with worker(path, kill * (LEASE_S + 1)) as process:
                await until_received(receiver, len(receiver.requests) + chance.randrange(1, 2 * SERIES * 8), process)
                await asyncio.sleep(chance.random() * 0.01)
        with worker(path, kills * (LEASE_S + 1)) as process:
            async with asyncio.timeout(60):
                while any(row["status"] != "delivered" for row in await outbox.deliveries()):
                    assert process.poll() is None
                    await asyncio.sleep(0.1)
        received = len(receiver.requests)
        for number in range(SERIES):
            in_order, ids = firsts(receiver, f"/{number}")
            assert in_order == list(range(events)), "each in its turn, none left out"
            assert len(ids) == events
        assert received <= SERIES * (events + kills), "twice only what a kill interrupted"
        figure("webhooks, workers killed", f"{kills} kills, {SERIES * events} events, {received} deliveries")


async def test_a_restart_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    async with sink() as receiver:
        async with working(path) as (env, outbox, _):
            await outbox.register(receiver.url)
            await outbox.tell(*range(6))
            for _ in range(3):
                await deliver_due(env)
        async with working(path) as (env, outbox, _):
            for _ in range(3):
                await deliver_due(env)
            assert [row["status"] for row in await outbox.deliveries()] == ["delivered"] * 6
        assert numbers_of(receiver) == list(range(6))


async def test_workers_side_by_side_share_the_outbox(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    async with sink() as receiver, opened(path, time.time) as store, open_egress(allow_private=True) as egress:
        outbox = await Outbox(store).begin()
        for number in range(SERIES):
            await outbox.register(f"{receiver.url}/{number}")
        await outbox.tell(*range(40))
        workers = [asyncio.create_task(run(env_of(store, egress, time.time))) for _ in range(3)]
        async with asyncio.timeout(20):
            while any(row["status"] != "delivered" for row in await outbox.deliveries()):
                await asyncio.sleep(0.05)
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        assert len(receiver.requests) == SERIES * 40, "each once"
        for number in range(SERIES):
            assert firsts(receiver, f"/{number}")[0] == list(range(40))


async def test_a_receiver_that_was_away_catches_up_in_order(tmp_path: Path) -> None:
    """Half an hour: what was tried four times is on record as failed, everything behind it arrives in order."""
    async with sink() as away, sink() as well, working(tmp_path / "records.db") as (env, outbox, clock):
        url, port = away.url, away.port
        dead = await outbox.register(url)
        await outbox.register(well.url)
        await outbox.tell(*range(150))
        await away.stop()
        began = clock.now
        for delay in cycle((*DELAYS_S, 0)):
            await deliver_due(env)
            clock.advance(delay)
            if clock.now > began + 1800:
                break
        assert numbers_of(well) == list(range(150)), "nobody else notices"
        rows = [row for row in await outbox.deliveries() if row["registration_id"] == dead]
        failed = [row["status"] for row in rows].count("failed")
        assert [row["status"] for row in rows] == ["failed"] * failed + ["pending"] * (150 - failed)
        assert 80 <= failed <= 90
        back = RawUpstream()
        back.respond = NO_CONTENT
        back._server = await asyncio.start_server(back._serve, "127.0.0.1", port)
        clock.advance(16)
        while await deliver_due(env):
            pass
        assert numbers_of(back) == list(range(failed, 150))
        (row,) = [row for row in await outbox.call("webhooks", agent_id=outbox.agent) if row["callback_url"] == url]
        assert (row["failure_count"], row["disabled_at"]) == (0, None)
        await back.stop()


@pytest.mark.alone
async def test_receivers_that_are_away_cost_no_memory(tmp_path: Path) -> None:
    """However much waits, what is held is what is on its way."""
    async with sink() as away, working(tmp_path / "records.db") as (env, outbox, clock):
        for number in range(PARALLEL + 20):
            await outbox.register(f"{away.url}/{number}")
        for number in range(30):
            told: list[Json] = [{"delivery_key": str(number), "event": "drift_alert", "data": {"text": "x" * 10_000}}]
            await outbox.call("enqueue_webhooks", agent_id=outbox.agent, events=told)
        await away.stop()
        tracemalloc.start()
        try:
            for delay in (*DELAYS_S, *DELAYS_S):
                assert await deliver_due(env) <= PARALLEL
                clock.advance(delay)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(settled_of(env).events) > PARALLEL
        assert peak < 12 << 20, f"{peak >> 10} KiB of {(PARALLEL + 20) * 30 * 10} KB that wait"
        figure("webhooks, receivers away", f"{peak >> 10} KiB held while {(PARALLEL + 20) * 300} KB wait")
