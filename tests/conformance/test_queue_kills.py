"""Consumers killed at random lose nothing, and poison ends in the dead-letter queue: on every shared backend."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conformance.backends import BACKENDS
from tests.conformance.consumer_process import KILLS, MAX_RETRIES, RAISES
from tests.scale import figure, scaled
from worker_compat import Message, Queue
from worker_compat.ports import QueueStore
from worker_compat.registry import open_queue

ROOT = Path(__file__).parents[2]
PROCESSES = 3
LEAST_KILLS = scaled(4, 6)
LIMIT_S = scaled(120, 900)

pytestmark = [pytest.mark.alone, pytest.mark.proof]


class Consumers:
    """Processes of ``consumer_process``, started again whenever one is gone."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self._command = [sys.executable, "-m", "tests.conformance.consumer_process", *arguments]
        self._log = log
        self._processes: list[subprocess.Popen[bytes]] = []
        self.kills = 0
        self.own_deaths = 0

    def keep_up(self) -> None:
        """Start those that are missing."""
        for process in [process for process in self._processes if process.poll() is not None]:
            assert process.returncode == -signal.SIGKILL, f"a consumer ended: {self._log.read_text()[-3000:]}"
            self.own_deaths += 1
            self._processes.remove(process)
        while len(self._processes) < PROCESSES:
            with self._log.open("ab") as log:
                self._processes.append(subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log))

    def kill(self, chance: random.Random) -> None:
        """Kill one of them."""
        process = chance.choice(self._processes)
        if process.poll() is None:
            process.kill()
            process.wait()
            self._processes.remove(process)
            self.kills += 1

    def end(self, how: signal.Signals) -> Sequence[int]:
        """Tell all to end; their exit codes."""
        for process in self._processes:
            process.send_signal(how)
        return [process.wait(20) for process in self._processes]


def recorded(path: Path) -> Counter[str]:
    """How often each message was processed."""
    return Counter(path.read_text().split()) if path.exists() else Counter()


async def dead_letters(store: QueueStore) -> Counter[str]:
    """The bodies in the dead-letter queue, which stay there."""
    found: Counter[str] = Counter()
    while claimed := await store.claim(100, 3600):
        found.update(str(Message.read(message).body) for message in claimed)
    return found


async def is_empty(store: QueueStore) -> bool:
    depth = await store.depth()
    return depth.waiting + depth.leased == 0


async def send_all(store: QueueStore, count: int) -> None:
    """Messages by their number, with the poison in the middle."""
    bodies = [str(number) for number in range(count)]
    bodies[count // 3 : count // 3] = [RAISES]
    bodies[count // 2 : count // 2] = [KILLS]
    for start in range(0, len(bodies), 100):
        await Queue(store).sendBatch([{"body": body} for body in bodies[start : start + 100]])


async def kill_until_done(
    consumers: Consumers, store: QueueStore, path: Path, count: int, chance: random.Random
) -> None:
    """Kill at random until every message was processed; then let them finish."""
    deadline = time.monotonic() + LIMIT_S
    done = 0
    while len(recorded(path)) < count or consumers.kills < LEAST_KILLS or not await is_empty(store):
        assert time.monotonic() < deadline, f"{len(recorded(path))} of {count} processed, {await store.depth()} left"
        consumers.keep_up()
        await asyncio.sleep(chance.uniform(0.2, 0.5))
        before, done = done, len(recorded(path))
        # A slow machine would otherwise see them killed before they have begun.
        if before < done < count or (done == count and consumers.kills < LEAST_KILLS):
            consumers.kill(chance)


async def test_nothing_is_lost_when_consumers_are_killed(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """On all backends at once: most of the time goes by waiting for leases."""
    shared = [backend for backend in BACKENDS if backend.id != "memory"]
    urls = [(backend.id, backend.queue_url(request), backend.queue_url(request)) for backend in shared]
    async with asyncio.TaskGroup() as group:
        for name, url, dead_url in urls:
            (tmp_path / name).mkdir()
            group.create_task(nothing_is_lost(name, url, dead_url, tmp_path / name))


async def nothing_is_lost(name: str, url: str, dead_url: str, folder: Path) -> None:
    count, chance, path = scaled(300, 10_000), random.Random(7), folder / "processed"
    consumers = Consumers(url, dead_url, str(path), log=folder / "log")
    began = time.monotonic()
    async with open_queue(url) as store, open_queue(dead_url) as dead:
        await send_all(store, count)
        try:
            await kill_until_done(consumers, store, path, count, chance)
            # One that was started a moment ago may not listen to SIGTERM yet.
            assert set(consumers.end(signal.SIGTERM)) <= {0, -signal.SIGTERM}, (folder / "log").read_text()[-3000:]
        finally:
            consumers.end(signal.SIGKILL)
        letters = await dead_letters(dead)
        assert await is_empty(store), name
    processed = recorded(path)
    assert set(processed) == {str(number) for number in range(count)}, name
    assert {RAISES, KILLS} <= set(letters), name
    # What shared its last batch with the poison that kills is there as well, but was processed.
    assert set(letters) - {RAISES, KILLS} <= set(processed), name
    # Fewer when a random kill came first in one of its deliveries.
    assert 1 <= consumers.own_deaths <= MAX_RETRIES + 1, name
    figure(
        f"queue on {name}: {count} messages, consumers killed",
        f"{consumers.kills} kills and {consumers.own_deaths} deaths by poison in {time.monotonic() - began:.1f} s; "
        f"0 lost, {sum(processed.values()) - count} processed again, {sum(letters.values())} dead letters",
    )
