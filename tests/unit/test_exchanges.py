"""The queue of exchanges: sealed, stored in order and in groups; kept in memory, with bounds, while it is away."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from smoltbot_host.crypto import HostCrypto
from smoltbot_worker.events import Event, ExchangesDelayed
from smoltbot_worker.relay.exchanges import ExchangeQueue, longest_message
from smoltbot_worker.relay.message import ExchangeMessage
from tests.scale import figure
from tests.virtual import run
from worker_compat.errors import ConfigError, StoreUnavailable
from worker_compat.memory import MemoryQueueStore
from worker_compat.queues import Message, Queue
from worker_compat.registry import open_queue

MIB = 1024 * 1024
SECRET = b"the prompt that nobody may read"
CRYPTO = HostCrypto(bytes(32), sealing_key=bytes(range(32)))
AWAY = StoreUnavailable("the queue's server does not answer")


def exchange(number: int, size: int = 0) -> ExchangeMessage:
    return ExchangeMessage(
        id=f"request-{number}", checkpoint_id=f"ic-{number}", created_at=1.5, agent_id="smolt-1", agent_hash="h",
        session_id="s", gateway_version="1", provider="anthropic", method="POST", path="/v1/messages", status=200,
        streamed=True, request_body=SECRET, response_body=bytes(size), mutations=[{"kind": "nudge"}], cut=True,
    )  # fmt: skip


class Store(MemoryQueueStore):
    """A store that fails with ``error``, or what ``fates`` says of its next pushes, and waits for ``gate``."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.fates: list[Exception | None] = []
        self.gate: asyncio.Event | None = None
        self.tries: list[float] = []
        self.groups: list[int] = []

    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        self.tries.append(asyncio.get_running_loop().time())
        if self.gate is not None:
            await self.gate.wait()
        error = self.fates.pop(0) if self.fates else self.error
        if error is not None:
            raise error
        self.groups.append(len(bodies))
        await super().push(bodies, delay_s)

    async def bodies(self) -> list[Any]:
        """What is in it, in the order of the pushes."""
        return [Message.read(claimed).body for claimed in await self.claim(100_000, 60)]


class World:
    """An exchange queue on such a store; ``told`` has its events."""

    def __init__(self, **limits: Any) -> None:
        self.store = Store()
        self.told: list[Event] = []
        self.exchanges = ExchangeQueue(Queue(self.store, max_message_bytes=2 * MIB), CRYPTO, self, **limits)

    def emit(self, event: Event) -> None:
        self.told.append(event)

    async def stored(self) -> list[int]:
        """The numbers of the exchanges in the store."""
        opened = [await self.exchanges.open(body) for body in await self.store.bodies()]
        return [int(each.id.removeprefix("request-")) for each in opened]

    async def until_empty(self) -> None:
        while self.exchanges.waiting:
            await asyncio.sleep(0.01)


async def test_an_exchange_is_stored_sealed() -> None:
    world = World()
    assert await world.exchanges.push(exchange(7, 100)) is True
    [body] = await world.store.bodies()
    assert SECRET not in bytes(body)
    assert b"smolt-1" not in bytes(body)
    assert await world.exchanges.open(body) == exchange(7, 100)
    assert world.told == []
    assert world.exchanges.waiting == 0


async def test_those_that_come_together_are_stored_together_and_in_order() -> None:
    world = World()
    world.store.gate = asyncio.Event()
    pushes = [asyncio.create_task(world.exchanges.push(exchange(number))) for number in range(251)]
    while not world.store.tries:
        await asyncio.sleep(0)
    assert world.exchanges.waiting == 251
    world.store.gate.set()
    assert await asyncio.gather(*pushes) == [True] * 251
    assert await world.stored() == list(range(251))
    assert sum(world.store.groups) == 251
    assert max(world.store.groups) == 100
    assert len(world.store.groups) <= 4


async def test_large_ones_are_stored_as_a_batch_can_hold_them() -> None:
    world = World()
    sizes = [80_000] * 7 + [MIB] + [10] * 3 + [MIB] * 2
    pushes = (world.exchanges.push(exchange(number, size)) for number, size in enumerate(sizes))
    assert all(await asyncio.gather(*pushes))
    assert world.store.groups == [3, 3, 1, 1, 3, 1, 1]
    assert await world.stored() == list(range(len(sizes)))


def test_the_longest_message_has_room_for_two_captures() -> None:
    message = exchange(1, MIB)
    assert len(message.to_bytes()) + MIB + 100 < longest_message(MIB)


async def test_the_largest_is_stored() -> None:
    store = MemoryQueueStore()
    queue = Queue(store, max_message_bytes=longest_message(MIB))
    exchanges = ExchangeQueue(queue, CRYPTO, World())
    assert await exchanges.push(exchange(1, 2 * MIB))


