"""Cases of the records kit: what is counted for an account, and the counts of its days."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from smoltbot_worker.ports import RecordStore

from .records_area import ABSENT, AdvancingClock, call, iso, new_agent, refused

_DAY_S = 86_400


def metered(agent_id: str, account_id: str | None, moment: str, **changes: Any) -> dict[str, Any]:
    """An event that nobody else records."""
    return {
        "event_id": f"me-{uuid4()}", "account_id": account_id, "agent_id": agent_id,
        "event_type": "integrity_check", "checkpoint_id": f"ic-{uuid4()}", "source": "gateway", "timestamp": moment,
        **changes,
    }  # fmt: skip


async def meter(store: RecordStore, *events: dict[str, Any]) -> Any:
    """The answer of ``record_metering``."""
    return await call(store, "record_metering", events=list(events))


async def rolled_up(store: RecordStore, account_id: str) -> dict[str, tuple[int, int]]:
    """What a rollup counts for this account: checks and proofs by date."""
    days = await call(store, "rollup_metering")
    own = [day for day in days if day["account_id"] == account_id]
    assert own == sorted(own, key=lambda day: str(day["date"])), "in the order of time"
    return {day["date"]: (day["check_count"], day["proof_count"]) for day in own}


def at_noon(clock: AdvancingClock) -> tuple[str, str]:
    """Move to the next noon (UTC), so that no midnight comes between; that day and the one before."""
    clock.advance(_DAY_S - clock() % _DAY_S + _DAY_S / 2)
    return iso(clock())[:10], iso(clock() - _DAY_S)[:10]


class MeteringRules:
    """``record_metering``, ``rollup_metering``."""

    async def test_a_check_is_counted_once(self, store: RecordStore) -> None:
        """An event of a kind is stored once for a checkpoint, whatever its id, also within a batch."""
        agent = await new_agent(store)
        first = metered(agent, None, "2026-05-10T08:00:00Z")
        proof = {**first, "event_id": f"me-{uuid4()}", "event_type": "proof"}
        again = {**first, "event_id": f"me-{uuid4()}"}
        assert await meter(store, first, proof, again) == 2, "a check and a proof"
        assert await meter(store, first, proof, again) == 0, "nothing is new"
        assert await meter(store) == 0, "there may be none"

    async def test_many_record_the_same(self, store: RecordStore) -> None:
        """Of parallel batches with the same events, in whatever order, each event is stored by one."""
        agent = await new_agent(store)
        events = [metered(agent, None, "2026-05-10T08:00:00Z") for _ in range(1000)]
        # The connections are there before the race begins: opening them would put the batches in a row.
        await asyncio.gather(*(call(store, "ping") for _ in range(10)))
        batches = (events if number % 2 else events[::-1] for number in range(10))
        assert sum(await asyncio.gather(*(meter(store, *batch) for batch in batches))) == len(events), "each once"

    async def test_bad_events(self, store: RecordStore) -> None:
        """A batch with an event that is refused is refused as a whole."""
        agent, account = await new_agent(store), f"acc-{uuid4()}"
        good = metered(agent, account, iso(0))
        with refused("agent_id: there is no such agent"):
            await meter(store, good, metered(ABSENT, None, iso(0)))
        for name, wrong in (("event_type", "x"), ("timestamp", "today"), ("checkpoint_id", None), ("source", 1)):
            with refused(f"events: [1] {name}: "):
                await meter(store, good, {**good, name: wrong})
        assert await rolled_up(store, account) == {}, "nothing was written"

    async def test_the_days_of_an_account(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Today and yesterday are counted anew until a rollup ran after their end; then they are closed."""
        agent, account = await new_agent(store), f"acc-{uuid4()}"
        today, yesterday = at_noon(clock)
        last_moment = f"{yesterday}T23:59:59.999Z"
        first_moment = f"{today}T00:00:00.000Z"
        await meter(
            store, metered(agent, account, last_moment), metered(agent, account, first_moment),
            metered(agent, account, first_moment, event_type="proof"), metered(agent, f"acc-{uuid4()}", first_moment),
            metered(agent, None, first_moment),
        )  # fmt: skip
        assert await rolled_up(store, account) == {yesterday: (1, 0), today: (1, 1)}, "by day"
        assert await rolled_up(store, account) == {today: (1, 1)}, "yesterday is closed, today is counted again"
        clock.advance(_DAY_S - clock() % _DAY_S - 0.001)
        await meter(store, metered(agent, account, iso(clock())))
        assert await rolled_up(store, account) == {today: (2, 1)}, "a moment before midnight"
        await meter(store, metered(agent, account, iso(clock())))
        clock.advance(0.001)
        assert await rolled_up(store, account) == {today: (3, 1)}, "a moment after it the whole day is counted"
        assert await rolled_up(store, account) == {}, "and closed"

    async def test_an_event_that_comes_late(self, store: RecordStore, clock: AdvancingClock) -> None:
        """An event of a closed day is counted by the next rollup, with those that were there."""
        agent, account = await new_agent(store), f"acc-{uuid4()}"
        _, yesterday = at_noon(clock)
        for count in (1, 2):
            await meter(store, metered(agent, account, f"{yesterday}T08:00:00Z"))
            assert await rolled_up(store, account) == {yesterday: (count, 0)}, "all of the day"
            assert await rolled_up(store, account) == {}, "it is closed"

    async def test_more_than_a_rollup_has_time_for(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A rollup adds at most 10,000 events to what was counted; the next one goes on, until each is counted once."""
        agent, account = await new_agent(store), f"acc-{uuid4()}"
        today, _ = at_noon(clock)
        for _ in range(11):
            await meter(store, *(metered(agent, account, iso(clock())) for _ in range(1000)))
        first, _ = (await rolled_up(store, account))[today]
        assert first <= 10_000, "not all at once"
        assert await rolled_up(store, account) == {today: (11_000, 0)}, "each event once"

    async def test_rollups_at_once(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Rollups beside each other and beside writers lose no event."""
        agent, account = await new_agent(store), f"acc-{uuid4()}"
        today, _ = at_noon(clock)

        async def write_and_count() -> None:
            await meter(store, metered(agent, account, iso(clock())))
            await call(store, "rollup_metering")

        await asyncio.gather(*(write_and_count() for _ in range(20)))
        assert await rolled_up(store, account) == {today: (20, 0)}, "each event once"
