"""Health: is it alive, is it ready, has it started; answered from the ports, whatever adapters stand behind."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from worker_compat.errors import KVError, StoreUnavailable
from worker_compat.response import Response

from . import records
from .answers import iso, json_answer
from .env import Env
from .ports import RecordsUnavailable

CHECK_LIMIT_S = 2.0
"""Time for one check: below the 3 s that a probe waits."""
TICK_LIMIT_S = 300.0
"""A schedule that turns every minute and has not for this long is stuck."""


class State:
    """Where this process is in its life; written by the host, read by the health routes."""

    __slots__ = ("database_seen", "draining", "last_tick", "started")

    def __init__(self) -> None:
        self.started = False
        self.draining = False
        self.database_seen = False
        self.last_tick: float | None = None
        """When the schedule turned last, by ``time.monotonic``; None without one."""


def live(env: Env) -> Response:
    """200: whoever can answer this is not deadlocked; 503 when the schedule has not turned for five minutes."""
    turned = env.state.last_tick
    if turned is not None and time.monotonic() - turned > TICK_LIMIT_S:
        return json_answer(503, {"status": "stuck", "reason": "the schedule does not turn"})
    return json_answer(200, {"status": "ok", "timestamp": iso(env.clock())})


def startup(env: Env) -> Response:
    """503 until initialised."""
    if not env.state.started:
        return json_answer(503, {"status": "starting"})
    return json_answer(200, {"status": "ok", "timestamp": iso(env.clock())})


def summary(env: Env) -> Response:
    """Version and mode."""
    body = {
        "status": "ok",
        "version": env.gateway_version,
        "timestamp": iso(env.clock()),
        "aip_enabled": env.aip_enabled,
    }
    return json_answer(200, body)


async def ready(env: Env) -> Response:
    """Whether this process should get traffic, with one entry per dependency."""
    body = await examine(env)
    return json_answer(503 if body["status"] == "not_ready" else 200, body)


async def examine(env: Env) -> dict[str, Any]:
    """The body of ``/health/ready``; ``status`` is ``ready``, ``degraded`` or ``not_ready``."""
    state = env.state
    if state.draining:
        return {"status": "not_ready", "reason": "shutting down", "checks": {}, "timestamp": iso(env.clock())}
    redis, database = await asyncio.gather(_check_kv(env), _check_records(env))
    checks = {"redis": redis, "supabase": database, "license": _check_license(env)}
    status = "ready" if all(check["ok"] for check in checks.values()) else "degraded"
    if not database["ok"] and (not state.database_seen or env.db_failure_mode == "closed"):
        status = "not_ready"
    if not redis["ok"] and env.redis_required:
        status = "not_ready"
    if env.license.state == "pending" and not env.license.allows:
        status = "not_ready"
    body = {"status": status, "checks": checks, "timestamp": iso(env.clock())}
    if not state.started:
        body |= {"status": "not_ready", "reason": "starting"}
    return body


async def _check_kv(env: Env) -> dict[str, Any]:
    if env.kv_primary is None:
        return {"ok": True, "status": "ok", "fallback": "memory"}
    started = time.perf_counter()
    try:
        async with asyncio.timeout(CHECK_LIMIT_S):
            await env.kv_primary.get("health:probe")
    except (StoreUnavailable, KVError, TimeoutError):  # inside Cloudflare an outage is an error of the binding
        return {"ok": False, "status": "unavailable", "fallback": "memory", "error": "kv_unreachable"}
    return {"ok": True, "status": "ok", "latencyMs": _ms(started)}


async def _check_records(env: Env) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(CHECK_LIMIT_S):
            found = await records.ping(env.records)
            if env.agents.stuck:
                # Tried here too: without traffic, which an unready process does not get, nobody else would.
                await env.agents.flush()
    except (RecordsUnavailable, TimeoutError):
        if env.state.started:  # until then the schema may be on its way, which is no outage
            env.agents.mark(False, "the readiness check found the database unavailable")
        return {"ok": False, "status": "unavailable", "error": "database_unavailable"}
    if env.agents.stuck:
        return {"ok": False, "status": "unavailable", "error": "database_not_writable"}
    env.state.database_seen = True
    if env.state.started:  # until then what answers may be the schema of an older version
        env.agents.mark(True)
    return {"ok": True, "status": "ok", "schema": found.get("schema"), "latencyMs": _ms(started)}


def _check_license(env: Env) -> dict[str, Any]:
    """What the license gate found; ``ok`` is whether traffic passes."""
    gate = env.license
    # Without a license this is not a licensed deployment, which is valid.
    check: dict[str, Any] = {"ok": gate.allows, "status": "valid" if gate.state == "none" else gate.state}
    if gate.code:
        check["warning" if gate.allows else "error"] = gate.code
    elif gate.warning:
        check["warning"] = gate.warning
    return check


def _ms(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
