"""Consumer: takes messages from a queue store, delivers them in batches, and sees each one to its end.

At least once: a message leaves the store only when it was acknowledged, dead-lettered or, without a dead-letter
queue, given up after its last retry. What a crash or an outage leaves behind returns when its lease ends.

https://developers.cloudflare.com/queues/configuration/batching-retries/
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from .errors import ConfigError, StoreUnavailable
from .ports import Claimed, Clock, QueueDepth, QueueStore
from .queues import MAX_DELAY_S, Message, MessageBatch

log = logging.getLogger("worker_compat")

Deliver = Callable[[MessageBatch], Awaitable[None]]
"""Runs the handler over one batch; raises when the handler, or work that it left behind, failed."""

Outcome = Literal["acked", "retried", "dead", "dropped"]
OnEvent = Callable[[Outcome, int], None]
"""Told what became of how many messages: acknowledged, to come again, dead-lettered, or given up."""

_IDLE_FIRST_S, _IDLE_MOST_S = 0.02, 1.0
_OUTAGE_FIRST_S, _OUTAGE_MOST_S = 0.1, 2.0
_ACK_LIMIT_S = 5.0
_CALL_LIMIT_S = 5.0
_CANCEL_LIMIT_S = 1.0


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """``[[queues.consumers]]``, with Cloudflare's defaults and limits; ``ConfigError`` beyond them.

    ``lease_s``, ours, is how long a batch may take, the wait for its messages included, and how long the messages
    of a killed process stay away. Its default is the longest that a consumer may run on Workers.

    https://developers.cloudflare.com/workers/wrangler/configuration/#queues
    """

    queue: str
    max_batch_size: int = 10
    max_batch_timeout_s: float = 5
    max_retries: int = 3
    retry_delay_s: int = 0
    max_concurrency: int = 1
    dead_letter_queue: str | None = None
    lease_s: int = 900

    def __post_init__(self) -> None:
        self._check("max_batch_size", self.max_batch_size, 1, 100)
        self._check("max_batch_timeout", self.max_batch_timeout_s, 0, 60)
        self._check("max_retries", self.max_retries, 0, 100)
        self._check("retry_delay", self.retry_delay_s, 0, MAX_DELAY_S)
        self._check("max_concurrency", self.max_concurrency, 1, 250)
        self._check("the lease", self.lease_s, max(1, 2 * self.max_batch_timeout_s), MAX_DELAY_S)
        if self.dead_letter_queue == self.queue:
            raise ConfigError(f"queue {self.queue}: dead_letter_queue must be another queue")

    def _check(self, name: str, value: float, least: float, most: float) -> None:
        if not least <= value <= most:
            raise ConfigError(f"queue {self.queue}: {name} must be {least:g} to {most:g}, not {value:g}")


class WakingQueueStore:
    """``store``, and everybody in ``on_push`` told of each push: a consumer in this process need not poll for it."""

    def __init__(self, store: QueueStore) -> None:
        self._store = store
        self.on_push: list[Callable[[], None]] = []

    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        """Push, then tell."""
        await self._store.push(bodies, delay_s)
        for told in self.on_push:
            told()

    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        """As the store does it."""
        return await self._store.claim(limit, lease_s)

    async def ack(self, ids: Sequence[str]) -> None:
        """As the store does it."""
        await self._store.ack(ids)

    async def release(self, ids: Sequence[str], delay_s: int) -> None:
        """As the store does it."""
        await self._store.release(ids, delay_s)

    async def depth(self) -> QueueDepth:
        """As the store does it."""
        return await self._store.depth()


class _Pauses:
    """Pauses that double from ``first`` to ``most`` seconds, a little apart from those of other processes."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._next = first

    def next(self) -> float:
        """How long to wait now."""
        pause = self._next * random.uniform(0.75, 1.0)
        self._next = min(2 * self._next, self._most)
        return pause

    def reset(self) -> None:
        """Begin again with the shortest."""
        self._next = self._first


