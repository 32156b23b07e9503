"""The observer as a process: it ends with what it has begun, and writes nothing before its key was checked."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.ask import STREAM, ask, post, script
from tests.gateway_process import GatewayProcess
from tests.provider.process import ProviderProcess
from tests.services.process import free_port
from tests.services.redis import redis_server

LIMIT_S = 30
SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"

pytestmark = pytest.mark.alone


class World:
    """Processes of one DATA_DIR; the provider judges too."""

    def __init__(self, folder: Path, provider: ProviderProcess, upstreams: dict[str, str]) -> None:
        self.folder = folder
        self.settings = {
            **upstreams, "DATA_DIR": str(folder / "data"), "ANTHROPIC_API_KEY": "sk-ant-analysis",
            "ANALYSIS_BASE_URL": provider.analyser_url, "ANALYSIS_TIMEOUT_MS": "60000",
        }  # fmt: skip

    def process(self, name: str, **variables: str) -> GatewayProcess:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return GatewayProcess(folder, {**self.settings, **variables})

    async def stream(self, gateway: GatewayProcess, count: int) -> None:
        """So many exchanges that end well."""
        answers = (
            ask(gateway, post("/anthropic/v1/messages", script(thinking="Hm."), body=STREAM)) for _ in range(count)
        )
        assert [answer.status for answer in await asyncio.gather(*answers)] == [200] * count

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.folder / "data" / "smoltbot.db")) as connection:
            return connection.execute(sql).fetchall()

    def verdicts(self) -> Counter[object]:
        return Counter(verdict for (verdict,) in self.rows("SELECT verdict FROM integrity_checkpoints"))

    def queued(self) -> Counter[object]:
        return Counter(queue for (queue,) in self.rows("SELECT queue FROM worker_compat_queue"))

    async def until_recorded(self, count: int) -> None:
        deadline = time.monotonic() + LIMIT_S
        while self.verdicts().total() < count:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


@pytest.fixture
def world(tmp_path: Path, provider: ProviderProcess, upstreams: dict[str, str]) -> World:
    return World(tmp_path, provider, upstreams)


async def until_asked(provider: ProviderProcess, count: int) -> None:
    """So many analyses have begun."""
    deadline = time.monotonic() + LIMIT_S
    while provider.judged_count() < count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_sigterm_lets_a_batch_end(world: World, provider: ProviderProcess) -> None:
    provider.judge(always={"delay": 1.0})
    with world.process("all") as gateway:
        await world.stream(gateway, 8)
        await until_asked(provider, 8)
        assert world.verdicts().total() == 0
    assert world.verdicts() == {"clear": 8}
    assert world.queued() == {}


async def test_what_does_not_end_in_time_is_done_by_the_next(world: World, provider: ProviderProcess) -> None:
    provider.judge(always={"delay": 30.0})
    gateway = world.process("all", DRAIN_TIMEOUT_S="0.5")
    await asyncio.to_thread(gateway.start)
    await world.stream(gateway, 3)
    await until_asked(provider, 3)
    began = time.monotonic()
    assert await asyncio.to_thread(gateway.stop) == 0
    assert time.monotonic() - began < 5
    assert (world.verdicts(), world.queued()) == (Counter(), Counter({"exchanges": 3}))
    provider.judge()
    with world.process("all"):
        await world.until_recorded(3)
    assert world.verdicts() == {"clear": 3}
    assert world.queued() == {}


async def test_a_process_with_another_key_writes_nothing(world: World) -> None:
    """Not even what waited for it already."""
    with world.process("gateway", SMOLTBOT_ROLE="gateway") as gateway:
        await world.stream(gateway, 5)
    assert (world.verdicts(), world.queued()) == (Counter(), Counter({"exchanges": 5}))
    wrong = world.process("wrong", SMOLTBOT_ROLE="scheduler", ED25519_SIGNING_KEY=SEED)
    with pytest.raises(RuntimeError, match="exited with 1 while starting"):
        await asyncio.to_thread(wrong.start)
    assert "cannot start: the signing key key-001" in wrong.output()
    assert (world.verdicts(), world.queued()) == (Counter(), Counter({"exchanges": 5}))
    with world.process("observer", SMOLTBOT_ROLE="scheduler"):
        await world.until_recorded(5)
    assert world.verdicts() == {"clear": 5}


class TestWhatWaitsInMemory:
    """Its queue was away when it was pushed."""

    async def test_at_the_end_it_is_stored(self, world: World, tmp_path: Path) -> None:
        port = free_port()
        settings = {"QUEUE_URL": f"redis://127.0.0.1:{port}/0"}
        gateway = world.process("gateway", SMOLTBOT_ROLE="gateway", **settings)
        await asyncio.to_thread(gateway.start)
        await world.stream(gateway, 3)
        await until_said(gateway, "exchanges wait in memory")
        with redis_server(tmp_path, port=port):
            assert await asyncio.to_thread(gateway.stop) == 0
            assert "were lost" not in gateway.output()
            with world.process("observer", SMOLTBOT_ROLE="scheduler", **settings):
                await world.until_recorded(3)
        assert world.verdicts() == {"clear": 3}

    async def test_at_the_end_of_its_time_it_is_lost_and_told(self, world: World) -> None:
        settings = {"QUEUE_URL": f"redis://127.0.0.1:{free_port()}/0", "DRAIN_TIMEOUT_S": "0.5"}
        gateway = world.process("gateway", SMOLTBOT_ROLE="gateway", **settings)
        await asyncio.to_thread(gateway.start)
        await world.stream(gateway, 3)
        began = time.monotonic()
        assert await asyncio.to_thread(gateway.stop) == 0
        assert time.monotonic() - began < 6
        assert "exchanges were lost and will have no checkpoint: 3" in gateway.output()


async def until_said(gateway: GatewayProcess, words: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while words not in gateway.output():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_what_another_key_sealed_is_not_lost(world: World) -> None:
    with world.process("gateway", SMOLTBOT_ROLE="gateway") as gateway:
        await world.stream(gateway, 1)
    settings = {"SMOLTBOT_ROLE": "scheduler", "QUEUE_ENCRYPTION_KEY": "7a" * 32, "OBSERVER_MAX_ATTEMPTS": "1"}
    with world.process("observer", **settings) as observer:
        deadline = time.monotonic() + LIMIT_S
        while world.queued() != {"exchanges-dead": 1}:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert "holds no exchange: these bytes were not sealed with this key" in observer.output()
    assert world.verdicts() == Counter()
