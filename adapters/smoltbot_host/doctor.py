"""``smoltbot doctor``: looks at everything that a start needs, changes nothing, and says what to do."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from smoltbot_worker.env import read_variables
from smoltbot_worker.ports import LicenseInvalid, RecordsUnavailable
from smoltbot_worker.variables import EnvValidationError
from worker_compat import registry
from worker_compat.errors import ConfigError, StoreUnavailable
from worker_compat_sqlite import database_path

from . import data_dir, license, queue, records, settings, signing_keys


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
    if records.is_embedded(records.database_url(values)):
        findings.append(_folder(values["data_dir"]))
    findings.append(_port(values["host"], values["port"]))
    findings.append(asyncio.run(_database(values)))
    findings.append(asyncio.run(_signing_key(values, findings[-1].level == "ok")))
    findings.append(asyncio.run(_kv(values["kv_url"])))
    findings.append(asyncio.run(_queue(values)))
    findings += _license(values)
    if network:
        findings += _providers(values)
    return findings


def _folder(path: str) -> Finding:
    folder = nearest = Path(path)
    try:
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        usable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    except OSError:
        usable = False
    if not usable:
        return Finding("error", "DATA_DIR", f"{path} cannot be written; point DATA_DIR at a folder of this user")
    try:
        data_dir.check(path)
    except ConfigError as error:
        return Finding("error", "DATA_DIR", str(error))
    return Finding("ok", "DATA_DIR", str(folder.resolve()) + ("" if nearest == folder else " (will be made)"))


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
    subject = "SUPABASE_URL" if values["supabase_url"] else "DATABASE_URL"
    shown = (url.partition("@")[2] or url).partition("?")[0]
    try:
        if records.is_embedded(url):
            todo = await records.adapter(url).migrate(url, records.schema_dir(url), dry_run=True, wait_s=2.0)
            if todo:
                return Finding("warning", subject, f"{shown}: {len(todo)} migrations to apply; serve will apply them")
        async with records.opened(values) as store:
            await records.check_schema(store, url)
        if records.is_embedded(url) and not os.access(file := database_path(url), os.W_OK):
            return Finding("error", subject, f"{file} is read-only; let this user write it")
    except (ConfigError, StoreUnavailable, RecordsUnavailable) as error:
        return Finding("error", subject, records.reason(error))
    return Finding("ok", subject, f"{shown}: schema is up to date")


async def _signing_key(values: dict[str, Any], compare: bool) -> Finding:
    """Whether these settings have a key, and ``compare`` it with the one that is active."""
    subject = "signing key"
    try:
        key = signing_keys.own(values)
        if key is None:
            return Finding("ok", subject, "will be made")
        if not compare:
            return Finding("ok", subject, f"{key.key_id}, not compared with the database")
        rows = await signing_keys.registered(values)
    except (ConfigError, StoreUnavailable) as error:
        return Finding("error", subject, str(error))
    if rows and not any(row["in_use"] and row["is_active"] for row in rows):
        return Finding("error", subject, f"{key.key_id} is not the active key; {signing_keys.remedy(values)}")
    return Finding("ok", subject, key.key_id)


async def _kv(url: str) -> Finding:
    try:
        async with registry.open_kv(url) as store:
            await store.get("doctor:probe")
    except (ConfigError, StoreUnavailable) as error:
        return Finding("error", "KV_URL", str(error))
    return Finding("ok", "KV_URL", url.partition(":")[0])


async def _queue(values: dict[str, Any]) -> Finding:
    """Whether there is a queue that can be used; the tables of one in PostgreSQL are only looked for."""
    subject = "QUEUE_URL"
    try:
        if not values["queue_url"]:
            await queue.check(values)
            return Finding("ok", subject, "the database of the records")
        async with registry.open_queue(url := queue.queue_url(values)) as store:
            depth = await store.depth()
    except (ConfigError, StoreUnavailable) as error:
        return Finding("error", subject, str(error))
    return Finding("ok", subject, f"{url.partition(':')[0]}, {depth.waiting} exchanges wait")


def _license(values: dict[str, Any]) -> Iterator[Finding]:
    """Whether the license, if there is one, can be believed; its issuer is not asked."""
    subject, token = "license", values["mnemom_license_jwt"]
    bad = "error" if values["license_mode"] == "required" else "warning"
    try:
        reader = license.load_reader(values["license_public_key"])
        claims = reader.read(token) if token else None
    except ConfigError as error:
        yield Finding("error", subject, str(error))
    except LicenseInvalid as error:
        yield Finding(bad, subject, f"{error.code}; ask its issuer for another one")
    else:
        if claims is None:
            return
        until = f"{datetime.fromtimestamp(claims.expires_at, UTC):%Y-%m-%d}"
        if claims.expires_at < time.time():
            yield Finding(bad, subject, f"{claims.license_id} expired on {until}; ask its issuer for another one")
        elif not claims.verified:
            yield Finding(
                "ok", subject, f"{claims.license_id}, until {until}; its issuer alone can tell whether it counts"
            )
        else:
            yield Finding("ok", subject, f"{claims.license_id}, until {until}")


def _providers(values: dict[str, Any]) -> Iterator[Finding]:
    for name in ("anthropic", "openai", "gemini"):
        parts = urlsplit(values[f"upstream_{name}_url"])
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            with socket.create_connection((parts.hostname or "", port), values["upstream_connect_timeout_s"]):
                yield Finding("ok", name, f"{parts.hostname}:{port} answers")
        except OSError as error:
            yield Finding("error", name, f"{parts.hostname}:{port} cannot be reached ({error}); allow it outbound")
