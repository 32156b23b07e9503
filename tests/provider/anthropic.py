"""The Anthropic wire format: messages (plain and streamed), token counts, models."""

from collections.abc import Iterator
from typing import Any

from tests.provider import errors
from tests.provider.answer import Answer, document, sse, stream
from tests.provider.ask import Ask, Tool, Turn, decide, describe_image, items, split

_SIGNATURE = "EqQBCgIYAhIkc2NyaXB0ZWQtcHJvdmlkZXItc2lnbmF0dXJlGgwxMjM0NTY3ODkwYWI="
_MODELS = (
    ("claude-opus-4-5-20251101", "Claude Opus 4.5", "2025-11-24T00:00:00Z", "opus"),
    ("claude-haiku-4-5-20251001", "Claude Haiku 4.5", "2025-10-15T00:00:00Z", "haiku"),
    ("claude-sonnet-4-20250514", "Claude Sonnet 4", "2025-05-22T00:00:00Z", "sonnet"),
)


def answer(ask: Ask) -> Answer | None:
    headers = errors.anthropic_headers(ask)
    match ask.request.method, ask.path:
        case "POST", "/v1/messages":
            return _messages(ask, headers)
        case "POST", "/v1/messages/count_tokens":
            return document(200, headers, {"input_tokens": ask.input_tokens})
        case "GET", "/v1/models":
            return document(200, headers, _page(ask))
        case "GET", path if path.startswith("/v1/models/"):
            wanted = path.removeprefix("/v1/models/")
            found = next((model for model in map(_model, _MODELS) if model["id"] == wanted), None)
            return None if found is None else document(200, headers, found)
    return None


def _messages(ask: Ask, headers: list[tuple[str, str]]) -> Answer:
    turn = _turn(ask)
    if ask.doc.get("stream") is True:
        headers.append(("Cache-Control", "no-cache"))
        return stream(headers, _events(ask, turn))
    message = _message(ask, turn) | {"content": _content(ask, turn), "stop_reason": _stop_reason(turn)}
    message["usage"] = _usage(ask, turn.output_tokens)
    return document(200, headers, message, huge=ask.script.huge)


def _turn(ask: Ask) -> Turn:
    thinking = ask.doc.get("thinking")
    thinks = isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive")
    last = (items(ask.doc.get("messages")) or [{}])[-1]
    content = last.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else items(content)
    images = [
        describe_image(str(source.get("media_type")), str(source.get("data", "")))
        for block in blocks
        if block.get("type") == "image" and isinstance(source := block.get("source"), dict)
    ]
    said = " ".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text")
    tools = items(ask.doc.get("tools"))
    answered = any(block.get("type") == "tool_result" for block in blocks)
    tool = Tool(str(tools[0].get("name")), tools[0].get("input_schema") or {}) if tools and not answered else None
    return decide(ask, thinks=thinks, tool=tool, said=said, images=images)


def _message(ask: Ask, turn: Turn) -> dict[str, Any]:
    return {
        "model": ask.model,
        "id": ask.token("msg_01", 22),
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(ask, 1),
    }


def _usage(ask: Ask, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": ask.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }


def _content(ask: Ask, turn: Turn) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if turn.thinking is not None:
        blocks.append({"type": "thinking", "thinking": turn.thinking, "signature": _SIGNATURE})
    if turn.tool is None:
        return [*blocks, {"type": "text", "text": turn.text}]
    return [*blocks, _tool_use(ask, turn.tool, turn.tool.arguments())]


def _tool_use(ask: Ask, tool: Tool, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": ask.token("toolu_01", 22), "name": tool.name, "input": arguments}


def _stop_reason(turn: Turn) -> str:
    return "end_turn" if turn.tool is None else "tool_use"


def _events(ask: Ask, turn: Turn) -> Iterator[bytes]:
    yield _event("message_start", message=_message(ask, turn))
    index = 0
    if turn.thinking is not None:
        yield from _thinking(turn.thinking)
        index = 1
    if turn.tool is not None:
        yield from _tool_call(ask, turn.tool, index)
    else:
        yield _event("content_block_start", index=index, content_block={"type": "text", "text": ""})
        yield _event("ping")
        for number, text in enumerate(turn.deltas()):
            if ask.script.error_event and number == 2:
                yield sse(errors.anthropic_body(ask, 529), "error")
                return
            yield _delta(index, {"type": "text_delta", "text": text})
        yield _event("content_block_stop", index=index)
    delta = {"stop_reason": _stop_reason(turn), "stop_sequence": None}
    yield _event("message_delta", delta=delta, usage={"output_tokens": turn.output_tokens})
    yield _event("message_stop")


def _thinking(thought: str) -> Iterator[bytes]:
    yield _event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""})
    for text in split(thought):
        yield _delta(0, {"type": "thinking_delta", "thinking": text})
    yield _delta(0, {"type": "signature_delta", "signature": _SIGNATURE})
    yield _event("content_block_stop", index=0)


def _tool_call(ask: Ask, tool: Tool, index: int) -> Iterator[bytes]:
    yield _event("content_block_start", index=index, content_block=_tool_use(ask, tool, {}))
    for text in ["", *split(errors.compact(tool.arguments()), 7)]:
        yield _delta(index, {"type": "input_json_delta", "partial_json": text})
    yield _event("content_block_stop", index=index)


def _delta(index: int, delta: dict[str, Any]) -> bytes:
    return _event("content_block_delta", index=index, delta=delta)


def _event(kind: str, **fields: Any) -> bytes:
    return sse({"type": kind, **fields}, kind)


def _model(row: tuple[str, str, str, str]) -> dict[str, Any]:
    name, display_name, created_at, line = row
    return {
        "type": "model",
        "id": name,
        "display_name": display_name,
        "created_at": created_at,
        "lifecycle": "active",
        "line": line,
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
    }


def _page(ask: Ask) -> dict[str, Any]:
    models = [_model(row) for row in _MODELS]
    names = [model["id"] for model in models]
    start = names.index(ask.query["after_id"]) + 1 if ask.query.get("after_id") in names else 0
    end = start + int(ask.query.get("limit") or 20)
    page = models[start:end]
    return {
        "data": page,
        "has_more": end < len(models),
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }
