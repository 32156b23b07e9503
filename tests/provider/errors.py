"""Each provider's error documents, and the headers that each sends with everything."""

import json
import math
from typing import Any

from tests.provider.answer import Answer, document
from tests.provider.ask import Ask

Headers = list[tuple[str, str]]

_ANTHROPIC = {
    400: ("invalid_request_error", "messages.0.content: Field required"),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "Your credit balance is too low to access the Anthropic API."),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "Not Found"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: (
        "rate_limit_error",
        "This request would exceed your organization's rate limit of 50 requests per minute.",
    ),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}
_OPENAI = {
    400: (
        "Missing required parameter: 'messages'.",
        "invalid_request_error",
        "messages",
        "missing_required_parameter",
    ),
    401: ("Incorrect API key provided: sk-test-****.", "invalid_request_error", None, "invalid_api_key"),
    403: ("You are not allowed to sample from this model.", "invalid_request_error", None, None),
    404: ("Invalid URL ({method} {path})", "invalid_request_error", None, None),
    429: ("Rate limit reached for requests per min (RPM): Limit 3.", "requests", None, "rate_limit_exceeded"),
    503: ("The engine is currently overloaded, please try again later.", "server_error", None, None),
}
_GEMINI = {
    400: ("INVALID_ARGUMENT", "* GenerateContentRequest.contents: contents is not specified"),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    403: ("PERMISSION_DENIED", "Method doesn't allow unregistered callers."),
    404: ("NOT_FOUND", "Requested entity was not found."),
    429: (
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
    504: ("DEADLINE_EXCEEDED", "The request timed out."),
}
_RETRYABLE = (408, 409, 429)


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def family(ask: Ask) -> str:
    """Whose API is asked. Only the headers tell: all three have `GET /v1/models`."""
    names = {name.lower() for name, _ in ask.request.headers}
    if "anthropic-version" in names or "x-api-key" in names or ask.path.startswith("/v1/messages"):
        return "anthropic"
    if "x-goog-api-key" in names or "key" in ask.query or ":" in ask.path or ask.path.startswith("/v1beta"):
        return "gemini"
    return "openai"


def answer(ask: Ask, status: int) -> Answer:
    """The error as that provider words it; anything below 400 gets the empty document of a redirect."""
    if status < 400:
        return Answer(status, "text/plain", [], [b""], 0)
    match family(ask):
        case "anthropic":
            return document(status, _anthropic_error_headers(ask, status), anthropic_body(ask, status))
        case "gemini":
            headers = gemini_headers() + _retry_after(ask, status)
            kind = "application/json; charset=UTF-8"
            return document(status, headers, gemini_body(status), content_type=kind, indent=2)
    headers = openai_headers(ask) + _retry_after(ask, status, milliseconds=True)
    return document(status, headers, openai_body(ask, status), indent=4)


def _retry_after(ask: Ask, status: int, milliseconds: bool = False) -> Headers:
    after = ask.script.retry_after
    if after is None and status in (429, 503, 529):
        after = 1
    if after is None:
        return []
    headers = [("retry-after", str(math.ceil(after)))]
    return [*headers, ("retry-after-ms", str(round(after * 1000)))] if milliseconds else headers


def anthropic_headers(ask: Ask) -> Headers:
    return [
        ("Date", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("Connection", "keep-alive"),
        ("CF-Ray", ask.token("", 16) + "-ZRH"),
        ("anthropic-ratelimit-requests-limit", "4000"),
        ("anthropic-ratelimit-requests-remaining", "3999"),
        ("anthropic-ratelimit-requests-reset", "2026-01-01T00:00:01Z"),
        ("request-id", ask.token("req_011", 21)),
        ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
        ("anthropic-organization-id", "00000000-1111-4222-8333-444444444444"),
        ("via", "1.1 google"),
        ("cf-cache-status", "DYNAMIC"),
        ("X-Robots-Tag", "none"),
        ("Server", "cloudflare"),
    ]


def _anthropic_error_headers(ask: Ask, status: int) -> Headers:
    again = "true" if status in _RETRYABLE or status >= 500 else "false"
    return [*anthropic_headers(ask), ("x-should-retry", again), *_retry_after(ask, status)]


def anthropic_body(ask: Ask, status: int) -> dict[str, Any]:
    kind, message = _ANTHROPIC.get(status, ("api_error", "Internal server error"))
    error = {"type": kind, "message": message}
    return {"type": "error", "error": error, "request_id": ask.token("req_011", 21)}


def openai_headers(ask: Ask) -> Headers:
    return [
        ("Date", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("Connection", "keep-alive"),
        ("access-control-expose-headers", "X-Request-ID"),
        ("openai-organization", "org-scripted"),
        ("openai-processing-ms", "42"),
        ("openai-version", "2020-10-01"),
        ("x-ratelimit-limit-requests", "500"),
        ("x-ratelimit-remaining-requests", "499"),
        ("x-ratelimit-reset-requests", "120ms"),
        ("x-request-id", ask.token("req_", 32)),
        ("cf-cache-status", "DYNAMIC"),
        ("Set-Cookie", "__cf_bm=abc; path=/; domain=.api.openai.com; HttpOnly; Secure; SameSite=None"),
        ("Set-Cookie", "_cfuvid=def; path=/; domain=.api.openai.com; HttpOnly; Secure; SameSite=None"),
        ("X-Content-Type-Options", "nosniff"),
        ("Server", "cloudflare"),
        ("CF-RAY", ask.token("", 16) + "-ZRH"),
        ("alt-svc", 'h3=":443"; ma=86400'),
    ]


def openai_body(ask: Ask, status: int) -> dict[str, Any]:
    fallback = (
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
        None,
        None,
    )
    message, kind, param, code = _OPENAI.get(status, fallback)
    message = message.format(method=ask.request.method, path=ask.path)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def gemini_headers() -> Headers:
    return [
        ("Vary", "Origin"),
        ("Vary", "X-Origin"),
        ("Vary", "Referer"),
        ("Date", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("Server", "scaffolding on HTTPServer2"),
        ("X-XSS-Protection", "0"),
        ("X-Frame-Options", "SAMEORIGIN"),
        ("X-Content-Type-Options", "nosniff"),
        ("Server-Timing", "gfet4t7; dur=42"),
        ("Alt-Svc", 'h3=":443"; ma=2592000,h3-29=":443"; ma=2592000'),
    ]


def gemini_body(status: int) -> dict[str, Any]:
    name, message = _GEMINI.get(status, ("INTERNAL", "An internal error has occurred. Please retry."))
    error: dict[str, Any] = {"code": status, "message": message, "status": name}
    if status == 429:
        error["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}]
    return {"error": error}
