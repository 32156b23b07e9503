"""A log of which retention deleted the beginning is still evidence: for what is left, and for what comes after."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from smoltbot_host.crypto import HostCrypto
from smoltbot_worker.attestation.bundle import bundle_pieces
from smoltbot_worker.attestation.chain import LogDamaged
from smoltbot_worker.attestation.checks import Keyring
from smoltbot_worker.attestation.heads import SignedHead
from smoltbot_worker.attestation.log import CheckpointLog
from smoltbot_worker.attestation.merkle import leaf_hash, proof, proven_root
from smoltbot_worker.attestation.retention import prune
from smoltbot_worker.attestation.stored import read_heads, read_nodes
from smoltbot_worker.attestation.verify import Report, verify_bundle, verify_certificate
from smoltbot_worker.ports import RecordStore, RecordsUnavailable
from smoltbot_worker.testing.records_area import call, first_request
from tests.conformance.records_backends import BACKENDS, postgres_url, sqlite_url
from tests.unit.attestation_support import BASE_URL, CRYPTO, KEYS, OTHER_SEED, PINNED, TIMESTAMP, draft
from worker_compat.testing import FakeClock

Change = Callable[[str, tuple[Any, ...]], Awaitable[None]]
"""Runs a statement with ``?`` for its values as somebody who may write into the database."""

SESSIONS = 4
ALL = "9999-12-31T23:59:59.999Z"
SWEPT = "2026-05-11T03:00:00.000Z"
NOTHING = {"pruned": 0, "more": False}


@dataclass
class Evidence:
    """The log of an agent of its own, and what an auditor does with it."""

    store: RecordStore
    agent: str
    log: CheckpointLog
    change: Change
    moment: Callable[[str], Any]
    """A time as the database's driver takes it."""
    start: int

    async def append(self, first: int, count: int) -> None:
        """Entries of all sessions in turn, brought at once."""
        await asyncio.gather(*(
            self.log.append(self.agent, draft(self.start + number, f"s-{number % SESSIONS}"))
            for number in range(first, first + count)
        ))  # fmt: skip

    async def prune(self, limit: int, before: str = ALL, crypto: HostCrypto = CRYPTO) -> Any:
        """Delete the contents of so many of the oldest entries, as the gateway does."""
        return await prune(self.store, crypto, self.agent, before, limit, SWEPT)

    async def delete(self, index: int) -> None:
        """Delete an entry as somebody who may write into the database."""
        after = index - 1 if index else None
        (row,) = await call(self.store, "checkpoints", agent_id=self.agent, after_index=after, limit=1)
        for table in ("mutations", "integrity_checkpoints"):
            await self.change(f"DELETE FROM {table} WHERE checkpoint_id = ?", (row["checkpoint_id"],))

    async def head(self) -> SignedHead:
        """The newest signed head."""
        (head,) = await read_heads(self.store, self.agent, 1)
        return head

    async def root_with(self, index: int) -> str:
        """The root to which the proof of an entry leads, as it is in the database now."""
        (row,) = await call(self.store, "checkpoints", agent_id=self.agent, after_index=index - 1, limit=1)
        head = await self.head()
        steps = proof(index, head.size, await read_nodes(self.store, head, [row]))
        members = ("checkpoint_id", "verdict", "thinking_block_hash", "chain_hash", "timestamp")
        return proven_root(leaf_hash(*(row[name] for name in members)), index, head.size, steps)

    async def export(self) -> dict[str, Any]:
        """The bundle of the log."""
        heads = await read_heads(self.store, self.agent, 1000)
        document = b"".join([piece async for piece in bundle_pieces(self.store, heads, BASE_URL)])
        exported: dict[str, Any] = json.loads(document)
        return exported

    async def verify(self, head: SignedHead | None = None) -> Report:
        """What the verifier says of the bundle, with a head that was saved."""
        return await verify_bundle(await self.export(), PINNED, CRYPTO, head)


def _sqlite_change(request: pytest.FixtureRequest) -> Change:
    async def change(statement: str, values: tuple[Any, ...]) -> None:
        with closing(sqlite3.connect(sqlite_url(request).removeprefix("sqlite:///"))) as connection, connection:
            assert connection.execute(statement, values).rowcount == 1

    return change


