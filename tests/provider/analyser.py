"""The scripted analyser: the model that judges thinking, and the hosted service that does, under `/__`.

POST /__judge/v1/messages answers as Anthropic does (ANALYSIS_BASE_URL is `{url}/__judge`), POST /__analyze and
/__analyze/v1/analyze as the hosted service (MNEMOM_ANALYZE_URL). Without a script the thinking decides:
`JUDGE:boundary_violation` or `JUDGE:review_needed` in it is that verdict, nothing of the kind is `clear`.

Control: POST /__judge/script takes `{"always": {...} or null, "next": [{...}, ...]}`, each a `JudgeScript`; the two
APIs share it. GET /__judge/requests is `{"count", "requests"}`: how many came since the last reset, and the last
thousand of them. POST /__reset forgets both.
"""

import base64
import binascii
import dataclasses
import hashlib
import json
import re
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from tests.provider.http1 import Request, read_body
from tests.provider.script import BadScriptError
from tests.provider.send import ClosedError
from tests.provider.wire import Wire

MODEL = "claude-haiku-4-5-20251001"
MODEL_PATHS = ("/__judge/v1/messages",)
HOSTED_PATHS = ("/__analyze", "/__analyze/v1/analyze")
_MAX_REQUESTS = 1_000
_MARKER = re.compile(rb"JUDGE:(boundary_violation|review_needed)")
_THINKING = b"THINKING BLOCK TO EVALUATE"
_SEVERITIES = {"review_needed": ("undeclared_intent", "medium"), "boundary_violation": ("deceptive_reasoning", "high")}
_CHECKED = ["boundary-no-deception"]


@dataclass(frozen=True, slots=True)
class JudgeScript:
    """Every key that a script of the analyser may have."""

    verdict: str | None = None
    """Instead of what the thinking says; any text."""
    concerns: str | None = None
    """Any JSON, in the place of the one concern that a verdict other than clear has."""
    reasoning_summary: str | None = None
    """Instead of the usual sentence."""
    delay: float = 0.0
    """Seconds before the first byte."""
    status: int = 200
    """Anything else: an error document."""
    raw: str | None = None
    """The model's text; of the hosted service the whole body."""
    garbage: bytes | None = None
    """base64 of the whole body."""
    bytes: int | None = None
    """Exact size of the body, if it is smaller without: its summary is filled up, and it stays well-formed."""
    drop: bool = False
    """No answer: the connection is closed once the request is read."""


def parse(given: Any) -> JudgeScript:
    """Raises BadScriptError, so that a typo in a test fails loudly."""
    if not isinstance(given, dict):
        raise BadScriptError("not a JSON object")
    if unknown := sorted(set(given) - {field.name for field in dataclasses.fields(JudgeScript)}):
        raise BadScriptError(f"unknown keys {unknown}")
    values = dict(given)
    try:
        if "concerns" in values:
            values["concerns"] = json.dumps(values["concerns"])
        if values.get("garbage") is not None:
            values["garbage"] = base64.b64decode(values["garbage"], validate=True)
        if not isinstance(values.get("delay", 0), int | float) or not isinstance(values.get("status", 200), int):
            raise TypeError("delay and status are numbers")
    except (TypeError, ValueError, binascii.Error) as error:
        raise BadScriptError(f"malformed value: {error}") from error
    return JudgeScript(**values)


