"""Cases of the records kit: what is read from a log is what was written into it."""

from __future__ import annotations

from typing import Any

from smoltbot_worker.ports import RecordStore

from .records_area import ABSENT, AdvancingClock, append, call, iso, new_agent, refused
from .samples import KEY_ID, digest, entry

_TEXT = "Grüße \N{SNOWMAN} \U0001f600 a'b\"c\\d\n \\u0000 %s"
_NUMBERS: list[Any] = [0, -1, 10**30, 0.5, -0.25, 1e-7, True, None, [], {}, "", _TEXT]


class ReadRules:
    """``checkpoints``, ``checkpoint``, ``merkle_nodes``, ``signed_heads``."""

    async def test_a_checkpoint_is_kept_exactly(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Every column comes back as it was given, with created_at and linked_trace_id beside them."""
        agent = await new_agent(store)
        after, before = {"after_sha256": digest("after")}, {"before_sha256": digest("before")}
        mutations = [
            {"setting": "auto", "location": "/thinking", "before_sha256": None, **after, "kind": kind}
            for kind in ("nudge", "thinking", "redaction")
        ]
        mutations += [{"setting": None, "location": None, "after_sha256": None, **before, "kind": "refusal"}]
        batch = await append(
            store, agent, entry(mutations=mutations), entry(mutations=None), entry(
                verdict="skipped", reason="no-thinking", model=None, card_id=None, conscience_context=None,
                window_position=None, analysis_metadata=None, model_version=None, synthetic=True,
                synthetic_reason=_TEXT, reasoning_summary=_TEXT, cross_validation_warnings=_NUMBERS,
                concerns=[{"evidence": _TEXT, "numbers": _NUMBERS}],
            ),
        )  # fmt: skip
        for given in batch["rows"]:
            expected = {
                **given, "agent_id": agent, "created_at": iso(clock()), "linked_trace_id": None,
                "mutations": given["mutations"] or [],
            }  # fmt: skip
            found = await call(store, "checkpoint", checkpoint_id=given["checkpoint_id"])
            assert found == expected, "what was given comes back"
        assert await call(store, "checkpoint", checkpoint_id="ic-unknown") is None, "there is none"

    async def test_pages(self, store: RecordStore) -> None:
        """checkpoints come in the order of the log, after the index that is named."""
        agent, other = await new_agent(store), await new_agent(store)
        batch = await append(store, agent, *(entry(f"session-{number % 2}") for number in range(7)))
        await append(store, other, entry())
        ids = [row["checkpoint_id"] for row in batch["rows"]]
        for after, limit, expected in ((None, 3, ids[:3]), (2, 3, ids[3:6]), (5, 1000, ids[6:]), (6, 1, [])):
            rows = await call(store, "checkpoints", agent_id=agent, after_index=after, limit=limit)
            assert [row["checkpoint_id"] for row in rows] == expected, "the page after this index"
        one = await call(store, "checkpoint", checkpoint_id=ids[3])
        assert (await call(store, "checkpoints", agent_id=agent, after_index=2, limit=1)) == [one], "the same row"
        assert await call(store, "checkpoints", agent_id=ABSENT, limit=1) == [], "nobody's log is empty"
        for wrong in (0, 1001, None, True, "1"):
            with refused("limit: "):
                await call(store, "checkpoints", agent_id=agent, limit=wrong)

    async def test_nodes(self, store: RecordStore) -> None:
        """merkle_nodes gives leaves at level 0 and complete subtrees above, in the order asked for."""
        agent = await new_agent(store)
        first = await append(store, agent, entry())
        second = await append(store, agent, *(entry() for _ in range(4)))
        leaves = [row["merkle_leaf_hash"] for row in first["rows"] + second["rows"]]
        places = [[2, 0], [0, 4], [1, 1], [0, 0], [1, 2], [0, 5], [3, 0], [1, 0]]
        known = {(level, index): node for level, index, node in second["nodes"]}
        known |= {(0, index): leaf for index, leaf in enumerate(leaves)}
        expected = [[*place, known[place[0], place[1]]] for place in places if (place[0], place[1]) in known]
        assert len(expected) == 5, "of five leaves three subtrees are complete"
        assert await call(store, "merkle_nodes", agent_id=agent, wanted=places) == expected, "those that are there"
        assert await call(store, "merkle_nodes", agent_id=ABSENT, wanted=places) == [], "nobody has none"
        for wrong in (None, [[0]], [[0, -1]], [[63, 0]], [["0", 0]]):
            with refused("wanted: "):
                await call(store, "merkle_nodes", agent_id=agent, wanted=wrong)

    async def test_signed_heads(self, store: RecordStore) -> None:
        """Every batch leaves its signed head; the newest comes first."""
        agent = await new_agent(store)
        heads = [(await append(store, agent, *(entry() for _ in range(count))))["head"] for count in (1, 3, 2)]
        expected = [{"agent_id": agent, **head} for head in reversed(heads)]
        assert [head["size"] for head in expected] == [6, 4, 1], "one for each batch"
        assert expected[0]["key_id"] == KEY_ID, "with its key"
        assert await call(store, "signed_heads", agent_id=agent, limit=10) == expected, "all of them"
        assert await call(store, "signed_heads", agent_id=agent, limit=1) == expected[:1], "the newest"
        assert await call(store, "signed_heads", agent_id=ABSENT, limit=1) == [], "nobody has none"

    async def test_logs_are_apart(self, store: RecordStore) -> None:
        """Two agents with a session of the same name have logs of their own."""
        one, other = await new_agent(store), await new_agent(store)
        for agent in (one, other, one):
            await append(store, agent, entry("session-1"))
        for agent, count in ((one, 2), (other, 1)):
            rows = await call(store, "checkpoints", agent_id=agent, limit=10)
            assert [row["chain_position"] for row in rows] == list(range(count)), "each counts for itself"
            assert {row["agent_id"] for row in rows} == {agent}, "and has its own rows only"
