"""Drift: one alert for each run of concerns, whoever looks, whenever and how often; judged as the SDK does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aip
import pytest

from smoltbot_records_sqlite import migrate, open_records
from smoltbot_worker.answers import iso
from smoltbot_worker.env import Env, read_variables
from smoltbot_worker.events import DriftFound, Event
from smoltbot_worker.integrity import drift
from smoltbot_worker.ports import Json, RecordStore, RecordsUnavailable
from smoltbot_worker.testing.records_area import append, call, new_agent
from smoltbot_worker.testing.samples import entry
from worker_compat.testing import FakeClock

SCHEMA = Path(__file__).parents[2] / "schema" / "sqlite"
VERDICTS = {"c": "clear", "r": "review_needed", "v": "boundary_violation", "e": "error", "s": "skipped"}
CATEGORIES = {
    "prompt_injection": "injection_pattern",
    "value_misalignment": "value_erosion",
    "autonomy_violation": "autonomy_creep",
    "deceptive_reasoning": "deception_pattern",
    "reasoning_corruption": "reasoning_degradation",
    "undeclared_intent": "intent_drift",
    "output_misalignment": "unknown",
    "output_injection_compliance": "unknown",
}


class Watched:
    """A store that counts its calls and whose functions in ``away`` fail."""

    def __init__(self, store: RecordStore) -> None:
        self.store = store
        self.away: set[str] = set()
        self.calls: list[str] = []

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        self.calls.append(function)
        if function in self.away:
            raise RecordsUnavailable("away")
        return await self.store.call(function, arguments)


class Told:
    """A Telemetry that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


@dataclass
class Session:
    """A session of an agent whose checkpoints are stored, and looked at."""

    store: Watched
    clock: FakeClock
    agent_id: str
    session_id: str = "session-1"
    card_id: str | None = "ac-1"
    told: Told = field(default_factory=Told)
    ids: list[str] = field(default_factory=list)

    async def add(self, verdicts: str, *categories: str) -> None:
        """Store checkpoints together; each that is not clear has these concerns."""
        rows = []
        for letter in verdicts:
            given: list[Json] = [] if letter == "c" else [{"category": name} for name in categories]
            rows.append(entry(self.session_id, verdict=VERDICTS[letter], concerns=given))
        await append(self.store.store, self.agent_id, *rows)
        self.ids += [row["checkpoint_id"] for row in rows]

    async def look(self, env: Env | None = None) -> None:
        """What is done after each of the commits."""
        await drift.follow(self.agent_id, self.card_id, self.session_id, env or self.env())

    async def one_by_one(self, verdicts: str, *categories: str) -> None:
        for letter in verdicts:
            await self.add(letter, *categories)
            await self.look()

    async def alerts(self) -> list[dict[str, Any]]:
        """The alerts of the agent, the oldest first."""
        listed = await call(self.store.store, "drift_alerts", agent_id=self.agent_id, limit=1000)
        return sorted(listed, key=lambda alert: self.ids.index(alert["checkpoint_ids"][0]))

    def env(self) -> Env:
        """What drift uses of an Env, and nothing else."""
        values, _ = read_variables({})
        nothing = cast(Any, None)
        return Env(
            **values, records=self.store, telemetry=self.told, clock=self.clock, crypto=nothing, egress=nothing,
            agents=nothing, state=nothing, checkpoints=nothing, analyst=nothing, exchanges=nothing, license=nothing,
        )  # fmt: skip


@pytest.fixture
def clock() -> FakeClock:
    """The time of the database and of whoever looks."""
    return FakeClock()


@pytest.fixture
async def store(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Watched]:
    url = f"sqlite:///{tmp_path}/records.db"
    await migrate(url, SCHEMA)
    async with open_records(url, clock=clock) as opened:
        yield Watched(opened)


@pytest.fixture
async def session(store: Watched, clock: FakeClock) -> Session:
    return Session(store, clock, await new_agent(store))


