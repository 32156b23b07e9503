"""A start on each database: ready with the right schema and key, waiting or refused with a remedy otherwise."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from smoltbot_host.crypto import HostCrypto
from tests.faults.ask import STREAM, ask, get, post, ready
from tests.faults.migration_support import Database, as_role, connected, new_database, new_role
from tests.gateway_process import GatewayProcess
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer
from tests.services.rpc_bridge import KEY, Bridge, rpc_bridge

SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
OTHER = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
PUBLIC = HostCrypto(bytes.fromhex(SEED)).public_key
SEALING = "7a" * 32
LIMIT_S = 30


@pytest.fixture
async def postgres(postgres_service: PostgresServer, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database of PostgreSQL."""
    async with new_database(postgres_service.url) as url:
        yield Database("postgres", url, tmp_path)


@pytest.fixture
async def migrated(postgres: Database) -> Database:
    """One with this version's schema."""
    await postgres.adapter.migrate(postgres.url, postgres.schema)
    return postgres


@pytest.fixture
async def supabase(migrated: Database) -> AsyncIterator[Bridge]:
    """The same over a REST API."""
    async with rpc_bridge(migrated.url) as bridge:
        yield bridge


def serve(folder: Path, **variables: str) -> tuple[int, list[dict[str, Any]]]:
    """A start that is meant to fail: its exit code and what it logged."""
    environ = {"PATH": os.defpath, "HOST": "127.0.0.1", "PORT": "0", "DATA_DIR": str(folder / "data"), **variables}
    command = [sys.executable, "-m", "smoltbot_cli", "serve"]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ran.stderr == ""
    assert SEED not in ran.stdout
    return ran.returncode, [json.loads(line) for line in ran.stdout.splitlines()]


def on(url: str, seed: str = SEED) -> dict[str, str]:
    """What a start on a PostgreSQL server needs."""
    return {"DATABASE_URL": url, "ED25519_SIGNING_KEY": seed, "QUEUE_ENCRYPTION_KEY": SEALING}


def refused(ran: tuple[int, list[dict[str, Any]]]) -> str:
    """The one line that says why."""
    code, lines = ran
    [line] = [line["message"] for line in lines if line["level"] == "error"]
    assert code == 1
    assert "exception" not in json.dumps(lines)
    return str(line)


async def keys(database: Database) -> list[tuple[Any, ...]]:
    return await database.rows("SELECT key_id, encode(public_key, 'hex'), is_active FROM smoltbot.signing_keys")


async def test_on_postgres(migrated: Database, tmp_path: Path, upstreams: dict[str, str]) -> None:
    settings = {**upstreams, **on(migrated.url), "DB_POOL_MIN": "2"}
    for _ in range(2):
        with GatewayProcess(tmp_path, settings) as gateway:
            assert (await ready(gateway))[1]["checks"]["supabase"]["schema"] == migrated.names[-1]
            assert (await ask(gateway, post())).status == 200
    assert await keys(migrated) == [("key-001", PUBLIC, True)]
    assert await migrated.rows("SELECT count(*) FROM smoltbot.agents") == [(1,)]
    assert not (tmp_path / "data").exists()
    assert SEED not in gateway.output()


async def test_on_supabase(
    migrated: Database, supabase: Bridge, redis_service: RedisServer, tmp_path: Path, upstreams: dict[str, str]
) -> None:
    for name, text in (("url", supabase.url), ("key", f"{KEY}\n"), ("seed", f"{SEED}\n"), ("sealing", SEALING)):
        (tmp_path / name).write_text(text)
    settings = {"SUPABASE_URL_FILE": str(tmp_path / "url"), "SUPABASE_KEY_FILE": str(tmp_path / "key"),
                "ED25519_SIGNING_KEY_FILE": str(tmp_path / "seed"), "ED25519_KEY_ID": "mine",
                "QUEUE_ENCRYPTION_KEY_FILE": str(tmp_path / "sealing"), "QUEUE_URL": redis_service.url}  # fmt: skip
    gateway = GatewayProcess(tmp_path, {**upstreams, **settings})
    await asyncio.to_thread(gateway.start)
    try:
        assert (await ready(gateway))[1]["checks"]["supabase"]["ok"]
        assert (await ask(gateway, post())).status == 200
    finally:
        assert await asyncio.to_thread(gateway.stop) == 0
    assert await keys(migrated) == [("mine", PUBLIC, True)]
    assert await migrated.rows("SELECT count(*) FROM smoltbot.agents") == [(1,)]
    assert SEED not in gateway.output()
    assert KEY not in gateway.output()
    settings = {"SUPABASE_URL": supabase.url, "SUPABASE_KEY": KEY, "ED25519_SIGNING_KEY": OTHER,
                "ED25519_KEY_ID": "mine", "QUEUE_ENCRYPTION_KEY": SEALING,
                "QUEUE_URL": redis_service.url}  # fmt: skip
    told = refused(await asyncio.to_thread(serve, tmp_path, **settings))
    assert told.startswith("cannot start: the signing key mine: another key is registered under this key_id; set ")
    assert await keys(migrated) == [("mine", PUBLIC, True)]


