"""The agents of this deployment as this process knows them: looked up once, kept true, seen in batches."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from smoltbot_worker import records
from smoltbot_worker.events import RecordsChanged
from smoltbot_worker.ports import RecordStore, RecordsUnavailable, Telemetry
from smoltbot_worker.records import agents
from worker_compat.context import ExecutionContext

from .agent import Agent
from .containment import ACTIVE

__all__ = ["MAX_KNOWN", "Agent", "AgentDirectory"]

log = logging.getLogger("smoltbot")

MAX_KNOWN = 10_000
"""Agents that are remembered, with some 6 KB of context each."""
_LOOKUP_LIMIT_S = 2.0
_FLUSH_S = 1.0
_PROBE_S = 1.0
_POLL_S = 0.5
"""Between two looks at the feed of changes: what one process writes acts on the others within a second."""
_OLD_S = 60.0
"""When a context is read again although nothing changed: a nudge whose lease lapses comes back without a change."""
_READINGS = 3
"""How often a context is read in a row while changes of its agent keep coming."""
_AT_ONCE = 50
"""Contexts that are read together after a look at the feed."""
_ROUNDS = 20
"""Rounds of a background loop: below the 30 s that work may last after a response."""
_ID_LENGTHS = (8, 12, 16)
"""How many digits of its hash an agent's id may have."""


