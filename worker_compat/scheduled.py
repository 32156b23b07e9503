"""Scheduled events: what a handler is told, and the Scheduler that runs each tick once among several processes.

https://developers.cloudflare.com/workers/runtime-apis/handlers/scheduled/
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace

from .cron import Cron
from .errors import StoreUnavailable
from .ports import Clock, KVCompareAndPut, KVEntry, KVStore

log = logging.getLogger("worker_compat")

LEASE_S = 30.0
"""A runner that has not renewed its record for this long is taken for dead."""

CATCH_UP_S = 900.0
"""After a downtime a missed tick is run if it is not older than this."""

_BEATS = 3
_MAX_SLEEP_S = 60.0
_RETRY_S = 2.0
_AHEAD_S = 86_400
"""A last tick that lies further ahead was written by a clock that was wrong."""


@dataclass(slots=True)
class ScheduledController:
    """What a ``scheduled`` handler is told.

    ``scheduledTime`` is the tick in milliseconds since the epoch, ``cron`` the expression as configured, character
    for character. There is no ``type``: Cloudflare documents one, but its runtime has none.
    """

    scheduledTime: int
    cron: str
    _refused: asyncio.Event = field(default_factory=asyncio.Event, init=False, repr=False, compare=False)

    def no_retry(self) -> None:
        """Never run this tick again, even if its process dies in the middle."""
        self._refused.set()

    noRetry = no_retry

    @property
    def refuses_retry(self) -> bool:
        """Whether :meth:`no_retry` was called."""
        return self._refused.is_set()


@dataclass(frozen=True, slots=True)
class ScheduledResult:
    """How an event ended: ``outcome`` is ``ok`` or ``exception``, ``error`` what the handler or a task of it raised."""

    outcome: str
    noRetry: bool
    error: BaseException | None = field(default=None, compare=False)


Dispatch = Callable[[ScheduledController], Awaitable[ScheduledResult]]
"""Runs one event, as :meth:`worker_compat.Runtime.scheduled` does."""


def log_failure(controller: ScheduledController, result: ScheduledResult) -> None:
    """Log an event whose outcome is not ``ok``."""
    if result.outcome != "ok":
        log.error("the scheduled run of %s failed", controller.cron, exc_info=result.error)


@dataclass(frozen=True, slots=True)
class _Record:
    """What the store holds for one cron: the last tick that was begun, by whom, and whether it is over."""

    tick: int
    holder: str = ""
    done: bool = True
    retry: bool = True
    beat: int = 0

    def entry(self) -> KVEntry:
        return KVEntry(json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, value: bytes | None) -> _Record | None:
        """None when there is no record, or something else under its name."""
        try:
            fields = json.loads(value or b"{}")
            return cls(**fields) if isinstance(fields["tick"], int) else None
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(slots=True)
class _Followed:
    """One cron as this process sees it; times are seconds since the epoch."""

    cron: Cron
    key: str
    since: int
    """What counts as the last tick when there is no record."""
    last: int = 0
    """The latest tick that was begun or given up."""
    stored: bytes | None = None
    unchanged: int = 0
    """How often the record was seen again as it was."""
    doubtful: bool = False
    """Whether ``stored`` may be out of date: the answer to a write was lost, or the write was refused."""

    def saw(self, stored: bytes | None) -> None:
        self.unchanged = self.unchanged + 1 if stored == self.stored else 0
        self.stored = stored
        self.doubtful = False


class Scheduler:
    """Runs ``dispatch`` at the ticks of ``crons``, in one of all processes that share ``state``.

    The promise. A tick runs at least once, and only once while its process lives and reaches the store. A process
    that dies in the middle of a tick, or stands still for longer than ``lease_s``, loses it: another one runs it
    again, unless the handler had called ``noRetry()``. A handler that fails is not run again: the next tick comes.
    Ticks of one cron never overlap: when a handler outlives the next ones, the latest of them is run afterwards.
    After a downtime the latest missed tick is run if it is at most ``catch_up_s`` old (never less than a minute);
    every tick that is left out is logged. The clock may jump: no tick runs twice, and after a step backwards the next
    one is the first that has not run. While the store is unavailable no tick is begun, and what runs goes on.

    How. ``state`` has one record per cron, named by ``prefix`` and the expression, and changed by
    ``compare_and_put``. A runner renews its record every third of ``lease_s``; whoever has watched it for ``lease_s``
    without a change, the store answering all the time, takes the tick over: no two clocks are compared. A store
    without ``compare_and_put`` is for a single process, which takes over at once what an earlier one left behind.
    ``holder`` is unique among living processes.
    """

    def __init__(
        self,
        crons: Iterable[Cron],
        dispatch: Dispatch,
        *,
        state: KVStore,
        clock: Clock = time.time,
        holder: str = "",
        prefix: str = "scheduled/",
        lease_s: float = LEASE_S,
        catch_up_s: float = CATCH_UP_S,
        on_turn: Callable[[], None] = lambda: None,
        on_result: Callable[[ScheduledController, ScheduledResult], None] = log_failure,
    ) -> None:
        self._crons = {cron.text: cron for cron in crons}
        self._dispatch = dispatch
        self._state = state
        self._shared = state if isinstance(state, KVCompareAndPut) else None
        self._clock = clock
        self._holder = holder or f"{os.getpid()}-{os.urandom(8).hex()}"
        self._prefix = prefix
        self._beat_s = lease_s / _BEATS
        self._catch_up_s = max(60.0, catch_up_s)
        self._on_turn = on_turn
        self._on_result = on_result
        self._stopping = asyncio.Event()
        self._available = True

    async def run(self) -> None:
        """Run until :meth:`stop`, and then until the running handlers have ended; cancelling it cancels them.

        ``on_turn`` is called at least once a minute for each cron, except while its handler runs.
        """
        async with asyncio.TaskGroup() as group:
            for cron in self._crons.values():
                group.create_task(self._follow(_Followed(cron, self._prefix + cron.text, int(self._clock()))))

    def stop(self) -> None:
        """Begin no more ticks."""
        self._stopping.set()

    async def _follow(self, followed: _Followed) -> None:
        while not self._stopping.is_set():
            self._on_turn()
            try:
                pause = await self._turn(followed)
            except StoreUnavailable as error:
                self._lost(error)
                followed.unchanged = 0
                pause = min(_RETRY_S, self._beat_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def _turn(self, followed: _Followed) -> float:
        """Look at the record once and do what is due; the seconds until the next look."""
        record = await self._look(followed)
        now = self._clock()
        if not record.done:
            if record.holder != self._holder and self._shared is not None and followed.unchanged < _BEATS:
                return self._beat_s
            if record.retry and record.tick >= now - self._catch_up_s:
                log.warning(
                    "%s: the tick %s was left unfinished and is run again", followed.cron.text, _shown(record.tick)
                )
                return await self._claim(followed, record.tick)
            log.warning("%s: the tick %s was left unfinished and is given up", followed.cron.text, _shown(record.tick))
            await self._put(followed, replace(record, done=True))
            return 0.0
        due = self._latest_due(followed, now)
        if due is not None:
            return await self._claim(followed, due)
        following = followed.cron.next_after(max(now, followed.last))
        return _MAX_SLEEP_S if following is None else min(_MAX_SLEEP_S, following - now)

    async def _look(self, followed: _Followed) -> _Record:
        """The record; it is made when there is none, so that ticks from now on are known to be missed."""
        entry = await self._state.get(followed.key)
        self._found()
        stored = None if entry is None else entry.value
        followed.saw(stored)
        record = _Record.read(stored)
        credible = self._clock() + _AHEAD_S
        if followed.last > credible:
            followed.last = 0
        if record is not None and record.tick > credible:
            log.warning(
                "%s: the last tick %s is in the future and is forgotten", followed.cron.text, _shown(record.tick)
            )
            followed.since = int(self._clock())
            record = None
        if record is None:
            record = _Record(followed.last or followed.since)
            await self._put(followed, record)
        followed.last = max(followed.last, record.tick)
        return record

    def _latest_due(self, followed: _Followed, now: float) -> int | None:
        """The latest tick that is due and not too old; the ones before it are given up."""
        first = followed.cron.next_after(followed.last)
        if first is None or first > now:
            return None
        due = None
        tick = followed.cron.next_after(max(followed.last, now - self._catch_up_s - 60))
        while tick is not None and tick <= now:
            due = tick if tick >= now - self._catch_up_s else None
            tick = followed.cron.next_after(tick)
        if first != due:
            log.warning("%s: the ticks from %s on were missed and are left out", followed.cron.text, _shown(first))
        if due is None:
            followed.last = int(now)
        return due

    async def _claim(self, followed: _Followed, tick: int) -> float:
        """Run ``tick`` if the record can be made ours; the seconds until the next look."""
        record = _Record(tick, self._holder, done=False)
        if await self._put(followed, record):
            await self._run_tick(followed, record)
        return 0.0

    async def _run_tick(self, followed: _Followed, record: _Record) -> None:
        """Run the handler while the record is renewed; when another process took it over the handler is cancelled."""
        controller = ScheduledController(record.tick * 1000, followed.cron.text)
        running = asyncio.ensure_future(self._run_handler(controller))
        refused = asyncio.ensure_future(controller._refused.wait())
        try:
            while not record.done:
                awaited = {running} if refused.done() else {running, refused}
                await asyncio.wait(awaited, timeout=self._beat_s, return_when=asyncio.FIRST_COMPLETED)
                retry = not controller.refuses_retry
                record = replace(record, done=running.done(), retry=retry, beat=record.beat + 1)
                if not await self._renew(followed, record):
                    log.warning("%s: the tick %s was taken over", followed.cron.text, _shown(record.tick))
                    return
        finally:
            refused.cancel()
            running.cancel()
            await asyncio.wait({running})

    async def _run_handler(self, controller: ScheduledController) -> None:
        try:
            result = await self._dispatch(controller)
        except Exception as error:
            result = ScheduledResult("exception", controller.refuses_retry, error)
        self._on_result(controller, result)

    async def _renew(self, followed: _Followed, record: _Record) -> bool:
        """Write our record; False when it is no longer ours. That a tick is done is tried until it is written."""
        while True:
            try:
                if followed.doubtful:
                    entry = await self._state.get(followed.key)
                    followed.saw(None if entry is None else entry.value)
                    held = _Record.read(followed.stored)
                    # One that is gone altogether is ours to write again.
                    if held is not None and (held.tick, held.holder) != (record.tick, record.holder):
                        return False
                if await self._put(followed, record):
                    self._found()
                    return True
                followed.doubtful = True
            except StoreUnavailable as error:
                self._lost(error)
                followed.doubtful = True
                if not record.done:
                    return True
                await asyncio.sleep(min(_RETRY_S, self._beat_s))

    async def _put(self, followed: _Followed, record: _Record) -> bool:
        """Replace the record as it was seen last; False when somebody else has changed it since."""
        entry = record.entry()
        if followed.stored == entry.value:
            return True  # by an earlier call whose answer was lost
        if self._shared is None:
            await self._state.put(followed.key, entry)
        elif not await self._shared.compare_and_put(followed.key, followed.stored, entry):
            return False
        followed.saw(entry.value)
        followed.last = max(followed.last, record.tick)
        return True

    def _lost(self, error: StoreUnavailable) -> None:
        if self._available:
            log.warning("scheduled runs wait for the store of their state: %s", error)
        self._available = False

    def _found(self) -> None:
        if not self._available:
            log.warning("the store of the scheduled runs' state is available again")
        self._available = True


def _shown(tick: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(tick))
