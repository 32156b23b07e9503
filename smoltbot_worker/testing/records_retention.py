"""Cases of the records kit: what is deleted with time, and what stays of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any
from uuid import uuid4

from smoltbot_worker.ports import RecordStore

from .records_area import ABSENT, append, call, head_of, new_agent, refused
from .records_traces import record, trace_of
from .samples import KEY_ID, TIME, entry, extension, signature

NEVER = "1970-01-01T00:00:00Z"
ALL = "9999-12-31T23:59:59.999Z"


def minute(number: int) -> str:
    """A time that grows with the number."""
    return f"2026-05-10T08:{number:02}:00.000Z"


def statement_of(pruned: int, /, **changes: Any) -> dict[str, Any]:
    """What is said of so many entries, with what looks like a signature."""
    signed = signature("retention", pruned)
    return {"pruned": pruned, "timestamp": TIME, "key_id": KEY_ID, "signature": signed, **changes}


async def prunable(store: RecordStore, agent_id: str, before: str, limit: int = 1000) -> tuple[int, int]:
    """The answer of ``prunable_checkpoints``: how many are deleted, and how many may be."""
    answer = await call(store, "prunable_checkpoints", agent_id=agent_id, before=before, limit=limit)
    return answer["pruned"], answer["next"]


async def prune(store: RecordStore, agent_id: str, pruned: int, /, **changes: Any) -> int:
    """How many entries ``prune_checkpoints`` deleted."""
    answer = await call(store, "prune_checkpoints", agent_id=agent_id, statement=statement_of(pruned, **changes))
    return int(answer["pruned"])


async def prune_traces(store: RecordStore, agent_id: str, before: str, limit: int) -> Any:
    """The answer of ``prune_traces``."""
    return await call(store, "prune_traces", agent_id=agent_id, before=before, limit=limit)


async def indexes(store: RecordStore, agent_id: str) -> tuple[list[int], list[int]]:
    """The places in the log of the checkpoints that are there, and of those of which the leaf alone is."""
    rows = await call(store, "checkpoints", agent_id=agent_id, limit=1000)
    leaves = await call(store, "pruned_leaves", agent_id=agent_id, limit=1000)
    return [row["merkle_leaf_index"] for row in rows], [leaf["leaf_index"] for leaf in leaves]


class RetentionRules:
    """``prunable_checkpoints``, ``prune_checkpoints``, ``retention_statement``, ``pruned_leaves``, ``prune_traces``."""

    async def test_what_may_be_pruned(self, store: RecordStore) -> None:
        """The entries at the beginning that are older than the time, so many at once; never the newest."""
        agent = await new_agent(store)
        assert await prunable(store, ABSENT, ALL) == (0, 0), "nobody has none"
        assert await prunable(store, agent, ALL) == (0, 0), "an empty log"
        times = (0, 1, 2, 6, 3, 4)
        await append(store, agent, *(entry(timestamp=minute(number)) for number in times))
        assert await prunable(store, agent, NEVER) == (0, 0), "nothing is so old"
        assert await prunable(store, agent, minute(2)) == (0, 2), "the time itself is not before it"
        assert await prunable(store, agent, minute(5)) == (0, 3), "what stands behind a new entry waits for it"
        assert await prunable(store, agent, ALL) == (0, 5), "the newest entry stays"
        assert await prunable(store, agent, ALL, 2) == (0, 2), "so many"
        await prune(store, agent, 2)
        assert await prunable(store, agent, ALL, 2) == (2, 4), "so many more"
        assert await prunable(store, agent, ALL) == (2, 5), "the rest"
        assert await prunable(store, agent, NEVER) == (2, 2), "nothing more"

    async def test_the_first_entries_are_deleted(self, store: RecordStore) -> None:
        """The entries that a statement is about are deleted and their leaves stay; a repetition finds nothing."""
        agent, other = await new_agent(store), await new_agent(store)
        batch = await append(store, agent, *(entry() for _ in range(6)))
        await append(store, other, entry(), entry())
        assert await prune(store, agent, 3) == 3, "so many"
        assert await indexes(store, agent) == ([3, 4, 5], [0, 1, 2]), "the first"
        assert await prune(store, agent, 4) == 1, "one more"
        assert await prune(store, agent, 4) == 0, "a repetition finds nothing"
        assert await prune(store, agent, 1) == 0, "nor does what was said before"
        assert await indexes(store, agent) == ([4, 5], [0, 1, 2, 3]), "the others stay"
        assert await indexes(store, other) == ([0, 1], []), "another agent's are not touched"
        leaves = [
            {"leaf_index": row["merkle_leaf_index"], "leaf_hash": row["merkle_leaf_hash"]} for row in batch["rows"][:4]
        ]
        assert await call(store, "pruned_leaves", agent_id=agent, limit=10) == leaves, "their leaves"
        assert await call(store, "pruned_leaves", agent_id=agent, after_index=0, limit=2) == leaves[1:3], "by pages"
        assert await call(store, "pruned_leaves", agent_id=ABSENT, limit=1) == [], "nobody has none"
        gone = batch["rows"][0]["checkpoint_id"]
        assert await call(store, "checkpoint", checkpoint_id=gone) is None, "its contents are not"

    async def test_the_statement_is_kept(self, store: RecordStore) -> None:
        """The statement that goes farthest is kept, one for each agent, as it was given."""
        agent, other = await new_agent(store), await new_agent(store)
        for each in (agent, other):
            assert await call(store, "retention_statement", agent_id=each) is None, "nothing was said"
            await append(store, each, *(entry() for _ in range(5)))
        await prune(store, agent, 2)
        await prune(store, agent, 4, timestamp=minute(1))
        for late in (4, 3):
            await prune(store, agent, late, timestamp=minute(2))
        kept = {"agent_id": agent, **statement_of(4, timestamp=minute(1))}
        assert await call(store, "retention_statement", agent_id=agent) == kept, "the one that goes farthest"
        assert await call(store, "retention_statement", agent_id=other) is None, "of this agent"
        assert await call(store, "retention_statement", agent_id=ABSENT) is None, "nobody has one"

    async def test_refused_statements(self, store: RecordStore) -> None:
        """A statement that takes the newest entry, of an unknown agent or key, or malformed, changes nothing."""
        agent = await new_agent(store)
        with refused("statement: pruned "):
            await prune(store, agent, 1)
        await append(store, agent, *(entry() for _ in range(3)))
        for pruned in (3, 4, 2**40):
            with refused("statement: pruned must leave the newest entry"):
                await prune(store, agent, pruned)
        with refused("statement: there is no such key"):
            await prune(store, agent, 1, key_id="key-of-nobody")
        with refused("agent_id: there is no such agent"):
            await prune(store, ABSENT, 1)
        bad = {"pruned": 0, "timestamp": "2026-05-10T08:00:00Z", "key_id": "a b", "signature": "x"}
        for name, value in bad.items():
            with refused(f"statement: {name}: "):
                await prune(store, agent, 1, **{name: value})
        assert await indexes(store, agent) == ([0, 1, 2], []), "everything is there"
        assert await call(store, "retention_statement", agent_id=agent) is None, "nothing was said"

    async def test_what_belongs_to_a_checkpoint_goes_with_it(self, store: RecordStore) -> None:
        """Mutations and nudges are contents; its trace and its webhooks have times of their own."""
        agent = await new_agent(store)
        await call(store, "update_agent", agent_id=agent, settings={"aip_enforcement_mode": "nudge"})
        mutations = [{"kind": "nudge", "setting": "a", "location": None, "before_sha256": None, "after_sha256": None}]
        nudge = {"nudge_id": f"nudge-{uuid4()}", "nudge_content": "x", "concerns_summary": "y", "draw": 0}
        given = entry(verdict="boundary_violation", nudge=nudge, mutations=mutations)
        head = await head_of(store, agent, "session-1")
        answer = await call(store, "append_checkpoints", **extension(agent, head, [given, entry()]))
        assert answer["nudges"] == [nudge["nudge_id"]], "the nudge was made"
        trace = trace_of(agent)
        assert (await record(store, trace, checkpoint_id=given["checkpoint_id"]))["linked"] is True, "and a trace"
        assert await prune(store, agent, 1) == 1, "the first goes"
        assert await call(store, "nudges", agent_id=agent, limit=9) == [], "with its nudge"
        assert len(await call(store, "traces", agent_id=agent, limit=9)) == 1, "not its trace"
        again = {**given, "request_id": str(uuid4()), "checkpoint_id": f"ic-{uuid4()}"}
        kept = await append(store, agent, {**again, "nudge": None, "certificate_id": f"cert-{uuid4()}"})
        row = await call(store, "checkpoint", checkpoint_id=kept["rows"][0]["checkpoint_id"])
        assert row["mutations"] == mutations, "others keep theirs"

    async def test_the_log_goes_on(self, store: RecordStore) -> None:
        """Heads of sessions and leaves are answered as before, so that the next entry follows and proofs are made."""
        agent = await new_agent(store)
        sessions = [f"session-{number}" for number in range(3)]
        await append(store, agent, *(entry(sessions[number % 3]) for number in range(7)))
        places = [[0, number] for number in range(7)] + [[1, 0], [2, 0]]
        head = await head_of(store, agent, *sessions)
        nodes = await call(store, "merkle_nodes", agent_id=agent, wanted=places)
        assert len(nodes) == 9, "seven leaves and two nodes"
        await prune(store, agent, 6)
        assert await head_of(store, agent, *sessions) == head, "every session ends where it did"
        assert await call(store, "merkle_nodes", agent_id=agent, wanted=places) == nodes, "every leaf is there"
        row = (await append(store, agent, entry("session-1")))["rows"][0]
        assert row["prev_chain_hash"] == head["heads"]["session-1"]["chain_hash"], "it follows the pruned one"
        assert row["chain_position"] == 2, "and is no beginning"
        forged = {**head, "size": 8, "heads": {}}
        answer = await call(store, "append_checkpoints", **extension(agent, forged, [entry("session-2")]))
        assert answer["status"] == "conflict", "a second beginning is refused"
        await prune(store, agent, 7)
        heads = (await head_of(store, agent, *sessions))["heads"]
        end = {"chain_hash": row["chain_hash"], "position": 2}
        assert heads == {**head["heads"], "session-1": end}, "and again"

    async def test_pruning_beside_writers(self, store: RecordStore) -> None:
        """A log that is written and pruned by many at once has each entry once, and one chain for each session."""
        agent = await new_agent(store)
        await append(store, agent, *(entry() for _ in range(100)))

        async def write() -> None:
            given, answer = entry(), await head_of(store, agent, "session-1")
            while answer.get("status") != "appended":
                answer = await call(store, "append_checkpoints", **extension(agent, answer, [given]))

        async def sweep() -> int:
            _, following = await prunable(store, agent, ALL, 10)
            return await prune(store, agent, following)

        *_, pruned = await asyncio.gather(*(write() for _ in range(8)), _sum(sweep() for _ in range(12)))
        kept, leaves = await indexes(store, agent)
        assert sorted(kept + leaves) == list(range(108)), "each place once"
        assert len(leaves) == pruned, "as many leaves as were deleted"
        assert (await prunable(store, agent, ALL))[0] == pruned, "as was stated"
        head = await head_of(store, agent, "session-1")
        assert (head["size"], head["heads"]["session-1"]["position"]) == (108, 107), "one chain"

    async def test_old_traces_are_deleted(self, store: RecordStore) -> None:
        """Traces older than the time are deleted, the oldest first, so many at once."""
        agent, other = await new_agent(store), await new_agent(store)
        given = [trace_of(agent, timestamp=minute(number)) for number in (3, 1, 2, 0, 4)]
        for trace in (*given, trace_of(other, timestamp=minute(0))):
            await record(store, trace)
        assert await prune_traces(store, agent, minute(3), 2) == {"pruned": 2, "more": True}, "so many"
        left = [row["timestamp"] for row in await call(store, "traces", agent_id=agent, limit=9)]
        assert left == [minute(4), minute(3), minute(2)], "the oldest went"
        answers = await asyncio.gather(*(prune_traces(store, agent, minute(3), 2) for _ in range(5)))
        assert sorted(answer["pruned"] for answer in answers) == [0, 0, 0, 0, 1], "each is deleted once"
        assert not any(answer["more"] for answer in answers), "there is no more"
        assert len(await call(store, "traces", agent_id=agent, limit=9)) == 2, "the others stay"
        assert len(await call(store, "traces", agent_id=other, limit=9)) == 1, "and another agent's"

    async def test_bad_sweeps(self, store: RecordStore) -> None:
        """An unknown agent, a time without an offset and a limit out of bounds are refused."""
        agent = await new_agent(store)
        with refused("agent_id: there is no such agent"):
            await prune_traces(store, ABSENT, ALL, 1)
        for sweep in (prunable, prune_traces):
            with refused("before: "):
                await sweep(store, agent, "2026-05-10", 1)
            for limit in (0, 1001):
                with refused("limit: "):
                    await sweep(store, agent, ALL, limit)


async def _sum(counts: Iterable[Awaitable[int]]) -> int:
    return sum(await asyncio.gather(*counts))
