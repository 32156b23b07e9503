"""Scheduled events: the controller, and the Scheduler's promise on a shared store, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from tests.scale import figure, scaled
from tests.virtual import LoopClock, run
from worker_compat.cron import Cron
from worker_compat.errors import StoreUnavailable
from worker_compat.memory import MemoryKVStore
from worker_compat.ports import KVEntry, KVPage, KVStore
from worker_compat.scheduled import ScheduledController, ScheduledResult, Scheduler

START = 1_700_000_000
FIRST = 1_700_000_040
"""The first full minute."""
KEY = "scheduled/* * * * *"
OK = ScheduledResult("ok", False)

Work = Callable[[ScheduledController], Awaitable[None]]


class Door:
    """A process's way to the shared store, which may be shut, or let writes in and lose their answers."""

    def __init__(self, store: MemoryKVStore) -> None:
        self.store = store
        self.shut = False
        self.loses_answers = False

    async def get(self, key: str) -> KVEntry | None:
        self._pass()
        return await self.store.get(key)

    async def put(self, key: str, entry: KVEntry) -> None:
        self._pass()
        await self.store.put(key, entry)

    async def delete(self, key: str) -> None:
        await self.store.delete(key)

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        return await self.store.list(prefix, limit, cursor)

    async def compare_and_put(self, key: str, seen: bytes | None, entry: KVEntry) -> bool:
        self._pass()
        done = await self.store.compare_and_put(key, seen, entry)
        if self.loses_answers:
            raise StoreUnavailable("no answer")
        return done

    def _pass(self) -> None:
        if self.shut:
            raise StoreUnavailable("the door is shut")


class Plain:
    """A store without ``compare_and_put``."""

    def __init__(self, store: MemoryKVStore) -> None:
        self.get, self.put, self.delete, self.list = store.get, store.put, store.delete, store.list


