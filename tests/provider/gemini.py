"""The Gemini wire format: generateContent (plain, SSE, JSON array), token counts, embeddings, models."""

import re
from collections.abc import Iterator
from typing import Any

from tests.provider import errors
from tests.provider.answer import Answer, document, sse, stream
from tests.provider.ask import Ask, Tool, Turn, decide, describe_image, items, split
from tests.provider.openai_chat import vector

_CALL = re.compile(r"/v1(?:beta|alpha)?/models/([^/:]+):(\w+)")
_LIST = re.compile(r"/v1(?:beta|alpha)?/models")
_MODELS = ("gemini-2.5-pro", "gemini-2.5-flash", "gemini-embedding-001")
_JSON = "application/json; charset=UTF-8"
_SIGNATURE = "CpwBAXLI2nxzY3JpcHRlZC1wcm92aWRlci10aG91Z2h0LXNpZ25hdHVyZQ=="


def answer(ask: Ask) -> Answer | None:
    if ask.request.method == "GET" and _LIST.fullmatch(ask.path):
        return _document(_page(ask))
    found = _CALL.fullmatch(ask.path)
    if ask.request.method != "POST" or found is None:
        return None
    model, method = found.groups()
    match method:
        case "generateContent":
            turn = _turn(ask)
            chunk = _chunk(ask, model, turn, _parts(turn), finished=True)
            return _document(chunk, ask.script.huge)
        case "streamGenerateContent":
            return _stream(ask, _chunks(ask, model, _turn(ask)))
        case "countTokens":
            details = [{"modality": "TEXT", "tokenCount": ask.input_tokens}]
            return _document({"totalTokens": ask.input_tokens, "promptTokensDetails": details})
        case "embedContent":
            return _document({"embedding": _embedding(ask.doc)})
        case "batchEmbedContents":
            return _document({"embeddings": [_embedding(entry) for entry in items(ask.doc.get("requests"))]})
    return None


def _document(value: Any, huge: int | None = None) -> Answer:
    return document(200, errors.gemini_headers(), value, huge=huge, content_type=_JSON, indent=2)


def _stream(ask: Ask, chunks: Iterator[dict[str, Any]]) -> Answer:
    if ask.query.get("alt") == "sse":
        answer = stream(errors.gemini_headers(), (sse(chunk, end="\r\n\r\n") for chunk in chunks))
        answer.content_type = "text/event-stream"
        return answer
    answer = stream(errors.gemini_headers(), _array(chunks))
    answer.content_type = _JSON
    return answer


def _array(chunks: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    for number, chunk in enumerate(chunks):
        yield (",\r\n" if number else "[").encode() + errors.compact(chunk).encode()
    yield b"\n]\n"


def _either(value: dict[str, Any], camel: str, snake: str) -> Any:
    # The service takes a field under both of its names; the official client sends camel case.
    return value.get(camel, value.get(snake))


def _turn(ask: Ask) -> Turn:
    config = _either(ask.doc, "generationConfig", "generation_config") or {}
    thinking = _either(config, "thinkingConfig", "thinking_config") or {}
    thinks = _either(thinking, "includeThoughts", "include_thoughts") is True
    parts = items((items(ask.doc.get("contents")) or [{}])[-1].get("parts"))
    images = [
        describe_image(str(_either(blob, "mimeType", "mime_type")), str(blob.get("data", "")))
        for part in parts
        if isinstance(blob := _either(part, "inlineData", "inline_data"), dict)
    ]
    said = " ".join(str(part["text"]) for part in parts if "text" in part)
    declared = [
        function
        for tool in items(ask.doc.get("tools"))
        for function in items(_either(tool, "functionDeclarations", "function_declarations"))
    ]
    tool = None
    if declared and not any(_either(part, "functionResponse", "function_response") for part in parts):
        schema = declared[0].get("parameters") or _either(declared[0], "parametersJsonSchema", "") or {}
        tool = Tool(str(declared[0].get("name")), schema)
    return decide(ask, thinks=thinks, tool=tool, said=said, images=images)


def _call(tool: Tool) -> dict[str, Any]:
    return {"functionCall": {"name": tool.name, "args": tool.arguments()}, "thoughtSignature": _SIGNATURE}


def _parts(turn: Turn) -> list[dict[str, Any]]:
    thoughts = [] if turn.thinking is None else [{"text": turn.thinking, "thought": True}]
    return [*thoughts, {"text": turn.text} if turn.tool is None else _call(turn.tool)]


def _chunk(ask: Ask, model: str, turn: Turn, parts: list[dict[str, Any]], *, finished: bool) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    usage: dict[str, Any] = {
        "promptTokenCount": ask.input_tokens,
        "totalTokenCount": ask.input_tokens + turn.output_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": ask.input_tokens}],
    }
    if finished:
        candidate["finishReason"] = "STOP"
        usage["candidatesTokenCount"] = turn.output_tokens
    if turn.thinking is not None:
        usage["thoughtsTokenCount"] = len(turn.thinking) // 4
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": model,
        "responseId": ask.token("", 22),
    }


def _chunks(ask: Ask, model: str, turn: Turn) -> Iterator[dict[str, Any]]:
    for text in split(turn.thinking or ""):
        yield _chunk(ask, model, turn, [{"text": text, "thought": True}], finished=False)
    if turn.tool is not None:
        yield _chunk(ask, model, turn, [_call(turn.tool)], finished=True)
        return
    for number, text in enumerate(turn.deltas()):
        if ask.script.error_event and number == 2:
            yield errors.gemini_body(503)
            return
        yield _chunk(ask, model, turn, [{"text": text}], finished=False)
    yield _chunk(ask, model, turn, [{"text": ""}], finished=True)


def _embedding(request: dict[str, Any]) -> dict[str, Any]:
    parts = items((request.get("content") or {}).get("parts"))
    said = " ".join(str(part.get("text", "")) for part in parts)
    return {"values": vector(said, int(_either(request, "outputDimensionality", "output_dimensionality") or 8))}


def _page(ask: Ask) -> dict[str, Any]:
    models = [
        {
            "name": f"models/{name}",
            "version": "001",
            "displayName": name.replace("-", " ").title(),
            "inputTokenLimit": 1_048_576,
            "outputTokenLimit": 65_536,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        }
        for name in _MODELS
    ]
    start = int(ask.query.get("pageToken") or 0)
    end = start + int(ask.query.get("pageSize") or 50)
    page: dict[str, Any] = {"models": models[start:end]}
    return page | {"nextPageToken": str(end)} if end < len(models) else page