def test_while_the_store_is_away_they_wait_in_memory() -> None:
    async def main() -> None:
        world = World()
        world.store.error = AWAY
        first = [world.exchanges.push(exchange(number)) for number in range(3)]
        assert await asyncio.gather(*first) == [False] * 3
        assert world.told == [ExchangesDelayed(3, 0)]
        world.store.gate = asyncio.Event()
        assert await world.exchanges.push(exchange(3)) is False, "nobody waits for a store that is known to be away"
        assert world.exchanges.waiting == 4
        world.store.error, world.store.gate = None, None
        await world.until_empty()
        assert await world.stored() == [0, 1, 2, 3]
        assert world.told[-1] == ExchangesDelayed(0, 0)
        assert await world.exchanges.push(exchange(4)) is True
        assert [event.count for event in world.told if isinstance(event, ExchangesDelayed)] == [3, 4, 0]

    run(main())


def test_it_tries_again_with_growing_pauses() -> None:
    async def main() -> None:
        world = World(longest_pause_s=5.0)
        world.store.error = AWAY
        await world.exchanges.push(exchange(0))
        await asyncio.sleep(22)
        assert world.store.tries == pytest.approx([0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3, 16.3, 21.3])
        world.store.error = None
        await world.until_empty()
        world.store.tries, world.store.error = [], AWAY
        began = asyncio.get_running_loop().time()
        await world.exchanges.push(exchange(1))
        await asyncio.sleep(0.35)
        assert [at - began for at in world.store.tries] == pytest.approx([0, 0.1, 0.3])

    run(main())


def test_a_success_in_between_begins_with_short_pauses_again() -> None:
    async def main() -> None:
        world = World()
        world.store.fates = [AWAY, AWAY, AWAY, None, AWAY, None]
        await asyncio.gather(*(world.exchanges.push(exchange(number)) for number in range(150)))
        await world.until_empty()
        assert world.store.tries == pytest.approx([0, 0.1, 0.3, 0.7, 0.7, 0.8])
        assert await world.stored() == list(range(150))

    run(main())


@pytest.mark.parametrize(("limits", "size", "kept"), [({"most_kept": 5}, 0, 5), ({"most_bytes": 100_000}, 30_000, 3)])
def test_over_a_bound_the_oldest_is_lost_and_counted(limits: dict[str, int], size: int, kept: int) -> None:
    async def main() -> None:
        world = World(**limits)
        world.store.error = AWAY
        for number in range(12):
            assert await world.exchanges.push(exchange(number, size)) is False
        assert world.exchanges.waiting == kept
        events = [event for event in world.told if isinstance(event, ExchangesDelayed)]
        assert sum(event.lost for event in events) == 12 - kept
        assert events[-1].count == kept
        world.store.error = None
        await world.until_empty()
        assert await world.stored() == list(range(12 - kept, 12))
        assert world.told[-1] == ExchangesDelayed(0, 0)

    run(main())


def test_what_is_being_stored_is_not_lost_to_a_bound() -> None:
    async def main() -> None:
        world = World(most_kept=3)
        world.store.error = AWAY
        for number in range(3):
            await world.exchanges.push(exchange(number))
        world.store.error, world.store.gate = None, asyncio.Event()
        await asyncio.sleep(6)
        for number in range(3, 6):
            assert await world.exchanges.push(exchange(number)) is False
        world.store.gate.set()
        await world.until_empty()
        assert await world.stored() == [0, 1, 2]
        assert sum(event.lost for event in world.told if isinstance(event, ExchangesDelayed)) == 3

    run(main())


async def test_a_pusher_that_gives_up_leaves_its_exchange_behind() -> None:
    world = World()
    world.store.gate = asyncio.Event()
    pushes = [asyncio.create_task(world.exchanges.push(exchange(number))) for number in range(3)]
    while not world.store.tries:
        await asyncio.sleep(0)
    for push in pushes[:2]:
        push.cancel()
    await asyncio.wait(pushes[:2])
    world.store.gate.set()
    assert await pushes[2] is True
    assert await world.stored() == [0, 1, 2]
    assert world.told == []