class TestOneAlert:
    async def test_three_concerns_in_a_row(self, session: Session, clock: FakeClock) -> None:
        """Neither two, nor with a clear one between; error and skipped are as if they were not there."""
        await session.one_by_one("vvcrscv", "prompt_injection")
        assert await session.alerts() == []
        await session.one_by_one("esr", "prompt_injection")
        assert await session.alerts() == []
        await session.one_by_one("v", "prompt_injection")
        (alert,) = await session.alerts()
        assert alert.pop("alert_id").startswith("ida-")
        run = [session.ids[place] for place in (6, 9, 10)]
        assert alert == {
            "agent_id": session.agent_id, "card_id": "ac-1", "session_id": "session-1", "severity": "high",
            "alert_type": "aip:injection_pattern", "checkpoint_ids": run, "trace_ids": [],
            "description": "3 consecutive integrity concerns detected. Dominant pattern: injection_pattern. "
            "Integrity ratio: 25%.",
            "drift_data": {
                "drift_direction": "injection_pattern", "sustained_checks": 3, "integrity_similarity": 0.25,
            },
            "dedup_key": f"aip:{session.agent_id}:session-1:{run[0]}", "detection_timestamp": iso(clock()),
            "created_at": iso(clock()), "resolved_at": None,
        }  # fmt: skip
        assert session.told.events == [DriftFound(session.agent_id, "session-1", "injection_pattern", "high")]

    async def test_webhooks_are_told_once(self, session: Session) -> None:
        hook = {"callback_url": "https://hook.example", "sealed_secret": "sealed", "events": ["drift_alert"]}
        await call(session.store, "register_webhook", registration_id="awh-1", agent_id=session.agent_id, **hook)
        await session.one_by_one("v" * 15 + "cc")
        (delivery,) = await call(session.store, "claim_webhooks", claimed_by="w", limit=10, lease_s=60)
        assert (delivery["payload"]["event"], delivery["payload"]["alert"]["checkpoint_ids"]) == (
            "drift_alert", session.ids[:3],
        )  # fmt: skip

    @pytest.mark.parametrize("length", [4, 8, 19, 20, 21, 130])
    async def test_a_run_however_long(self, session: Session, clock: FakeClock, length: int) -> None:
        """The SDK tells of a run again every five checks."""
        await session.one_by_one("cc")
        if length > 21:
            await session.one_by_one("vvv")
            await session.add("r" * (length - 6))
            await session.one_by_one("vvv")
        else:
            await session.one_by_one("v" * length)
        clock.advance(5)
        await session.one_by_one("ec")
        clock.advance(5)
        await session.one_by_one("cc")
        (alert,) = await session.alerts()
        assert (alert["checkpoint_ids"], alert["resolved_at"]) == (session.ids[2:5], iso(clock() - 5))
        assert len(session.told.events) == 1

    async def test_a_redelivery(self, session: Session) -> None:
        for verdicts in ("vvv", "v", "c", "cr"):
            await session.add(verdicts)
            for _ in range(3):
                await session.look()
        assert len(await session.alerts()) == len(session.told.events) == 1

    async def test_processes_at_once(self, session: Session) -> None:
        await session.add("vvvv")
        await asyncio.gather(*(session.look() for _ in range(8)))
        await session.add("c")
        await asyncio.gather(*(session.look() for _ in range(8)))
        (alert,) = await session.alerts()
        assert alert["resolved_at"] is not None
        assert len(session.told.events) == 1, "who stored it tells of it"

    async def test_every_run_has_its_own(self, session: Session, clock: FakeClock) -> None:
        await session.one_by_one("vvvc", "prompt_injection")
        clock.advance(1)
        await session.one_by_one("rrrr", "autonomy_violation")
        first, second = await session.alerts()
        assert (first["alert_type"], first["resolved_at"]) == ("aip:injection_pattern", iso(clock() - 1))
        assert (second["alert_type"], second["resolved_at"]) == ("aip:autonomy_creep", None)

    async def test_sessions_and_agents_are_apart(self, session: Session) -> None:
        other = Session(session.store, session.clock, session.agent_id, "session-2")
        foreign = Session(session.store, session.clock, await new_agent(session.store))
        for each in (session, other, foreign) * 2:
            await each.one_by_one("v")
        assert not session.told.events + other.told.events + foreign.told.events
        await other.one_by_one("v")
        assert [alert["session_id"] for alert in await other.alerts()] == ["session-2"]


