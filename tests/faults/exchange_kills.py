"""A gateway and an observer on one database, killed and started again while clients stream through the gateway."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.ask import STREAM, post, script
from tests.faults.migration_support import Database
from tests.gateway_process import GatewayProcess
from tests.unit.attestation_support import SEED
from tests.wire.raw import CutOff, RawClient
from worker_compat.ports import QueueDepth
from worker_compat.registry import open_queue

AGENTS = 6
CLIENTS = 12
LIMIT_S = 60
THOUGHT = "a thought that nobody may find on a disk"
KEYS = {"ED25519_SIGNING_KEY": SEED.hex(), "QUEUE_ENCRYPTION_KEY": "7a" * 32}

_TOLD = (b"aip-verdict", b"smoltbot-request-id", b"smoltbot-agent")
_BROKEN = (CutOff, EOFError, ConnectionError, TimeoutError)


@dataclass(slots=True)
class Seen:
    """What clients saw: the exchanges whose last byte came, by their ids, and how the others ended."""

    complete: dict[str, str] = field(default_factory=dict)
    """The agent of each request."""
    others: Counter[str] = field(default_factory=Counter)


class Deployment:
    """Both processes, on a database that is migrated; ``upstreams`` lead to the scripted provider."""

    def __init__(self, database: Database, analyser_url: str, upstreams: dict[str, str]) -> None:
        self.database = database
        settings = {
            **upstreams, **KEYS, "DATABASE_URL": database.url, "DATA_DIR": str(database.folder / "data"),
            "ANTHROPIC_API_KEY": "sk-ant-analysis", "ANALYSIS_BASE_URL": analyser_url,
        }  # fmt: skip
        self.gateway = self._process("gateway", settings)
        self.observer = self._process("scheduler", settings)
        self.seen = Seen()
        self.kills: Counter[str] = Counter()
        self._up = asyncio.Event()
        self._up.set()
        self._over = False
        self._aimed: asyncio.Event | None = None

    def _process(self, role: str, settings: dict[str, str]) -> GatewayProcess:
        folder = self.database.folder / role
        folder.mkdir()
        return GatewayProcess(folder, {**settings, "SMOLTBOT_ROLE": role})

    async def start(self) -> None:
        """Both ready."""
        for process in (self.gateway, self.observer):
            await asyncio.to_thread(process.start, ready_timeout=LIMIT_S)

    async def stop(self) -> list[int]:
        """Their exit codes."""
        return [await asyncio.to_thread(process.stop) for process in (self.gateway, self.observer)]

    async def stream(self, total: int, chance: random.Random) -> None:
        """Let clients stream until so many exchanges reached their last byte, and all kills are over."""

        async def client(number: int) -> None:
            while len(self.seen.complete) < total or not self._over:
                await self._up.wait()
                await self._one(f"sk-ant-test-{(number + chance.randrange(AGENTS)) % AGENTS}", chance)

        await asyncio.gather(*(client(number) for number in range(CLIENTS)))

    async def _one(self, key: str, chance: random.Random) -> None:
        asked = script(events=chance.randint(1, 6), event_delay=chance.random() / 30, thinking=THOUGHT)
        try:
            async with asyncio.timeout(LIMIT_S), await RawClient.connect(self.gateway.port) as client:
                answer = await client.request(post("/anthropic/v1/messages", asked, body=STREAM, key=key))
        except _BROKEN as error:
            self.seen.others[type(error).__name__] += 1
            await asyncio.sleep(0.01)
            return
        assert answer.status == 200
        if self._aimed is not None:
            # Now, when a client has just got its last byte: what is not on the disk by now never will be.
            self._up.clear()
            self.gateway.kill()
            self._aimed.set()
            self._aimed = None
        told = {name: (answer.get(b"x-" + name) or b"").decode() for name in _TOLD}
        if told[b"aip-verdict"] == "pending":
            self.seen.complete[told[b"smoltbot-request-id"]] = told[b"smoltbot-agent"]
        else:  # it says itself that nothing will be on record
            self.seen.others[told[b"aip-verdict"]] += 1

    async def kill(self, count: int, total: int, chance: random.Random) -> None:
        """SIGKILL so many times, spread over the run, each process half of them."""
        victims = [self.gateway, self.observer] * (count // 2)
        chance.shuffle(victims)
        for number, victim in enumerate(victims):
            while len(self.seen.complete) < total * (number + 1) // (count + 1):
                await asyncio.sleep(0.002)
            await asyncio.sleep(chance.random() / 10)
            await (self._kill_gateway() if victim is self.gateway else self._kill_observer())
            await asyncio.to_thread(victim.start, ready_timeout=LIMIT_S)
            self._up.set()
        self._over = True

    async def _kill_gateway(self) -> None:
        killed = self._aimed = asyncio.Event()
        await killed.wait()
        self.kills["gateway"] += 1

    async def _kill_observer(self) -> None:
        """And let its leases end, as if their time had passed: what it had in its hands comes again at once."""
        self.observer.kill()
        self.kills["observer"] += 1
        await self.database.run("UPDATE worker_compat_queue SET due = 0 WHERE holder IS NOT NULL")

    async def until_observed(self) -> QueueDepth:
        """Wait until nothing is queued; what is in the dead-letter queue then."""
        deadline = time.monotonic() + 3 * LIMIT_S
        async with open_queue(self._queue("exchanges")) as queue, open_queue(self._queue("exchanges-dead")) as dead:
            while (depth := await queue.depth()).waiting + depth.leased:
                assert time.monotonic() < deadline, f"{depth}\n{self.observer.tail()}"
                await asyncio.sleep(0.05)
            return await dead.depth()

    def _queue(self, name: str) -> str:
        return f"{self.database.url}?queue={name}"

    def files_with(self, text: str) -> list[str]:
        """Files below ``DATA_DIR``, and logs, that hold a text."""
        folder: Path = self.database.folder
        files = [path for path in folder.rglob("*") if path.is_file()]
        return [str(path) for path in files if text.encode() in path.read_bytes()]
