"""The analyst: the one place that asks somebody to judge, within a time limit, a size limit and a circuit breaker."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from smoltbot_worker.ports import Json, Telemetry
from worker_compat.decoding import decode
from worker_compat.errors import FetchTimeout
from worker_compat.headers import Headers
from worker_compat.ports import Clock
from worker_compat.request import Request
from worker_compat.runtime import current, fetch
from worker_compat.streams import ReadableStream

from .breaker import Breaker
from .failures import MALFORMED, TIMEOUT, UNAVAILABLE, AnalysisFailed
from .verdict import strict_json

log = logging.getLogger("smoltbot")

Mode = Literal["local", "hybrid", "off"]

HYBRID_LIMIT_S = 10.0
MOST_ANSWER = 262_144
"""Bytes of an answer. One of 1,024 tokens is a fiftieth of that."""
MOST_TOKENS = 1024

_REQUEST_AT_FAULT = frozenset({400, 413, 422})
"""Statuses that say nothing about the service: thinking that provokes them must not close the road for others."""
_ENDED = (None, "end_turn", "stop_sequence")


class _TooLarge(Exception):
    """An answer is longer than any that makes sense."""


class Analyst:
    """Asks a model (``local``), another service (``hybrid``) or nobody (``off``). Keys are in no error and no repr.

    What does not end in a JSON object with status 2xx raises :class:`AnalysisFailed`, and opens the circuit breaker
    when it happens five times in a row, unless the request itself was at fault.
    """

    def __init__(
        self,
        *,
        mode: Mode,
        telemetry: Telemetry,
        model: str = "",
        base_url: str = "",
        api_key: str = "",
        limit_s: float = 10.0,
        hybrid_url: str = "",
        hybrid_key: str = "",
        clock: Clock = time.time,
    ) -> None:
        self.mode: Mode = mode
        self.model = model
        self._url = _normal(f"{base_url}/v1/messages") if base_url else ""
        self._headers = Headers(
            {"Content-Type": "application/json", "x-api-key": api_key, "anthropic-version": "2023-06-01"}
        )
        self._limit_s = limit_s
        self._hybrid_url = _normal(hybrid_url) if hybrid_url else ""
        self._hybrid_headers = Headers({"Content-Type": "application/json", "X-Mnemom-Api-Key": hybrid_key})
        self._breaker = Breaker(telemetry, clock)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], telemetry: Telemetry, *, clock: Clock = time.time) -> Analyst:
        """The analyst that the variables (:func:`smoltbot_worker.env.read_variables`) ask for."""
        mode = resolved_mode(values)
        if mode == "off" and values["analysis_mode"] == "auto" and values["aip_enabled"]:
            log.warning("no answer is judged: set ANTHROPIC_API_KEY, or MNEMOM_ANALYZE_URL and MNEMOM_API_KEY")
        return cls(
            mode=mode,
            telemetry=telemetry,
            model=values["analysis_model"],
            base_url=values["analysis_base_url"],
            api_key=values["anthropic_api_key"],
            limit_s=values["analysis_timeout_ms"] / 1000,
            hybrid_url=values["mnemom_analyze_url"],
            hybrid_key=values["mnemom_api_key"],
            clock=clock,
        )

    async def warm(self) -> None:
        """Import the SDK now, in a thread: the first check need not wait for it."""
        if self.mode != "off":
            await asyncio.to_thread(importlib.import_module, "aip")

    async def ask(self, system: str, user: str) -> str:
        """The text that the model answers; :class:`AnalysisFailed` for an answer that is cut, refused or no text.

        https://docs.anthropic.com/en/api/messages
        """
        messages = json.dumps([{"role": "user", "content": user}])
        body = f'{_constant_part(self.model, system)},"messages":{messages}}}'
        return _text_of(await self._post(self._url, self._headers, body, self._limit_s))

    async def delegate(self, body: Mapping[str, Json]) -> dict[str, Any]:
        """What the other service answers to a request for an analysis."""
        return await self._post(self._hybrid_url, self._hybrid_headers, json.dumps(body), HYBRID_LIMIT_S)

    async def _post(self, url: str, headers: Headers, body: str, limit_s: float) -> dict[str, Any]:
        if not self._breaker.allows():
            raise AnalysisFailed(UNAVAILABLE, "not asked, because it failed too often just now")
        try:
            async with asyncio.timeout(limit_s):
                status, data = await _exchange(url, headers, body.encode())
        except (TimeoutError, FetchTimeout):
            raise self._failure(TIMEOUT, "no answer in time") from None
        except _TooLarge:
            raise self._failure(MALFORMED, f"the answer has more than {MOST_ANSWER} bytes") from None
        except Exception as error:
            # Only its type: a text could quote what was sent.
            raise self._failure(UNAVAILABLE, type(error).__name__) from None
        if status in _REQUEST_AT_FAULT:
            raise AnalysisFailed(UNAVAILABLE, f"HTTP {status}")
        if not 200 <= status <= 299:
            raise self._failure(UNAVAILABLE, f"HTTP {status}")
        answer = _object_in(data)
        if answer is None:
            raise self._failure(MALFORMED, "the answer is no JSON object")
        self._breaker.succeeded()
        return answer

    def _failure(self, reason: str, detail: str) -> AnalysisFailed:
        self._breaker.failed()
        return AnalysisFailed(reason, detail)

    def __repr__(self) -> str:
        return f"<Analyst {self.mode}>"


def resolved_mode(values: Mapping[str, Any]) -> Mode:
    """The mode that the variables mean; ``auto`` takes who is configured, the other service first."""
    mode: Literal["auto", "local", "hybrid", "off"] = values["analysis_mode"]
    if mode != "auto":
        return mode
    if values["mnemom_analyze_url"] and values["mnemom_api_key"]:
        return "hybrid"
    return "local" if values["anthropic_api_key"] else "off"


def _normal(url: str) -> str:
    return Request(url).url


@lru_cache(maxsize=4)
def _constant_part(model: str, system: str) -> str:
    """The beginning of the body's JSON, which is most of it and nearly always the same."""
    cached = {"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}
    return json.dumps({"model": model, "max_tokens": MOST_TOKENS, "system": [cached]}).removesuffix("}")


async def _exchange(url: str, headers: Headers, body: bytes) -> tuple[int, bytes]:
    # Sent as it is: the URL was read at the start, and a redirect would take the key to whoever it names.
    response = await fetch(Request.outgoing(url, "POST", headers.raw, body))
    decode(response, current().decoders)
    stream = response.body
    if stream is None:
        return response.status, b""
    if not response.ok:
        await stream.cancel()
        return response.status, b""
    return response.status, await _read(stream)


async def _read(stream: ReadableStream) -> bytes:
    reader = stream.get_reader()
    chunks, size = [], 0
    try:
        while chunk := await reader.read():
            size += len(chunk)
            if size > MOST_ANSWER:
                raise _TooLarge
            chunks.append(chunk)
    except BaseException as error:
        await reader.cancel(error)
        raise
    return b"".join(chunks)


def _object_in(data: bytes) -> dict[str, Any] | None:
    try:
        answer = strict_json(data.decode())
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _text_of(message: Mapping[str, Any]) -> str:
    """The text in an answer of ``/v1/messages``."""
    content = message.get("content")
    if message.get("stop_reason") not in _ENDED:
        raise AnalysisFailed(MALFORMED, "the answer was cut, refused, or asks for a tool")
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise AnalysisFailed(MALFORMED, "the answer is no message")
    if any(block.get("type") == "tool_use" for block in content):
        raise AnalysisFailed(MALFORMED, "the answer asks for a tool")
    texts = [block.get("text") for block in content if block.get("type") == "text"]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise AnalysisFailed(MALFORMED, "the answer holds no text")
    return "".join(map(str, texts))