class TestLate:
    """Many checkpoints may be committed together, and whoever should have looked may have been stopped."""

    async def test_over_before_anybody_looks(self, session: Session, clock: FakeClock) -> None:
        await session.add("cvvvvcc", "undeclared_intent")
        await session.look()
        (alert,) = await session.alerts()
        assert (alert["checkpoint_ids"], alert["resolved_at"]) == (session.ids[1:5], iso(clock()))
        assert alert["drift_data"]["integrity_similarity"] == 0.2, "as of its end"
        assert len(session.told.events) == 1

    async def test_several_runs(self, session: Session) -> None:
        await session.add("vvvcrrrscvvcvvv")
        await session.look()
        alerts = await session.alerts()
        firsts = [session.ids.index(alert["checkpoint_ids"][0]) for alert in alerts]
        assert (firsts, [alert["resolved_at"] is None for alert in alerts]) == ([0, 4, 12], [False, False, True])

    async def test_what_began_before_what_is_looked_at(self, session: Session) -> None:
        """A run is not taken for a shorter one because its beginning is too far away."""
        await session.one_by_one("vvvv")
        await session.add("c" * 16 + "v")
        await session.look()
        assert len(await session.alerts()) == 1
        await session.add("c" * 20 + "v" * 19 + "c")
        await session.look()
        assert len((await session.alerts())[1]["checkpoint_ids"]) == 19
        await session.add("v" * 25 + "c")
        await session.look()
        alerts = await session.alerts()
        assert (len(alerts), alerts[2]["drift_data"]["sustained_checks"]) == (3, 25)
        assert alerts[2]["checkpoint_ids"] == [session.ids[-26], *session.ids[-21:-1]], (
            "its first, and what is in sight"
        )
        assert all(alert["resolved_at"] for alert in alerts)

    async def test_a_late_look_at_an_old_state(self, session: Session) -> None:
        """Somebody saw the run, and tells of it when others have seen its end."""
        await session.add("vvv")
        seen = await call(session.store, "session_checks", agent_id=session.agent_id, session_id="session-1", limit=20)
        await session.add("c")
        await session.look()
        await drift._record(seen, (session.agent_id, None, "session-1"), session.env())
        (alert,) = await session.alerts()
        assert alert["resolved_at"] is not None

    @pytest.mark.parametrize("function", ["session_checks", "record_drift", "resolve_drift"])
    async def test_an_outage(self, session: Session, function: str) -> None:
        """It is told, and the next look makes up for it."""
        session.store.away = {function}
        await session.add("vvv")
        if function == "resolve_drift":
            await session.look()
            await session.add("c")
        with pytest.raises(RecordsUnavailable):
            await session.look()
        session.store.away = set()
        await session.add("v" if function != "resolve_drift" else "c")
        await session.look()
        (alert,) = await session.alerts()
        assert (alert["resolved_at"] is not None) == (function == "resolve_drift")

    @pytest.mark.parametrize("length", [3, 30])
    async def test_the_end_of_a_run_costs_two_calls(self, session: Session, length: int) -> None:
        await session.add("v" * length)
        await session.look()
        await session.add("c")
        session.store.calls.clear()
        await session.look()
        assert session.store.calls == ["session_checks", "resolve_drift"]

    async def test_a_quiet_session_costs_one_call(self, session: Session) -> None:
        await session.add("cvvcrcs")
        await session.look()
        assert session.store.calls.count("session_checks") == 1
        assert not {"record_drift", "resolve_drift"} & set(session.store.calls)