def _postgres_change(request: pytest.FixtureRequest) -> Change:
    async def change(statement: str, values: tuple[Any, ...]) -> None:
        connection = await asyncpg.connect(postgres_url(request), server_settings={"search_path": "smoltbot"})
        for number in range(1, len(values) + 1):
            statement = statement.replace("?", f"${number}", 1)
        try:
            assert (await connection.execute(statement, *values)).endswith(" 1")
        finally:
            await connection.close()

    return change


CHANGES: dict[str, tuple[Callable[[pytest.FixtureRequest], Change], Callable[[str], Any]]] = {
    "sqlite": (_sqlite_change, str),
    "postgres": (_postgres_change, datetime.fromisoformat),
}


@pytest.fixture(params=CHANGES)
async def evidence(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[Evidence]:
    """A log of 40 entries in 4 sessions."""
    async with BACKENDS[request.param](request, clock) as store:
        agent = (await call(store, "get_or_create_agent", **first_request()))["agent"]["id"]
        await call(store, "put_signing_key", key_id=CRYPTO.key_id, public_key=CRYPTO.public_key)
        log = CheckpointLog(store, CRYPTO, clock=clock)
        start = uuid4().int >> 80
        change, moment = CHANGES[request.param]
        made = Evidence(store, agent, log, change(request), moment, start)
        await made.append(0, 20)
        await made.append(20, 20)
        yield made


async def test_what_is_left_verifies(evidence: Evidence) -> None:
    saved = await evidence.head()
    assert await evidence.prune(25) == {"pruned": 25, "more": True}
    bundle = await evidence.export()
    assert [leaf["leaf_index"] for leaf in bundle["pruned"]] == list(range(25))
    assert {**bundle["retention"], "signature": ""} == {
        "agent_id": evidence.agent, "pruned": 25, "timestamp": SWEPT, "key_id": CRYPTO.key_id, "signature": "",
    }  # fmt: skip
    assert [entry["checkpoint"]["merkle_leaf_index"] for entry in bundle["entries"]] == list(range(25, 40))
    report = await verify_bundle(bundle, PINNED, CRYPTO, saved)
    assert (report.status, report.defects) == (0, ())
    for entry in bundle["entries"]:
        assert entry["certificate"]["proofs"]["merkle"]["tree_size"] == 40
        report = await verify_certificate(entry["certificate"], PINNED, CRYPTO, saved)
        assert (report.status, report.defects) == (0, ())


async def test_a_pruned_log_goes_on(evidence: Evidence) -> None:
    saved = await evidence.head()
    rows = await call(evidence.store, "checkpoints", agent_id=evidence.agent, limit=1000)
    ends = {row["session_id"]: row["chain_hash"] for row in rows}
    assert (await evidence.prune(1000))["pruned"] == 39
    assert (await evidence.verify(saved)).status == 0
    await evidence.append(40, SESSIONS)
    added = await call(evidence.store, "checkpoints", agent_id=evidence.agent, after_index=39, limit=1000)
    assert {row["session_id"]: row["prev_chain_hash"] for row in added} == ends
    assert [row["chain_position"] for row in added] == [10] * SESSIONS
    # Nothing depends on what a writer remembers.
    evidence.log = CheckpointLog(evidence.store, CRYPTO)
    await evidence.append(44, 20)
    report = await evidence.verify(saved)
    assert (report.status, report.defects) == (0, ())
    assert (await evidence.prune(1000))["pruned"] == 24
    await evidence.append(64, 3)
    report = await evidence.verify(saved)
    assert (report.status, report.defects) == (0, ())
    assert report.what == "bundle with 4 entries and 63 pruned"


async def test_sweeps_beside_writers_and_exports(evidence: Evidence) -> None:
    """An export is whole, or it breaks off because a sweep was just where it read."""

    async def sweep() -> None:
        for _ in range(7):
            await evidence.prune(5)

    async def write() -> None:
        for first in range(40, 100, 10):
            await evidence.append(first, 10)

    async def audit() -> list[Report]:
        reports: list[Report] = []
        while len(reports) < 3:
            with suppress(RecordsUnavailable):
                reports.append(await evidence.verify())
        return reports

    *_, reports = await asyncio.gather(sweep(), sweep(), write(), audit())
    reports.append(await evidence.verify())
    assert [(report.status, report.defects) for report in reports] == [(0, ())] * 4
    bundle = await evidence.export()
    indexes = [leaf["leaf_index"] for leaf in bundle["pruned"]]
    assert 35 <= len(indexes) <= 70
    indexes += [entry["checkpoint"]["merkle_leaf_index"] for entry in bundle["entries"]]
    assert sorted(indexes) == list(range(100))


async def test_what_somebody_wrote_is_not_signed_for(evidence: Evidence) -> None:
    """Nobody gets a signature for his deletions by entries that he made look old, or by a statement of his own."""
    assert await evidence.prune(9, TIMESTAMP) == NOTHING, "no entry is from before"
    older = "2020-01-01T00:00:00.000Z"
    for index in range(12):
        await evidence.change(
            'UPDATE integrity_checkpoints SET "timestamp" = ? WHERE agent_id = ? AND merkle_leaf_index = ?',
            (evidence.moment(older), evidence.agent, index),
        )
    with pytest.raises(LogDamaged, match="leaf 8 "):
        await evidence.prune(9, TIMESTAMP)
    root = bytes.fromhex(await evidence.root_with(8))
    where = "WHERE agent_id = ? AND size = 40"
    await evidence.change(f"UPDATE signed_heads SET root = ? {where}", (root, evidence.agent))
    with pytest.raises(LogDamaged, match="leaf 8 "):
        await evidence.prune(9, TIMESTAMP)
    await evidence.delete(30)
    assert await call(evidence.store, "prunable_checkpoints", agent_id=evidence.agent, before=ALL, limit=1000) == {
        "pruned": 0, "next": 30,
    }  # fmt: skip
    await evidence.change(
        'INSERT INTO retention_statements (agent_id, pruned, "timestamp", key_id, signature) VALUES (?, 31, ?, ?, ?)',
        (evidence.agent, evidence.moment(older), CRYPTO.key_id, bytes(64)),
    )
    assert await evidence.prune(9, TIMESTAMP) == NOTHING, "no entry behind it is from before"


async def test_another_key_signs_from_its_next_entry_on(evidence: Evidence) -> None:
    """A head signed with an older key proves nothing to the new one."""
    other = HostCrypto(OTHER_SEED, f"key-{uuid4()}")
    await call(evidence.store, "put_signing_key", key_id=other.key_id, public_key=other.public_key)
    assert await evidence.prune(10) == {"pruned": 10, "more": True}
    assert await evidence.prune(10, crypto=other) == NOTHING
    await CheckpointLog(evidence.store, other).append(evidence.agent, draft(evidence.start + 40, "s-0"))
    assert await evidence.prune(10, crypto=other) == {"pruned": 10, "more": True}
    keys = Keyring(pinned={**KEYS, other.key_id: other.public_key})
    bundle = await evidence.export()
    assert bundle["retention"]["key_id"] == other.key_id
    report = await verify_bundle(bundle, keys, CRYPTO)
    assert (report.status, report.defects) == (0, ())


async def test_a_changed_leaf_is_found(evidence: Evidence) -> None:
    saved = await evidence.head()
    await evidence.prune(25)
    (leaf,) = await call(evidence.store, "pruned_leaves", agent_id=evidence.agent, after_index=6, limit=1)
    forged = bytes(byte ^ 1 for byte in bytes.fromhex(leaf["leaf_hash"]))
    where = "WHERE agent_id = ? AND leaf_index = ?"
    await evidence.change(f"UPDATE pruned_leaves SET leaf_hash = ? {where}", (forged, evidence.agent, 7))
    report = await evidence.verify()
    assert report.status == 1
    assert "the log is not what was signed then" in report.defects[0].text
    assert {defect.entry for defect in (await evidence.verify(saved)).defects} >= {"saved head"}


async def test_a_deleted_leaf_is_found(evidence: Evidence) -> None:
    await evidence.prune(25)
    await evidence.change("DELETE FROM pruned_leaves WHERE agent_id = ? AND leaf_index = ?", (evidence.agent, 7))
    report = await evidence.verify()
    assert report.status == 1
    assert ("leaf 7", "missing") in {(defect.entry, defect.check) for defect in report.defects}


async def test_an_entry_that_was_deleted_by_hand_is_found(evidence: Evidence) -> None:
    await evidence.prune(25)
    await evidence.delete(30)
    report = await evidence.verify()
    assert report.status == 1
    assert ("leaf 30", "missing") in {(defect.entry, defect.check) for defect in report.defects}
