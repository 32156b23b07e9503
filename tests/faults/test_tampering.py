"""Who writes into the database without the key is found by ``smoltbot verify``, which names the entry and the check.

Every column is classified in ``protected_columns``; a new one that is not fails.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from smoltbot_host.crypto import HostCrypto
from smoltbot_worker.attestation.append import Draft
from smoltbot_worker.attestation.chain import LogDamaged
from smoltbot_worker.attestation.heads import SignedHead
from smoltbot_worker.attestation.merkle import Tree
from tests.faults.protected_columns import CHECKPOINT, HEADS, MUTATIONS, NODES, PROTECTED, UNPROTECTED
from tests.faults.tampering import FAR, Evidence, new_database, new_evidence
from tests.scale import scaled
from tests.services.postgres import PostgresServer
from tests.unit.attestation_support import OTHER_SEED, draft

RECORDS = scaled(100, 1_000)
HALF = RECORDS // 2
BATCH = RECORDS // 10
SESSIONS = 9

pytestmark = pytest.mark.proof


@dataclass(frozen=True)
class Scene:
    """The log, what it was at half its length, and the head that an auditor saved of it."""

    whole: Evidence
    half: Evidence
    saved: SignedHead


def entries(first: int, last: int) -> list[Draft]:
    return [draft(number, f"session-{number % SESSIONS}") for number in range(first, last)]


async def _scene(kind: str, url: str, folder: Path) -> Scene:
    whole = await new_evidence(kind, url, folder)
    await whole.append(entries(0, HALF), batch=BATCH)
    half = await whole.copied()
    await whole.append(entries(HALF, RECORDS), batch=BATCH)
    return Scene(whole, half, await whole.head())


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Never written to: attacks are made on copies."""
    folder = tmp_path_factory.mktemp("tampering")
    url = f"sqlite:///{folder}/records.db"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_service")
        url = asyncio.run(new_database(server.url))
    return asyncio.run(_scene(request.param, url, folder))


@pytest.fixture
async def attacked(scene: Scene) -> AsyncIterator[Evidence]:
    """A copy of the log that may be written to."""
    async with scene.whole.copy() as copy:
        yield copy


async def test_the_log_verifies_as_it_is(scene: Scene) -> None:
    for head in (None, scene.saved):
        verdict = await scene.whole.verified(head)
        assert (verdict.code, verdict.lines) == (0, [])
        assert verdict.summary.endswith(f"bundle with {RECORDS} entries and 0 pruned: valid")


async def test_every_column_is_classified(scene: Scene) -> None:
    for table, protected in PROTECTED.items():
        unprotected = UNPROTECTED.get(table, {})
        assert set(await scene.whole.columns(table)) == set(protected) | set(unprotected), table
        assert not set(protected) & set(unprotected)


def parts(columns: Mapping[str, str], count: int) -> Iterator[dict[str, str]]:
    names = list(columns)
    yield from ({name: columns[name] for name in names[start : start + count]} for start in range(0, len(names), count))


@pytest.mark.parametrize("part", list(parts(CHECKPOINT, 9)), ids=lambda part: f"{next(iter(part))}-{list(part)[-1]}")
async def test_a_flip_in_any_column_of_a_checkpoint(attacked: Evidence, part: dict[str, str]) -> None:
    chosen = random.Random(next(iter(part))).sample(range(20, RECORDS - 20, 4), len(part))
    places = dict(zip(part, chosen, strict=True))
    async with attacked.attacker() as attacker:
        for column, index in places.items():
            await attacker.flip("integrity_checkpoints", column, "merkle_leaf_index = $1", index)
    verdict = await attacked.verified()
    assert verdict.code == 1
    for column, index in places.items():
        assert part[column] in verdict.checks_of(f"leaf {index}"), column
    # A leaf's neighbour and the next entry of its session lean on it; nobody else is blamed.
    leaning = {index ^ 1 for index in chosen} | {index + SESSIONS for index in chosen}
    assert verdict.blamed <= set(chosen) | leaning | {FAR}


async def test_a_change_of_any_column_of_a_mutation(attacked: Evidence) -> None:
    """One that is moved to another exchange is missed at its own; they may be taken away and added too."""
    changes = (*MUTATIONS, "deleted", "added")
    places = dict(zip(changes, random.Random(1).sample(range(RECORDS), len(changes)), strict=True))
    columns = await attacked.columns("mutations")
    where = "request_id = $1"
    async with attacked.attacker() as attacker:
        for change, index in places.items():
            request = f"request-{index}"
            if change == "deleted":
                await attacker.write(f"DELETE FROM mutations WHERE {where}", request)
            elif change == "added":
                await attacker.duplicate("mutations", columns, {"place": "2"}, where, request)
            else:
                await attacker.flip("mutations", change, where, request)
    verdict = await attacked.verified()
    assert (verdict.code, verdict.blamed) == (1, set(places.values()))
    assert all("claims" in verdict.checks_of(f"leaf {index}") for index in places.values())


