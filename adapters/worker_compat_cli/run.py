"""``worker-compat run``: serve a handler with its bindings, crons and queues, and end in order."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from typing import Protocol, cast

import click

from worker_compat import registry
from worker_compat.bindings import open_stores
from worker_compat.errors import WorkerCompatError
from worker_compat.ports import Host
from worker_compat.runtime import Runtime
from worker_compat.tasks import end_with_event

from .events import Events, with_trigger
from .output import banner, configure_logs
from .plan import Options, Plan, make_plan, prepare_folder
from .wiring import bind_workers, load_workers

GRACE_S = 10.0
"""How long requests, batches and background work may go on after the first signal."""

_WATCHER_POLL_S = 0.5


class _ListeningHost(Host, Protocol):
    """A host that says when and where it listens."""

    listening: asyncio.Event
    addresses: list[tuple[str, int]]


class CannotListen(WorkerCompatError):
    """The address is taken or not ours."""

    def __init__(self, address: str, port: int, error: BaseException | None) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        super().__init__(f"cannot listen on {address}:{port} ({reason}); choose another with --host and --port")


def serve(options: Options, host: str, port: int, *, traceback: bool, watched_by: int | None) -> int:
    """Run until a signal, or until the parent process ``watched_by`` is gone; the exit code.

    ``ConfigError`` and ``StoreUnavailable`` for what stops the start.
    """
    plan = make_plan(options)
    configure_logs([config.main.absolute().parent for config in plan.configs], traceback=traceback)
    for config in plan.configs:
        for warning in config.warnings:
            click.echo(f"warning: {warning}", err=True)
    asyncio.run(_serve(plan, host, port, watched_by))
    return 0


async def _serve(plan: Plan, address: str, port: int, watched_by: int | None) -> None:
    end_with_event(*(config.main.absolute().parent for config in plan.configs))
    async with AsyncExitStack() as stack:
        fetcher = await stack.enter_async_context(registry.open_fetcher())
        runtime = Runtime(fetcher, decoders=registry.decoders())
        workers = load_workers(plan, runtime)
        prepare_folder(plan)
        stores = await stack.enter_async_context(open_stores(plan.urls))
        await bind_workers(workers, stores)
        host = cast("_ListeningHost", await stack.enter_async_context(registry.open_host(address, port)))
        stop = _stop_on_signals()
        if watched_by is not None:
            _stop_without(watched_by, stop)
        serving = asyncio.create_task(host.serve(with_trigger(workers[0], runtime)))
        await _until_listening(host, serving, address, port)
        events = Events(runtime)
        await events.start(workers, stores)
        click.echo(banner(plan.configs[0], plan.urls, (address, host.addresses[0][1])))
        await _first(asyncio.create_task(stop.wait()), serving, *events.tasks)
        click.echo("ending; another Ctrl-C ends at once", err=True)
        host.stop(GRACE_S)
        await asyncio.gather(serving, events.stop(GRACE_S))
        await runtime.background.drain(GRACE_S)


def _stop_on_signals() -> asyncio.Event:
    """Set by the first signal; the second one ends the process at once."""
    stop = asyncio.Event()

    def signalled(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled, number)
    return stop


def _stop_without(watcher: int, stop: asyncio.Event) -> None:
    """Stop when the parent process is another one than ``watcher``: one that was killed cannot say so."""
    if os.getppid() == watcher:
        asyncio.get_running_loop().call_later(_WATCHER_POLL_S, _stop_without, watcher, stop)
    else:
        stop.set()


async def _until_listening(host: _ListeningHost, serving: asyncio.Task[None], address: str, port: int) -> None:
    listening = asyncio.create_task(host.listening.wait())
    await asyncio.wait({listening, serving}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        return
    listening.cancel()
    error = serving.exception()
    raise CannotListen(address, port, error) from error


async def _first(stopped: asyncio.Task[bool], *others: asyncio.Task[None]) -> None:
    """Wait for the signal; whatever else ends first has failed, and its error ends the command."""
    done, _ = await asyncio.wait({stopped, *others}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    for task in done - {stopped}:
        await task