class _Outage:
    """Whether the store called ``name`` is out of reach; logged once when it begins and once when it ends."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.lasts = False

    def began(self, error: Exception) -> None:
        """A call failed."""
        if not self.lasts:
            log.warning("queue %s is unavailable, trying on: %s", self._name, error)
        self.lasts = True

    def ended(self) -> None:
        """A call succeeded."""
        if self.lasts:
            log.warning("queue %s is available again", self._name)
        self.lasts = False


class Consumer:
    """Delivers the messages of ``store`` until it is stopped; see :class:`ConsumerSettings`.

    A message that cannot be read, or that was delivered more often than its retries allow because its process
    died each time, is dead-lettered without another delivery. ``clock`` measures leases and must not jump.
    """

    def __init__(
        self,
        store: QueueStore,
        deliver: Deliver,
        settings: ConsumerSettings,
        *,
        dead_letters: QueueStore | None = None,
        clock: Clock = time.monotonic,
        on_event: OnEvent | None = None,
    ) -> None:
        self._store = store
        self._deliver = deliver
        self._settings = settings
        self._dead_letters = dead_letters
        self._clock = clock
        self._on_event = on_event
        self._running: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._cut = asyncio.Event()
        self._cut_timer: asyncio.TimerHandle | None = None
        self._outage = _Outage(settings.queue)
        self._dead_outage = _Outage(settings.dead_letter_queue or "")
        self._idle = _Pauses(_IDLE_FIRST_S, _IDLE_MOST_S)
        self._backoff = _Pauses(_OUTAGE_FIRST_S, _OUTAGE_MOST_S)

    async def run(self) -> None:
        """Deliver until :meth:`stop`; returns once no batch runs any more.

        Outages of the store are waited out. Cancelling it cuts running batches off.
        """
        try:
            while not self._stopping.is_set():
                held, since = await self._gather()
                if held:
                    task = asyncio.create_task(self._process(held, since))
                    self._running.add(task)
                    task.add_done_callback(self._ended)
                while len(self._running) >= self._settings.max_concurrency:
                    await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not self._stopping.is_set():
                self.stop(0)
            while self._running:
                await asyncio.wait(self._running)
            if self._cut_timer is not None:
                self._cut_timer.cancel()
        if self._failure is not None:
            raise self._failure

    def stop(self, grace_s: float) -> None:
        """Begin to end: take nothing more; running handlers are cancelled after ``grace_s`` seconds.

        What a cancelled handler did not acknowledge is retried. May be called again with less time.
        """
        self._stopping.set()
        self._woken.set()
        loop = asyncio.get_running_loop()
        cut_at = loop.time() + grace_s
        if self._cut_timer is None or cut_at < self._cut_timer.when():
            if self._cut_timer is not None:
                self._cut_timer.cancel()
            self._cut_timer = loop.call_at(cut_at, self._cut.set)

    def wake(self) -> None:
        """Look for messages now instead of at the next poll."""
        self._woken.set()

    async def _gather(self) -> tuple[Sequence[Claimed], float]:
        """A batch, as full as it gets in the time since its first message, and when its first lease began."""
        held: list[Claimed] = []
        try:
            return held, await self._fill(held)
        except asyncio.CancelledError:
            self.stop(0)
            if held:
                # Nobody has seen them: they need not stay away until their lease ends, of which half is left.
                release = partial(self._store.release, [claimed.id for claimed in held], 0)
                await self._insist(self._outage, self._clock() + self._settings.lease_s / 4, release)
            raise

    async def _fill(self, held: list[Claimed]) -> float:
        settings = self._settings
        since = 0.0
        while not self._stopping.is_set():
            self._woken.clear()
            asked = self._clock()
            fresh = await self._claim(settings.max_batch_size - len(held))
            since = since if held else asked
            held += fresh
            left = since + settings.max_batch_timeout_s - self._clock()
            if len(held) >= settings.max_batch_size or (held and left <= 0):
                break
            pause = (self._backoff if self._outage.lasts else self._idle).next()
            await self._wait_woken(min(pause, left) if held else pause)
        return since

    async def _claim(self, limit: int) -> Sequence[Claimed]:
        try:
            claimed = await self._store.claim(limit, self._settings.lease_s)
        except StoreUnavailable as error:
            self._outage.began(error)
            return ()
        self._outage.ended()
        self._backoff.reset()
        if claimed:
            self._idle.reset()
        return claimed

    async def _wait_woken(self, limit_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._woken.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        failure = asyncio.CancelledError() if task.cancelled() else task.exception()
        if failure is not None:
            # A defect, ours or the store's: run() must raise it instead of taking more messages.
            self._failure = self._failure or failure
            self.stop(0)

    async def _process(self, held: Sequence[Claimed], since: float) -> None:
        settings = self._settings
        lease_end = since + settings.lease_s
        margin = min(settings.lease_s / 4, 5)
        # A release that starts later might reach the store when the message is somebody else's.
        release_end = lease_end - margin / 4
        messages, hopeless = self._opened(held)
        await self._bury([claimed for claimed in held if claimed.id in hopeless], release_end)
        if not messages:
            return
        batch = MessageBatch(settings.queue, messages)
        failed, is_over = await self._delivered(batch, lease_end - margin)
        acked, retried = batch._verdict(failed, settings.retry_delay_s)
        if acked:
            done = await self._ack(acked, lease_end)
            self._tell("acked" if done else "retried", len(acked))
        if is_over:
            await self._retry([claimed for claimed in held if claimed.id in retried], retried, release_end)
        elif retried:
            self._tell("retried", len(retried))

    def _opened(self, held: Sequence[Claimed]) -> tuple[list[Message], set[str]]:
        """The messages to deliver, and the ids of those that must not be."""
        messages: list[Message] = []
        hopeless: set[str] = set()
        for claimed in held:
            if claimed.attempts > self._settings.max_retries + 1:
                log.error("queue %s: message %s was lost in every delivery", self._settings.queue, claimed.id)
                hopeless.add(claimed.id)
                continue
            try:
                messages.append(Message.read(claimed))
            except ValueError as error:
                log.error("queue %s: message %s cannot be read: %s", self._settings.queue, claimed.id, error)
                hopeless.add(claimed.id)
        return messages, hopeless

    async def _delivered(self, batch: MessageBatch, work_end: float) -> tuple[bool, bool]:
        """Run the handler; whether it failed, and whether it is over."""
        delivery = asyncio.create_task(self._call(batch))
        cut = asyncio.create_task(self._cut.wait())
        left = max(0.0, work_end - self._clock())
        await asyncio.wait({delivery, cut}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not delivery.done():
            why = "the process ends" if cut.done() else "its lease ends"
            log.warning("queue %s: the handler is cancelled because %s", batch.queue, why)
            delivery.cancel()
            await asyncio.wait({delivery}, timeout=_CANCEL_LIMIT_S)
        cut.cancel()
        if not delivery.done():
            log.error("queue %s: the handler goes on though cancelled; its messages wait for their lease", batch.queue)
            delivery.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody awaits it
            return True, False
        if delivery.cancelled():
            return True, True
        error = delivery.exception()
        if error is not None:
            log.error("queue %s: the handler raised", batch.queue, exc_info=error)
        return error is not None, True

    async def _call(self, batch: MessageBatch) -> None:
        await self._deliver(batch)

    async def _retry(self, failed: Sequence[Claimed], delays: dict[str, int], release_end: float) -> None:
        last = [claimed for claimed in failed if claimed.attempts > self._settings.max_retries]
        await self._bury(last, release_end)
        by_delay: dict[int, list[str]] = {}
        for claimed in failed:
            if claimed.attempts <= self._settings.max_retries:
                by_delay.setdefault(delays[claimed.id], []).append(claimed.id)
        for delay_s, ids in by_delay.items():
            # Without an answer in time they come again as well: when their lease ends.
            await self._insist(self._outage, release_end, partial(self._store.release, ids, delay_s))
            self._tell("retried", len(ids))
            if delay_s == 0:
                self.wake()

    async def _bury(self, dead: Sequence[Claimed], release_end: float) -> None:
        """Dead-letter messages, or give them up when there is no dead-letter queue."""
        if not dead:
            return
        ids = [claimed.id for claimed in dead]
        outcome: Outcome = "dropped"
        if self._dead_letters is not None:
            outcome = "dead"
            push = partial(self._dead_letters.push, [claimed.body for claimed in dead], 0)
            if not await self._insist(self._dead_outage, release_end, push):
                self._tell("retried", len(dead))
                return
        log.warning("queue %s: %d messages %s after their last retry", self._settings.queue, len(dead), outcome)
        await self._ack(ids, release_end)
        self._tell(outcome, len(dead))

    async def _ack(self, ids: Sequence[str], lease_end: float) -> bool:
        # Also later than the lease: nobody needs a message that is done.
        until = max(lease_end, self._clock() + _ACK_LIMIT_S)
        return await self._insist(self._outage, until, partial(self._store.ack, ids))

    async def _insist(self, outage: _Outage, until: float, call: Callable[[], Awaitable[None]]) -> bool:
        """Make ``call``, again while the store is unavailable and ``until`` has not come; whether it was done.

        Once running batches are cut off it is tried one last time.
        """
        pauses = _Pauses(_OUTAGE_FIRST_S, _OUTAGE_MOST_S)
        while (left := until - self._clock()) > 0:
            try:
                async with asyncio.timeout(min(left, _CALL_LIMIT_S)):
                    await call()
            except (StoreUnavailable, TimeoutError) as error:
                outage.began(error)
            else:
                outage.ended()
                return True
            if self._cut.is_set():
                # The process cannot wait for the store any longer; the messages return when their lease ends.
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pauses.next(), left)):
                    await self._cut.wait()
        return False

    def _tell(self, outcome: Outcome, count: int) -> None:
        if self._on_event is not None:
            self._on_event(outcome, count)