class AgentDirectory:
    """Finds agents by the digest of their key, and their contexts, which are read when they are new or changed.

    While the database is unavailable nobody waits for it: the last known context counts, and a background probe finds
    out when it is back. Whoever was contained is never forgotten.
    """

    def __init__(
        self,
        store: RecordStore,
        telemetry: Telemetry,
        *,
        card: dict[str, Any] | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._card = card
        self._clock = clock
        self._known: dict[str, Agent] = {}
        self._by_id: dict[str, Agent] = {}
        self._organization: Any = None
        """What was read last of what holds for every agent: they share it."""
        self._lookups: dict[str, asyncio.Task[Agent | None]] = {}
        self._readings: dict[str, asyncio.Task[Agent | None]] = {}
        self._needed: dict[str, float] = {}
        """By the agent whose context is being read: the place in the feed that the context must have."""
        self._seq: int | None = None
        self._unread: set[str] = set()
        """Agents that may be contained by now: read without waiting for a request, which an outage could precede."""
        self._deaf = False
        self._seen: dict[str, float] = {}
        self._flushing = False
        self._probing = False
        self.available = True
        self.stuck = False
        """What was seen could not be written, and has not been since: readable is not writable (a full disk)."""

    def known(self, digest: str) -> Agent | None:
        """The agent, unless the database must be asked first: this process has not met it, or its context is stale.

        While the database is unavailable the last known context counts.
        """
        agent = self._known.get(digest)
        return None if agent is None or (agent.stale and self.available) else agent

    async def find(self, digest: str, name: str | None, ctx: ExecutionContext) -> Agent | None:
        """The agent, created on first sight, its context read if it is new or stale.

        While the database cannot be used: None, unless the agent is known to be contained. When it fails meanwhile: the
        last known context, or None.
        """
        if not self.available:
            self._probe_soon(ctx)
            return self._contained(digest)
        lookup = self._lookups.get(digest)
        if lookup is None:
            lookup = asyncio.ensure_future(self._find(digest, name))
            self._lookups[digest] = lookup
            ctx.wait_until(lookup)
        # Shielded: one client that leaves must not fail the others that wait for the same agent.
        agent = await asyncio.shield(lookup)
        if agent is None:
            self._probe_soon(ctx)
        return agent

    async def by_id(self, agent_id: str) -> Agent | None:
        """The agent with a context that is not stale; None when there is no such agent.

        Raises :class:`RecordsUnavailable` when the context must be read and cannot be.
        """
        agent = self._by_id.get(agent_id)
        if agent is not None and not agent.stale and abs(self._clock() - agent.read_at) < _OLD_S:
            return agent
        try:
            return await self._context(agent_id)
        except TimeoutError:
            raise RecordsUnavailable("the database does not answer in time") from None
        except RecordsUnavailable:
            raise
        except Exception as error:
            raise RecordsUnavailable(f"what is stored of an agent cannot be read ({type(error).__name__})") from error

    def changed(self, agent_id: str, containment: str | None = None) -> None:
        """This process wrote something about the agent: its context is read again before it is used next.

        ``containment`` is the agent's status when that is what changed; it counts from now on, whatever becomes of the
        database.
        """
        self._note(agent_id, math.inf)
        agent = self._by_id.get(agent_id)
        if agent is not None and containment is not None:
            agent.contain(containment)

    async def follow(self) -> None:
        """Keep the contexts true until cancelled: look at the feed of changes twice a second.

        For a database that has the schema of this version. An outage is survived: the feed is taken up again where it
        was left.
        """
        async with asyncio.TaskGroup() as tasks:
            # Apart: a reading that stalls must not keep another agent from being paused.
            tasks.create_task(self._read_contained())
            while True:
                try:
                    await self._catch_up()
                    self._deaf = False
                except Exception:
                    # Nobody would hear of a pause any more: until the feed can be read, each request reads its context.
                    if not self._deaf:
                        log.exception("the feed of changes cannot be read")
                    self._deaf = True
                    self._note_all(math.inf)
                await asyncio.sleep(_POLL_S)

    def touch(self, agent: Agent, now: float, ctx: ExecutionContext) -> None:
        """Note that ``agent`` was seen; written within about a second, many at a time."""
        self._seen[agent.id] = now
        if not self._flushing:
            self._flushing = True
            ctx.wait_until(self._flush_soon())
        if abs(now - agent.read_at) >= _OLD_S and self.available:
            agent.read_at = now  # one request sees to it
            ctx.wait_until(self._refresh(agent.id))

    async def flush(self) -> bool:
        """Write what was seen; whether nothing is left to write."""
        seen, self._seen = self._seen, {}
        if not seen:
            return True
        try:
            await records.touch_agents(self._store, seen)
        except BaseException as error:
            # Newer sightings win over the ones that could not be written.
            self._seen = seen | self._seen
            if not isinstance(error, RecordsUnavailable):
                raise
            self.stuck = True
            self.mark(False, str(error))
            return False
        self.stuck = False
        self.mark(True)
        return True

    def mark(self, available: bool, detail: str = "") -> None:
        """Note whether the database can be used; a change is an event."""
        if available != self.available:
            self.available = available
            self._telemetry.emit(RecordsChanged(available, detail))

    async def _find(self, digest: str, name: str | None) -> Agent | None:
        known = self._known.get(digest)
        try:
            async with asyncio.timeout(_LOOKUP_LIMIT_S):
                agent = None if known is None else await self._context(known.id)
                if agent is None:
                    row = await records.get_or_create_agent(self._store, digest, name, self._card, self._clock())
                    agent = await self._context(row["id"])
        except (RecordsUnavailable, TimeoutError) as error:
            self._failed(error)
            return known or self._contained(digest)
        except Exception:
            # A record that cannot be made must not stop traffic either; the reason is for the operator.
            log.exception("an agent could not be recorded")
            if known is not None:
                known.unreadable = True
            return known or self._contained(digest)
        finally:
            self._lookups.pop(digest, None)
        if agent is not None and self._by_id.get(agent.id) is agent:  # else it was forgotten, and would hear of nothing
            self._known[digest] = agent
        return agent

    async def _context(self, agent_id: str) -> Agent | None:
        """The agent with the context that it has now; None when there is no such agent. Parallel calls read once."""
        reading = self._readings.get(agent_id)
        if reading is None:
            reading = self._readings[agent_id] = asyncio.ensure_future(self._read(agent_id))
            # When everybody who waited for it has left, nobody else takes its error.
            reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(reading)

    async def _read(self, agent_id: str) -> Agent | None:
        try:
            async with asyncio.timeout(_LOOKUP_LIMIT_S):
                for _ in range(_READINGS):
                    self._needed[agent_id] = -1
                    context = await agents.agent_context(self._store, agent_id)
                    is_stale = context is not None and context["seq"] < self._needed[agent_id]
                    if not is_stale:
                        break
            return self._learnt(agent_id, context, is_stale)
        finally:
            self._readings.pop(agent_id, None)
            self._needed.pop(agent_id, None)

    def _learnt(self, agent_id: str, context: dict[str, Any] | None, is_stale: bool) -> Agent | None:
        agent = self._by_id.get(agent_id)
        if context is None:
            if agent is not None:
                self._forget([agent_id])
            return None
        if context["organization"] == self._organization:
            context["organization"] = self._organization
        else:
            self._organization = context["organization"]
        if agent is None:
            if len(self._by_id) >= MAX_KNOWN:
                # Who is contained stays: forgotten, it would pass as soon as the database is away.
                passing = (known.id for known in self._by_id.values() if known.containment == ACTIVE)
                self._forget(list(passing)[: MAX_KNOWN // 10])
            agent = self._by_id[agent_id] = Agent.from_context(context, self._clock())
        else:
            agent.learn(context, self._clock())
        agent.stale = is_stale
        return agent

    def _forget(self, agent_ids: list[str]) -> None:
        for agent_id in agent_ids:
            del self._by_id[agent_id]
        self._known = {digest: agent for digest, agent in self._known.items() if agent.id in self._by_id}

    def _contained(self, digest: str) -> Agent | None:
        """The agent if it is contained, even if only its id was heard of."""
        for length in _ID_LENGTHS:
            agent = self._by_id.get(f"smolt-{digest[:length]}")
            if agent is not None and agent.hash == digest[:16] and agent.containment != ACTIVE:
                return agent
        return None

    def _note(self, agent_id: str, seq: float) -> None:
        """Something about the agent changed, at this place in the feed."""
        agent = self._by_id.get(agent_id)
        if agent is not None and agent.seq < seq:
            agent.stale = True
        if agent_id in self._needed:
            self._needed[agent_id] = max(self._needed[agent_id], seq)

    def _note_all(self, seq: float) -> None:
        for agent_id in self._by_id.keys() | self._needed.keys():
            self._note(agent_id, seq)

    async def _catch_up(self) -> None:
        since = self._seq
        try:
            async with asyncio.timeout(_LOOKUP_LIMIT_S):
                found = await agents.changes_since(self._store, since)
                is_new = since is None or found.reset
                contained = await agents.contained_agents(self._store) if is_new else []
        except (RecordsUnavailable, TimeoutError) as error:
            self._failed(error)
            return
        if is_new:
            # What was read before the feed was taken up may lack what happened in between.
            self._note_all(math.inf if found.reset else found.seq)
            self._unread |= {agent_id for agent_id, agent in self._by_id.items() if agent.stale}
            self._meet(contained)
        for seq, (agent_id, kind) in enumerate(found.changes, 1 + (since or 0)):
            if agent_id is None:
                self._note_all(seq)
                continue
            self._note(agent_id, seq)
            if kind == "containment":
                self._unread.add(agent_id)
        self._seq = found.seq
        if not self.available:
            await self._is_back()

    def _meet(self, contained: list[tuple[str, str, str]]) -> None:
        """Know of everybody who is contained: an outage may begin before they ask here."""
        for agent_id, agent_hash, status in contained:
            if agent_id not in self._by_id:
                agent = self._by_id[agent_id] = Agent(agent_id, agent_hash, None)
                agent.contain(status)
                agent.stale = True

    async def _read_contained(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            if self.available:
                agent_ids = [self._unread.pop() for _ in range(min(len(self._unread), _AT_ONCE))]
                done = await asyncio.gather(*map(self._refresh, agent_ids))
                self._unread.update(agent_id for agent_id, is_done in zip(agent_ids, done, strict=True) if not is_done)

    async def _refresh(self, agent_id: str) -> bool:
        """Read a context; whether there is no need to try again."""
        try:
            await self._context(agent_id)
        except (RecordsUnavailable, TimeoutError) as error:
            self._failed(error)
            return False
        except Exception:
            log.exception("the context of an agent could not be read")
        return True

    def _failed(self, error: Exception) -> None:
        self.mark(False, str(error) or "no answer in time")

    async def _flush_soon(self) -> None:
        try:
            for _ in range(_ROUNDS):
                await asyncio.sleep(_FLUSH_S)
                if await self.flush():
                    return
        finally:
            self._flushing = False

    def _probe_soon(self, ctx: ExecutionContext) -> None:
        if not self._probing:
            self._probing = True
            ctx.wait_until(self._probe())

    async def _probe(self) -> None:
        try:
            for _ in range(_ROUNDS):
                await asyncio.sleep(_PROBE_S)
                if await self._is_back():
                    return
        finally:
            self._probing = False

    async def _is_back(self) -> bool:
        """Whether the database can be read and written again."""
        try:
            async with asyncio.timeout(_LOOKUP_LIMIT_S):
                await records.ping(self._store)
        except (RecordsUnavailable, TimeoutError):
            return False
        if not await self.flush():
            return False
        self.mark(True)
        return True
