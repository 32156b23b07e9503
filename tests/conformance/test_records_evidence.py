"""What attestation stores in a database is verified from what the database answers: on every one."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from smoltbot_worker.attestation.bundle import bundle_pieces
from smoltbot_worker.attestation.log import CheckpointLog
from smoltbot_worker.attestation.retention import prune
from smoltbot_worker.attestation.stored import read_heads
from smoltbot_worker.attestation.verify import verify_bundle
from smoltbot_worker.ports import RecordStore
from smoltbot_worker.testing.records_area import call, first_request
from tests.conformance.records_backends import BACKENDS, Opening
from tests.unit.attestation_support import BASE_URL, CRYPTO, PINNED, TIMESTAMP, draft
from worker_compat.testing import FakeClock

HARD_TO_KEEP: dict[str, Any] = {
    "reasoning_summary": "a\0\ud800é",
    "analysis_metadata": {"x": [1e21, 1.5e300, -0.0, 1.0]},
}
"""A text that databases refuse, and numbers that they give back in another spelling."""


async def bundle(store: RecordStore, agent_id: str) -> dict[str, Any]:
    """An export of the agent's log."""
    heads = await read_heads(store, agent_id, 1000)
    bundle: dict[str, Any] = json.loads(b"".join([piece async for piece in bundle_pieces(store, heads, BASE_URL)]))
    return bundle


@pytest.mark.parametrize("opening", BACKENDS.values(), ids=list(BACKENDS))
async def test_a_log_of_three_writers_verifies(
    opening: Opening, request: pytest.FixtureRequest, clock: FakeClock
) -> None:
    start = uuid4().int >> 80  # exact in JavaScript
    async with opening(request, clock) as store:
        agent = (await call(store, "get_or_create_agent", **first_request()))["agent"]["id"]
        await call(store, "put_signing_key", key_id=CRYPTO.key_id, public_key=CRYPTO.public_key)
        logs = [CheckpointLog(store, CRYPTO, clock=clock) for _ in range(3)]
        await asyncio.gather(*(
            logs[number % 3].append(agent, draft(start + number, f"s-{number % 4}", **HARD_TO_KEEP))
            for number in range(100)
        ))  # fmt: skip
        document = await bundle(store, agent)
    report = await verify_bundle(document, PINNED, CRYPTO)
    assert (report.status, report.defects) == (0, ())
    assert len(document["entries"]) == 100
    row = document["entries"][50]["checkpoint"]
    row["card_id"] = "ac-another"
    assert (await verify_bundle(document, PINNED, CRYPTO)).status == 1


@pytest.mark.parametrize("opening", BACKENDS.values(), ids=list(BACKENDS))
async def test_a_pruned_log_verifies_and_goes_on(
    opening: Opening, request: pytest.FixtureRequest, clock: FakeClock
) -> None:
    start = uuid4().int >> 80
    async with opening(request, clock) as store:
        agent = (await call(store, "get_or_create_agent", **first_request()))["agent"]["id"]
        await call(store, "put_signing_key", key_id=CRYPTO.key_id, public_key=CRYPTO.public_key)
        log = CheckpointLog(store, CRYPTO, clock=clock)
        await asyncio.gather(*(log.append(agent, draft(start + number, f"s-{number % 4}")) for number in range(30)))
        (saved,) = await read_heads(store, agent, 1)
        pruned = await prune(store, CRYPTO, agent, "2026-05-10T08:00:00.001Z", 17, TIMESTAMP)
        await asyncio.gather(*(log.append(agent, draft(start + number, f"s-{number % 4}")) for number in range(30, 40)))
        document = await bundle(store, agent)
    assert pruned == {"pruned": 17, "more": True}
    report = await verify_bundle(document, PINNED, CRYPTO, saved)
    assert (report.status, report.defects) == (0, ())
    assert report.what == "bundle with 23 entries and 17 pruned"
