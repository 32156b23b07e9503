"""Memory stays bounded while clients read slowly, and too many clients are told so."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import psutil
import pytest

from tests.gateway_process import GatewayProcess
from tests.scale import figure, scaled
from tests.wire.raw import RawClient

from .ask import BODY, STREAM, ask, get, post, script

pytestmark = pytest.mark.alone

_READERS = scaled(100, 200)
_SIZE = scaled(20, 50) * 1024 * 1024
_ALLOWED = scaled(60, 120) * 1024 * 1024
_COPIES = _READERS * 1024 * 1024
"""What is kept for the checks of so many answers, at MAX_CAPTURE_BYTES each."""


@pytest.mark.proof
@pytest.mark.parametrize(
    ("path", "body", "allowed"),
    [
        ("/anthropic/v1/files", BODY, _ALLOWED),
        ("/anthropic/v1/messages", BODY, _ALLOWED + _COPIES),
        ("/anthropic/v1/messages", STREAM, _ALLOWED + _COPIES),
    ],
    ids=["unchecked", "checked", "checked-stream"],
)
async def test_a_hundred_slow_readers_hold_little_and_stop_nobody(
    tmp_path: Path, upstreams: dict[str, str], path: str, body: bytes, allowed: int
) -> None:
    with GatewayProcess(tmp_path, upstreams) as gateway:
        for number in range(50):
            await ask(gateway, post(key=f"sk-ant-{number % 5}"))
        process = psutil.Process(gateway.pid)
        before = process.memory_info().rss
        readers = [await RawClient.connect(gateway.port, receive_buffer=4096) for _ in range(_READERS)]
        for reader in readers:
            await reader.send(post(path, script(huge=_SIZE), body=body))
        most, ends = before, time.monotonic() + 6
        others: list[float] = []
        while time.monotonic() < ends:
            for reader in readers:  # 1 KB a second each
                await reader.reader.read(1024)
            started = time.monotonic()
            assert (await ask(gateway, post())).status == 200
            others.append(time.monotonic() - started)
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(max(0.0, 1 - (time.monotonic() - started)))
        grown = f"{(most - before) / 1048576:.1f} MiB"
        figure(f"{_READERS} readers at 1 KB/s of {_SIZE >> 20} MiB each: memory grew by", grown)
        figure("slowest request of another client meanwhile", f"{max(others) * 1000:.0f} ms")
        assert most - before <= allowed, grown
        assert max(others) < 1
        for reader in readers:
            reader.reset()
        await asyncio.sleep(0.2)


async def test_connections_beyond_the_limit_are_told_so(tmp_path: Path, upstreams: dict[str, str]) -> None:
    with GatewayProcess(tmp_path, {**upstreams, "MAX_CONNECTIONS": "10"}) as gateway:
        idle = [await RawClient.connect(gateway.port) for _ in range(10)]
        for client in idle:
            assert (await client.request(post())).status == 200
        refused = await ask(gateway, post())
        assert (refused.status, refused.get(b"retry-after"), refused.get(b"connection")) == (503, b"1", b"close")
        assert json.loads(refused.body) == {
            "error": "Gateway overloaded", "type": "overloaded", "reason": "connections",
        }  # fmt: skip
        assert (await get(gateway, "/health/live")).status == 200  # a probe must not kill a busy process
        assert (await idle[0].request(post())).status == 200  # those who are in stay in
        for client in idle:
            await client.close()
        await asyncio.sleep(0.1)
        assert (await ask(gateway, post())).status == 200


async def test_held_bytes_beyond_the_limit_are_told_so(tmp_path: Path, upstreams: dict[str, str]) -> None:
    with GatewayProcess(tmp_path, {**upstreams, "MAX_HELD_BYTES": str(1 << 20)}) as gateway:
        readers = [await RawClient.connect(gateway.port, receive_buffer=4096) for _ in range(20)]
        for reader in readers:
            await reader.send(post("/anthropic/v1/files", script(huge=_SIZE)))
        await asyncio.sleep(1)
        refused = await ask(gateway, post())
        assert (refused.status, json.loads(refused.body)["reason"]) == (503, "held-bytes")
        for reader in readers:
            reader.reset()
        await asyncio.sleep(0.3)
        assert (await ask(gateway, post())).status == 200


async def test_far_beyond_the_limit_connections_are_closed(tmp_path: Path, upstreams: dict[str, str]) -> None:
    with GatewayProcess(tmp_path, {**upstreams, "MAX_CONNECTIONS": "10"}) as gateway:
        clients = [await RawClient.connect(gateway.port) for _ in range(300)]
        assert await clients[-1].at_end()
        for client in clients:
            await client.close()
