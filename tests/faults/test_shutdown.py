"""Ending: readiness first, streams finish, what was seen is written, a second signal ends at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tests.gateway_process import GatewayProcess
from tests.provider.process import ProviderProcess
from tests.wire.raw import Message, RawClient

from .ask import STREAM, ask, post, ready, script

pytestmark = pytest.mark.alone

_STREAMS = 100


async def _stream(gateway: GatewayProcess, number: int, begun: asyncio.Semaphore) -> Message:
    data = post("/anthropic/v1/messages", script(events=20, event_delay=0.1), body=STREAM, key=f"sk-ant-{number}")
    async with await RawClient.connect(gateway.port) as client:
        await client.send(data)
        await client.reader.readuntil(b"event:")
        begun.release()
        # Put the head back in front for the reader: count only what is complete.
        rest = await client.reader.read(-1)
        return Message(b"HTTP/1.1 200", [], rest)


async def test_sigterm_lets_a_hundred_streams_finish(
    tmp_path: Path, provider: ProviderProcess, upstreams: dict[str, str]
) -> None:
    with GatewayProcess(tmp_path, upstreams) as gateway:
        begun = asyncio.Semaphore(0)
        streams = [asyncio.create_task(_stream(gateway, number, begun)) for number in range(_STREAMS)]
        for _ in range(_STREAMS):
            await begun.acquire()
        os.kill(gateway.pid, signal.SIGTERM)
        started = time.monotonic()
        status = 200
        while status == 200 and time.monotonic() - started < 1:
            status, body = await ready(gateway)
        assert status == 503
        assert time.monotonic() - started < 0.5
        assert body["reason"] == "shutting down"
        # The listener is open until the streams have ended: a request that still comes is answered.
        late = await ask(gateway, post(key="sk-ant-late"))
        assert (late.status, late.get(b"connection")) == (200, b"close")
        finished = await asyncio.gather(*streams)
        assert gateway.wait() == 0
    assert all(message.body.endswith(b"\r\n0\r\n\r\n") for message in finished)
    assert len({_deltas(message.body) for message in finished}) == 1
    with sqlite3.connect(tmp_path / "data" / "smoltbot.db") as connection:
        rows = connection.execute("SELECT count(*) FROM agents WHERE last_seen >= created_at").fetchall()
        checked = connection.execute("SELECT count(*) FROM integrity_checkpoints").fetchone()
        to_check = connection.execute("SELECT count(*) FROM worker_compat_queue").fetchone()
    assert rows == [(_STREAMS + 1,)]
    assert checked[0] + to_check[0] == _STREAMS + 1, "each is on record, or waits for the next start"


def _deltas(body: bytes) -> int:
    return body.count(b"content_block_delta")


async def test_last_seen_is_not_lost_by_sigterm(tmp_path: Path, upstreams: dict[str, str]) -> None:
    with GatewayProcess(tmp_path, upstreams) as gateway:
        await ask(gateway, post())
        await asyncio.sleep(1.5)  # the first sighting has been written
        await ask(gateway, post())
        second = time.time()
        assert gateway.stop() == 0
    with sqlite3.connect(tmp_path / "data" / "smoltbot.db") as connection:
        [(seen,)] = connection.execute("SELECT (julianday(last_seen) - 2440587.5) * 86400.0 FROM agents").fetchall()
    assert abs(seen - second) < 0.5


async def test_an_idle_gateway_ends_at_once(tmp_path: Path, upstreams: dict[str, str]) -> None:
    with GatewayProcess(tmp_path, upstreams) as gateway:
        async with await RawClient.connect(gateway.port) as client:
            await client.request(post())
            started = time.monotonic()
            assert gateway.stop() == 0
            assert time.monotonic() - started < 3
            assert await client.at_end()


async def test_a_second_sigterm_ends_within_a_second(tmp_path: Path, upstreams: dict[str, str]) -> None:
    gateway = GatewayProcess(tmp_path, upstreams)
    gateway.start()
    async with await RawClient.connect(gateway.port) as client:
        await client.send(post("/anthropic/v1/messages", script(silence="head")))
        await asyncio.sleep(0.3)
        os.kill(gateway.pid, signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert (await ready(gateway))[0] == 503
        started = time.monotonic()
        assert await asyncio.to_thread(gateway.stop) == 128 + signal.SIGTERM
        assert time.monotonic() - started < 1


async def test_the_grace_ends_what_does_not_end_by_itself(tmp_path: Path, upstreams: dict[str, str]) -> None:
    with GatewayProcess(tmp_path, {**upstreams, "SHUTDOWN_GRACE_S": "0.5"}) as gateway:
        async with await RawClient.connect(gateway.port) as client:
            await client.send(post("/anthropic/v1/messages", script(silence="head")))
            await asyncio.sleep(0.3)
            started = time.monotonic()
            assert await asyncio.to_thread(gateway.stop) == 0
            assert 0.4 < time.monotonic() - started < 3
            assert await client.at_end()
    assert "1 requests were cut off" in gateway.output()
