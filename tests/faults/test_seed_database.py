"""The seed page's promises about the database, each with real processes; the numbers are rows of seed-coverage.md."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from smoltbot_host import records
from tests.gateway_process import GatewayProcess
from tests.services.postgres import PostgresServer, postgres_server

from .ask import ask, post, ready

SEED = "7f" * 32


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL of its own, because it is paused; its data lies where its user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with postgres_server(Path(folder)) as running:
            yield running


@pytest.fixture
async def database(postgres_service: PostgresServer) -> str:
    """The URL of an empty database."""
    name = f"seed_{uuid4().hex}"
    connection = await asyncpg.connect(postgres_service.url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return postgres_service.url.rpartition("/")[0] + f"/{name}"


def settings(url: str, upstreams: dict[str, str]) -> dict[str, str]:
    """What the Compose file gives every role."""
    return {**upstreams, "DATABASE_URL": url, "ED25519_SIGNING_KEY": SEED, "QUEUE_ENCRYPTION_KEY": SEED}


def migrate(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The job that applies the schema."""
    command = [sys.executable, "-m", "smoltbot_cli", "migrate", *options]
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": url, "ED25519_SIGNING_KEY": SEED}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def files() -> list[str]:
    """The names of this version's migrations for PostgreSQL."""
    return sorted(path.name for path in records.schema_dir("postgresql://h/d").glob("*.sql"))


async def rows(url: str, query: str) -> list[asyncpg.Record]:
    """What a query answers."""
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


async def test_row_17_postgresql_with_a_health_check(
    tmp_path: Path, upstreams: dict[str, str], server: PostgresServer
) -> None:
    assert migrate(server.url).returncode == 0
    with GatewayProcess(tmp_path, settings(server.url, upstreams)) as gateway:
        agent = (await ask(gateway, post())).get(b"x-smoltbot-agent") or b""
        status, body = await ready(gateway)
        assert (status, body["checks"]["supabase"]["ok"]) == (200, True)
        assert body["checks"]["supabase"]["schema"] == files()[-1]
        server.pause()
        try:
            _, body = await ready(gateway)
            assert body["checks"]["supabase"] == {
                "ok": False, "status": "unavailable", "error": "database_unavailable",
            }  # fmt: skip
            assert (await ask(gateway, post())).status == 200, "requests go on"
        finally:
            server.resume()
        _, body = await ready(gateway)
        assert body["checks"]["supabase"]["ok"] is True
    assert [row["id"] for row in await rows(server.url, "SELECT id FROM smoltbot.agents")] == [agent.decode()]


async def test_row_19_27_migrate_applies_once_and_exits(
    tmp_path: Path, upstreams: dict[str, str], database: str
) -> None:
    gateway = GatewayProcess(tmp_path, settings(database, upstreams))
    with pytest.raises(RuntimeError, match="not ready"):
        gateway.start(ready_timeout=3)
    assert "smoltbot migrate" in gateway.output(), "until then the log says what to do"
    first, second = migrate(database), migrate(database)
    assert (first.returncode, first.stdout.splitlines()) == (0, [f"applied {name}" for name in files()])
    assert (second.returncode, second.stdout) == (0, "nothing to apply\n")
    tables = {row["tablename"] for row in await rows(database, "SELECT tablename FROM pg_tables")}
    assert {"agents", "alignment_cards", "integrity_checkpoints", "traces", "enforcement_nudges"} <= tables
    with gateway:
        assert (await ask(gateway, post())).status == 200


async def test_row_72_an_upgrade_keeps_the_data(tmp_path: Path, upstreams: dict[str, str], database: str) -> None:
    older = tmp_path / "older"
    shutil.copytree(records.schema_dir(database), older)
    (older / files()[-1]).unlink()
    applied = await records.adapter(database).migrate(database, older)
    assert applied == files()[:-1]
    await rows(
        database,
        "INSERT INTO smoltbot.agents (id, agent_hash, name, created_at)"
        " VALUES ('smolt-01234567', '0123456789abcdef', 'kept', now())",
    )
    assert migrate(database, "--dry-run").stdout == f"would apply {files()[-1]}\n"
    assert migrate(database).stdout == f"applied {files()[-1]}\n"
    with GatewayProcess(tmp_path, settings(database, upstreams)) as gateway:
        assert (await ask(gateway, post())).status == 200
    names = {row["name"] for row in await rows(database, "SELECT name FROM smoltbot.agents")}
    assert names == {"kept", None}
