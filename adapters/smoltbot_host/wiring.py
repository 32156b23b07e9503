"""The wiring: turns settings into open adapters and the gateway's Env."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from smoltbot_worker import answers
from smoltbot_worker.admission.agents import AgentDirectory
from smoltbot_worker.admission.license import LicenseGate
from smoltbot_worker.attestation.log import CheckpointLog
from smoltbot_worker.env import Env
from smoltbot_worker.health import State
from smoltbot_worker.integrity.analysis import Analyst
from smoltbot_worker.integrity.decoding import with_standard
from smoltbot_worker.relay.exchanges import ExchangeQueue, longest_message
from worker_compat import registry
from worker_compat.kv import KVNamespace
from worker_compat.queues import Queue
from worker_compat.response import Response
from worker_compat.runtime import Runtime
from worker_compat_aiohttp import AiohttpHost, open_fetcher, open_host
from worker_compat_aiohttp.egress import open_egress

from . import data_dir, license, queue, records
from .crypto import HostCrypto, load_crypto
from .kv import open_kv
from .logs import LogWriter
from .telemetry import PrometheusTelemetry

log = logging.getLogger("smoltbot")


@dataclass(slots=True)
class Wiring:
    """Everything that is open while the process serves."""

    env: Env
    runtime: Runtime
    host: AiohttpHost
    crypto: HostCrypto
    stores: queue.Stores


@asynccontextmanager
async def wire(values: dict[str, Any], logs: LogWriter | None) -> AsyncIterator[Wiring]:
    """Open what the settings name; closed in reverse order at the end."""
    async with AsyncExitStack() as stack:
        telemetry = PrometheusTelemetry(logs, values["log_level"])
        crypto = _crypto(values)
        stores = await stack.enter_async_context(queue.opened(values))
        kv = await stack.enter_async_context(open_kv(values["kv_url"], telemetry))
        egress = await stack.enter_async_context(open_egress(allow_private=values["webhook_allow_private"]))
        fetcher = await stack.enter_async_context(
            open_fetcher(
                connect_timeout_s=values["upstream_connect_timeout_s"],
                read_timeout_s=values["upstream_read_timeout_s"],
            )
        )
        host = await stack.enter_async_context(
            open_host(
                values["host"],
                values["port"],
                client_fin=values["client_fin"],
                max_connections=values["max_connections"],
                max_held_bytes=values["max_held_bytes"],
                refuse=_refuse,
            )
        )
        runtime = Runtime(fetcher)
        runtime.background.on_done = telemetry.background_done
        env = Env(
            **_for_the_handler(values, crypto),
            **_bindings(values, stores, crypto, telemetry),
            egress=egress,
            kv=KVNamespace(kv.store),
            kv_primary=KVNamespace(kv.primary),
        )
        _watch(telemetry, host, runtime)
        yield Wiring(env, runtime, host, crypto, stores)


def _crypto(values: dict[str, Any]) -> HostCrypto:
    """The keys of the settings, else those of DATA_DIR."""
    sealing_key = bytes.fromhex(values["queue_encryption_key"]) or data_dir.queue_key(values["data_dir"])
    return load_crypto(values["ed25519_signing_key"], values["ed25519_key_id"], values["data_dir"], sealing_key)


def _bindings(
    values: dict[str, Any], stores: queue.Stores, crypto: HostCrypto, telemetry: PrometheusTelemetry
) -> dict[str, Any]:
    """What the gateway is made of beside its settings and the network."""
    store = stores.records
    exchanges = Queue(stores.exchanges, max_message_bytes=longest_message(values["max_capture_bytes"]))
    reader = license.load_reader(values["license_public_key"])
    return {
        "records": store,
        "crypto": crypto,
        "telemetry": telemetry,
        "agents": AgentDirectory(store, telemetry, card=values["default_card"]),
        "state": State(),
        "checkpoints": CheckpointLog(store, crypto),
        "analyst": Analyst.from_values(values, telemetry),
        "exchanges": ExchangeQueue(exchanges, crypto, telemetry),
        "license": LicenseGate.from_values(values, reader, store, telemetry, public_key=crypto.public_key),
        "decoders": with_standard(registry.decoders()),
        "metrics_page": telemetry.page,
    }


def _watch(telemetry: PrometheusTelemetry, host: AiohttpHost, runtime: Runtime) -> None:
    telemetry.gauge("gateway_connections", "Open client connections", lambda: host.connections)
    telemetry.gauge("gateway_requests_in_flight", "Requests being answered", lambda: host.in_flight)
    telemetry.gauge("gateway_held_bytes", "Bytes held for slow peers", lambda: host.held)
    telemetry.gauge("gateway_background_tasks_running", "Background tasks running", lambda: len(runtime.background))


def _for_the_handler(values: dict[str, Any], crypto: HostCrypto) -> dict[str, Any]:
    """The settings with the admin's token from DATA_DIR where that counts, and without the keys: they stay here."""
    token = values["admin_token"]
    if not token and records.is_embedded(records.database_url(values)):
        token = (data_dir.admin_token(values["data_dir"]),)
    kept = {"ed25519_signing_key": "", "queue_encryption_key": ""}
    return {**values, **kept, "admin_token": token, "ed25519_key_id": crypto.key_id}


def _refuse(status: int, sentence: str) -> Response:
    """The gateway's error shape for bytes that are no HTTP request."""
    line = (b"x-smoltbot-request-id", answers.request_id(time.time()).encode())
    return answers.error_answer(status, sentence, "gateway_error" if status >= 500 else "invalid_request", (line,))