async def test_one_that_is_too_large_for_the_queue_is_lost_alone(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    pushes = (world.exchanges.push(exchange(number, size)) for number, size in enumerate([10, 3 * MIB, 10]))
    assert await asyncio.gather(*pushes) == [True, False, True]
    assert await world.stored() == [0, 2]
    assert world.told == [ExchangesDelayed(0, 1)]
    assert "exceeds single message size limit" in caplog.text


def test_a_queue_that_cannot_be_made_is_waited_for_too() -> None:
    async def main() -> None:
        world = World()
        world.store.error = ConfigError("this role may not make the tables")
        assert await world.exchanges.push(exchange(0)) is False
        world.store.error = None
        await world.until_empty()
        assert await world.stored() == [0]

    run(main())


def test_a_defect_loses_nothing() -> None:
    async def main() -> None:
        world = World()
        world.store.error = RuntimeError("a defect")
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # it is told of the sender's end
        assert await world.exchanges.push(exchange(0)) is False
        world.store.error = None
        assert await world.exchanges.push(exchange(1)) is True
        assert await world.stored() == [0, 1]
        assert world.told[-1] == ExchangesDelayed(0, 0)

    run(main())


class TestTheEnd:
    def test_what_waits_is_stored(self) -> None:
        async def main() -> None:
            world = World()
            world.store.error = AWAY
            for number in range(4):
                await world.exchanges.push(exchange(number))
            await asyncio.sleep(30)
            asyncio.get_running_loop().call_later(1, setattr, world.store, "error", None)
            began = asyncio.get_running_loop().time()
            assert await world.exchanges.drain(10) == 0
            assert asyncio.get_running_loop().time() - began < 1.2, "it tries more often now"
            assert await world.stored() == [0, 1, 2, 3]

        run(main())

    def test_what_cannot_be_stored_is_counted(self) -> None:
        async def main() -> None:
            world = World()
            world.store.error = AWAY
            for number in range(4):
                await world.exchanges.push(exchange(number))
            assert await world.exchanges.drain(3) == 4
            assert asyncio.get_running_loop().time() == pytest.approx(3, abs=0.2)
            assert world.told[-1] == ExchangesDelayed(0, 4)
            assert await world.exchanges.drain(3) == 0

        run(main())

    async def test_without_anything_to_do(self) -> None:
        assert await World().exchanges.drain(0) == 0


async def test_nothing_of_an_exchange_is_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world = World(most_kept=1)
    world.store.error = AWAY
    for number in range(3):
        await world.exchanges.push(exchange(number))
    await world.exchanges.drain(0.1)
    assert AWAY.args[0] in caplog.text
    for text in (caplog.text, repr(world.told)):
        assert SECRET.decode() not in text
        assert "smolt-1" not in text


class TestOpening:
    @pytest.mark.parametrize("body", ["text", None, 7, {"a": 1}, [1], b"", b"\1" + bytes(40), memoryview(bytes(99))])
    async def test_what_is_no_sealed_message(self, body: object) -> None:
        with pytest.raises(ValueError, match=r"^(this is no sealed message|these bytes were not sealed .*)$"):
            await World().exchanges.open(body)

    async def test_what_was_sealed_and_is_no_exchange(self) -> None:
        with pytest.raises(ValueError, match="no exchange message") as caught:
            await World().exchanges.open(await CRYPTO.seal(SECRET))
        assert SECRET.decode() not in str(caught.value)

    async def test_again_is_a_new_message(self) -> None:
        world = World()
        await world.exchanges.push(exchange(5))
        [first] = await world.store.claim(1, 60)
        await world.exchanges.again(Message.read(first).body, 0)
        [second] = await world.store.claim(1, 60)
        assert (first.id == second.id, second.attempts, second.body) == (False, 1, first.body)
        world.store.error = AWAY
        with pytest.raises(StoreUnavailable):
            await world.exchanges.again(Message.read(first).body, 0)


class Flaky(Store):
    """Fails at random, before or after it has done what it was told."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.durable: set[bytes] = set()

    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        fate = self.chance.random()
        await asyncio.sleep(self.chance.random() / 10)
        if fate < 0.3:
            raise AWAY
        await super().push(bodies, delay_s)
        self.durable |= {await CRYPTO.open(body[1:]) for body in bodies}
        if fate < 0.5:
            raise AWAY


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_store_does_nothing_is_lost(seed: int) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        store = Flaky(chance)
        recorder = World()
        exchanges = ExchangeQueue(Queue(store), CRYPTO, recorder)

        async def push(number: int) -> None:
            await asyncio.sleep(chance.random() * 3)
            message = exchange(number)
            if await exchanges.push(message):
                assert message.to_bytes() in store.durable

        await asyncio.gather(*(push(number) for number in range(200)))
        assert await exchanges.drain(120) == 0
        assert store.durable == {exchange(number).to_bytes() for number in range(200)}
        assert all(event.lost == 0 for event in recorder.told if isinstance(event, ExchangesDelayed))

    run(main())


@pytest.mark.alone
async def test_pushes_share_the_commits_of_the_disk(tmp_path: Path) -> None:
    pushers, each = 64, 40
    async with open_queue(f"sqlite:///{tmp_path}/queue.db") as store:
        exchanges = ExchangeQueue(Queue(store), CRYPTO, World())

        async def push() -> None:
            for number in range(each):
                assert await exchanges.push(exchange(number, 4000))

        await push()
        began = time.monotonic()
        await asyncio.gather(*(push() for _ in range(pushers)))
        rate = pushers * each / (time.monotonic() - began)
    figure(f"{pushers} parallel pushers of exchanges of 4 KB, SQLite", f"{rate:.0f} pushes/s, each on the disk")
    assert rate > 2000
