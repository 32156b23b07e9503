"""The OpenAI wire format, older half: chat completions (plain and streamed), embeddings, models."""

import base64
import hashlib
import struct
from collections.abc import Iterator
from typing import Any

from tests.provider import errors
from tests.provider.answer import Answer, document, sse, stream
from tests.provider.ask import CREATED, Ask, Tool, Turn, decide, describe_url, items, split

_MODELS = ("gpt-5", "gpt-4o", "text-embedding-3-small")


def answer(ask: Ask) -> Answer | None:
    headers = errors.openai_headers(ask)
    match ask.request.method, ask.path:
        case "POST", "/v1/chat/completions":
            return _chat(ask, headers)
        case "POST", "/v1/embeddings":
            return document(200, headers, _embeddings(ask), indent=2)
        case "GET", "/v1/models":
            return document(200, headers, {"object": "list", "data": [_model(name) for name in _MODELS]}, indent=2)
        case "GET", path if path.removeprefix("/v1/models/") in _MODELS:
            return document(200, headers, _model(path.removeprefix("/v1/models/")), indent=2)
    return None


def _chat(ask: Ask, headers: list[tuple[str, str]]) -> Answer:
    turn = _turn(ask)
    if ask.doc.get("stream") is True:
        return stream(headers, _events(ask, turn))
    choice = {"index": 0, "message": _message(ask, turn), "logprobs": None, "finish_reason": _finish(turn)}
    value = _head(ask, "chat.completion") | {"choices": [choice], "usage": _usage(ask, turn)}
    return document(200, headers, value, huge=ask.script.huge, indent=2)


def _turn(ask: Ask) -> Turn:
    thinks = ask.doc.get("reasoning_effort") not in (None, "none")
    last = (items(ask.doc.get("messages")) or [{}])[-1]
    content = last.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else items(content)
    images = [
        describe_url(str(image.get("url", "")))
        for part in parts
        if part.get("type") == "image_url" and isinstance(image := part.get("image_url"), dict)
    ]
    said = " ".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")
    functions = [
        function for entry in items(ask.doc.get("tools")) if isinstance(function := entry.get("function"), dict)
    ]
    tool = None
    if functions and last.get("role") != "tool":
        tool = Tool(str(functions[0].get("name")), functions[0].get("parameters") or {})
    return decide(ask, thinks=thinks, tool=tool, said=said, images=images)


def _head(ask: Ask, kind: str) -> dict[str, Any]:
    return {
        "id": ask.token("chatcmpl-", 29),
        "object": kind,
        "created": CREATED,
        "model": ask.model,
        "service_tier": "default",
        "system_fingerprint": "fp_scripted",
    }


def _message(ask: Ask, turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if turn.tool else turn.text,
        "refusal": None,
        "annotations": [],
    }
    if turn.thinking is not None:
        # api.openai.com keeps it to itself; the compatible servers that show it call it so.
        message["reasoning_content"] = turn.thinking
    if turn.tool is not None:
        message["tool_calls"] = [_tool_call(ask, turn.tool, errors.compact(turn.tool.arguments()))]
    return message


def _tool_call(ask: Ask, tool: Tool, arguments: str) -> dict[str, Any]:
    function = {"name": tool.name, "arguments": arguments}
    return {"id": ask.token("call_", 24), "type": "function", "function": function}


def _finish(turn: Turn) -> str:
    return "stop" if turn.tool is None else "tool_calls"


def _usage(ask: Ask, turn: Turn) -> dict[str, Any]:
    reasoning = 0 if turn.thinking is None else len(turn.thinking) // 4
    return {
        "prompt_tokens": ask.input_tokens,
        "completion_tokens": turn.output_tokens,
        "total_tokens": ask.input_tokens + turn.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _events(ask: Ask, turn: Turn) -> Iterator[bytes]:
    usage = (ask.doc.get("stream_options") or {}).get("include_usage") is True
    for number, delta in enumerate(_deltas(ask, turn)):
        if ask.script.error_event and number == 3:
            yield sse(errors.openai_body(ask, 500))
            return
        yield _chunk(ask, delta, None, usage)
    yield _chunk(ask, {}, _finish(turn), usage)
    if usage:
        yield sse(_head(ask, "chat.completion.chunk") | {"choices": [], "usage": _usage(ask, turn)})
    yield sse("[DONE]")


def _deltas(ask: Ask, turn: Turn) -> Iterator[dict[str, Any]]:
    content = None if turn.tool else ""
    yield {"role": "assistant", "content": content, "refusal": None}
    for text in split(turn.thinking or ""):
        yield {"reasoning_content": text}
    if turn.tool is None:
        yield from ({"content": text} for text in turn.deltas())
        return
    yield {"tool_calls": [{"index": 0, **_tool_call(ask, turn.tool, "")}]}
    for text in split(errors.compact(turn.tool.arguments()), 7):
        yield {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}


def _chunk(ask: Ask, delta: dict[str, Any], finish: str | None, usage: bool) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = _head(ask, "chat.completion.chunk") | {"choices": [choice], "obfuscation": "aBc123"}
    return sse(chunk | {"usage": None} if usage else chunk)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "system"}


def _embeddings(ask: Ask) -> dict[str, Any]:
    given = ask.doc.get("input")
    inputs = given if isinstance(given, list) else [given]
    data = [
        {"object": "embedding", "index": index, "embedding": _embedding(ask, str(text))}
        for index, text in enumerate(inputs)
    ]
    usage = {"prompt_tokens": ask.input_tokens, "total_tokens": ask.input_tokens}
    return {"object": "list", "data": data, "model": ask.model, "usage": usage}


def _embedding(ask: Ask, text: str) -> list[float] | str:
    values = vector(text, int(ask.doc.get("dimensions") or 8))
    if ask.doc.get("encoding_format") == "base64":
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
    return values


def vector(text: str, dimensions: int) -> list[float]:
    """Binary fractions, so that float32, float64 and JSON all hold them exactly."""
    digest = hashlib.sha256(text.encode()).digest()
    return [(digest[index % 32] - 128) / 256 for index in range(dimensions)]
