"""A request as the wire formats see it, and what the model does about it: think, call a tool, speak."""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tests.provider.answer import FILLER
from tests.provider.http1 import Request
from tests.provider.script import Script

CREATED = 1_767_225_600  # 2026-01-01T00:00:00Z: every time stamp, so that two runs give the same bytes
THOUGHT = "The user wants a short answer.\nI check the limits first — then I answer."
_BLOCK = "x" * 16_384


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    schema: dict[str, Any]

    def arguments(self) -> dict[str, Any]:
        """A plausible call: one value per declared property."""
        samples: dict[str, Any] = {
            "string": "Zürich",
            "integer": 7,
            "number": 0.5,
            "boolean": True,
            "array": [],
        }
        properties = self.schema.get("properties") or {}
        return {
            name: samples.get(str(declared.get("type", "string")).lower(), {}) for name, declared in properties.items()
        }


class Ask:
    """One request and its script; ids derive from path and body, so equal ids prove an untouched body."""

    def __init__(self, request: Request, script: Script) -> None:
        self.request = request
        self.script = script
        self.path = request.path
        self.query = request.query
        self._seed = f"{request.method} {self.path} {request.sha256}".encode()

    @cached_property
    def doc(self) -> dict[str, Any]:
        try:
            value = json.loads(self.request.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def token(self, prefix: str, length: int = 24) -> str:
        return prefix + hashlib.sha256(prefix.encode() + self._seed).hexdigest()[:length]

    @property
    def input_tokens(self) -> int:
        return self.request.length // 4 + 1

    @property
    def model(self) -> str:
        return str(self.doc.get("model", "unknown-model"))


@dataclass(frozen=True, slots=True)
class Turn:
    """What the model does: `thinking`, then either `tool` or the text."""

    script: Script
    thinking: str | None
    tool: Tool | None
    _usual: str

    def deltas(self) -> Iterator[str]:
        """The text as a stream gives it."""
        if self.script.events is not None:
            yield from (f"word{number} " for number in range(self.script.events))
        elif self.script.huge is not None:
            yield from (_BLOCK for _ in range(max(1, self.script.huge // len(_BLOCK))))
        else:
            yield from split(self._usual)

    @property
    def text(self) -> str:
        """The text as a plain answer gives it."""
        if self.script.huge is not None:
            return FILLER
        return self._usual if self.script.events is None else "".join(self.deltas())

    @property
    def output_tokens(self) -> int:
        return len(self._usual) // 4 + len(self.thinking or "") // 4 + 1


def split(text: str, size: int = 9) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def decide(ask: Ask, *, thinks: bool, tool: Tool | None, said: str, images: list[str]) -> Turn:
    """`said` is the user's last text; `images` are described by `describe_image`."""
    script = ask.script
    thinking = script.thinking if script.thinking is not None else (THOUGHT if thinks else None)
    if script.text is not None:
        return Turn(script, thinking, None, script.text)
    if images:
        usual = f"I received {len(images)} image(s): {'; '.join(images)}."
    else:
        usual = f"Grüezi from the scripted provider 🙂\nYou said: {said[:200]}"
    return Turn(script, thinking, tool, usual)


def describe_image(media_type: str, data: str) -> str:
    """Media type, byte count and hash: proof that exactly these bytes arrived. base64, either alphabet."""
    try:
        raw = base64.b64decode(data.replace("-", "+").replace("_", "/") + "=" * (-len(data) % 4))
    except binascii.Error:
        return f"{media_type}, not base64"
    return f"{media_type}, {len(raw)} bytes, sha256 {hashlib.sha256(raw).hexdigest()[:16]}"


def describe_url(url: str) -> str:
    """A data URL's image, or the URL itself."""
    head, comma, data = url.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        return describe_image(head[len("data:") : -len(";base64")], data)
    return url


def items(value: Any) -> list[dict[str, Any]]:
    """The objects of a JSON list; nothing for anything else."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
