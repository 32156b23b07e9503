"""Keys never leave the request: six canaries through every error path at debug level."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from tests.gateway_process import GatewayProcess
from tests.wire.raw import CutOff, RawClient

from .ask import get, post, script

_CANARIES = {
    "x-api-key": "canary-alpha-7f3a91d2c4",
    "bearer": "sk-canary-bravo-0c82e5b1aa",
    "x-goog-api-key": "AIzaCanaryCharlie5d1e77f0b9",
    "query": "canary-delta-93bb6c01fe",
    "x-mnemom-api-key": "mnm_canary_echo_4e2f8a6d10",
    "jwt": "eyJhbGciOiJFZERTQSJ9.eyJjYW5hcnkiOiJmb3h0cm90In0.c2lnLWNhbmFyeS1mb3h0cm90",
}


def _requests() -> list[bytes]:
    """Every canary in every place, each through answers, errors, cuts and nonsense."""
    bearer, google, query = _CANARIES["bearer"], _CANARIES["x-goog-api-key"], _CANARIES["query"]
    scripts = [
        script(), script(status=400), script(status=401), script(status=429), script(status=529), script(cut=10),
        script(cut=400), script(raw=base64.b64encode(b"garbage\r\n\r\n").decode()), script(error_event=True),
        script(raw=base64.b64encode(b"HTTP/1.1 200 OK\r\nX: " + bearer.encode() + b"\x00\r\n\r\n").decode()),
    ]  # fmt: skip
    also = [f"x-mnemom-api-key: {_CANARIES['x-mnemom-api-key']}", f"x-license: {_CANARIES['jwt']}"]
    sent = []
    for line in scripts:
        sent.append(post("/anthropic/v1/messages", line, *also, key=_CANARIES["x-api-key"]))
        sent.append(post("/openai/v1/chat/completions", line, *also, f"Authorization: Bearer {bearer}"))
        sent.append(post("/gemini/v1beta/models/g:generateContent", line, *also, f"x-goog-api-key: {google}"))
        sent.append(post(f"/gemini/v1beta/models/g:generateContent?key={query}", line, *also))
        sent.append(post("/dead/", line, *also, key=_CANARIES["x-api-key"]))
    for canary in _CANARIES.values():
        sent += [
            post(f"/nowhere?key={canary}", key=canary),
            post(f"/agent/{canary}/anthropic/x", key=canary),
            f"GET /{canary} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
            f"GET /openai/v1/{canary} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {canary}\r\n\r\n".encode(),
            f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {canary}\x00\r\n\r\n".encode(),
            f"{canary} / HTTP/1.1\r\n\r\n".encode(),
            f"GET /anthropic/x HTTP/1.1\r\nHost: {canary}\r\nHost: {canary}\r\n\r\n".encode(),
            post("/anthropic/v1/messages", f"Authorization: {canary}", key=""),
            post("/anthropic/x", f"X-Long: {canary}{'x' * 9000}", key=canary),
            post("/anthropic/x", "Upgrade: websocket", "Connection: Upgrade", key=canary),
            post("/anthropic/x", key=canary)[:-5],
        ]
    return sent


def _forms(canary: str) -> list[bytes]:
    raw = canary.encode()
    encoded = base64.b64encode(raw)[:-4]
    return [raw, encoded, raw.hex().encode(), quote(canary, safe="").encode(), quote(canary).encode()]


async def _provoke(gateway: GatewayProcess, data: bytes) -> None:
    async with await RawClient.connect(gateway.port) as client:
        await client.send(data)
        try:
            async with asyncio.timeout(0.3):
                await client.response()
        except (TimeoutError, EOFError, CutOff, ConnectionError):
            return


async def test_no_canary_reaches_logs_metrics_or_the_database(tmp_path: Path, upstreams: dict[str, str]) -> None:
    variables = {**upstreams, "LOG_LEVEL": "debug", "OPENAI_API_KEY": "sk-canary-golf-5512", "PYTHONASYNCIODEBUG": "1"}
    with GatewayProcess(tmp_path, variables) as gateway:
        requests = _requests()
        for start in range(0, len(requests), 10):
            await asyncio.gather(*(_provoke(gateway, data) for data in requests[start : start + 10]))
        # The paths of an unreachable provider and of a database that is away, too.
        with closing(sqlite3.connect(tmp_path / "data" / "smoltbot.db", isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            await asyncio.gather(*(_provoke(gateway, data) for data in requests[:10]))
            connection.execute("ROLLBACK")
        await asyncio.sleep(1.5)
        metrics = (await get(gateway, "/metrics")).body
    gateway.start({"UPSTREAM_ANTHROPIC_URL": "http://127.0.0.1:1", "UPSTREAM_OPENAI_URL": "http://nowhere.invalid"})
    await asyncio.gather(*(_provoke(gateway, data) for data in requests[:10]))
    assert gateway.stop() == 0
    sinks = {"logs": gateway.output().encode(), "metrics": metrics}
    sinks |= {file.name: file.read_bytes() for file in (tmp_path / "data").iterdir()}
    assert b'"message":"request"' in sinks["logs"]
    assert b'"level":"debug"' in sinks["logs"] or b"debug" in sinks["logs"]
    hits = [
        (where, name)
        for where, data in sinks.items()
        for name, canary in {**_CANARIES, "provider": "sk-canary-golf-5512"}.items()
        for form in _forms(canary)
        if form.lower() in data.lower()
    ]
    assert hits == []