class Analyser:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the scripts and the requests."""
        self._always = JudgeScript()
        self._next: deque[JudgeScript] = deque()
        self._requests: deque[Request] = deque(maxlen=_MAX_REQUESTS)
        self._count = 0

    def script(self, given: Any) -> None:
        """Take what POST /__judge/script brought. Raises BadScriptError."""
        if not isinstance(given, dict) or set(given) - {"always", "next"}:
            raise BadScriptError('not {"always": {...}, "next": [{...}, ...]}')
        always = given.get("always")
        following = [parse(script) for script in given.get("next") or []]
        self._always = JudgeScript() if always is None else parse(always)
        self._next = deque(following)

    def requests(self) -> dict[str, Any]:
        """What GET /__judge/requests shows."""
        seen = [
            {"path": request.path, "headers": request.headers, "body": base64.b64encode(request.body).decode()}
            for request in self._requests
        ]
        return {"count": self._count, "requests": seen}

    async def serve(self, wire: Wire, request: Request, path: str) -> None:
        """Read one request and answer it. Raises ClosedError once the connection must not be reused."""
        await read_body(wire, request, None)
        self._requests.append(request)
        self._count += 1
        script = self._next.popleft() if self._next else self._always
        if script.delay:
            await wire.pause(script.delay)
        if script.drop:
            await wire.close()
            raise ClosedError
        hosted = path in HOSTED_PATHS
        body = _hosted_body(script, request.body) if hosted else _model_body(script, _verdict(request.body))
        await wire.write(_head(script.status, len(body), request.closes) + body)
        if request.closes:
            await wire.close()
            raise ClosedError


def _verdict(text: bytes) -> str:
    """What the thinking in a prompt says; a prompt that does not set it apart counts whole."""
    found = _MARKER.search(text, max(0, text.find(_THINKING)))
    return "clear" if found is None else found[1].decode()


def _judgement(script: JudgeScript, verdict: str) -> dict[str, Any]:
    concerns = [] if script.concerns is None else json.loads(script.concerns)
    if script.concerns is None and verdict in _SEVERITIES:
        category, severity = _SEVERITIES[verdict]
        concerns = [{
            "category": category, "severity": severity, "description": f"The reasoning says {verdict}.",
            "evidence": f"JUDGE:{verdict}", "relevant_card_field": None, "relevant_conscience_value": None,
        }]  # fmt: skip
    return {
        "verdict": verdict,
        "concerns": concerns,
        "reasoning_summary": script.reasoning_summary or f"The scripted analyser says {verdict}.",
        "conscience_context": {
            "values_checked": _CHECKED, "conflicts": [], "supports": [], "considerations": [],
            "consultation_depth": "standard",
        },
    }  # fmt: skip


@lru_cache(maxsize=32)
def _model_body(script: JudgeScript, verdict: str) -> bytes:
    if script.garbage is not None:
        return script.garbage
    if script.status != 200:
        error = {"type": _error_type(script.status), "message": _reason(script.status)}
        return json.dumps({"type": "error", "error": error}).encode()
    if script.raw is not None:
        return _message(script.raw)
    judgement = _judgement(script, script.verdict or verdict)
    body = _message(json.dumps(judgement))
    if script.bytes is not None:
        judgement["reasoning_summary"] += "x" * (script.bytes - len(body))
        body = _message(json.dumps(judgement))
    return body


def _message(text: str) -> bytes:
    return json.dumps({
        "id": "msg_01scriptedanalyser", "type": "message", "role": "assistant", "model": MODEL,
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 900, "output_tokens": 100},
    }).encode()  # fmt: skip


def _hosted_body(script: JudgeScript, request: bytes) -> bytes:
    if script.garbage is not None:
        return script.garbage
    if script.status != 200:
        return json.dumps({"error": _reason(script.status)}).encode()
    if script.raw is not None:
        return script.raw.encode()
    try:
        asked = json.loads(request)
        thinking = str(asked["thinking_block"]).encode(errors="surrogatepass")
    except (ValueError, KeyError, TypeError):
        asked, thinking = {}, b""
    judgement = _judgement(script, script.verdict or _verdict(thinking))
    body = _signal(asked, thinking, judgement)
    if script.bytes is not None:
        judgement["reasoning_summary"] += "x" * (script.bytes - len(body))
        body = _signal(asked, thinking, judgement)
    return body


def _signal(asked: Any, thinking: bytes, judgement: dict[str, Any]) -> bytes:
    verdict = judgement["verdict"]
    about = asked.get("thinking_metadata") or {}
    card = asked.get("card") or {}
    checkpoint = {
        "checkpoint_id": "ic-00000000-0000-4000-8000-000000000000",
        "agent_id": asked.get("agent_id"), "session_id": asked.get("session_id"), "card_id": card.get("card_id"),
        "timestamp": "2026-01-01T00:00:00.000Z", "thinking_block_hash": hashlib.sha256(thinking).hexdigest(),
        "provider": about.get("provider"), "model": about.get("model"), **judgement,
        "window_position": {"index": 0, "window_size": 1}, "linked_trace_id": None,
        "analysis_metadata": {
            "analysis_model": MODEL, "analysis_duration_ms": 5, "thinking_tokens_original": len(thinking) // 4,
            "thinking_tokens_analyzed": len(thinking) // 4, "truncated": False, "extraction_confidence": 1.0,
        },
    }  # fmt: skip
    counts = {name: int(name == verdict) for name in ("clear", "review_needed", "boundary_violation")}
    return json.dumps({
        "checkpoint": checkpoint, "proceed": verdict != "boundary_violation",
        "recommended_action": _action(verdict, judgement["concerns"]),
        "window_summary": {
            "size": 1, "max_size": 10, "verdicts": counts, "integrity_ratio": float(counts["clear"]),
            "drift_alert_active": False,
        },
        "metering": {"event_id": "me-00000001", "checks": 1},
    }).encode()  # fmt: skip


def _action(verdict: str, concerns: Any) -> str:
    if verdict != "boundary_violation":
        return "continue" if verdict == "clear" else "log_and_continue"
    critical = isinstance(concerns, list) and any(
        isinstance(concern, dict) and concern.get("severity") == "critical" for concern in concerns
    )
    return "deny_and_escalate" if critical else "pause_for_review"


@lru_cache(maxsize=32)
def _head(status: int, length: int, closes: bool) -> bytes:
    connection = "Connection: close\r\n" if closes else ""
    retry = "retry-after: 1\r\n" if status in (429, 503, 529) else ""
    return (
        f"HTTP/1.1 {status} {_reason(status)}\r\nContent-Type: application/json\r\n{retry}{connection}"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Overloaded" if status == 529 else "Unknown"


def _error_type(status: int) -> str:
    known = {401: "authentication_error", 429: "rate_limit_error", 529: "overloaded_error"}
    return known.get(status, "api_error" if status >= 500 else "invalid_request_error")
