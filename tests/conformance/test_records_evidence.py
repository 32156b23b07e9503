"""What attestation stores in a database is verified from what the database answers: on every one."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from smoltbot_worker.attestation.bundle import build_bundle, nodes_wanted
from smoltbot_worker.attestation.heads import SignedHead
from smoltbot_worker.attestation.log import CheckpointLog
from smoltbot_worker.attestation.verify import verify_bundle
from smoltbot_worker.ports import RecordStore
from smoltbot_worker.testing.records_area import call, first_request
from tests.conformance.records_backends import BACKENDS, Opening
from tests.unit.attestation_support import BASE_URL, CRYPTO, PINNED, draft
from worker_compat.testing import FakeClock


async def bundle(store: RecordStore, agent_id: str) -> dict[str, Any]:
    """An export of the agent's log."""
    rows = await call(store, "checkpoints", agent_id=agent_id, limit=1000)
    heads = await call(store, "signed_heads", agent_id=agent_id, limit=1000)
    keys = {key["key_id"]: key["public_key"] for key in await call(store, "signing_keys")}
    wanted = [list(place) for place in nodes_wanted(range(len(rows)), len(rows))]
    nodes = await call(store, "merkle_nodes", agent_id=agent_id, wanted=wanted)
    places = {(level, index): node for level, index, node in nodes}
    return build_bundle(rows, {}, places, [SignedHead(**head) for head in heads], keys, BASE_URL)


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
            logs[number % 3].append(agent, draft(start + number, f"s-{number % 4}", reasoning_summary="a\0\ud800é"))
            for number in range(100)
        ))  # fmt: skip
        document = await bundle(store, agent)
    report = await verify_bundle(document, PINNED, CRYPTO)
    assert (report.status, report.defects) == (0, ())
    assert len(document["entries"]) == 100
    row = document["entries"][50]["checkpoint"]
    row["card_id"] = "ac-another"
    assert (await verify_bundle(document, PINNED, CRYPTO)).status == 1
