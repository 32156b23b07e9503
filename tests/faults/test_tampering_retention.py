"""Who deletes entries in the database and makes it look like retention is found: it takes the key to say so."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import pytest

from smoltbot_worker.attestation.retention import RetentionStatement, sign_statement
from tests.faults.protected_columns import LEAVES, RETENTION
from tests.faults.tampering import Evidence, new_database, new_evidence
from tests.services.postgres import PostgresServer
from tests.unit.attestation_support import CRYPTO, TIMESTAMP, draft

RECORDS = 24
MIDDLE = 12


@pytest.fixture(params=["sqlite", "postgres"])
async def attacked(request: pytest.FixtureRequest, tmp_path: Path) -> Evidence:
    """A log of three sessions."""
    url = f"sqlite:///{tmp_path}/records.db"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_service")
        url = await new_database(server.url)
    evidence = await new_evidence(request.param, url, tmp_path)
    await evidence.append([draft(number, f"session-{number % 3}") for number in range(RECORDS)], batch=8)
    return evidence


async def hide(evidence: Evidence, *places: int) -> None:
    """Delete entries in the way that retention does, but for the signature."""
    async with evidence.attacker() as attacker:
        for index in places:
            await attacker.write(
                "INSERT INTO pruned_leaves (agent_id, leaf_index, leaf_hash, session_id, chain_position, chain_hash)"
                " SELECT agent_id, merkle_leaf_index, merkle_leaf_hash, session_id, chain_position, chain_hash"
                " FROM integrity_checkpoints WHERE merkle_leaf_index = $1", index,
            )  # fmt: skip
            for table in ("mutations", "integrity_checkpoints"):
                await attacker.write(f"DELETE FROM {table} WHERE request_id = $1", f"request-{index}")


async def said(evidence: Evidence) -> set[tuple[str, str]]:
    """What is wrong with the log by ``smoltbot verify``: entry and check."""
    verdict = await evidence.verified()
    assert verdict.code == 1
    return {(entry, check) for entry, check, _ in verdict.lines}


async def test_a_deletion_that_looks_like_retention_is_found(attacked: Evidence) -> None:
    """In the middle and at the beginning, before retention deleted anything and after it."""
    await hide(attacked, MIDDLE)
    assert await said(attacked) == {(f"leaf {MIDDLE}", "retention")}
    await hide(attacked, 0)
    assert await said(attacked) == {(f"leaf {index}", "retention") for index in (0, MIDDLE)}
    await attacked.prune(5)
    assert await said(attacked) == {(f"leaf {index}", "retention") for index in (0, MIDDLE)}, "nothing is signed for it"


async def test_a_deletion_beside_that_of_retention_is_found(attacked: Evidence) -> None:
    await attacked.prune(5)
    await attacked.prune(3)
    verdict = await attacked.verified()
    assert (verdict.code, verdict.lines) == (0, [])
    assert f"bundle with {RECORDS - 8} entries and 8 pruned" in verdict.summary
    await hide(attacked, 8, MIDDLE)
    assert await said(attacked) == {(f"leaf {index}", "retention") for index in (8, MIDDLE)}


async def test_an_old_statement_of_retention_is_found(attacked: Evidence) -> None:
    await attacked.prune(5)
    columns = ", ".join(f'"{column}"' for column in RETENTION)
    async with attacked.attacker() as attacker:
        (old,) = await attacker.read(f"SELECT {columns} FROM retention_statements")
    await attacked.prune(3)
    async with attacked.attacker() as attacker:
        await attacker.write("DELETE FROM retention_statements")
    assert await said(attacked) == {(f"leaf {index}", "retention") for index in range(8)}, "without a statement"
    async with attacked.attacker() as attacker:
        await attacker.write(f"INSERT INTO retention_statements ({columns}) VALUES ($1, $2, $3, $4, $5)", *old)
    assert await said(attacked) == {(f"leaf {index}", "retention") for index in (5, 6, 7)}


async def test_the_statement_of_another_agent_is_found(attacked: Evidence) -> None:
    """What was signed about the log of one agent, over which another's entries are deleted."""
    other = await sign_statement(RetentionStatement("smolt-ffffffff", 3, TIMESTAMP, CRYPTO.key_id), CRYPTO)
    await attacked.prune(1)
    await hide(attacked, 1, 2)
    async with attacked.attacker() as attacker:
        await attacker.write("UPDATE retention_statements SET pruned = 3, signature = $1", b64decode(other.signature))
        ((written,),) = await attacker.read('SELECT "timestamp" FROM retention_statements')
    assert TIMESTAMP[:19] in str(written).replace(" ", "T"), "all else is as it was signed"
    assert await said(attacked) == {("leaves 0 to 2", "retention")}


async def test_a_flip_in_any_column_of_retention(attacked: Evidence) -> None:
    await attacked.prune(5)
    for table, columns in (("retention_statements", RETENTION), ("pruned_leaves", LEAVES)):
        for column, check in columns.items():
            async with attacked.copy() as copy:
                where, values = ("leaf_index = $1", (4,)) if columns is LEAVES else ("pruned = $1", (5,))
                async with copy.attacker() as attacker:
                    await attacker.flip(table, column, where, *values)
                assert check in {found for _, found in await said(copy)}, column
