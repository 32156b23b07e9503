"""Cases of the records kit: how a log grows, and what does not make it grow."""

from __future__ import annotations

import asyncio
from typing import Any

from smoltbot_worker.ports import RecordStore

from .records_area import ABSENT, append, assert_empty, call, head_of, new_agent, refused, without
from .samples import HEADLESS, KEY_ID, digest, entry, extension, signature


class LogRules:
    """``log_head`` and ``append_checkpoints``."""

    async def test_an_empty_log(self, store: RecordStore) -> None:
        """A log without entries has size 0, no root and no heads; an unknown agent has the same."""
        await assert_empty(store, await new_agent(store))
        await assert_empty(store, ABSENT)

    async def test_one_by_one(self, store: RecordStore) -> None:
        """Each append moves the head: size, root, frontier, and the ends of the sessions that are asked for."""
        agent = await new_agent(store)
        for number in range(9):
            batch = await append(store, agent, entry(f"session-{number % 2}"))
            head = await head_of(store, agent, "session-0", "session-1", "session-2")
            (row,) = batch["rows"]
            assert (head["size"], head["root"]) == (number + 1, batch["root"]), "the tree grew"
            assert head["frontier"] == batch["frontier"], "the frontier is the one that was given"
            end = {"chain_hash": row["chain_hash"], "position": number // 2}
            assert head["heads"][row["session_id"]] == end, "the session ends with this entry"
            assert set(head["heads"]) == {"session-0", "session-1"} or number == 0, (
                "a session without entries is absent"
            )

    async def test_a_batch(self, store: RecordStore) -> None:
        """Entries of several sessions go in together."""
        agent = await new_agent(store)
        await append(store, agent, *(entry(f"session-{number % 3}") for number in range(100)))
        batch = await append(store, agent, *(entry(f"session-{number % 5}") for number in range(33)))
        head = await head_of(store, agent, *(f"session-{number}" for number in range(5)))
        assert head["size"] == 133, "all are in"
        assert [head["heads"][f"session-{number}"]["position"] for number in range(5)] == [40, 39, 39, 5, 5], "in line"
        assert head["root"] == batch["root"], "the last root"

    async def test_a_conflict(self, store: RecordStore) -> None:
        """A batch for another head than the log's changes nothing and is answered with the log's head."""
        agent = await new_agent(store)
        await append(store, agent, entry("session-1"))
        head = await head_of(store, agent, "session-1", "session-2")
        for believed in (
            HEADLESS,
            {**head, "size": 2, "frontier": [None, digest("x")]},
            {**head, "heads": {}},
            {**head, "heads": {"session-1": {"chain_hash": digest("another"), "position": 0}}},
            {**head, "heads": {**head["heads"], "session-2": {"chain_hash": digest("another"), "position": 0}}},
        ):
            given = [entry("session-1"), entry("session-2")]
            answer = await call(store, "append_checkpoints", **extension(agent, believed, given))
            assert answer == {"status": "conflict", **head}, "the log is elsewhere"
            assert await call(store, "checkpoint", checkpoint_id=given[0]["checkpoint_id"]) is None, "nothing stored"
        assert await head_of(store, agent, "session-1", "session-2") == head, "nothing moved"

    async def test_a_duplicate(self, store: RecordStore) -> None:
        """A batch with a row that is stored already changes nothing and says which, by request id or checkpoint id."""
        agent = await new_agent(store)
        first, second, third = entry(), entry(), entry()
        batch = await append(store, agent, first, second)
        head = await head_of(store, agent, "session-1")
        again = await call(store, "append_checkpoints", **batch)
        stored = [first["request_id"], second["request_id"]]
        assert again == {"status": "duplicate", "stored": stored, **head}, "a retry is recognised"
        same_id = {**entry(), "checkpoint_id": second["checkpoint_id"]}
        same_request = {**entry(), "request_id": first["request_id"]}
        mixed = extension(agent, head, [third, same_id, same_request])
        answer = await call(store, "append_checkpoints", **mixed)
        stored = [same_id["request_id"], first["request_id"]]
        assert answer == {"status": "duplicate", "stored": stored, **head}, "the rows to drop are named"
        await append(store, agent, third)
        assert (await head_of(store, agent))["size"] == 3, "what is left goes in"

    async def test_racing_writers(self, store: RecordStore) -> None:
        """Of many batches for one head exactly one is appended, and no entry is lost or doubled by trying again."""
        agent = await new_agent(store)
        answers = await asyncio.gather(*(
            call(store, "append_checkpoints", **extension(agent, HEADLESS, [entry()])) for _ in range(10)
        ))  # fmt: skip
        statuses = sorted(answer["status"] for answer in answers)
        assert statuses == ["appended", *["conflict"] * 9], "one writer wins"

        async def write(given: dict[str, Any]) -> None:
            head: Any = HEADLESS
            while (head := await call(store, "append_checkpoints", **extension(agent, head, [given])))["status"] != (
                "appended"
            ):
                assert head["status"] == "conflict", "somebody else was faster"

        given = [entry(f"session-{number % 2}") for number in range(10)]
        await asyncio.gather(*(write(one) for one in given))
        rows = await call(store, "checkpoints", agent_id=agent, after_index=0, limit=100)
        assert [row["merkle_leaf_index"] for row in rows] == list(range(1, 11)), "no gap"
        assert {row["request_id"] for row in rows} == {one["request_id"] for one in given}, "each is there once"

    async def test_gaps_are_refused(self, store: RecordStore) -> None:
        """A row that does not follow its session, whatever the caller claims, is a ValueError."""
        agent = await new_agent(store)
        await append(store, agent, entry())
        head = await head_of(store, agent, "session-1")
        chain_hash = head["heads"]["session-1"]["chain_hash"]
        for position in (1, 7):
            believed = {**head, "heads": {"session-1": {"chain_hash": chain_hash, "position": position}}}
            with refused("rows: "):
                await call(store, "append_checkpoints", **extension(agent, believed, [entry()]))
        assert await head_of(store, agent, "session-1") == head, "nothing was written"

    async def test_batches_that_contradict_themselves(self, store: RecordStore) -> None:
        """What cannot be an extension of any log is refused before it is compared."""
        agent = await new_agent(store)
        batch = extension(agent, HEADLESS, [entry(), entry("session-2")])
        first = batch["rows"][0]
        for wrong, name in (
            (without(batch, merkle_leaf_index=1), "rows: [0] merkle_leaf_index"),
            (without(batch, prev_chain_hash=digest("x")), "rows: [0] prev_chain_hash"),
            (without(batch, chain_position=1), "rows: [0] chain_position"),
            (without(batch, verdict="error"), "rows: [0] signed_payload"),
            (without(batch, signed_payload=first["signed_payload"] + " "), "rows: [0] signed_payload"),
            (without(batch, session_id="session-3"), "rows: [0] session_id"),
            (without(batch, certificate_id=batch["rows"][1]["certificate_id"]), "rows: the same certificate_id"),
            (without(batch, issuer_signature="AAAA"), "rows: [0] issuer_signature"),
            (without(batch, timestamp="2026-05-10T08:00:00Z"), "rows: [0] timestamp"),
            (without(batch, reasoning_summary="a\0b"), "rows: [0] reasoning_summary"),
            (without(batch, concerns=[{"evidence": "\ud800"}]), "rows: [0] concerns"),
            (without(batch, colour="blue"), "rows: [0] colour"),
            ({**batch, "rows": []}, "rows"),
            ({**batch, "head": {**batch["head"], "size": 3}}, "head: size"),
            ({**batch, "root": digest("x")}, "head: root"),
            ({**batch, "expected_size": -1}, "expected_size"),
            ({**batch, "nodes": [[0, 0, digest("x")]]}, "nodes"),
        ):
            with refused(name):
                await call(store, "append_checkpoints", **wrong)
        await assert_empty(store, agent)

    async def test_what_the_database_refuses(self, store: RecordStore) -> None:
        """An unknown agent, an unknown key, a node or a certificate that is there already: nothing is written."""
        agent = await new_agent(store)
        kept = await append(store, agent, entry(), entry())
        head = await head_of(store, agent, "session-1")
        for wrong in (
            extension(ABSENT, HEADLESS, [entry()]),
            without(extension(agent, head, [entry()]), signing_key_id="key-unknown"),
            without(extension(agent, head, [entry()]), certificate_id=kept["rows"][0]["certificate_id"]),
            {**extension(agent, head, [entry()]), "nodes": kept["nodes"]},
        ):
            with refused("append_checkpoints: the database refuses these values"):
                await call(store, "append_checkpoints", **wrong)
        unknown = extension(agent, head, [entry()])
        unknown["head"] = {**unknown["head"], "key_id": "key-unknown", "signature": signature("x")}
        with refused("append_checkpoints: "):
            await call(store, "append_checkpoints", **unknown)
        assert await head_of(store, agent, "session-1") == head, "nothing was written"
        assert kept["head"]["key_id"] == KEY_ID, "the key of the kit is known"
