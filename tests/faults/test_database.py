"""A dead, locked or full database: traffic passes as DB_FAILURE_MODE says, and recovers by itself."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.gateway_process import GatewayProcess
from tests.wire.raw import Message

from .ask import ask, get, post, ready


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    """Another process holds the write lock."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def _reason(answer: Message) -> tuple[bytes | None, bytes | None]:
    return answer.get(b"x-aip-verdict"), answer.get(b"x-aip-reason")


_UNRECORDED = (b"skipped", b"storage-unavailable")
_RECORDED = (b"skipped", b"no-thinking")


async def _until_recorded(gateway: GatewayProcess, limit_s: float) -> None:
    started = time.monotonic()
    while _reason(await ask(gateway, post(key="sk-ant-again"))) != _RECORDED:
        assert time.monotonic() - started < limit_s, gateway.output()
        await asyncio.sleep(0.1)


async def test_a_locked_database_does_not_stop_traffic(tmp_path: Path, upstreams: dict[str, str]) -> None:
    database = tmp_path / "data" / "smoltbot.db"
    with GatewayProcess(tmp_path, upstreams) as gateway:
        with _locked(database):
            first = await ask(gateway, post(key="sk-ant-new"))
            assert (first.status, *_reason(first)) == (200, *_UNRECORDED)
            assert first.get(b"x-smoltbot-agent") is not None
            started = time.monotonic()
            for number in range(20):  # nobody waits for a database that is known to be away
                answer = await ask(gateway, post(key=f"sk-ant-{number}"))
                assert (answer.status, *_reason(answer)) == (200, *_UNRECORDED)
            assert time.monotonic() - started < 1
            status, body = await ready(gateway)
            assert (status, body["status"], body["checks"]["supabase"]["ok"]) == (200, "degraded", False)
        await _until_recorded(gateway, 5)
        assert (await ready(gateway))[1]["status"] == "ready"


@pytest.mark.parametrize("how", ["removed", "garbage"])
async def test_a_destroyed_database_does_not_stop_traffic(tmp_path: Path, upstreams: dict[str, str], how: str) -> None:
    database = tmp_path / "data" / "smoltbot.db"
    with GatewayProcess(tmp_path, upstreams) as gateway:
        await ask(gateway, post(key="sk-ant-known"))
        kept = {file: file.read_bytes() for file in database.parent.glob("smoltbot.db*")}
        for file in kept:
            file.unlink()
        if how == "garbage":
            database.write_bytes(b"this is no database" * 1000)
        answer = await ask(gateway, post(key="sk-ant-new"))
        assert (answer.status, *_reason(answer)) == (200, *_UNRECORDED)
        assert "Traceback" not in answer.body.decode()
        database.unlink(missing_ok=True)
        for file, data in kept.items():
            file.write_bytes(data)
        await _until_recorded(gateway, 5)


async def test_closed_refuses_what_cannot_be_recorded(tmp_path: Path, upstreams: dict[str, str]) -> None:
    with GatewayProcess(tmp_path, {**upstreams, "DB_FAILURE_MODE": "closed"}) as gateway:
        with _locked(tmp_path / "data" / "smoltbot.db"):
            answer = await ask(gateway, post(key="sk-ant-new"))
            assert answer.status == 503
            assert json.loads(answer.body) == {"error": "Agent records unavailable", "type": "storage_unavailable"}
            assert answer.get(b"retry-after") == b"2"
            assert (await ready(gateway))[0] == 503
            assert (await get(gateway, "/health/live")).status == 200
        started = time.monotonic()
        while (await ask(gateway, post(key="sk-ant-new"))).status != 200:
            assert time.monotonic() - started < 5
            await asyncio.sleep(0.1)


async def test_a_database_that_is_locked_at_the_start(tmp_path: Path, upstreams: dict[str, str]) -> None:
    with GatewayProcess(tmp_path, upstreams) as gateway:
        await ask(gateway, post())
        gateway.kill()
        with _locked(tmp_path / "data" / "smoltbot.db"), pytest.raises(RuntimeError, match="not ready"):
            gateway.start(ready_timeout=4)
        gateway.start()
        assert (await ask(gateway, post())).status == 200


async def test_what_was_seen_while_it_was_locked_is_written_afterwards(
    tmp_path: Path, upstreams: dict[str, str]
) -> None:
    database = tmp_path / "data" / "smoltbot.db"
    with GatewayProcess(tmp_path, upstreams) as gateway:
        await ask(gateway, post())
        with _locked(database):
            seen = time.time()
            await ask(gateway, post())
            await asyncio.sleep(2.5)
        await _until_recorded(gateway, 5)
        assert gateway.stop() == 0
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT max((julianday(last_seen) - 2440587.5) * 86400.0) FROM agents").fetchall()
    assert rows[0][0] >= seen - 0.01
