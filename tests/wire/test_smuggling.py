"""Request smuggling: one reading, or 400 and the end of the connection; alone and behind nginx."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from .raw import CutOff, RawClient
from .smuggling import PAYLOADS, Payload
from .stack import Stack

_NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
_SILENCE_S = 0.25
_ANSWER_S = 5.0


async def _exchange(port: int, data: bytes, expected: int = 0) -> tuple[list[int], bool]:
    """The statuses of all that came back, ``expected`` of which may be slow, and whether the connection was closed."""
    statuses: list[int] = []
    async with await RawClient.connect(port) as client:
        await client.send(data)
        while True:
            try:
                async with asyncio.timeout(_SILENCE_S if len(statuses) >= expected else _ANSWER_S):
                    statuses.append((await client.response()).status)
            except TimeoutError:
                return statuses, False
            except (EOFError, CutOff, ConnectionError):
                return statuses, True


def test_there_are_a_hundred_payloads_with_distinct_names() -> None:
    assert len({payload.name for payload in PAYLOADS}) == len(PAYLOADS) >= 100


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: payload.name)
async def test_one_reading_or_refused(stack: Stack, payload: Payload) -> None:
    statuses, closed = await _exchange(stack.port, payload.data, payload.accepted)
    seen = [message.start for message in stack.upstream.requests]
    if payload.accepted == 0:
        assert closed
        # A chunked body may turn out bad after its request was sent on; then the exchange is broken off.
        assert statuses in ([400], [502], []) or statuses[-1] == 400, statuses
        assert seen == []
    else:
        assert statuses == [200] * payload.accepted
        expected = [b"POST /first HTTP/1.1", b"GET /smuggled HTTP/1.1"][: payload.accepted]
        if payload.name == "absolute-form":
            expected = [b"GET /first HTTP/1.1"]
        assert seen == expected


_CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format seen '$upstream_status|$request_method $request_uri';
  access_log {folder}/access.log seen;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream gateway {{ server 127.0.0.1:{gateway}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://gateway;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_request_buffering off;
    }}
  }}
}}
"""


@asynccontextmanager
async def _nginx(folder: Path, gateway: int) -> AsyncIterator[int]:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder, gateway=gateway, port=port))
    process = await asyncio.create_subprocess_exec(_NGINX, "-p", str(folder), "-c", str(config))
    try:
        async with asyncio.timeout(5):
            while True:
                try:
                    await (await RawClient.connect(port)).close()
                    break
                except OSError:
                    assert process.returncode is None, (folder / "error.log").read_text()
                    await asyncio.sleep(0.02)
        yield port
    finally:
        process.terminate()
        await process.wait()


async def test_behind_nginx_both_read_the_same(stack: Stack, tmp_path: Path) -> None:
    """Every request that nginx passed on is one request upstream, in order, and nothing else is."""
    folder = tmp_path / "nginx"
    folder.mkdir()
    async with _nginx(folder, stack.port) as port:
        for start in range(0, len(PAYLOADS), 16):
            await asyncio.gather(*(_exchange(port, payload.data) for payload in PAYLOADS[start : start + 16]))
    log = [line.split("|") for line in (folder / "access.log").read_text().splitlines()]
    passed = sorted(request for status, request in log if status == "200")
    seen = sorted(message.start.decode("latin-1").rsplit(" ", 1)[0] for message in stack.upstream.requests)
    assert seen == [request.replace(" /anthropic", " ").replace("http://other", "") for request in passed]
    assert len(passed) >= 5
