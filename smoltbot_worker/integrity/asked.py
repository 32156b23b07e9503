"""What a request asked for: the model, and what the user said last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from smoltbot_worker.relay.message import ExchangeMessage
from worker_compat.ports import DecoderFactory

from .decoding import decoded
from .documents import NoJson, member, objects, parse_body, well_formed

_TEXT_TYPES = ("text", "input_text")


def user_text(message: ExchangeMessage, decoders: Mapping[str, DecoderFactory], limit: int) -> str:
    """The text of the last user turn that has any, its blocks joined by a space; "" when there is none.

    Reads Anthropic's and OpenAI's ``messages``, the ``input`` of OpenAI's responses and Gemini's ``contents``. A body
    that cannot be read, or is larger than ``limit`` bytes, has none. Never raises.
    """
    request = _request(message, decoders, limit)
    said = member(request, "input")
    if isinstance(said, str):
        return well_formed(said)
    turns = request.get("contents" if message.provider == "gemini" else "messages") or said
    for turn in reversed([turn for _, turn in objects(turns)]):
        if turn.get("role", "user") == "user" and (text := " ".join(_texts(turn))).strip():
            return well_formed(text)
    return ""


def model_of(message: ExchangeMessage, decoders: Mapping[str, DecoderFactory], limit: int) -> str | None:
    """The model that was asked; None when the request does not say so. Never raises."""
    if message.provider == "gemini":
        # /v1beta/models/NAME:generateContent
        return unquote(message.path).rpartition(":")[0].rpartition("/")[2] or None
    model = _request(message, decoders, limit).get("model")
    return model if isinstance(model, str) and model else None


def _request(message: ExchangeMessage, decoders: Mapping[str, DecoderFactory], limit: int) -> dict[str, Any]:
    body = decoded(message.request_body, message.request_encoding, decoders, limit)
    try:
        request = None if body.shortfall else parse_body(body.data, limit)
    except NoJson:
        request = None
    return request if isinstance(request, dict) else {}


def _texts(turn: Mapping[str, Any]) -> Iterator[str]:
    content = turn.get("content")
    if isinstance(content, str):
        yield content
    for _, block in objects(content):
        if block.get("type") in _TEXT_TYPES and isinstance(text := block.get("text"), str):
            yield text
    for _, part in objects(turn.get("parts")):
        if isinstance(text := part.get("text"), str) and part.get("thought") is not True:
            yield text