class TestJudgement:
    @pytest.mark.parametrize(("category", "direction"), CATEGORIES.items())
    async def test_directions(self, session: Session, category: str, direction: str) -> None:
        await session.one_by_one("rvr", category)
        assert [alert["alert_type"] for alert in await session.alerts()] == [f"aip:{direction}"]

    @pytest.mark.parametrize(
        ("categories", "direction"),
        [
            (("prompt_injection", "autonomy_violation"), "unknown"),
            (("prompt_injection", "prompt_injection", "autonomy_violation"), "injection_pattern"),
            ((), "unknown"),
        ],
    )
    async def test_a_direction_is_that_of_most_concerns(
        self, session: Session, categories: Sequence[str], direction: str
    ) -> None:
        await session.one_by_one("vvv", *categories)
        assert [alert["alert_type"] for alert in await session.alerts()] == [f"aip:{direction}"]

    @pytest.mark.parametrize(
        ("clear", "severity"), [(0, "high"), (1, "high"), (2, "medium"), (6, "medium"), (7, "low"), (30, "low")]
    )
    async def test_severity_is_by_the_window(self, session: Session, clear: int, severity: str) -> None:
        if clear:
            await session.add("c" * clear)
        await session.one_by_one("vvv")
        assert [alert["severity"] for alert in await session.alerts()] == [severity]

    @pytest.mark.parametrize("seed", range(6))
    async def test_as_the_sdk_replays_it(self, session: Session, seed: int) -> None:
        """Any session, looked at after every check: the first alert that the SDK has of each run, and no other."""
        chance, names = random.Random(seed), list(CATEGORIES)
        state, window = aip.create_drift_state(), list[aip.IntegrityCheckpoint]()
        expected: list[aip.IntegrityDriftAlert] = []
        for _ in range(60):
            letter = chance.choice("ccrvves" if seed % 2 else "crrvvvv")
            concerns = [] if letter == "c" else chance.choices(names[: chance.choice((1, 8))], k=chance.randrange(3))
            await session.add(letter, *concerns)
            if letter in "crv":
                await session.look()
                window = [*window, checkpoint(session.ids[-1], VERDICTS[letter], concerns)][-10:]
                state, alert = aip.detect_integrity_drift(state, window[-1], window)
                if alert is not None and alert.sustained_checks == 3:
                    expected.append(alert)
        found = await session.alerts()
        assert [
            (alert["checkpoint_ids"], alert["severity"], alert["alert_type"], alert["description"]) for alert in found
        ] == [(each.checkpoint_ids, each.severity, f"aip:{each.drift_direction}", each.message) for each in expected]
        assert len(found) >= 2
        assert len(session.told.events) == len(found)


class TestKeys:
    async def test_long_ids(self, store: Watched, clock: FakeClock) -> None:
        """Names as long as names may be make a key that a database takes, another one for each run."""
        session = Session(store, clock, await new_agent(store), "s" * 200)
        await session.one_by_one("vvvvc")
        await session.one_by_one("rrrc")
        keys = [alert["dedup_key"] for alert in await session.alerts()]
        assert len(set(keys)) == 2
        assert all(len(key) == 68 for key in keys)


def checkpoint(checkpoint_id: str, verdict: Any, categories: Sequence[Any]) -> aip.IntegrityCheckpoint:
    """A checkpoint with what the SDK looks at."""
    concerns = [aip.IntegrityConcern(name, "medium", "", "", None, None) for name in categories]
    return aip.IntegrityCheckpoint(
        checkpoint_id, "a", "", "s", "", "", "", "", verdict, concerns, "", aip.ConscienceContext(),
        aip.WindowPosition(0, 0), aip.AnalysisMetadata("", 0, 0, 0, False, 0),
    )  # fmt: skip
