"""``smoltbot serve``: start, serve, and end in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from smoltbot_worker.env import read_variables
from smoltbot_worker.gateway import Default
from smoltbot_worker.ports import RecordsUnavailable
from smoltbot_worker.variables import EnvValidationError
from worker_compat.errors import ConfigError, StoreUnavailable

from . import chores, data_dir, logs, queue, records, settings, signing_keys
from .wiring import Wiring, wire

log = logging.getLogger("smoltbot")

_RETRY_S = 2.0
_LAST_TRY_S = 2.0


def serve(environ: Mapping[str, str]) -> int:
    """Run until a signal; the exit code. Wrong settings are printed, all at once, and end with 1."""
    try:
        values, warnings = read_variables(settings.load(environ))
        embedded = records.is_embedded(records.database_url(values))
        made = data_dir.prepare(values["data_dir"]) if embedded else []
    except (EnvValidationError, ConfigError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    writer = logs.open_logs(values["log_level"], values["smoltbot_role"])
    try:
        for warning in warnings:
            log.warning(warning)
        for name in made:
            log.info("made %s in DATA_DIR, readable by this user only; back it up", name)
        if values["kv_url"].startswith("memory:"):
            log.warning("KV is in memory: this is for a single node, and is empty after a restart")
        if values["queue_url"].startswith("memory:"):
            log.warning("exchanges wait in memory: those that are not checked when the process ends are lost")
        _raise_file_limit()
        # The database's threads must get their turn beside a busy event loop; 5 ms, the default, starves them.
        sys.setswitchinterval(0.0005)
        return asyncio.run(_run(values, writer))
    except ConfigError as error:
        log.error("cannot start: %s", error)
        return 1
    finally:
        writer.close()


async def _run(values: dict[str, Any], writer: logs.LogWriter) -> int:
    async with wire(values, writer) as wiring:
        stop = asyncio.Event()
        _on_signals(stop)
        serving = asyncio.create_task(wiring.host.serve(wiring.runtime.handler(Default, wiring.env)))
        listening = asyncio.create_task(wiring.host.listening.wait())
        await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            listening.cancel()
            return _cannot_listen(serving.exception(), values)
        address = "{}:{}".format(*wiring.host.addresses[0])
        log.info("listening on http://%s as %s", address, wiring.env.smoltbot_role)
        preparing = asyncio.create_task(_prepare_records(wiring, values))
        working = asyncio.create_task(chores.run(wiring, preparing))
        await _until_stopped(stop, serving, preparing)
        failure = preparing.exception() if preparing.done() and not preparing.cancelled() else None
        await _end(wiring, serving, {preparing, working})
        if failure is not None:
            raise failure
        return 0


async def _until_stopped(stop: asyncio.Event, serving: asyncio.Task[None], prepare: asyncio.Task[None]) -> None:
    """Wait for a signal, for the host to fail, or for records that can never be used."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({stopped, serving, prepare}, return_when=asyncio.FIRST_COMPLETED)
    if prepare.done() and prepare.exception() is None:
        await asyncio.wait({stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()


async def _prepare_records(wiring: Wiring, values: dict[str, Any]) -> None:
    """Bring the schema up to date, prove the database and take up the key; meanwhile DB_FAILURE_MODE says what passes.

    Returns when all is well; raises ``ConfigError`` for what no waiting mends.
    """
    env, url = wiring.env, records.database_url(values)
    told = ""
    while True:
        try:
            if records.is_embedded(url):
                for name in await records.adapter(url).migrate(url, records.schema_dir(url), wait_s=_RETRY_S):
                    log.info("applied migration %s", name)
            await records.check_schema(env.records, url)
            await queue.check(values)
            await signing_keys.use(env.records, wiring.crypto, values)
        except (StoreUnavailable, RecordsUnavailable) as error:
            reason = records.reason(error)
            if env.agents.available:
                env.agents.mark(False, reason)
            elif reason != told:
                log.error("the database is still unavailable: %s", reason)
            told = reason
            await asyncio.sleep(_RETRY_S)
            continue
        env.state.database_seen = env.state.started = True
        env.agents.mark(True)
        # What is alive now stays alive: later collections need not look at it, nor happen often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        log.info("ready")
        return


async def _end(wiring: Wiring, serving: asyncio.Task[None], others: set[asyncio.Task[None]]) -> None:
    """Readiness first, then the streams, then what they left behind."""
    env = wiring.env
    env.state.draining = True
    log.info("ending: %d requests in flight", wiring.host.in_flight)
    wiring.host.stop(env.shutdown_grace_s)
    await serving
    for task in others:
        task.cancel()
    await asyncio.gather(asyncio.wait(others), _drain(wiring))
    log.info("ended")


async def _drain(wiring: Wiring) -> None:
    """Write what is still in memory, within ``DRAIN_TIMEOUT_S`` and the time of one more try."""
    env = wiring.env
    until = time.monotonic() + env.drain_timeout_s
    if not await env.agents.flush():
        log.error("the last sightings of agents could not be written")
    await wiring.runtime.background.drain(until - time.monotonic())
    await env.exchanges.drain(max(_LAST_TRY_S, until - time.monotonic()))


def _on_signals(stop: asyncio.Event) -> None:
    def signalled(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)  # the second signal: at once, whatever is in flight
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled, number)
    # Settings are read at the start only, for now; a hang-up must not end a service that somebody tried to reload.
    loop.add_signal_handler(signal.SIGHUP, log.warning, "SIGHUP ignored: restart to read the settings again")


def _cannot_listen(error: BaseException | None, values: dict[str, Any]) -> int:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    log.error(
        "cannot listen on %s:%d (%s); set HOST and PORT to an address that is free",
        values["host"], values["port"], reason,
    )  # fmt: skip
    return 1


def _raise_file_limit() -> None:
    """As many open files as the system allows: every client and every upstream is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
