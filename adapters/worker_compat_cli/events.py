"""The events besides requests: cron triggers, their manual trigger over HTTP, and the consumers of queues."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from urllib.parse import parse_qsl

from worker_compat.bindings import Stores
from worker_compat.consumer import Consumer, ConsumerSettings
from worker_compat.cron import Cron
from worker_compat.errors import ConfigError
from worker_compat.ports import Handle, Send
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import Runtime
from worker_compat.scheduled import Dispatch, ScheduledController, Scheduler, log_failure

from .wiring import Loaded

log = logging.getLogger("worker_compat")

TRIGGERS = ("/cdn-cgi/handler/scheduled", "/cdn-cgi/local/scheduled")
"""Where a GET runs the ``scheduled`` handler at once, as under miniflare: the present path and the coming one."""


class Events:
    """The schedulers and consumers of all workers; ``tasks`` end only when they failed or were stopped."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._consumers: list[Consumer] = []
        self._schedulers: list[Scheduler] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self, workers: Sequence[Loaded], stores: Stores) -> None:
        """Begin to take messages and to look at the clock."""
        for loaded in workers:
            for consumer in await self._consumers_of(loaded, stores):
                self._consumers.append(consumer)
                self.tasks.append(asyncio.create_task(consumer.run()))
            if loaded.config.crons:
                scheduler = await self._scheduler_of(loaded, stores)
                self._schedulers.append(scheduler)
                self.tasks.append(asyncio.create_task(scheduler.run()))

    async def stop(self, grace_s: float) -> None:
        """Take nothing more; what runs has ``grace_s`` seconds, then it is cancelled."""
        for consumer in self._consumers:
            consumer.stop(grace_s)
        for scheduler in self._schedulers:
            scheduler.stop()
        if self.tasks:
            _, late = await asyncio.wait(self.tasks, timeout=grace_s + 2)
            for task in late:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _consumers_of(self, loaded: Loaded, stores: Stores) -> Sequence[Consumer]:
        consumers = []
        for config in loaded.consumers:
            settings = ConsumerSettings(
                config.queue,
                max_batch_size=config.max_batch_size,
                max_batch_timeout_s=config.max_batch_timeout_s,
                max_retries=config.max_retries,
                retry_delay_s=config.retry_delay_s,
                max_concurrency=config.max_concurrency,
                dead_letter_queue=config.dead_letter_queue,
            )
            store = await stores.queue(config.queue)
            dead = None if config.dead_letter_queue is None else await stores.queue(config.dead_letter_queue)
            deliver = partial(self._runtime.queue, loaded.default, loaded.worker.env)
            consumer = Consumer(store, deliver, settings, dead_letters=dead)
            store.on_push.append(consumer.wake)
            consumers.append(consumer)
        return consumers

    async def _scheduler_of(self, loaded: Loaded, stores: Stores) -> Scheduler:
        dispatch = partial(self._runtime.scheduled, loaded.default, loaded.worker.env)
        # A namespace of its own: no binding can have this id by chance.
        state = await stores.kv("", f"scheduled/{loaded.config.name}")
        return Scheduler(map(Cron.parse, loaded.config.crons), dispatch, state=state)


def with_trigger(loaded: Loaded, runtime: Runtime) -> Handle:
    """The handler of a worker, and the manual trigger in front of it."""
    env = loaded.worker.env
    handle = runtime.handler(loaded.default, env) if hasattr(loaded.default, "fetch") else _no_fetch
    dispatch = partial(runtime.scheduled, loaded.default, env)

    async def triggered(request: Request, send: Send) -> None:
        path, _, query = request.target.partition("?")
        if path in TRIGGERS:
            await send(await _trigger(dict(parse_qsl(query)), dispatch))
        else:
            await handle(request, send)

    return triggered


async def _trigger(options: dict[str, str], dispatch: Dispatch) -> Response:
    """Run one event now and answer how it ended, as text or JSON."""
    when = options.get("time", str(int(time.time() * 1000)))
    if not when.isdecimal():
        return Response("time must be milliseconds since 1970, for example time=1767225600000\n", 400)
    controller = ScheduledController(int(when), options.get("cron", ""))
    try:
        result = await dispatch(controller)
    except ConfigError as error:
        log.error("%s", error)
        return Response("exception", 500)
    log_failure(controller, result)
    status = 200 if result.outcome == "ok" else 500
    if options.get("format") == "json":
        return Response.from_json({"outcome": result.outcome, "noRetry": result.noRetry}, status)
    return Response(result.outcome, status)


async def _no_fetch(request: Request, send: Send) -> None:
    log.error("Handler does not export a fetch() function; add `async def fetch(self, request)` to class Default")
    await send(Response("Internal Server Error", 500))