@pytest.mark.parametrize(
    ("seed", "key_id", "says"),
    [
        (OTHER, "key-001", "another key is registered under this key_id"),
        (OTHER, "key-002", "another key is active"),
        (OTHER, "old", "this key was retired"),
        (SEED, "key-002", "another key is active"),
    ],
)
async def test_another_key_refuses_to_start(
    migrated: Database, tmp_path: Path, seed: str, key_id: str, says: str
) -> None:
    old = HostCrypto(bytes.fromhex(OTHER)).public_key
    await migrated.run(
        f"INSERT INTO signing_keys VALUES ('old', '\\x{old}', false, now(), now())",
        f"INSERT INTO signing_keys VALUES ('key-001', '\\x{PUBLIC}', true, now(), null)",
    )
    before = await keys(migrated)
    settings = {**on(migrated.url, seed), "ED25519_KEY_ID": key_id}
    told = refused(await asyncio.to_thread(serve, tmp_path, **settings))
    assert told.startswith(f"cannot start: the signing key {key_id}: {says}; set ED25519_SIGNING_KEY")
    assert told.endswith("run `smoltbot signing-keys rotate`")
    assert await keys(migrated) == before


async def test_two_begin_at_once_with_two_keys(migrated: Database, tmp_path: Path) -> None:
    first, second = (
        GatewayProcess(tmp_path / name, on(migrated.url, seed)) for name, seed in (("a", SEED), ("b", OTHER))
    )
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    started = await asyncio.gather(
        asyncio.to_thread(first.start), asyncio.to_thread(second.start), return_exceptions=True
    )
    [failure] = [found for found in started if isinstance(found, BaseException)]
    assert "exited with 1" in str(failure)
    assert "another key is registered under this key_id" in str(failure)
    assert len(await keys(migrated)) == 1
    for gateway, found in zip((first, second), started, strict=True):
        assert found is failure or await asyncio.to_thread(gateway.stop) == 0


async def test_a_newer_schema_refuses_to_start(migrated: Database, tmp_path: Path) -> None:
    await migrated.run("INSERT INTO _schema_migrations VALUES ('9999_later.sql', now(), '')")
    before = await migrated.state()
    settings = on(migrated.url)
    assert refused(await asyncio.to_thread(serve, tmp_path, **settings)) == (
        "cannot start: the database is newer than this version: it knows 9999_later.sql; install the version that does"
    )
    assert await migrated.state() == before


@pytest.mark.parametrize("count", [0, 2])
async def test_an_older_schema_is_waited_for(
    postgres: Database, tmp_path: Path, upstreams: dict[str, str], count: int
) -> None:
    if count:
        await postgres.apply_first(count)
    lacking = f"database lacks {postgres.names[-1]}" if count else "database does not have the tables of this version"
    gateway = GatewayProcess(tmp_path, {**upstreams, **on(postgres.url)})
    starting = asyncio.create_task(asyncio.to_thread(gateway.start, ready_timeout=LIMIT_S))
    await until_said(gateway, "run `smoltbot migrate`")
    assert (await get(gateway, "/health/ready")).status == 503
    assert (await ask(gateway, post())).status == 200  # DB_FAILURE_MODE=open
    ran = await postgres.migrate()
    assert (ran.code, ran.applied) == (0, postgres.names[count:])
    await starting
    assert await asyncio.to_thread(gateway.stop) == 0
    assert await keys(postgres) == [("key-001", PUBLIC, True)]
    lines = [json.loads(line)["message"] for line in gateway.output().splitlines()]
    # Perhaps more than once: sightings of agents can be written with an older schema, too.
    assert {line for line in lines if "smoltbot migrate" in line and line.startswith("the database is unavail")} == {
        f"the database is unavailable: the {lacking}: run `smoltbot migrate`"
    }


async def test_a_user_with_the_gateways_role_alone(
    migrated: Database, tmp_path: Path, upstreams: dict[str, str]
) -> None:
    async with new_role(migrated.url) as user:
        await migrated.run(f"GRANT smoltbot_gateway TO {user}")
        settings = {**upstreams, **on(as_role(migrated.url, user))}
        gateway = GatewayProcess(tmp_path, settings)
        starting = asyncio.create_task(asyncio.to_thread(gateway.start, ready_timeout=LIMIT_S))
        # The schema is there, the tables of the queue are not: those that an earlier version migrated have none.
        await until_said(gateway, "run `smoltbot migrate`")
        ran = await migrated.migrate()
        assert (ran.code, ran.applied) == (0, [])
        await starting
        assert (await ask(gateway, post(body=STREAM))).status == 200
        assert await asyncio.to_thread(gateway.stop) == 0
        assert "exchanges wait in memory" not in gateway.output()
        async with connected(settings["DATABASE_URL"]) as connection:
            with pytest.raises(Exception, match="permission denied"):
                await connection.fetch("SELECT * FROM smoltbot.signing_keys")
    assert await keys(migrated) == [("key-001", PUBLIC, True)]


async def until_said(gateway: GatewayProcess, words: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while words not in gateway.output():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_rotation_between_two_starts(migrated: Database, tmp_path: Path) -> None:
    settings = on(migrated.url)
    with GatewayProcess(tmp_path, settings):
        pass
    rotated = {**settings, "ED25519_SIGNING_KEY": OTHER, "ED25519_KEY_ID": "key-002"}
    command = [sys.executable, "-m", "smoltbot_cli", "signing-keys", "rotate"]
    ran = await asyncio.to_thread(
        subprocess.run, command, env={"PATH": os.defpath, **rotated}, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("key-002 is the active key now: ")
    with GatewayProcess(tmp_path, rotated):
        pass
    assert "this key was retired" in refused(await asyncio.to_thread(serve, tmp_path, **settings))
