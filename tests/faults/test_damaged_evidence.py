"""Rows that no gateway writes are exported as they are, so that ``smoltbot verify`` names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from smoltbot_worker.ports import RecordsUnavailable
from tests.faults.tampering import Evidence, new_database, new_evidence
from tests.services.postgres import PostgresServer
from tests.unit.attestation_support import draft

JSON = {
    "cut": """'[{"category":'""",
    "nothing": "''",
    "no number": "'[NaN]'",
    "a number without end": "'[1e999]'",
    "thousands of digits": f"'[{'9' * 5000}]'",
    "half of a character": """'["\\ud800"]'""",
    "deep": f"'{'[' * 900}{']' * 900}'",
    "very deep": f"'{'[' * 99_000}{']' * 99_000}'",
    "no UTF-8": """CAST(x'5b22ff225d' AS TEXT)""",
}
"""SQL of what is no JSON, or none that every program reads."""

VALUES = {
    "verdict": "'perhaps'", "reason": "CAST(x'ff' AS TEXT)", "timestamp": "'yesterday'", "source": "''",
    "thinking_block_hash": "x''", "issuer_signature": "x'00'", "synthetic": "7", "session_id": "CAST(x'ff' AS TEXT)",
    "signing_key_id": "CAST(x'ff' AS TEXT)", "model_version": "char(0)",
}  # fmt: skip
"""SQL of what no constraint lets into a column."""


@pytest.fixture
async def embedded(tmp_path: Path) -> Evidence:
    return await _log("sqlite", f"sqlite:///{tmp_path}/records.db", tmp_path)


async def _log(kind: str, url: str, folder: Path) -> Evidence:
    evidence = await new_evidence(kind, url, folder)
    await evidence.append([draft(number) for number in range(12)], batch=4)
    return evidence


async def damage(evidence: Evidence, changes: Mapping[int, tuple[str, str]]) -> None:
    """By leaf: a column, and the SQL of its value."""
    async with evidence.attacker() as attacker:
        for index, (column, value) in changes.items():
            await attacker.write(
                f'UPDATE integrity_checkpoints SET "{column}" = {value} WHERE merkle_leaf_index = $1', index
            )


async def test_what_is_no_json_is_named(embedded: Evidence) -> None:
    changes = dict(enumerate((("concerns", value) for value in JSON.values()), 1))
    await damage(embedded, changes)
    verdict = await embedded.verified()
    assert (verdict.code, verdict.blamed) == (1, set(changes))
    assert all(check == "shape" for _, check, _ in verdict.lines)


async def test_what_breaks_a_constraint_is_named(embedded: Evidence) -> None:
    changes = dict(enumerate(VALUES.items(), 1))
    await damage(embedded, changes)
    verdict = await embedded.verified()
    assert verdict.code == 1
    assert verdict.blamed >= set(changes)


@pytest.mark.parametrize("size", [0, -1, 2**53, 2**62])
async def test_heads_of_no_size(embedded: Evidence, size: int) -> None:
    async with embedded.attacker() as attacker:
        await attacker.write("UPDATE signed_heads SET size = $1 WHERE size = 12", size)
    assert (await embedded.verified()).code == 1


@pytest.mark.parametrize("index", [-1, 2**62])
async def test_leaves_at_no_place(embedded: Evidence, index: int) -> None:
    await embedded.prune(5)
    async with embedded.attacker() as attacker:
        await attacker.write(
            "UPDATE integrity_checkpoints SET merkle_leaf_index = $1 WHERE merkle_leaf_index = 7", index
        )
        await attacker.write("UPDATE pruned_leaves SET leaf_index = $1 WHERE leaf_index = 3", index)
    verdict = await embedded.verified()
    assert verdict.code == 1
    assert verdict.blamed >= {3, 7}


@pytest.mark.parametrize("pruned", [0, -1, 2**53, 2**62])
async def test_statements_of_no_number(embedded: Evidence, pruned: int) -> None:
    await embedded.prune(5)
    async with embedded.attacker() as attacker:
        await attacker.write("UPDATE retention_statements SET pruned = $1", pruned)
    assert (await embedded.verified()).code == 1


async def test_an_entry_that_no_program_reads_is_named_by_the_error(
    postgres_service: PostgresServer, tmp_path: Path
) -> None:
    evidence = await _log("postgres", await new_database(postgres_service.url), tmp_path)
    await damage(evidence, {7: ("concerns", f"'[{'9' * 5000}]'")})
    with pytest.raises(RecordsUnavailable, match="the entry after leaf 6 of smolt-"):
        await evidence.verified()
    await damage(evidence, {7: ("concerns", "'[]'"), 0: ("concerns", f"'[{'9' * 5000}]'")})
    with pytest.raises(RecordsUnavailable, match="the first entry of smolt-"):
        await evidence.verified()