async def test_a_flip_in_any_column_of_a_signed_head(attacked: Evidence) -> None:
    sizes = dict(zip(HEADS, range(BATCH, RECORDS, BATCH), strict=False))
    async with attacked.attacker() as attacker:
        for column, size in sizes.items():
            await attacker.flip("signed_heads", column, "size = $1", size)
    verdict = await attacked.verified()
    assert verdict.code == 1
    for column, size in sizes.items():
        assert HEADS[column] in verdict.checks_of(f"head of size {size + (column == 'size')}"), column
    assert verdict.blamed == set()


async def test_a_change_of_any_column_of_a_node(attacked: Evidence) -> None:
    """The proofs that pass by a node are those of the leaves below its sibling."""
    changed = dict(zip((*NODES, "deleted"), ((1, 3), (1, 8), (2, 7), (2, 9), (3, 5)), strict=True))
    where = 'level = $1 AND "index" = $2'
    async with attacked.attacker() as attacker:
        for change, place in changed.items():
            if change == "deleted":
                await attacker.write(f"DELETE FROM merkle_nodes WHERE {where}", *place)
            else:
                await attacker.flip("merkle_nodes", change, where, *place)
    verdict = await attacked.verified()
    below = {leaf for level, index in changed.values() for leaf in _leaves_below(level, index ^ 1)}
    assert (verdict.code, verdict.blamed) == (1, below)
    assert all(verdict.checks_of(f"leaf {leaf}") == {"merkle"} for leaf in below)


def _leaves_below(level: int, index: int) -> range:
    return range(index << level, index + 1 << level)


async def test_a_deleted_record(attacked: Evidence) -> None:
    async with attacked.attacker() as attacker:
        for table in ("mutations", "integrity_checkpoints"):
            await attacker.write(f"DELETE FROM {table} WHERE request_id = $1", f"request-{HALF}")
    verdict = await attacked.verified()
    assert verdict.code == 1
    assert verdict.checks_of(f"leaf {HALF}") == {"missing"}
    assert verdict.checks_of(f"leaf {HALF + SESSIONS}") == {"chain"}


NEW_IDS = {
    "checkpoint_id": "'ic-00000000-0000-4000-8000-ffffffffffff'",
    "request_id": "'request-forged'",
    "certificate_id": "'cert-forged'",
    "chain_position": "1000",
}


async def insert_at(evidence: Evidence, index: int) -> None:
    """A copy of the first record that follows others of its session, under new ids."""
    columns = await evidence.columns("integrity_checkpoints")
    async with evidence.attacker() as attacker:
        await attacker.duplicate(
            "integrity_checkpoints", columns, {**NEW_IDS, "merkle_leaf_index": str(index)},
            "merkle_leaf_index = $1", SESSIONS,
        )  # fmt: skip


async def test_a_record_inserted_at_the_end(attacked: Evidence) -> None:
    await insert_at(attacked, RECORDS)
    verdict = await attacked.verified()
    assert verdict.code == 1
    assert verdict.checks_of(f"leaf {RECORDS}")
    assert verdict.blamed == {RECORDS}


async def test_a_record_inserted_between_others(attacked: Evidence) -> None:
    async with attacked.attacker() as attacker:
        for step in (FAR, 1 - FAR):
            await attacker.write(
                f"UPDATE integrity_checkpoints SET merkle_leaf_index = merkle_leaf_index + {step}"
                f" WHERE merkle_leaf_index >= {HALF}"
            )
    await insert_at(attacked, HALF)
    verdict = await attacked.verified()
    assert verdict.code == 1
    assert {"signature", "merkle"} <= verdict.checks_of(f"leaf {HALF}")


async def test_two_records_swapped(attacked: Evidence) -> None:
    first, second = HALF, HALF + 5 * SESSIONS
    async with attacked.attacker() as attacker:
        for step, place in ((0, first), (1, second)):
            await attacker.write(
                "UPDATE integrity_checkpoints SET merkle_leaf_index = 1000000 + $1, chain_position = 1000000 + $1"
                " WHERE merkle_leaf_index = $2", step, place,
            )  # fmt: skip
        for step, place in ((0, second), (1, first)):
            await attacker.write(
                "UPDATE integrity_checkpoints SET merkle_leaf_index = $2, chain_position = $3"
                " WHERE merkle_leaf_index = 1000000 + $1", step, place, place // SESSIONS,
            )  # fmt: skip
    verdict = await attacked.verified()
    assert verdict.code == 1
    assert "merkle" in verdict.checks_of(f"leaf {first}")
    assert "merkle" in verdict.checks_of(f"leaf {second}")


async def test_one_record_with_the_judgement_of_another(attacked: Evidence) -> None:
    columns = ("verdict", "thinking_block_hash", "issuer_signature", "claims_hash", "claims_signature", "concerns")
    async with attacked.attacker() as attacker:
        for column in columns:
            await attacker.write(
                f"UPDATE integrity_checkpoints SET {column} = (SELECT {column} FROM integrity_checkpoints"
                " WHERE merkle_leaf_index = $1) WHERE merkle_leaf_index = $2", HALF + 1, HALF,
            )  # fmt: skip
    verdict = await attacked.verified()
    assert (verdict.code, verdict.blamed) == (1, {HALF})
    assert "signature" in verdict.checks_of(f"leaf {HALF}")


