"""The agents of this deployment as this process knows them: looked up once, remembered, seen in batches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from smoltbot_worker import records
from smoltbot_worker.events import RecordsChanged
from smoltbot_worker.ports import RecordStore, RecordsUnavailable, Telemetry
from worker_compat.context import ExecutionContext

from .identity import session_hour, session_id

log = logging.getLogger("smoltbot")

MAX_KNOWN = 50_000
_LOOKUP_LIMIT_S = 2.0
_FLUSH_S = 1.0
_PROBE_S = 1.0
_ROUNDS = 20
"""Rounds of a background loop: below the 30 s that work may last after a response."""


class Agent:
    """One agent: who it is, what applies to it, and the header lines that say so."""

    __slots__ = ("_hour", "_session", "aap_enabled", "aip_enabled", "hash", "id", "id_line", "name", "recorded")

    def __init__(
        self,
        id: str,
        agent_hash: str,
        name: str | None,
        *,
        aip_enabled: bool = True,
        aap_enabled: bool = True,
        recorded: bool = True,
    ) -> None:
        self.id = id
        self.hash = agent_hash
        self.name = name
        self.aip_enabled = aip_enabled
        self.aap_enabled = aap_enabled
        self.recorded = recorded
        self.id_line = (b"x-smoltbot-agent", id.encode())
        self._hour = -1
        self._session = (b"x-smoltbot-session", b"")

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Agent:
        """From a row of ``agents``."""
        return cls(
            row["id"],
            row["agent_hash"],
            row["name"],
            aip_enabled=bool(row["aip_enabled"]),
            aap_enabled=bool(row["aap_enabled"]),
        )

    @classmethod
    def derived(cls, digest: str, name: str | None) -> Agent:
        """Who it must be, while the database cannot say."""
        return cls(f"smolt-{digest[:8]}", digest[:16], name, recorded=False)

    def session_line(self, now: float) -> tuple[bytes, bytes]:
        """The session's header line; made anew once an hour."""
        hour = session_hour(now)
        if hour != self._hour:
            self._hour = hour
            self._session = (b"x-smoltbot-session", session_id(self.hash, hour).encode())
        return self._session


class AgentDirectory:
    """Finds agents by the digest of their key, with one database call per agent and process.

    While the database is unavailable nobody waits for it: a background probe finds out when it is back.
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
        self._lookups: dict[str, asyncio.Task[Agent | None]] = {}
        self._seen: dict[str, float] = {}
        self._flushing = False
        self._probing = False
        self.available = True
        self.stuck = False
        """What was seen could not be written, and has not been since: readable is not writable (a full disk)."""

    def known(self, digest: str) -> Agent | None:
        """The agent, if this process met it before."""
        return self._known.get(digest)

    async def find(self, digest: str, name: str | None, ctx: ExecutionContext) -> Agent | None:
        """The agent, created on first sight; None while the database cannot be used."""
        if not self.available:
            self._probe_soon(ctx)
            return None
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

    def touch(self, agent: Agent, now: float, ctx: ExecutionContext) -> None:
        """Note that ``agent`` was seen; written within about a second, many at a time."""
        self._seen[agent.id] = now
        if not self._flushing:
            self._flushing = True
            ctx.wait_until(self._flush_soon())

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
        try:
            async with asyncio.timeout(_LOOKUP_LIMIT_S):
                row = await records.get_or_create_agent(self._store, digest, name, self._card, self._clock())
        except (RecordsUnavailable, TimeoutError) as error:
            self.mark(False, str(error) or "no answer in time")
            return None
        except Exception:
            # A record that cannot be made must not stop traffic either; the reason is for the operator.
            log.exception("an agent could not be recorded")
            return None
        finally:
            self._lookups.pop(digest, None)
        agent = Agent.from_row(row)
        if len(self._known) >= MAX_KNOWN:
            for old in list(self._known)[: MAX_KNOWN // 10]:
                del self._known[old]
        self._known[digest] = agent
        return agent

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
                try:
                    async with asyncio.timeout(_LOOKUP_LIMIT_S):
                        await records.ping(self._store)
                except (RecordsUnavailable, TimeoutError):
                    continue
                if await self.flush():
                    self.mark(True)
                    return
        finally:
            self._probing = False
