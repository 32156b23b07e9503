"""The gateway on Cloudflare: KV as bound in wrangler.toml, records in Supabase, no integrity checks."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from smoltbot_records_supabase import SupabaseRecordStore
from smoltbot_worker import gateway
from smoltbot_worker.admission.agents import AgentDirectory
from smoltbot_worker.admission.license import LicenseGate
from smoltbot_worker.attestation.log import CheckpointLog
from smoltbot_worker.env import Env, read_variables
from smoltbot_worker.events import Event
from smoltbot_worker.health import State
from smoltbot_worker.integrity.analysis import Analyst
from smoltbot_worker.relay.exchanges import ExchangeQueue
from worker_compat import ExecutionContext, Request, Response, fetch
from worker_compat.errors import ConfigError
from worker_compat.memory import MemoryQueueStore
from worker_compat.queues import Queue

_NO_KEY = "integrity checks need a signing key, which this version has in a host of its own only"
_NO_LICENSE = "licenses are checked by a host of its own only; without one this is no licensed deployment"


class Default(gateway.Default):
    """The gateway, with what ``wrangler.toml`` binds."""

    def __init__(self, ctx: ExecutionContext, env: Any) -> None:
        super().__init__(ctx, gateway_env(env))


class RuntimeFetcher:
    """The fetcher of whatever runtime this runs in."""

    async def fetch(self, request: Request) -> Response:
        """See :class:`worker_compat.ports.Fetcher`."""
        return await fetch(request)


class ConsoleTelemetry:
    """Prints each event as a line of JSON, whose fields Cloudflare's logs index."""

    def emit(self, event: Event) -> None:
        """Write one line."""
        sys.stdout.write(json.dumps({"event": type(event).__name__, **asdict(event)}) + "\n")


class NoKey:
    """Stands where a host has its keys; whatever would sign or seal says so instead."""

    @property
    def key_id(self) -> str:
        """Raises :class:`ConfigError`."""
        raise ConfigError(_NO_KEY)

    async def sign(self, payload: bytes) -> bytes:
        """Raises :class:`ConfigError`."""
        raise ConfigError(_NO_KEY)

    async def verify(self, public_key: bytes, payload: bytes, signature: bytes) -> bool:
        """Raises :class:`ConfigError`."""
        raise ConfigError(_NO_KEY)

    async def seal(self, data: bytes) -> bytes:
        """Raises :class:`ConfigError`."""
        raise ConfigError(_NO_KEY)

    async def open(self, data: bytes) -> bytes:
        """Raises :class:`ConfigError`."""
        raise ConfigError(_NO_KEY)


def gateway_env(bindings: Any) -> Env:
    """The gateway's environment for one event: on Cloudflare no connection and no task may outlive its event.

    ``bindings`` has the KV namespace ``KV``, the secret ``SUPABASE_KEY``, ``SUPABASE_URL``, and the variables of
    docs/configuration.md as text or as values of TOML. Raises :class:`ConfigError` or
    :class:`smoltbot_worker.env.EnvValidationError` with what to change.
    """
    texts = {name: text for name, value in vars(bindings).items() if (text := _text(value)) is not None}
    values, _ = read_variables(texts, signs=False)
    if not values["supabase_url"]:
        raise ConfigError("SUPABASE_URL is missing: here records are kept in Supabase; set it in wrangler.toml")
    if values["aip_enabled"]:
        raise ConfigError(f"AIP_ENABLED must be false: {_NO_KEY}")
    if values["mnemom_license_jwt"]:
        raise ConfigError(f"MNEMOM_LICENSE_JWT must not be set: {_NO_LICENSE}")
    fetcher, crypto, telemetry, state = RuntimeFetcher(), NoKey(), ConsoleTelemetry(), State()
    records = SupabaseRecordStore(fetcher, values["supabase_url"], values["supabase_key"])
    state.started = True
    return Env(
        **values,
        records=records,
        crypto=crypto,
        telemetry=telemetry,
        agents=AgentDirectory(records, telemetry, card=values["default_card"]),
        state=state,
        checkpoints=CheckpointLog(records, crypto),
        analyst=Analyst.from_values(values, telemetry),
        # Nothing is checked here, so nothing ever waits in it.
        exchanges=ExchangeQueue(Queue(MemoryQueueStore()), crypto, telemetry),
        license=LicenseGate.from_values(values, None, records, telemetry),
        egress=fetcher,
        kv=bindings.KV,
        kv_primary=bindings.KV,
    )


def _text(value: Any) -> str | None:
    """A variable as environments spell it; None for a binding."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float | dict | list) else None
