"""Cases of the records kit: how a session was judged, and pages of a log."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from smoltbot_worker.ports import Json, RecordStore

from .records_area import ABSENT, append, call, new_agent, refused
from .samples import KEY_ID, TIME, entry, signature

_VERDICTS = {
    "c": "clear", "r": "review_needed", "v": "boundary_violation", "e": "error", "s": "skipped",
}  # fmt: skip
_NO_RUN: dict[str, Any] = {"first": None, "length": 0, "categories": {}}
_NOTHING: dict[str, Any] = {"checks": [], "streak": _NO_RUN, "ended": None}
_CHECK = (
    "checkpoint_id", "timestamp", "verdict", "concerns", "reasoning_summary", "window_position", "analysis_metadata",
    "card_id", "provider", "model", "thinking_block_hash",
)  # fmt: skip


def concern(category: Json = "prompt_injection") -> dict[str, Json]:
    """A concern as an analysis states it."""
    return {"category": category, "severity": "medium", "description": "x", "evidence": "y"}


async def judged(
    store: RecordStore, agent_id: str, verdicts: str, session_id: str = "session-1", **changes: Any
) -> list[dict[str, Any]]:
    """The rows of a batch with these verdicts, each by its first letter."""
    rows = [entry(session_id, verdict=_VERDICTS[letter], **changes) for letter in verdicts]
    return list((await append(store, agent_id, *rows))["rows"])


async def checks_of(store: RecordStore, agent_id: str, session_id: str = "session-1", **more: Any) -> Any:
    """The answer of ``session_checks``."""
    return await call(store, "session_checks", **{"agent_id": agent_id, "session_id": session_id, "limit": 10, **more})


async def page_of(store: RecordStore, agent_id: str, **more: Any) -> tuple[list[int], int]:
    """The places in the log of a page of ``list_checkpoints``, and the total."""
    answer = await call(store, "list_checkpoints", **{"agent_id": agent_id, "limit": 100, "offset": 0, **more})
    return [row["merkle_leaf_index"] for row in answer["checkpoints"]], answer["total"]


class CheckRules:
    """``session_checks``."""

    async def test_the_window(self, store: RecordStore) -> None:
        """The newest judged entries of one session, the oldest first, with what a window needs of them."""
        agent, other = await new_agent(store), await new_agent(store)
        await judged(store, agent, "rv", "session-2")
        rows = await judged(store, agent, "crevsc", concerns=[concern()], window_position=None, card_id=None)
        await judged(store, agent, "vse", "session-2")
        await judged(store, other, "rrr")
        mine = [rows[place] for place in (0, 1, 3, 5)]
        expected = [{name: row[name] for name in _CHECK} for row in mine]
        for limit in (1, 2, 3, 4, 100):
            found = await checks_of(store, agent, limit=limit)
            assert found["checks"] == expected[-limit:], "the newest that were judged"
            assert (found["streak"], found["ended"]) == (_NO_RUN, None), "the last one is clear"
        assert await checks_of(store, agent, "session-3") == _NOTHING, "a session without entries"
        assert await checks_of(store, ABSENT) == _NOTHING, "nobody"

    async def test_a_run_of_concerns(self, store: RecordStore) -> None:
        """The entries since the last clear one; error and skipped neither count nor interrupt."""
        agent = await new_agent(store)
        (first,) = await judged(store, agent, "r", concerns=[concern()])
        run = {"first": first["checkpoint_id"], "length": 1, "categories": {"prompt_injection": 1}}
        assert (await checks_of(store, agent))["streak"] == run, "from the beginning of the session"
        await judged(store, agent, "s")
        await judged(store, agent, "v", concerns=[concern(), concern("autonomy_violation")])
        await judged(store, agent, "e", concerns=[concern()])
        run |= {"length": 2, "categories": {"prompt_injection": 2, "autonomy_violation": 1}}
        assert (await checks_of(store, agent, limit=1))["streak"] == run, "whatever the limit"
        await judged(store, agent, "cs")
        assert (await checks_of(store, agent))["streak"] == _NO_RUN, "clear ends it"
        rows = await judged(store, agent, "evr")
        run = {"first": rows[1]["checkpoint_id"], "length": 2, "categories": {}}
        assert (await checks_of(store, agent))["streak"] == run, "another begins"

    async def test_unreadable_concerns(self, store: RecordStore) -> None:
        """What is no concern with the name of a category counts for none."""
        agent = await new_agent(store)
        odd: list[Json] = [concern(), concern(None), concern(7), {}, "x", None, [concern()]]
        await judged(store, agent, "v", concerns=odd)
        found = await checks_of(store, agent)
        assert found["streak"]["categories"] == {"prompt_injection": 1}, "the one that is one"
        assert found["checks"][0]["concerns"] == odd, "as they were given"

    async def test_a_long_run(self, store: RecordStore) -> None:
        """A run has its beginning for ever; of its length and its categories the newest 100 entries are told."""
        agent = await new_agent(store)
        (before,) = await judged(store, agent, "c")
        (first,) = await judged(store, agent, "v", concerns=[concern("value_misalignment")])
        for length, told in ((99, 99), (100, 100), (101, 100), (250, 100)):
            held = (await checks_of(store, agent))["streak"]["length"]
            known = held if held < 100 else (await page_of(store, agent, verdict="review_needed"))[1] + 1
            await judged(store, agent, "r" * (length - known), concerns=[concern()])
            streak = (await checks_of(store, agent))["streak"]
            assert (streak["first"], streak["length"]) == (first["checkpoint_id"], told), "one run"
            assert sum(streak["categories"].values()) == told, "of those"
        await judged(store, agent, "c")
        assert (await checks_of(store, agent))["ended"] == first["checkpoint_id"] != before["checkpoint_id"], "over"

    async def test_a_run_that_ended(self, store: RecordStore) -> None:
        """``ended`` names the run of three or more directly before the newest judged entry, which is clear."""
        for verdicts, first in (
            ("vvvc", 0), ("rvrc", 0), ("cvvvc", 1), ("vvvvvc", 0), ("svevsvecs", 1), ("vvvcvvvc", 4),
            ("vvc", None), ("vvv", None), ("vvvcc", None), ("vcvvc", None), ("c", None), ("vvvcv", None), ("es", None),
        ):  # fmt: skip
            agent = await new_agent(store)
            rows = await judged(store, agent, verdicts)
            found = await checks_of(store, agent, limit=1)
            assert found["ended"] == (None if first is None else rows[first]["checkpoint_id"]), verdicts

    async def test_as_of_an_entry(self, store: RecordStore) -> None:
        """``upto`` answers as when that entry was the newest of its session; of an unknown one nothing."""
        agent, other = await new_agent(store), await new_agent(store)
        rows, seen = [], []
        for letter in "vsrvevcrrcvvvc":
            rows += await judged(store, agent, letter, concerns=[concern()])
            seen.append(await checks_of(store, agent, limit=4))
        for row, then in zip(rows, seen, strict=True):
            found = await checks_of(store, agent, limit=4, upto=row["checkpoint_id"])
            assert found == then, "as it was"
        (foreign,) = await judged(store, other, "v")
        (elsewhere,) = await judged(store, agent, "v", "session-2")
        for unknown in (f"ic-{uuid4()}", foreign["checkpoint_id"], elsewhere["checkpoint_id"]):
            assert await checks_of(store, agent, upto=unknown) == _NOTHING, "not in this session"

    async def test_bad_questions(self, store: RecordStore) -> None:
        """A limit beyond 100 and what is no id are refused."""
        wrongs: list[dict[str, Any]] = [
            {"limit": 0},
            {"limit": 101},
            {"limit": None},
            {"session_id": ""},
            {"upto": "a b"},
        ]
        for wrong in wrongs:
            with refused(f"{next(iter(wrong))}: "):
                await checks_of(store, ABSENT, **wrong)


class PageRules:
    """``list_checkpoints`` and ``webhook_registration``."""

    async def test_pages_of_a_log(self, store: RecordStore) -> None:
        """Entries come as ``checkpoint`` gives them, the newest first, with the number of all."""
        agent = await new_agent(store)
        assert await page_of(store, agent) == ([], 0), "an empty log"
        assert await page_of(store, ABSENT) == ([], 0), "nobody"
        rows = await judged(store, agent, "crves", mutations=[{"kind": "nudge"}])
        answer = await call(store, "list_checkpoints", agent_id=agent, limit=2, offset=1)
        for found, row in zip(answer["checkpoints"], (rows[3], rows[2]), strict=True):
            assert found == await call(store, "checkpoint", checkpoint_id=row["checkpoint_id"]), "the same entry"
        assert answer["total"] == 5, "all that there are"
        for limit, offset, places in (
            (1, 0, [4]),
            (9, 0, [4, 3, 2, 1, 0]),
            (2, 3, [1, 0]),
            (1, 5, []),
            (9, 2**53 - 1, []),
        ):
            assert await page_of(store, agent, limit=limit, offset=offset) == (places, 5), "so many, from there"

    async def test_filters(self, store: RecordStore) -> None:
        """A verdict, a session, or both: the total counts what the filters let through."""
        agent, other = await new_agent(store), await new_agent(store)
        for session, verdicts in (("session-1", "cv"), ("session-2", "vec"), ("session-1", "vs")):
            await judged(store, agent, verdicts, session)
        await judged(store, other, "vvvv")
        for filters, places in (
            ({"verdict": "boundary_violation"}, [5, 2, 1]), ({"verdict": "error"}, [3]), ({"verdict": "skipped"}, [6]),
            ({"verdict": "review_needed"}, []), ({"session_id": "session-1"}, [6, 5, 1, 0]),
            ({"session_id": "session-3"}, []), ({"session_id": "session-2", "verdict": "clear"}, [4]),
            ({"session_id": "session-1", "verdict": "boundary_violation"}, [5, 1]),
        ):  # fmt: skip
            assert await page_of(store, agent, **filters) == (places, len(places)), f"{filters}"
            found = await page_of(store, agent, limit=1, offset=1, **filters)
            assert found == (places[1:2], len(places)), f"a page of {filters}"

    async def test_a_pruned_log(self, store: RecordStore) -> None:
        """What retention deleted is in no page and not counted."""
        agent = await new_agent(store)
        await judged(store, agent, "ccvcv")
        statement = {"pruned": 3, "timestamp": TIME, "key_id": KEY_ID, "signature": signature("statement")}
        await call(store, "prune_checkpoints", agent_id=agent, statement=statement)
        assert await page_of(store, agent) == ([4, 3], 2), "what is left"
        assert await page_of(store, agent, verdict="boundary_violation") == ([4], 1), "of a verdict too"
        streak = (await checks_of(store, agent))["streak"]
        assert streak["length"] == 1, "the session as it is now"

    async def test_bad_pages(self, store: RecordStore) -> None:
        """Limits, offsets and verdicts that there are not are refused."""
        for name, wrong in (("limit", 0), ("limit", 1001), ("offset", -1), ("offset", None), ("verdict", "fine"),
                            ("session_id", "")):  # fmt: skip
            with refused(f"{name}: "):
                await page_of(store, ABSENT, **{name: wrong})

    async def test_one_registration(self, store: RecordStore) -> None:
        """A registration is found by its id, as ``webhooks`` lists it: without its secret."""
        agent, registration_id = await new_agent(store), f"reg-{uuid4()}"
        given = {"callback_url": "https://example.com/hook", "sealed_secret": "sealed", "events": ["*"]}
        await call(store, "register_webhook", registration_id=registration_id, agent_id=agent, **given)
        found = await call(store, "webhook_registration", registration_id=registration_id)
        assert [found] == await call(store, "webhooks", agent_id=agent), "the same"
        assert "sealed" not in str(found), "the secret stays"
        assert await call(store, "webhook_registration", registration_id=f"reg-{uuid4()}") is None, "there is none"
