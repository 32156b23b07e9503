"""Thinking in what a provider really sends: four shapes, plain and streamed, in every content coding."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard

from tests.provider.ask import THOUGHT
from tests.provider.process import ProviderProcess
from tests.unit.thinking_support import PATHS, found

MESSAGES = [{"role": "user", "content": "Grüezi"}]
CONTENTS = [{"role": "user", "parts": [{"text": "Grüezi"}]}]
ASKS: dict[str, dict[str, Any]] = {
    "anthropic": {"model": "claude-x", "messages": MESSAGES, "thinking": {"type": "enabled", "budget_tokens": 1024}},
    "chat": {"model": "gpt-x", "messages": MESSAGES, "reasoning_effort": "high"},
    "responses": {"model": "gpt-x", "input": "Grüezi", "reasoning": {"effort": "high", "summary": "auto"}},
    "gemini": {"contents": CONTENTS, "generationConfig": {"thinkingConfig": {"includeThoughts": True}}},
}
GEMINI_STREAM = PATHS["gemini"][1].replace("generateContent", "streamGenerateContent")
WAYS = [(shape, way) for shape in ASKS for way in ("document", "stream")] + [("gemini", "list")]


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderProcess]:
    with ProviderProcess() as process:
        yield process


def ask(provider: ProviderProcess, shape: str, way: str, script: dict[str, Any]) -> tuple[bytes, str]:
    """The answer's body as it is on the wire, and the path without its query."""
    _, path = PATHS[shape]
    request = dict(ASKS[shape])
    if shape != "gemini":
        request["stream"] = way == "stream"
    elif way != "document":
        path = GEMINI_STREAM
    connection = http.client.HTTPConnection("127.0.0.1", provider.port, timeout=10)
    query = "?alt=sse" if (shape, way) == ("gemini", "stream") else ""
    connection.request("POST", path + query, json.dumps(request), {"x-script": json.dumps(script)})
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200
    assert answer.getheader("content-encoding") == script.get("encoding")
    connection.close()
    return body, path


def answered(provider: ProviderProcess, shape: str, way: str, encoding: str, **script: Any) -> Any:
    """What is found in the provider's answer in a coding; zstd, which the provider does not speak, is made here."""
    itself = {"encoding": encoding} if encoding in ("gzip", "br", "deflate") else {}
    body, path = ask(provider, shape, way, script | itself)
    if encoding == "zstd":
        body = zstandard.compress(body)
    if encoding:
        assert THOUGHT[:20].encode() not in body
    return found(shape, body, path=path, streamed=way != "document", response_encoding=encoding)


@pytest.mark.parametrize("encoding", ["", "gzip", "br", "deflate", "zstd"])
@pytest.mark.parametrize(("shape", "way"), WAYS)
def test_thinking_is_found(provider: ProviderProcess, shape: str, way: str, encoding: str) -> None:
    seen = answered(provider, shape, way, encoding)
    model = "gemini-2.5-pro" if shape == "gemini" else ASKS[shape]["model"]
    assert (seen.text, seen.model, seen.problem) == (THOUGHT, model, None)


@pytest.mark.parametrize(("shape", "way"), WAYS)
def test_thinking_of_any_text_is_found(provider: ProviderProcess, shape: str, way: str) -> None:
    text = 'data: {"thinking": "x"}\n\nevent: y\r\n\u2028"\\ 🙂 ' * 40
    assert answered(provider, shape, way, "", thinking=text).text == text


@pytest.mark.parametrize(("shape", "way"), WAYS)
def test_no_thinking_is_no_problem(provider: ProviderProcess, shape: str, way: str) -> None:
    seen = answered(provider, shape, way, "gzip", thinking="")
    assert (seen.text, seen.problem) == ("", None)


@pytest.mark.parametrize("shape", ASKS)
def test_a_stream_with_an_error_event(provider: ProviderProcess, shape: str) -> None:
    seen = answered(provider, shape, "stream", "", error_event=True)
    assert THOUGHT.startswith(seen.text)
    assert seen.text
    assert seen.problem is None


@pytest.mark.parametrize("encoding", ["", "gzip", "br", "deflate", "zstd"])
@pytest.mark.parametrize(("shape", "way"), [pair for pair in WAYS if pair[1] != "document"])
def test_a_stream_that_breaks_off_anywhere(provider: ProviderProcess, shape: str, way: str, encoding: str) -> None:
    itself = {"encoding": encoding} if encoding in ("gzip", "br", "deflate") else {}
    body, path = ask(provider, shape, way, itself)
    body = zstandard.compress(body) if encoding == "zstd" else body
    lengths = []
    for at in range(0, len(body), max(1, len(body) // 150)):
        seen = found(shape, body[:at], path=path, streamed=True, response_encoding=encoding, cut=True)
        assert THOUGHT.startswith(seen.text), at
        assert seen.problem is None, at
        lengths.append(len(seen.text))
    assert lengths == sorted(lengths)
    if encoding != "zstd":  # a whole body in one block
        assert len(set(lengths)) > 3


@pytest.mark.parametrize("shape", ASKS)
def test_a_document_that_breaks_off_is_no_document(provider: ProviderProcess, shape: str) -> None:
    body, path = ask(provider, shape, "document", {})
    for at in range(0, len(body.rstrip()), 25):
        assert found(shape, body[:at], path=path, cut=True).problem == "undecodable-encoding"


@pytest.mark.parametrize(("shape", "way"), WAYS)
def test_what_is_there_of_a_truncated_answer(provider: ProviderProcess, shape: str, way: str) -> None:
    body, path = ask(provider, shape, way, {"thinking": THOUGHT * 40})
    lengths = []
    for at in range(1, len(body), max(1, len(body) // 60)):
        streams = way != "document"
        seen = found(shape, body[:at], path=path, streamed=streams, body_truncated=True)
        less = found(shape, body, limit=at, path=path, streamed=streams)
        assert seen == less or (seen.model, less.model) == ("gemini-2.5-pro", "gemini-2.5-pro")
        assert (THOUGHT * 40).startswith(seen.text), at
        assert seen.problem == "too-large", at
        lengths.append(len(seen.text))
    assert lengths == sorted(lengths)
    # Gemini tells behind a text that it was a thought.
    assert len(set(lengths)) > 20 or (shape, way, len(set(lengths))) == ("gemini", "document", 2)
