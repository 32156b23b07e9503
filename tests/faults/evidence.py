"""Logs with real hashes and signatures in real databases: an agent, entries for it, its export and its verification."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any
from uuid import uuid4

from smoltbot_worker.answers import request_id
from smoltbot_worker.attestation.append import Draft
from smoltbot_worker.attestation.bundle import HEADS, bundle_pieces
from smoltbot_worker.attestation.log import CheckpointLog
from smoltbot_worker.attestation.stored import read_heads
from smoltbot_worker.attestation.verify import read_document, verify_bundle
from smoltbot_worker.ports import RecordStore, RecordsUnavailable
from smoltbot_worker.testing.records_area import call, first_request
from tests.unit.attestation_support import BASE_URL, CRYPTO, PINNED, draft

PATIENCE_S = 60.0
"""How long a database may be away."""

Bundle = dict[str, Any]


async def new_signed_agent(store: RecordStore) -> str:
    """The id of a new agent; the key of the tests is registered."""
    await call(store, "put_signing_key", key_id=CRYPTO.key_id, public_key=CRYPTO.public_key)
    return str((await call(store, "get_or_create_agent", **first_request()))["agent"]["id"])


def fresh(session_id: str, **more: Any) -> Draft:
    """An entry that nobody has brought before, with ids as random as those of the gateway."""
    number = random.getrandbits(40)
    return draft(number, session_id, checkpoint_id=f"ic-{uuid4()}", request_id=request_id(time.time()), **more)


async def append_surely(log: CheckpointLog, agent_id: str, entry: Draft) -> bool:
    """Bring the entry until it is acknowledged; whether it was stored by the call that said so."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return (await log.append(agent_id, entry)).row is not None
            except RecordsUnavailable:  # it may be stored: brought again, the database says so
                await asyncio.sleep(0.02)


async def export(store: RecordStore, agent_id: str) -> bytes:
    """The bundle of an agent's log as ``smoltbot export`` writes it."""
    heads = await read_heads(store, agent_id, HEADS)
    return b"".join([piece async for piece in bundle_pieces(store, heads, BASE_URL)])


async def verified(store: RecordStore, agent_id: str) -> Bundle:
    """The export of a log; every proof in it is checked, and that it holds the whole log."""
    bundle: Bundle = read_document((await export(store, agent_id)).decode())
    report = await verify_bundle(bundle, PINNED, CRYPTO)
    assert (report.defects, report.status) == ((), 0)
    head = await call(store, "log_head", agent_id=agent_id, sessions=[])
    newest = bundle["heads"][-1]
    assert (head["size"], head["root"]) == (newest["size"], newest["root"])
    assert head["size"] == len(bundle["entries"])
    return bundle


def request_ids(bundle: Bundle) -> list[str]:
    """Those of the entries, in the order of the log."""
    return [entry["checkpoint"]["request_id"] for entry in bundle["entries"]]
