"""The writer of the checkpoint log: one batch at a time per agent and process, repeated until it is in its place."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from smoltbot_worker import records
from smoltbot_worker.answers import iso
from smoltbot_worker.ports import Crypto, RecordStore, RecordsUnavailable

from .append import Draft, prepare
from .chain import LogDamaged, LogHead

BATCH = 100
"""The most checkpoints that are stored by one call."""
ATTEMPTS = 64
"""How often a batch is made anew because other processes were faster."""

_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.1


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a draft: its row as stored, or None when its request had a checkpoint already.

    ``nudged``: its nudge was made. ``contained``: the batch in which it was stored made the agent be paused.
    """

    row: Mapping[str, Any] | None
    nudged: bool = False
    contained: bool = False


@dataclass(slots=True, eq=False)
class _Waiting:
    draft: Draft
    done: asyncio.Future[Appended]


@dataclass(slots=True)
class _Lane:
    """The writers of one agent; whoever holds the lock stores what all of them brought."""

    waiting: list[_Waiting] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    writers: int = 0


class CheckpointLog:
    """Appends checkpoints to the logs of agents, in the order in which they are brought.

    Writers of one agent share batches; batches of different agents run side by side. ``clock`` gives seconds since the
    epoch. A draft that was stored before, known by its request or checkpoint id, is not stored again.
    """

    def __init__(
        self,
        store: RecordStore,
        crypto: Crypto,
        *,
        clock: Callable[[], float] = time.time,
        attempts: int = ATTEMPTS,
    ) -> None:
        self._store = store
        self._crypto = crypto
        self._clock = clock
        self._attempts = attempts
        self._lanes: dict[str, _Lane] = {}

    async def append(self, agent_id: str, draft: Draft) -> Appended:
        """Store a checkpoint; returns once it is durable.

        Raises ``RecordsUnavailable`` when the database cannot be used or other writers are always faster: the outcome
        is unknown then, and the same draft may be brought again. :class:`LogDamaged` when the log contradicts itself,
        ``ValueError`` when the database refuses the row.
        """
        async with self._lane(agent_id) as lane:
            mine = _Waiting(draft, asyncio.get_running_loop().create_future())
            lane.waiting.append(mine)
            try:
                async with lane.lock:
                    while not mine.done.done():
                        await self._store_next(agent_id, lane)
                return mine.done.result()
            finally:
                if mine in lane.waiting:
                    lane.waiting.remove(mine)
                if not mine.done.cancel() and not mine.done.cancelled():
                    mine.done.exception()  # seen, also when this writer was cancelled just now

    @asynccontextmanager
    async def _lane(self, agent_id: str) -> AsyncIterator[_Lane]:
        lane = self._lanes.setdefault(agent_id, _Lane())
        lane.writers += 1
        try:
            yield lane
        finally:
            lane.writers -= 1
            if not lane.writers:
                del self._lanes[agent_id]

    async def _store_next(self, agent_id: str, lane: _Lane) -> None:
        """Store one batch of those who wait; when this writer is cancelled, the next one stores what it left."""
        batch = _next_batch(lane.waiting)
        try:
            await self._store_batch(agent_id, batch)
        except (RecordsUnavailable, LogDamaged, ValueError) as error:
            for each in batch:
                if not each.done.done():
                    each.done.set_exception(error)
        lane.waiting[:] = [each for each in lane.waiting if not each.done.done()]

    async def _store_batch(self, agent_id: str, batch: Sequence[_Waiting]) -> None:
        try:
            await self._swap(agent_id, batch)
        except ValueError:
            if len(batch) == 1:
                raise
            # One row that is refused must not take the others with it.
            for each in batch:
                await self._store_alone(agent_id, each)

    async def _store_alone(self, agent_id: str, each: _Waiting) -> None:
        try:
            await self._swap(agent_id, [each])
        except ValueError as error:
            if not each.done.done():
                each.done.set_exception(error)

    async def _swap(self, agent_id: str, batch: Sequence[_Waiting]) -> None:
        """Compare and swap until the batch is stored; every answer but ``appended`` carries the head to go on from."""
        left = [each for each in batch if not each.done.done()]
        answer = await records.log_head(self._store, agent_id, sorted({each.draft.session_id for each in left}))
        for attempt in range(self._attempts):
            if not left:
                return
            head = LogHead.from_json(answer)
            arguments = await prepare(agent_id, head, [each.draft for each in left], self._crypto, iso(self._clock()))
            answer = await records.append_checkpoints(self._store, arguments)
            status = answer.get("status") if isinstance(answer, dict) else None
            if status == "appended":
                for each, row in zip(left, arguments["rows"], strict=True):
                    _settle(each, _appended(row, answer))
                return
            if status == "duplicate":
                left = _without_stored(left, answer)
            elif status == "conflict":
                await asyncio.sleep(random.uniform(0, min(_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S)))
            else:
                raise LogDamaged("append_checkpoints answered neither appended nor conflict nor duplicate")
        raise RecordsUnavailable(f"other writers of this agent's log were faster {self._attempts} times in a row")


def _next_batch(waiting: Sequence[_Waiting]) -> list[_Waiting]:
    """The first of those who wait, each request and checkpoint once: a repetition finds the first one stored."""
    batch: list[_Waiting] = []
    seen: set[str] = set()
    for each in waiting:
        ids = {each.draft.request_id, each.draft.checkpoint_id}
        if len(batch) < BATCH and not seen & ids:
            batch.append(each)
            seen |= ids
    return batch


def _without_stored(left: Sequence[_Waiting], answer: Any) -> list[_Waiting]:
    stored = set(answer["stored"])
    kept = [each for each in left if not stored & {each.draft.request_id, each.draft.checkpoint_id}]
    if len(kept) == len(left):
        raise LogDamaged("append_checkpoints called rows duplicates that nobody brought")
    for each in left:
        if each not in kept:
            _settle(each, Appended(None))
    return kept


def _appended(row: Mapping[str, Any], answer: Any) -> Appended:
    nudge = row["nudge"]
    stored = {name: value for name, value in row.items() if name != "nudge"}
    return Appended(stored, nudge is not None and nudge["nudge_id"] in answer["nudges"], answer["contained"])


def _settle(each: _Waiting, became: Appended) -> None:
    if not each.done.done():
        each.done.set_result(became)
