"""The shapes in which providers show thinking: what each calls it, in a document and in a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import unquote

from .documents import index, member, objects

SEPARATOR = "\n\n---\n\n"
"""Between two blocks of thinking, and between what belongs to two choices."""

_Key = tuple[int, ...]


class Answer(ABC):
    """What is known of one answer; filled by one :meth:`read`, or by :meth:`follow` for each event of a stream.

    ``mark`` is in every event that has thinking, unless characters of it are escaped.
    """

    method: ClassVar[str] = "reasoning_content"
    confidence: ClassVar[float] = 0.9
    mark: ClassVar[bytes]

    def __init__(self) -> None:
        self.model: str | None = None
        self.redacted = False
        self._blocks: dict[_Key, list[str]] = {}

    @abstractmethod
    def read(self, document: object) -> None:
        """Take a whole answer; what is not as it should be is nothing."""

    @abstractmethod
    def follow(self, event: Mapping[str, Any]) -> None:
        """Take one event of a stream; what is not as it should be is nothing."""

    def text(self) -> str:
        """All thinking: the blocks with any, in the order of their keys."""
        return SEPARATOR.join("".join(self._blocks[key]) for key in sorted(self._blocks))

    def _add(self, key: _Key, text: object) -> None:
        if isinstance(text, str) and text:
            self._blocks.setdefault(key, []).append(text)

    def _name(self, model: object) -> None:
        if self.model is None and isinstance(model, str) and model:
            self.model = model


class Anthropic(Answer):
    """https://docs.anthropic.com/en/api/messages"""

    method = "native_thinking"
    confidence = 1.0
    mark = b"thinking"

    def read(self, document: object) -> None:
        self._name(member(document, "model"))
        for position, block in objects(member(document, "content")):
            self._take(position, block)

    def follow(self, event: Mapping[str, Any]) -> None:
        match event.get("type"):
            case "message_start":
                self._name(member(event.get("message"), "model"))
            case "content_block_start":
                self._take(index(event.get("index")), event.get("content_block"))
            case "content_block_delta":
                delta = event.get("delta")
                if member(delta, "type") == "thinking_delta":
                    self._add((index(event.get("index")),), member(delta, "thinking"))

    def _take(self, position: int, block: object) -> None:
        kind = member(block, "type")
        if kind == "thinking":
            self._add((position,), member(block, "thinking"))
        elif kind == "redacted_thinking":
            self.redacted = True


class ChatCompletion(Answer):
    """https://platform.openai.com/docs/api-reference/chat, with the field that compatible servers have in common."""

    mark = b"reasoning_content"

    def read(self, document: object) -> None:
        self._name(member(document, "model"))
        for position, choice in objects(member(document, "choices")):
            key = (index(choice.get("index"), position), position)
            self._add(key, member(choice.get("message"), "reasoning_content"))

    def follow(self, event: Mapping[str, Any]) -> None:
        self._name(event.get("model"))
        for position, choice in objects(event.get("choices")):
            key = (index(choice.get("index"), position), 0)
            self._add(key, member(choice.get("delta"), "reasoning_content"))


class ModelResponse(Answer):
    """https://platform.openai.com/docs/api-reference/responses

    A stream says everything up to three times: in deltas, in the event that ends a part, and in the finished item.
    The longest of them counts.
    """

    mark = b"reasoning"

    def __init__(self) -> None:
        super().__init__()
        self._finished: dict[_Key, str] = {}

    def read(self, document: object) -> None:
        self._name(member(document, "model"))
        for position, item in objects(member(document, "output")):
            self._item(position, item)

    def follow(self, event: Mapping[str, Any]) -> None:
        kind = event.get("type")
        if not isinstance(kind, str):
            return
        self.read(event.get("response"))
        position = index(event.get("output_index"))
        if kind.startswith("response.output_item."):
            self._item(position, event.get("item"))
        elif kind.startswith("response.reasoning"):
            summary = "summary" in kind
            part = event.get("summary_index" if summary else "content_index")
            key = (position, 0 if summary else 1, index(part))
            self._add(key, event.get("delta"))
            self._finish(key, event.get("text"))
            self._finish(key, member(event.get("part"), "text"))

    def text(self) -> str:
        """As for every answer; of a part that was told more than once, the longest text."""
        for key, text in self._finished.items():
            if len(text) > sum(map(len, self._blocks.get(key, ()))):
                self._blocks[key] = [text]
        return super().text()

    def _item(self, position: int, item: object) -> None:
        if member(item, "type") == "reasoning":
            for place, part in objects(member(item, "summary")):
                self._finish((position, 0, place), part.get("text"))
            for place, part in objects(member(item, "content")):
                self._finish((position, 1, place), part.get("text"))

    def _finish(self, key: _Key, text: object) -> None:
        if isinstance(text, str) and len(text) > len(self._finished.get(key, "")):
            self._finished[key] = text


class GenerateContent(Answer):
    """https://ai.google.dev/api/generate-content; a stream without ``alt=sse`` is a list of its chunks."""

    mark = b'"thought"'

    def read(self, document: object) -> None:
        if isinstance(document, list):
            for _, chunk in objects(document):
                self.follow(chunk)
        else:
            self._candidates(document, streamed=False)

    def follow(self, event: Mapping[str, Any]) -> None:
        self._candidates(event, streamed=True)

    def _candidates(self, document: object, *, streamed: bool) -> None:
        self._name(member(document, "modelVersion"))
        for position, candidate in objects(member(document, "candidates")):
            number = index(candidate.get("index"), position)
            for place, part in objects(member(candidate.get("content"), "parts")):
                if part.get("thought") is True:
                    self._add((number, 0, 0) if streamed else (number, position, place), part.get("text"))


def shape_of(provider: str, path: str) -> type[Answer] | None:
    """How the answers of a generation route are read; None for a provider that nobody knows."""
    if provider == "openai":
        steps = [step for step in unquote(path).split("/") if step]
        return ModelResponse if steps[-1:] == ["responses"] else ChatCompletion
    return {"anthropic": Anthropic, "gemini": GenerateContent}.get(provider)