async def test_another_key_under_the_same_id(attacked: Evidence) -> None:
    async with attacked.attacker() as attacker:
        await attacker.write("UPDATE signing_keys SET public_key = $1", bytes.fromhex(ATTACKER.public_key))
    verdict = await attacked.verified()
    assert verdict.code == 1
    assert verdict.lines == [("bundle", "key", "'key-001' is not the pinned key")]


ATTACKER = HostCrypto(OTHER_SEED)


async def test_everything_signed_again_with_another_key(scene: Scene, tmp_path: Path) -> None:
    """The whole log written anew by someone with a key of his own, which he registers under the old id."""
    url = f"sqlite:///{tmp_path}/records.db"
    if scene.whole.kind == "postgres":
        url = await new_database(f"{scene.whole.url.rpartition('/')[0]}/postgres")
    forged = await new_evidence(scene.whole.kind, url, tmp_path, ATTACKER)
    await forged.append(entries(0, 9), ATTACKER)
    verdict = await forged.verified()
    assert (verdict.code, verdict.blamed) == (1, set(range(9)))
    assert ("bundle", "key", "'key-001' is not the pinned key") in verdict.lines
    assert {"signature", "claims"} <= verdict.checks_of("leaf 7")


async def test_a_log_that_was_cut(attacked: Evidence, scene: Scene) -> None:
    """The newest entries are gone with their heads, and the tree is what it was then: only a saved head tells."""
    async with attacked.attacker() as attacker:
        for table, index in (("mutations", "request_id"), ("integrity_checkpoints", "merkle_leaf_index")):
            chosen = f"{index} IN (SELECT {index} FROM integrity_checkpoints WHERE merkle_leaf_index >= {HALF})"
            await attacker.write(f"DELETE FROM {table} WHERE {chosen}")
        await attacker.write(f"DELETE FROM signed_heads WHERE size > {HALF}")
        await attacker.write(f'DELETE FROM merkle_nodes WHERE ("index" + 1) * (1 << level) > {HALF}')
        async with scene.half.attacker() as older:
            ((count, root, frontier),) = await older.read(_TREE)
        await attacker.write(
            "UPDATE agent_merkle_trees SET leaf_count = $1, merkle_root = $2, frontier = $3", count, root, frontier
        )
    assert (await attacked.verified()).code == 0, "nothing in the database tells"
    assert (await attacked.verified(scene.saved)).lines == [_cut(RECORDS, HALF)]
    await attacked.append(entries(RECORDS, RECORDS + 25))
    assert (await attacked.verified(scene.saved)).lines == [_cut(RECORDS, HALF + 25)]


_TREE = "SELECT leaf_count, merkle_root, frontier FROM agent_merkle_trees"


def _cut(size: int, there: int) -> tuple[str, str, str]:
    return "saved head", "head", f"has {size} entries where the bundle has {there}: the log was cut"


async def test_a_log_that_was_rolled_back_and_went_on(scene: Scene) -> None:
    """An older state of the whole database is put in place, and the gateway goes on with its key."""
    async with scene.half.copy() as older:
        assert (await older.verified(scene.saved)).lines == [_cut(RECORDS, HALF)]
        await older.append(entries(RECORDS, 2 * RECORDS - HALF + 25))
        assert (await older.verified()).code == 0, "nothing in the database tells"
        ((entry, check, text),) = (await older.verified(scene.saved)).lines
    assert (entry, check) == ("saved head", "head")
    assert text.startswith("the log is not what was signed then")


async def test_a_forged_tree_is_found_with_the_next_head(attacked: Evidence) -> None:
    """A tree over other leaves, whole in itself, in place of the one that the next append goes on from."""
    tree = Tree()
    for number in range(RECORDS):
        tree.append(f"{number:064x}")
    async with attacked.attacker() as attacker:
        frontier = json.dumps(tree.frontier)
        await attacker.write(
            "UPDATE agent_merkle_trees SET merkle_root = $1, frontier = $2", bytes.fromhex(tree.root()), frontier
        )
    await attacked.append(entries(RECORDS, RECORDS + 3))
    verdict = await attacked.verified()
    assert verdict.code == 1
    assert "head" in verdict.checks_of(f"head of size {RECORDS + 3}")


@pytest.mark.parametrize("column", ["leaf_count", "merkle_root"])
async def test_a_tree_that_contradicts_itself_is_not_gone_on_from(attacked: Evidence, column: str) -> None:
    async with attacked.attacker() as attacker:
        await attacker.flip("agent_merkle_trees", column, "leaf_count > $1", 0)
    with pytest.raises(LogDamaged):
        await attacked.append(entries(RECORDS, RECORDS + 1))
    assert (await attacked.verified()).code == 0, "the evidence is as it was"
