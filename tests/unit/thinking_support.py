"""Exchanges with answers of every shape, for the tests of what is found in them."""

from __future__ import annotations

import json
from typing import Any

from smoltbot_worker.integrity.decoding import with_standard
from smoltbot_worker.integrity.thinking import Thinking, extract
from smoltbot_worker.relay.message import ExchangeMessage
from worker_compat_brotli import open_decoder as open_brotli
from worker_compat_zstd import open_decoder as open_zstd

LIMIT = 1 << 20
DECODERS = with_standard({"br": open_brotli, "zstd": open_zstd})
PATHS = {
    "anthropic": ("anthropic", "/v1/messages"),
    "chat": ("openai", "/v1/chat/completions"),
    "responses": ("openai", "/v1/responses"),
    "gemini": ("gemini", "/v1beta/models/gemini-2.5-pro:generateContent"),
}
"""Provider and path by the name of the answer's shape."""


def exchange(shape: str, answer: Any = b"", **fields: Any) -> ExchangeMessage:
    """An exchange of a shape; ``answer`` is bytes, or a document to be written as JSON."""
    provider, path = PATHS[shape]
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    given = {"provider": provider, "path": path, "response_body": body, "streamed": False, **fields}
    return ExchangeMessage(
        id="r", checkpoint_id="ic-1", created_at=0.0, agent_id="a", agent_hash="h", session_id="s",
        gateway_version="1", method="POST", status=200, **given,
    )  # fmt: skip


def sse(*events: Any, end: str = "\n\n") -> bytes:
    """A stream of JSON events; a str is sent as it is."""
    return "".join(
        f"data: {event if isinstance(event, str) else json.dumps(event)}{end}" for event in events
    ).encode()  # fmt: skip


def found(shape: str, answer: Any = b"", limit: int = LIMIT, **fields: Any) -> Thinking:
    """What :func:`extract` finds in an answer."""
    return extract(exchange(shape, answer, **fields), DECODERS, limit)


def streamed(shape: str, *events: Any, **fields: Any) -> Thinking:
    """What is found in a stream of these events."""
    return found(shape, sse(*events), streamed=True, **fields)
