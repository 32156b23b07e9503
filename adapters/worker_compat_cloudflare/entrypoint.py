"""The entrypoint inside Cloudflare's Python Workers: a handler of this runtime, served by Cloudflare's.

The main file of such a Worker::

    import handler
    from worker_compat_cloudflare.entrypoint import wrap

    Default = wrap(handler)

Requests, responses, bodies and bindings are translated at the edge; ``js``, ``pyodide`` and Cloudflare's SDK
(``workers``) exist only there, so they are imported where they are used.
"""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType
from typing import Any

from worker_compat import Runtime, WorkerEntrypoint
from worker_compat.context import BackgroundTasks
from worker_compat.entrypoint import find_entrypoint
from worker_compat.errors import ConfigError
from worker_compat.response import Response
from worker_compat.scheduled import ScheduledController

from .bindings import NativeBatch, environment
from .messages import NativeFetcher, request_from_native, response_to_native


def wrap(handler: ModuleType | type[WorkerEntrypoint]) -> Any:
    """The class that Cloudflare looks for as ``Default``, around a handler module or its class.

    It has a method for each event that the handler takes. ``ConfigError`` when a module has no handler, and outside
    Cloudflare. https://developers.cloudflare.com/workers/languages/python/
    """
    if "js" not in sys.modules:
        raise ConfigError(
            "wrap() is for Cloudflare's Python Workers; here `worker-compat run` takes the handler itself"
        )
    from workers import WorkerEntrypoint as Native

    entrypoint = find_entrypoint(handler) if isinstance(handler, ModuleType) else handler
    default = type("Default", (Native,), {})
    # Afterwards, because the SDK wraps what it finds when a class is made: batches are wrapped here.
    for name, make in {"fetch": _fetch, "scheduled": _scheduled, "queue": _queue}.items():
        if hasattr(entrypoint, name):
            setattr(default, name, make(entrypoint))
    return default


def _fetch(entrypoint: type[WorkerEntrypoint]) -> Any:
    async def fetch(self: Any, request: Any) -> Any:
        handle = _runtime(self).handler(entrypoint, _env(self))
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def send(response: Response) -> None:
            ended = asyncio.Event()
            answered.set_result(response_to_native(response, ended.set))
            # The event goes on while its body is read: its time limit begins afterwards.
            await ended.wait()

        event = asyncio.ensure_future(handle(request_from_native(request.js_object), send))
        await asyncio.wait((answered, event), return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            event.result()
        return answered.result()

    return fetch


def _scheduled(entrypoint: type[WorkerEntrypoint]) -> Any:
    async def scheduled(self: Any, controller: Any, *_: Any) -> None:
        told = ScheduledController(int(controller.scheduledTime), str(controller.cron))
        result = await _runtime(self).scheduled(entrypoint, _env(self), told)
        if result.noRetry:
            controller.noRetry()
        if result.error is not None:
            raise result.error

    return scheduled


def _queue(entrypoint: type[WorkerEntrypoint]) -> Any:
    async def queue(self: Any, batch: Any, *_: Any) -> None:
        translated: Any = NativeBatch(batch)  # for a handler no other than a MessageBatch
        await _runtime(self).queue(entrypoint, _env(self), translated)

    return queue


class _NativeBackground(BackgroundTasks):
    """The tasks of one event; Cloudflare waits for each of them."""

    __slots__ = ("_native",)

    def __init__(self, native: Any) -> None:
        super().__init__()
        self._native = native

    def add(self, task: asyncio.Future[Any]) -> None:
        super().add(task)
        self._native.waitUntil(task)


def _runtime(native: Any) -> Runtime:
    """A runtime for one event: nothing of it may outlive the event on Cloudflare."""
    # The next hop of a request whose handler failed after pass_through_on_exception is its own address.
    fetcher = NativeFetcher()
    runtime = Runtime(fetcher, origin=fetcher)
    runtime.background = _NativeBackground(native.ctx)
    return runtime


def _env(native: Any) -> Any:
    from workers import import_from_javascript

    return environment(import_from_javascript("cloudflare:workers").env, native.env)
