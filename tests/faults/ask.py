"""Requests to a gateway process, over the raw client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.gateway_process import GatewayProcess
from tests.wire.raw import Message, RawClient

BODY = json.dumps({"model": "m", "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]}).encode()
STREAM = json.dumps({**json.loads(BODY), "stream": True}).encode()


def post(path: str = "/anthropic/v1/messages", *lines: str, body: bytes = BODY, key: str = "sk-ant-test-1") -> bytes:
    """A POST request."""
    head = [f"POST {path} HTTP/1.1", "Host: gateway", f"x-api-key: {key}", "content-type: application/json", *lines]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def script(**keys: Any) -> str:
    """The header line that tells the provider what to do."""
    return f"x-script: {json.dumps(keys, separators=(',', ':'))}"


async def ask(gateway: GatewayProcess, data: bytes, *, limit_s: float = 10) -> Message:
    """One request on a connection of its own."""
    async with asyncio.timeout(limit_s), await RawClient.connect(gateway.port) as client:
        return await client.request(data)


async def get(gateway: GatewayProcess, path: str) -> Message:
    """A GET of one of the gateway's own routes."""
    return await ask(gateway, f"GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())


async def ready(gateway: GatewayProcess) -> tuple[int, dict[str, Any]]:
    """Status and body of /health/ready."""
    answer = await get(gateway, "/health/ready")
    return answer.status, json.loads(answer.body)
