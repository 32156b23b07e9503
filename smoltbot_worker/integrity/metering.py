"""Metering: each check that was made is counted for the account of its agent, many in one call of the database."""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smoltbot_worker.answers import iso
from smoltbot_worker.ports import RecordsUnavailable
from smoltbot_worker.records.integrity import record_metering

if TYPE_CHECKING:
    from smoltbot_worker.admission.agent import Agent
    from smoltbot_worker.env import Env
    from smoltbot_worker.ports import RecordStore

log = logging.getLogger("smoltbot")

_GATHERED_S = 0.05
"""How long the first event of a batch waits for others."""
_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Between the tries while the database is away: together less than a task may take after its answer."""
_MOST = 1000
"""What one call takes."""


@dataclass(slots=True, eq=False)
class _Batch:
    events: list[dict[str, Any]] = field(default_factory=list)
    stored: asyncio.Task[None] | None = None


_gathering: dict[int, _Batch] = {}
"""The batch that still takes events, by the identity of its store; each is gone before its store is."""


async def meter(agent: Agent, checkpoint_id: str, source: str, env: Env) -> None:
    """Count a check; returns once it is durable, so await it in the background. A repetition counts nothing.

    Raises ``RecordsUnavailable`` when the database cannot be used: call it again then.
    """
    batch, _ = _gathered(agent, checkpoint_id, source, env)
    assert batch.stored is not None
    # Shielded: one that is cancelled must not fail the others of its batch.
    await asyncio.shield(batch.stored)


def meter_soon(agent: Agent, checkpoint_id: str, source: str, env: Env) -> asyncio.Task[None] | None:
    """Count a check with others that come now; the task that stores them, for the one who has to look after it."""
    batch, is_new = _gathered(agent, checkpoint_id, source, env)
    return batch.stored if is_new else None


def _gathered(agent: Agent, checkpoint_id: str, source: str, env: Env) -> tuple[_Batch, bool]:
    """The batch that has the check now, and whether it was begun for it."""
    event = {
        "event_id": f"me-{uuid.uuid4()}",
        "account_id": agent.quota["account_id"],
        "agent_id": agent.id,
        "event_type": "integrity_check",
        "checkpoint_id": checkpoint_id,
        "source": source,
        "timestamp": iso(env.clock()),
    }
    batch = _gathering.get(id(env.records))
    is_new = batch is None
    if batch is None:
        batch = _gathering[id(env.records)] = _Batch()
        batch.stored = asyncio.ensure_future(_store(env.records, batch))
    batch.events.append(event)
    if len(batch.events) == _MOST:
        del _gathering[id(env.records)]
    return batch, is_new


async def _store(store: RecordStore, batch: _Batch) -> None:
    try:
        await asyncio.sleep(_GATHERED_S)
    finally:
        if _gathering.get(id(store)) is batch:
            del _gathering[id(store)]
    for pause_s in (*_PAUSES_S, None):
        try:
            await record_metering(store, batch.events)
            return
        except ValueError:
            await _store_one_by_one(store, batch.events)
            return
        except RecordsUnavailable:
            if pause_s is None:
                log.error("%d checks could not be metered", len(batch.events))
                raise
            await asyncio.sleep(pause_s)


async def _store_one_by_one(store: RecordStore, events: list[dict[str, Any]]) -> None:
    """What a batch has that is not refused: an agent that was erased meanwhile must not cost others their count."""
    for event in events:
        try:
            await record_metering(store, [event])
        except ValueError as error:
            log.warning("the check of %s is not metered: %s", event["checkpoint_id"], error)
