"""Agents on record: one per key and name, however many ask at once."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from .raw import Message, RawClient
from .stack import Stack


def _request(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: a", "Content-Length: 0", *lines, "", ""]).encode()


async def _ask(stack: Stack, data: bytes) -> Message:
    async with await RawClient.connect(stack.port) as client:
        return await client.request(data)


def _rows(folder: Path) -> list[tuple[str, str, str | None, str]]:
    with sqlite3.connect(folder / "smoltbot.db") as connection:
        return connection.execute("SELECT id, agent_hash, name, last_seen FROM agents ORDER BY id").fetchall()


async def test_a_hundred_first_requests_at_once_make_one_agent(stack: Stack, tmp_path: Path) -> None:
    data = _request("/anthropic/v1/messages", "x-api-key: sk-ant-example-000")
    answers = await asyncio.gather(*(_ask(stack, data) for _ in range(100)))
    assert {answer.get(b"x-smoltbot-agent") for answer in answers} == {b"smolt-9d08aa51"}
    assert [row[:2] for row in _rows(tmp_path)] == [("smolt-9d08aa51", "9d08aa51eb89d283")]
    with sqlite3.connect(tmp_path / "smoltbot.db") as connection:
        assert connection.execute("SELECT id FROM alignment_cards").fetchall() == [("ac-9d08aa51",)]


async def test_keys_never_share_an_agent(stack: Stack, tmp_path: Path) -> None:
    asked = [_request("/openai/v1/models", f"Authorization: Bearer sk-{number}") for number in range(200)]
    ids = {answer.get(b"x-smoltbot-agent") for answer in await asyncio.gather(*(_ask(stack, data) for data in asked))}
    assert len(ids) == 200
    assert len(_rows(tmp_path)) == 200


async def test_a_named_agent_is_another_agent_by_path_and_by_header(stack: Stack) -> None:
    key = "x-api-key: sk-ant-example-000"
    by_path = await _ask(stack, _request("/agent/my-coder/anthropic/v1/messages?a=1", key, "x-smoltbot-agent: other"))
    by_header = await _ask(stack, _request("/anthropic/v1/messages", key, "x-smoltbot-agent: my-coder"))
    by_synonym = await _ask(stack, _request("/anthropic/v1/messages", key, "X-Mnemom-Agent: my-coder"))
    assert {a.get(b"x-smoltbot-agent") for a in (by_path, by_header, by_synonym)} == {b"smolt-c04288b7"}
    assert stack.upstream.requests[0].start == b"POST /v1/messages?a=1 HTTP/1.1"
    assert not any(message.get(b"x-smoltbot-agent") for message in stack.upstream.requests)


@pytest.mark.parametrize("name", ["-x", "a b", "a%20b", "x" * 65, "", "ä", ".x"])
async def test_a_bad_name_is_400(stack: Stack, name: str) -> None:
    answer = await _ask(stack, f"GET /agent/{name}/anthropic/v1 HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n\r\n".encode())
    assert answer.status in (400, 404 if name == "" else 400)
    assert stack.upstream.requests == []


@pytest.mark.parametrize(
    ("path", "line", "expected"),
    [
        ("/anthropic/v1/messages", "X-API-KEY: k1", True),
        ("/anthropic/v1/messages", "Authorization: bEaReR  k1", True),
        ("/anthropic/v1/messages", "Authorization: Basic k1", "Missing x-api-key header"),
        ("/openai/v1/models", "Authorization: Bearer k1", True),
        ("/openai/v1/models", "x-api-key: k1", "Missing Authorization: Bearer <key> header"),
        ("/gemini/v1beta/models", "x-goog-api-key: k1", True),
        ("/gemini/v1beta/models?alt=sse&key=k1", "X-Other: 1", True),
        ("/gemini/v1beta/models?key=", "X-Other: 1", "Missing x-goog-api-key header"),
        ("/gemini/v1beta/models", "Authorization: Bearer k1", "Missing x-goog-api-key header"),
    ],
)
async def test_where_a_key_is_read(stack: Stack, path: str, line: str, expected: bool | str) -> None:
    answer = await _ask(stack, _request(path, line))
    if expected is True:
        assert answer.status == 200
        assert answer.get(b"x-smoltbot-agent") == b"smolt-6ab9f1eb"
        assert stack.upstream.requests[0].start.split()[1].decode() == "/" + path.split("/", 2)[2]
    else:
        assert answer.status == 401
        assert answer.body.decode() == f'{{"error":"{expected}","type":"authentication_error"}}'
        assert stack.upstream.requests == []


async def test_x_api_key_decides_when_both_are_sent(stack: Stack) -> None:
    answer = await _ask(
        stack, _request("/anthropic/v1/messages", "Authorization: Bearer other", "x-api-key: sk-ant-example-000")
    )
    assert answer.get(b"x-smoltbot-agent") == b"smolt-9d08aa51"


async def test_last_seen_moves_in_batches_off_the_request_path(stack: Stack, tmp_path: Path) -> None:
    data = _request("/anthropic/v1/messages", "x-api-key: sk-ant-example-000")
    await _ask(stack, data)
    [(_, _, _, before)] = _rows(tmp_path)
    await asyncio.sleep(0.01)
    await _ask(stack, data)
    assert await stack.wiring.env.agents.flush()
    [(_, _, _, after)] = _rows(tmp_path)
    assert after > before
