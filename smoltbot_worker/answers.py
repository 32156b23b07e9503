"""The gateway's own answers: JSON bodies, error shapes, CORS and the request id."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from random import getrandbits
from typing import Any

from worker_compat.headers import RawHeaders
from worker_compat.response import Response

Lines = list[tuple[bytes, bytes]]

_JSON = (b"Content-Type", b"application/json")
_ALLOW_METHODS = b"GET, POST, PUT, DELETE, PATCH, OPTIONS"
_ALLOW_HEADERS = (
    b"Content-Type, x-api-key, anthropic-version, anthropic-beta, authorization, x-goog-api-key, "
    b"x-mnemom-api-key, x-smoltbot-agent, x-smoltbot-session"
)
_EXPOSE_HEADERS = (
    b"x-smoltbot-agent, x-smoltbot-session, x-smoltbot-request-id, X-AIP-Verdict, X-AIP-Checkpoint-Id, X-AIP-Action, "
    b"X-AIP-Proceed, X-AIP-Synthetic, X-AIP-Certificate-Id, X-AIP-Chain-Hash, X-Mnemom-Usage-Warning, "
    b"X-Mnemom-Usage-Percent, X-AIP-Enforcement, X-AIP-Nudge-Count, X-AIP-Source, X-AIP-Reason"
)


def request_id(now: float) -> str:
    """A new UUIDv7 (RFC 9562): ``now`` in seconds since the epoch, then 74 random bits."""
    bits = getrandbits(74)
    time = f"{int(now * 1000):012x}"
    clock = bits >> 48 & 0x3FFF | 0x8000
    return f"{time[:8]}-{time[8:]}-7{bits >> 62:03x}-{clock:04x}-{bits & 0xFFFF_FFFF_FFFF:012x}"


def iso(now: float) -> str:
    """ISO 8601, UTC, milliseconds, ``Z``."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_answer(status: int, body: Any, lines: Iterable[tuple[bytes, bytes]] = ()) -> Response:
    """A JSON response with further header lines."""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return Response.from_raw(status, None, [_JSON, *lines], data)


def error_answer(
    status: int, error: str, kind: str, lines: Iterable[tuple[bytes, bytes]] = (), **more: Any
) -> Response:
    """An error in the gateway's shape: ``{"error", "type", ...}``."""
    return json_answer(status, {"error": error, "type": kind, **more}, lines)


def preflight(origins: tuple[str, ...], origin: str | None) -> Response:
    """The answer to OPTIONS, on any path."""
    lines = [
        *allow_origin(origins, origin),
        (b"Access-Control-Allow-Methods", _ALLOW_METHODS),
        (b"Access-Control-Allow-Headers", _ALLOW_HEADERS),
        (b"Access-Control-Expose-Headers", _EXPOSE_HEADERS),
        (b"Access-Control-Max-Age", b"86400"),
    ]
    return Response.from_raw(204, None, lines, None)


def cors(origins: tuple[str, ...], origin: str | None) -> Lines:
    """CORS lines for an ordinary response to a request that named its ``origin``."""
    if origin is None:
        return []
    return [*allow_origin(origins, origin), (b"Access-Control-Expose-Headers", _EXPOSE_HEADERS)]


def allow_origin(origins: tuple[str, ...], origin: str | None) -> Lines:
    """``*``, or the request's origin when the configured list names it."""
    if origins == ("*",):
        return [(b"Access-Control-Allow-Origin", b"*")]
    if origin is not None and origin in origins:
        return [(b"Access-Control-Allow-Origin", origin.encode()), (b"Vary", b"Origin")]
    return [(b"Vary", b"Origin")]


def has_cors(raw: RawHeaders) -> bool:
    """Whether a response carries CORS headers of its own."""
    return any(name[:15].lower() == b"access-control-" for name, _ in raw)
