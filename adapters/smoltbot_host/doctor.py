"""``smoltbot doctor``: looks at everything that a start needs, changes nothing, and says what to do."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from smoltbot_worker.env import EnvValidationError, read_variables
from smoltbot_worker.ports import RecordsUnavailable
from worker_compat import registry
from worker_compat.errors import ConfigError, StoreUnavailable

from . import records, settings


@dataclass(slots=True)
class Finding:
    """One line of the report; ``level`` is ``ok``, ``warning`` or ``error``."""

    level: str
    subject: str
    text: str


def examine(environ: Mapping[str, str], *, network: bool) -> list[Finding]:
    """All findings; with ``network`` also whether the providers can be reached."""
    try:
        values, warnings = read_variables(settings.load(environ))
    except EnvValidationError as error:
        return [Finding("error", "environment", str(error))]
    findings = [Finding("ok", "environment", f"role {values['smoltbot_role']}")]
    findings += [Finding("warning", "environment", warning) for warning in warnings]
    findings.append(_folder(values["data_dir"]))
    findings.append(_port(values["host"], values["port"]))
    findings.append(asyncio.run(_database(values)))
    findings.append(asyncio.run(_kv(values["kv_url"])))
    if network:
        findings += _providers(values)
    return findings


def _folder(path: str) -> Finding:
    folder = Path(path)
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return Finding("error", "DATA_DIR", f"{path} cannot be written; point DATA_DIR at a folder of this user")
    return Finding("ok", "DATA_DIR", str(folder.resolve()) + ("" if folder.exists() else " (will be made)"))


def _port(host: str, port: int) -> Finding:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family):
            return Finding("ok", "PORT", f"{host}:{port} is free")
    except OSError as error:
        return Finding(
            "warning", "PORT", f"{host}:{port} cannot be used now ({error.strerror}); is it running already?"
        )


async def _database(values: dict[str, Any]) -> Finding:
    url = records.database_url(values)
    shown = url.partition("@")[2] or url
    try:
        adapter = records.adapter(url)
        todo = await adapter.migrate(url, records.schema_dir(url), dry_run=True, wait_s=2.0)
        if todo:
            remedy = "serve will apply them" if records.is_embedded(url) else "run `smoltbot migrate`"
            return Finding("warning", "DATABASE_URL", f"{shown}: {len(todo)} migrations to apply; {remedy}")
        async with adapter.open_records(url) as store:
            await store.call("ping", {})
    except (ConfigError, StoreUnavailable, RecordsUnavailable) as error:
        return Finding("error", "DATABASE_URL", str(error))
    return Finding("ok", "DATABASE_URL", f"{shown}: schema is up to date")


async def _kv(url: str) -> Finding:
    try:
        async with registry.open_kv(url) as store:
            await store.get("doctor:probe")
    except (ConfigError, StoreUnavailable) as error:
        return Finding("error", "KV_URL", str(error))
    return Finding("ok", "KV_URL", url.partition(":")[0])


def _providers(values: dict[str, Any]) -> Iterator[Finding]:
    for name in ("anthropic", "openai", "gemini"):
        parts = urlsplit(values[f"upstream_{name}_url"])
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            with socket.create_connection((parts.hostname or "", port), values["upstream_connect_timeout_s"]):
                yield Finding("ok", name, f"{parts.hostname}:{port} answers")
        except OSError as error:
            yield Finding("error", name, f"{parts.hostname}:{port} cannot be reached ({error}); allow it outbound")
