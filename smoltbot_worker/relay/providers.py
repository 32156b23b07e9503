"""The providers as data: how each is addressed, authenticated and recognised."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider.

    ``key_header`` is the lower-case header that carries its key; ``bearer`` and ``query_key`` say whether a bearer
    token or ``?key=`` does too. ``generation`` matches the paths (without query) of POST requests that make a
    model speak; ``stream_path`` those whose answer streams whatever the body says.
    """

    name: str
    key_header: bytes
    bearer: bool
    query_key: bool
    missing_key: str
    generation: re.Pattern[str]
    stream_path: re.Pattern[str] | None = None


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider(
            "anthropic",
            b"x-api-key",
            bearer=True,
            query_key=False,
            missing_key="Missing x-api-key header",
            generation=re.compile(r"/v1/messages\Z"),
        ),
        Provider(
            "openai",
            b"",
            bearer=True,
            query_key=False,
            missing_key="Missing Authorization: Bearer <key> header",
            generation=re.compile(r"/v1/(?:chat/completions|responses)\Z"),
        ),
        Provider(
            "gemini",
            b"x-goog-api-key",
            bearer=False,
            query_key=True,
            missing_key="Missing x-goog-api-key header",
            generation=re.compile(r"/v1(?:alpha|beta)?/[^?]+:(?:g|streamG)enerateContent\Z"),
            stream_path=re.compile(r"/[^?]+:streamGenerateContent\Z"),
        ),
    )
}


def is_generation(provider: Provider, method: str, path: str) -> bool:
    """Whether a request asks a model to speak; everything else is relayed and not looked at.

    Judged by what a lenient server may read in the path, so that no spelling of it slips past.
    """
    if method != "POST":
        return False
    if "%" in path or "//" in path or path.endswith("/"):
        path = "/" + "/".join(part for part in unquote(path).split("/") if part)
    return provider.generation.match(path) is not None


def streams(provider: Provider, path: str, content_type: bytes | None) -> bool:
    """Whether an answer streams: Gemini says so in the URL, the others by their content type.

    The request's ``"stream": true`` is what makes Anthropic and OpenAI answer with an event stream, so looking at
    the answer gives the same decision without parsing a body.
    """
    if provider.stream_path is not None and provider.stream_path.match(path):
        return True
    return content_type is not None and content_type[:17].lower() == b"text/event-stream"
