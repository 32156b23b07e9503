"""The heartbeat: tells the issuer of a license, every minute, that this deployment lives; nothing of its traffic."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import sys
import time
from typing import Any

from smoltbot_worker import health
from smoltbot_worker.answers import iso
from smoltbot_worker.env import Env
from worker_compat.runtime import current, fetch

log = logging.getLogger("smoltbot")

INTERVAL_S = 60.0
LIMIT_S = 10.0

_HEALTH = {"ready": "healthy", "degraded": "degraded", "not_ready": "degraded"}


async def run(env: Env, interval_s: float = INTERVAL_S) -> None:
    """Beat until cancelled, where there is a license and ``HEARTBEAT_URL`` is not ``off``.

    A beat that fails is logged, once for each run of failures, and has no effect. Needs a
    :class:`worker_compat.runtime.Runtime` in use.
    """
    if env.heartbeat_url == "off" or not env.mnemom_license_jwt:
        await asyncio.Event().wait()
    current()
    started, failing = time.monotonic(), False
    while True:
        # A text that is no license is shown to nobody: it may be another secret.
        if env.license.claims is not None:
            try:
                problem = await _beat(env, time.monotonic() - started)
            except Exception:
                log.exception("no heartbeat could be made")
                problem = ""
            if problem and not failing:
                log.warning("the heartbeat did not reach %s (%s)", env.heartbeat_url, problem)
            failing = bool(problem)
        await asyncio.sleep(interval_s)


async def _beat(env: Env, uptime_s: float) -> str:
    """Send one; why it failed, or an empty text."""
    body = await _body(env, uptime_s)
    try:
        async with asyncio.timeout(LIMIT_S):
            response = await fetch(
                env.heartbeat_url,
                method="POST",
                headers={"authorization": f"Bearer {env.mnemom_license_jwt}", "content-type": "application/json"},
                body=json.dumps(body, separators=(",", ":")),
                redirect="manual",
            )
            if response.body is not None:
                await response.body.cancel()
    except OSError as error:
        return str(error) or type(error).__name__
    return "" if response.ok else f"status {response.status}"


async def _body(env: Env, uptime_s: float) -> dict[str, Any]:
    return {
        "deployment_id": env.deployment_id or f"selfhosted-{platform.node() or 'local'}",
        "instance_id": await env.license.instance_id(),
        "version": env.gateway_version,
        "heartbeat_data": {
            "uptime_seconds": int(uptime_s),
            "health_status": await _health(env),
            "runtime_version": platform.python_version(),
            "platform": sys.platform,
            "memory_usage_mb": _memory_mb(),
        },
        "timestamp": iso(env.clock()),
    }


async def _health(env: Env) -> str:
    """``healthy``, ``degraded``, or ``unknown`` while the process starts or ends."""
    if env.state.draining or not env.state.started:
        return "unknown"
    return _HEALTH[(await health.examine(env))["status"]]


def _memory_mb() -> float | None:
    """What this process holds in memory; None where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - pathlib costs an import at start
            pages = int(file.read().split()[1])
    except OSError:
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1_048_576, 1)