class World:
    """Processes that share a store; ``runs`` has (when, who, tick) of every run that began."""

    def __init__(self, *crons: str, work: Work | None = None) -> None:
        self.crons = [Cron.parse(text) for text in crons or ("* * * * *",)]
        self.clock = LoopClock(START)
        self.store = MemoryKVStore(clock=self.clock)
        self.work = work
        self.runs: list[tuple[float, str, int]] = []
        self.told: list[ScheduledController] = []
        self.finished: list[int] = []
        self.doors: dict[str, Door] = {}
        self.schedulers: dict[str, Scheduler] = {}
        self.processes: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, state: KVStore | None = None, **options: Any) -> None:
        async def dispatch(controller: ScheduledController) -> ScheduledResult:
            self.runs.append((round(self.clock()), name, controller.scheduledTime // 1000))
            self.told.append(controller)
            if self.work is not None:
                await self.work(controller)
            self.finished.append(controller.scheduledTime // 1000)
            return OK

        door = self.doors[name] = Door(self.store)
        options = {"state": state or door, "clock": self.clock, "holder": name, **options}
        scheduler = self.schedulers[name] = Scheduler(self.crons, options.pop("dispatch", dispatch), **options)
        self.processes[name] = asyncio.create_task(scheduler.run())

    async def kill(self, name: str) -> None:
        """The process is gone: it does not even tell the store."""
        self.doors[name].shut = True
        self.processes[name].cancel()
        await asyncio.wait({self.processes[name]})

    async def end(self) -> None:
        for name in self.processes:
            await self.kill(name)

    @property
    def ticks(self) -> list[int]:
        return [tick for _, _, tick in self.runs]

    def record(self) -> dict[str, Any]:
        """The record of the first cron."""
        entry = self.store._entries[f"scheduled/{self.crons[0].text}"]
        return dict(json.loads(entry.value))


def minutes(first: int, last: int) -> list[int]:
    return [FIRST + 60 * number for number in range(first, last + 1)]


def play(main: Callable[[World], Coroutine[Any, Any, None]], *crons: str, work: Work | None = None) -> World:
    async def whole() -> World:
        world = World(*crons, work=work)
        await main(world)
        await world.end()
        return world

    return run(whole())


def takes(seconds: float) -> Work:
    return lambda controller: asyncio.sleep(seconds)


class TestController:
    def test_what_it_has(self) -> None:
        controller = ScheduledController(FIRST * 1000, "* * * * *")
        assert (controller.scheduledTime, controller.cron) == (FIRST * 1000, "* * * * *")
        assert not hasattr(controller, "type")

    @pytest.mark.parametrize("spelling", ["noRetry", "no_retry"])
    def test_no_retry(self, spelling: str) -> None:
        controller = ScheduledController(0, "* * * * *")
        assert not controller.refuses_retry
        getattr(controller, spelling)()
        assert controller.refuses_retry


class TestTicks:
    def test_every_one_once_and_on_time(self) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(600)

        assert play(main).runs == [(tick, "a", tick) for tick in minutes(0, 9)]

    def test_each_cron_is_told_as_it_was_written(self) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(600)

        world = play(main, "*/5  * * * *", "* * * nov 3", "* * * * 4", "*/5  * * * *")
        assert Counter(controller.cron for controller in world.told) == {"*/5  * * * *": 2, "* * * nov 3": 10}
        assert all(controller.scheduledTime % 60_000 == 0 for controller in world.told)

    def test_crons_do_not_wait_for_one_another(self) -> None:
        async def work(controller: ScheduledController) -> None:
            await asyncio.sleep(1000 if controller.cron == "*/2 * * * *" else 0)

        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(600)

        world = play(main, "*/2 * * * *", "* * * * *", work=work)
        assert Counter(controller.cron for controller in world.told) == {"*/2 * * * *": 1, "* * * * *": 10}

    @pytest.mark.parametrize("how", ["raises", "outcome"])
    def test_a_failure_is_logged_and_not_run_again(self, how: str, caplog: pytest.LogCaptureFixture) -> None:
        ran: list[int] = []

        async def dispatch(controller: ScheduledController) -> ScheduledResult:
            ran.append(controller.scheduledTime // 1000)
            if how == "raises":
                raise ValueError("broken")
            return ScheduledResult("exception", False, ValueError("broken"))

        async def main(world: World) -> None:
            world.start("a", dispatch=dispatch)
            await asyncio.sleep(200)

        play(main)
        assert ran == minutes(0, 2)
        assert caplog.messages == ["the scheduled run of * * * * * failed"] * 3
        assert "ValueError: broken" in caplog.text

    def test_a_handler_that_outlives_ticks_does_not_overlap(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main(world: World) -> None:
            world.start("a")
            world.start("b")
            await asyncio.sleep(700)

        runs = play(main, work=takes(130)).runs
        assert [tick for _, _, tick in runs] == [FIRST, FIRST + 120, FIRST + 240, FIRST + 360, FIRST + 480, FIRST + 600]
        assert all(later[0] - earlier[0] >= 130 for earlier, later in itertools.pairwise(runs))
        assert any("the ticks from 2023-11-14T22:15Z on were missed" in text for text in caplog.messages)

    def test_stopping_lets_the_handler_end_and_begins_nothing(self) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(45)
            world.schedulers["a"].stop()
            await world.processes["a"]
            assert asyncio.get_running_loop().time() == pytest.approx(40 + 130)
            assert world.record()["done"]

        assert play(main, work=takes(130)).finished == [FIRST]

    def test_stopping_an_idle_one_ends_it_at_once(self) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(1)
            world.schedulers["a"].stop()
            await world.processes["a"]
            assert asyncio.get_running_loop().time() == 1

        assert play(main).runs == []

    def test_a_cron_that_never_comes(self) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(900)

        assert play(main, "* * 31 2 *").runs == []


class TestDowntime:
    def test_the_latest_missed_tick_is_made_up_for(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(110)
            await world.kill("a")
            await asyncio.sleep(300)
            world.start("b")
            await asyncio.sleep(60)

        world = play(main)
        first = [(tick, "a", tick) for tick in minutes(0, 1)]
        assert world.runs == [*first, (START + 410, "b", FIRST + 360), (FIRST + 420, "b", FIRST + 420)]
        assert caplog.messages == ["* * * * *: the ticks from 2023-11-14T22:16Z on were missed and are left out"]

    def test_one_that_was_missed_right_after_the_first_start(self) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(1)
            await world.kill("a")
            await asyncio.sleep(60)
            world.start("b")
            await asyncio.sleep(1)

        assert play(main).runs == [(START + 61, "b", FIRST)]

    @pytest.mark.parametrize(("down", "made_up"), [(890, True), (910, False)])
    def test_not_when_it_is_too_old(self, down: int, made_up: bool, caplog: pytest.LogCaptureFixture) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(FIRST - START - 1)
            await world.kill("a")
            await asyncio.sleep(1 + down)
            world.start("b")
            await asyncio.sleep(1800 - down)

        world = play(main, "14,44 * * * *")
        assert world.ticks == [FIRST] * made_up + [FIRST + 1800]
        assert len(caplog.messages) == (not made_up)

    def test_how_old_it_may_be_is_the_callers_choice(self) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(1)
            await world.kill("a")
            await asyncio.sleep(6 * 3600)
            world.start("b", catch_up_s=86_400)
            await asyncio.sleep(1)

        assert len(play(main, "14 22 * * *").runs) == 1


class TestSeveralProcesses:
    @pytest.mark.parametrize("count", [2, 5])
    def test_every_tick_runs_once(self, count: int) -> None:
        async def main(world: World) -> None:
            for number in range(count):
                world.start(f"p{number}")
            await asyncio.sleep(60 * 500)

        assert play(main, work=takes(3)).ticks == minutes(0, 499)

    def test_a_long_run_is_not_taken_for_dead(self) -> None:
        async def main(world: World) -> None:
            for name in "abc":
                world.start(name)
            await asyncio.sleep(3000)

        assert play(main, "14 * * * *", work=takes(2900)).ticks == [FIRST]

    def test_a_dead_runner_is_replaced_soon(self, caplog: pytest.LogCaptureFixture) -> None:
        async def work(controller: ScheduledController) -> None:
            await asyncio.sleep(30)

        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(1)
            world.start("b")
            world.start("c")
            await asyncio.sleep(45)
            await world.kill(world.runs[0][1])
            await asyncio.sleep(110)

        world = play(main, work=work)
        assert world.ticks == [FIRST, *minutes(0, 1)]
        assert world.finished == minutes(0, 1)
        assert world.runs[1][0] - (START + 46) <= 40
        assert "the tick 2023-11-14T22:14Z was left unfinished and is run again" in caplog.text

    @pytest.mark.parametrize("refuses", [True, False])
    def test_unless_the_handler_refused(self, refuses: bool, caplog: pytest.LogCaptureFixture) -> None:
        async def work(controller: ScheduledController) -> None:
            if refuses:
                controller.noRetry()
            await asyncio.sleep(30)

        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(FIRST - START + 0.1)
            await world.kill("a")
            world.start("b")
            await asyncio.sleep(140)

        world = play(main, work=work)
        assert world.ticks == ([FIRST] if refuses else [FIRST] * 2) + minutes(1, 2)
        assert ("is given up" in caplog.text) == refuses

    def test_nor_when_it_is_too_old(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(50)
            await world.kill("a")
            await asyncio.sleep(1000)
            world.start("b")
            await asyncio.sleep(100)

        world = play(main, "14 * * * *", work=takes(30))
        assert world.ticks == [FIRST]
        assert "the tick 2023-11-14T22:14Z was left unfinished and is given up" in caplog.text

    def test_the_same_holder_goes_on_at_once(self) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(50)
            await world.kill("a")
            world.start("a")
            await asyncio.sleep(1)

        assert play(main, work=takes(30)).ticks == [FIRST, FIRST]

    def test_who_lost_its_tick_is_cancelled(self, caplog: pytest.LogCaptureFixture) -> None:
        """A process that the store alone cannot see: the tick is run twice, but not to the end by both."""

        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(41)
            world.doors["a"].shut = True
            world.start("b")
            await asyncio.sleep(45)
            world.doors["a"].shut = False
            await asyncio.sleep(60)

        world = play(main, "14 * * * *", work=takes(100))
        assert [(who, tick) for _, who, tick in world.runs] == [("a", FIRST), ("b", FIRST)]
        assert world.finished == []
        assert "the tick 2023-11-14T22:14Z was taken over" in caplog.text


class TestClock:
    @pytest.mark.parametrize("step", [-3600, -61, -59, -0.5, 0.5, 59, 61, 3600])
    @pytest.mark.parametrize("at", [39.9, 40.1, 70])
    def test_a_jump_never_doubles_a_tick(self, step: float, at: float) -> None:
        async def main(world: World) -> None:
            for name in "ab":
                world.start(name)
            await asyncio.sleep(at)
            world.clock.offset += step
            await asyncio.sleep(600)
            world.clock.offset -= step
            await asyncio.sleep(4000)

        world = play(main, work=takes(1))
        assert max(Counter(world.ticks).values()) == 1
        assert world.ticks == sorted(world.ticks)
        # In the end all of them come again.
        assert set(minutes(65, 70)) <= set(world.ticks)

    def test_a_last_tick_in_the_far_future_does_not_stop_it_for_ever(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(50)
            world.clock.offset += 10 * 365 * 86_400
            await asyncio.sleep(120)
            world.clock.offset -= 10 * 365 * 86_400
            await asyncio.sleep(120)

        world = play(main)
        assert [tick for tick in world.ticks if tick < FIRST + 86_400] == [FIRST, FIRST + 240]  # it looks once a minute
        assert "is in the future and is forgotten" in caplog.text


class TestStore:
    def test_an_outage_delays_and_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main(world: World) -> None:
            world.start("a")
            world.start("b")
            await asyncio.sleep(50)
            world.doors["a"].shut = world.doors["b"].shut = True
            await asyncio.sleep(60)
            world.doors["a"].shut = world.doors["b"].shut = False
            await asyncio.sleep(100)

        world = play(main)
        assert world.ticks == minutes(0, 2)
        assert world.runs[1][0] in range(START + 110, START + 114)
        assert caplog.messages.count("scheduled runs wait for the store of their state: the door is shut") == 2
        assert len(caplog.messages) == 4

    def test_an_outage_while_a_handler_runs_does_not_double_its_tick(self) -> None:
        async def main(world: World) -> None:
            world.start("a")
            world.start("b")
            await asyncio.sleep(45)
            for door in world.doors.values():
                door.shut = True
            await asyncio.sleep(500)
            for door in world.doors.values():
                door.shut = False
            await asyncio.sleep(100)

        world = play(main, "14 * * * *", work=takes(20))
        assert world.ticks == world.finished == [FIRST]

    def test_time_in_which_the_store_did_not_answer_is_no_time_of_watching(self) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(35)
            world.start("b")
            for name, seconds in (("a", 51), ("b", 72)):
                await asyncio.sleep(seconds - asyncio.get_running_loop().time())
                world.doors[name].shut = True
            await asyncio.sleep(9)
            for door in world.doors.values():
                door.shut = False
            await asyncio.sleep(100)

        world = play(main, "14 * * * *", work=takes(60))
        assert world.runs == [(FIRST, "a", FIRST)]
        assert world.finished == [FIRST]

    def test_a_claim_whose_answer_was_lost_is_still_a_claim(self) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(30)
            world.doors["a"].loses_answers = True
            await asyncio.sleep(10.5)
            assert world.runs == []
            assert not world.record()["done"]
            world.doors["a"].loses_answers = False
            world.start("b")
            await asyncio.sleep(40)

        assert play(main, "14 * * * *").runs == [(START + 42, "a", FIRST)]

    @pytest.mark.parametrize("lasts", [5, 25])
    def test_a_renewal_whose_answer_was_lost_is_no_loss(self, lasts: int) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(41)
            world.start("b")
            world.doors["a"].loses_answers = True
            await asyncio.sleep(lasts)
            world.doors["a"].loses_answers = False
            await asyncio.sleep(100)

        world = play(main, "14 * * * *", work=takes(20))
        assert world.ticks == world.finished == [FIRST]

    def test_a_store_that_is_away_from_the_start(self) -> None:
        async def main(world: World) -> None:
            world.start("a")
            world.doors["a"].shut = True
            await asyncio.sleep(70)
            world.doors["a"].shut = False
            await asyncio.sleep(5)

        assert play(main).ticks == [FIRST]

    @pytest.mark.parametrize("value", [None, b"", b"\xff", b"[]", b'{"tick": "x"}', b'{"tick": 1, "other": 2}'])
    def test_a_record_that_is_gone_or_foreign_doubles_nothing(self, value: bytes | None) -> None:
        async def main(world: World) -> None:
            for name in "ab":
                world.start(name)
            await asyncio.sleep(50)
            await (world.store.delete(KEY) if value is None else world.store.put(KEY, KVEntry(value)))
            await asyncio.sleep(60)

        assert play(main).ticks == minutes(0, 1)

    def test_a_record_that_goes_while_a_handler_runs(self) -> None:
        async def main(world: World) -> None:
            world.start("a")
            await asyncio.sleep(41)
            await world.store.delete(KEY)
            await asyncio.sleep(200)

        world = play(main, "14 * * * *", work=takes(50))
        assert world.ticks == world.finished == [FIRST]

    def test_the_names_of_records(self) -> None:
        async def main(world: World) -> None:
            world.start("a", prefix="mine/")
            await asyncio.sleep(1)
            assert [key.name for key in (await world.store.list("", 10, None)).keys] == ["mine/* * * * *"]

        play(main)

    def test_without_compare_and_put_it_is_for_one_process(self) -> None:
        async def main(world: World) -> None:
            world.start("a", Plain(world.store))
            await asyncio.sleep(110)
            world.processes["a"].cancel()
            world.start("b", Plain(world.store))
            await asyncio.sleep(1)

        world = play(main, work=takes(30))
        assert world.runs == [(FIRST, "a", FIRST), (FIRST + 60, "a", FIRST + 60), (START + 110, "b", FIRST + 60)]


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(4))
def test_random_deaths_and_outages_lose_nothing(seed: int) -> None:
    """Processes die and come, doors shut and open; the promise is checked tick by tick."""
    dice = random.Random(seed)
    killed: set[int] = set()

    async def work(controller: ScheduledController) -> None:
        await asyncio.sleep(dice.choice([0, 5, 60, 120]))

    async def main(world: World) -> None:
        names = iter(f"p{number}" for number in range(100_000))
        for _ in range(3):
            world.start(next(names))
        for _ in range(scaled(300, 5000)):
            await asyncio.sleep(dice.random() * 120)
            living = [name for name, process in world.processes.items() if not process.done()]
            event = dice.random()
            if event < 0.4:
                victim = dice.choice(living)
                if not world.record()["done"] and world.record()["holder"] == victim:
                    killed.add(world.record()["tick"])
                await world.kill(victim)
                world.start(next(names))
            elif event < 0.6:
                doors = [world.doors[name] for name in living]
                for door in doors:
                    door.shut = event < 0.5
                    door.loses_answers = not door.shut
                await asyncio.sleep(dice.random() * 100)
                for door in doors:
                    door.shut = door.loses_answers = False
        await asyncio.sleep(300)
        assert world.ticks[-1] >= world.clock() - 600

    world = play(main, "*/10 * * * *", work=work)
    expected = range(min(world.ticks), max(world.ticks) + 1, 600)
    assert sorted(set(world.ticks)) == list(expected)
    assert set(world.finished) == set(expected)
    assert {tick for tick, count in Counter(world.ticks).items() if count > 1} <= killed
    assert killed
    again = len(world.ticks) - len(expected)
    figure(
        f"ticks of 3 schedulers with random deaths and outages, in virtual time, seed {seed}",
        f"{len(expected)} ticks, {again} run again after their process died, 0 missed, 0 doubled",
    )
