"""The bytes every party of the benchmark agrees on: requests, answers and the events of a stream."""

from __future__ import annotations

import json
from functools import cache

SIZE = 1024
PATH = "/v1/messages"
REQUEST_HEADERS = {
    "content-type": "application/json",
    "accept": "application/json",
    "user-agent": "smoltbot-bench/1",
    "anthropic-version": "2023-06-01",
    "x-api-key": "sk-ant-bench",
}
THOUGHT = "The user wants prose about a fox. Nothing here needs a tool, so I answer in plain words. " * 2
_MODEL = "claude-sonnet-4-5"
_USAGE = {"input_tokens": 212, "output_tokens": 180}


def _padded(document: dict[str, object], text_at: str) -> bytes:
    """The document as exactly `SIZE` bytes of JSON, its `text_at` mark replaced by prose."""
    encoded = json.dumps(document, separators=(",", ":"))
    room = SIZE - len(encoded) + len(text_at)
    prose = "The quick brown fox jumps over the lazy dog. " * (SIZE // 40)
    return encoded.replace(text_at, prose[:room]).encode()


def _question(*, stream: bool) -> bytes:
    messages = [{"role": "user", "content": "@@"}]
    return _padded({"model": _MODEL, "max_tokens": 256, "stream": stream, "messages": messages}, "@@")


PLAIN_REQUEST = _question(stream=False)
STREAM_REQUEST = _question(stream=True)
PLAIN_ANSWER = _padded(
    {
        "id": "msg_01BenchBenchBenchBench00",
        "type": "message",
        "role": "assistant",
        "model": _MODEL,
        "content": [
            {"type": "thinking", "thinking": THOUGHT, "signature": "c2lnbmF0dXJl"},
            {"type": "text", "text": "@@"},
        ],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": _USAGE,
    },
    "@@",
)


def _event(name: str, **fields: object) -> bytes:
    data = json.dumps({"type": name, **fields}, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n".encode()


@cache
def sse_events(count: int) -> tuple[bytes, ...]:
    """`count` events of about 120 bytes, in the order a Messages stream has them: a tenth of them thinks."""
    message = {"id": "msg_01BenchBench", "role": "assistant", "model": _MODEL, "usage": _USAGE}
    first = _event("message_start", message=message)
    last = _event("message_delta", delta={"stop_reason": "end_turn"}, usage=_USAGE)
    thoughts = [
        _event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": f" think{n:05d}"})
        for n in range(count // 10)
    ]
    deltas = [
        _event("content_block_delta", index=1, delta={"type": "text_delta", "text": f" word{n:05d}"})
        for n in range(count - 2 - len(thoughts))
    ]
    return (first, *thoughts, *deltas, last)[:count]


_VERDICT = json.dumps(
    {
        "verdict": "clear",
        "concerns": [],
        "reasoning_summary": "The agent plans to answer in prose.",
        "conscience_context": {
            "values_checked": ["honesty"],
            "conflicts": [],
            "supports": ["honesty"],
            "considerations": [],
            "consultation_depth": "surface",
        },
    }
)
JUDGEMENT = json.dumps(
    {"id": "msg_01Judge", "type": "message", "role": "assistant", "model": "judge",
     "content": [{"type": "text", "text": _VERDICT}], "stop_reason": "end_turn", "usage": _USAGE}
).encode()  # fmt: skip
"""What the instant analyser answers to everything."""
