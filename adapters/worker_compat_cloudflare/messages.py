"""Requests and responses across the edge, and the fetcher that is Cloudflare's own ``fetch``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from worker_compat import jsjson
from worker_compat.errors import BindingError, ConnectionLost
from worker_compat.headers import RawHeaders
from worker_compat.jsjson import JsDict
from worker_compat.options import json_text
from worker_compat.request import Request, split_url
from worker_compat.response import Response

from .streams import from_native, to_native


def request_from_native(native: Any) -> Request:
    """An incoming request; its headers are immutable, its URL is the one that Cloudflare gives."""
    body = from_native(native.body, _length(native.headers.get("content-length")))
    request = Request.incoming(native.method, split_url(native.url)[1], _lines(native.headers), body)
    request._url = native.url
    request.cf = plain(getattr(native, "cf", None))
    return request


def response_to_native(response: Response, finished: Callable[[], None]) -> Any:
    """The response for JavaScript; ``finished`` is called when its body has ended or nobody wants the rest."""
    import js

    options: dict[str, Any] = {
        "status": response.status,
        "headers": _native_headers(response.headers.raw),
        # A body with a Content-Encoding is encoded already: it goes out as it is, as everywhere else.
        "encodeBody": "manual",
    }
    if response.reason:
        options["statusText"] = response.reason
    return js.Response.new(to_native(response._release(), finished, lambda _: None), **options)


class NativeFetcher:
    """The Fetcher port over ``fetch`` of JavaScript, or of a service binding."""

    def __init__(self, fetch: Any = None) -> None:
        self._fetch = fetch

    async def fetch(self, request: Request) -> Response:
        """Send ``request``; see :class:`worker_compat.ports.Fetcher`. Bodies are not decoded."""
        import js
        from pyodide.ffi import JsException

        abort = js.AbortController.new()
        broken: list[Exception] = []
        native = js.Request.new(request.url, **_options(request, broken.append), signal=abort.signal)
        try:
            answer = await (self._fetch or js.fetch)(native)
        except JsException as error:
            # A body that breaks on its way is the fault of its source, and not of the connection.
            raise (broken[0] if broken else ConnectionLost(str(error.message))) from None
        except asyncio.CancelledError:
            abort.abort()
            raise
        lines, body = _lines(answer.headers), from_native(answer.body)
        return Response.from_raw(
            answer.status, answer.statusText or None, lines, body, url=answer.url or request.url, immutable=True
        )


def _options(request: Request, failed: Callable[[Exception], None]) -> dict[str, Any]:
    headers = _native_headers(request.headers.raw)
    if not request.headers.has("accept-encoding"):
        # Cloudflare would ask for gzip and br, for a reader or a client that may know neither.
        headers.set("Accept-Encoding", "identity")
    options: dict[str, Any] = {
        "method": request._method,
        "headers": headers,
        "redirect": "manual",
        "encodeResponseBody": "manual",
    }
    body = to_native(request._release(), lambda: None, failed)
    if body is not None:
        options |= {"body": body, "duplex": "half"}
    if request.cf is not None:
        options["cf"] = native_object(request.cf)
    return options


def plain(value: Any) -> Any:
    """A JavaScript value of JSON's kinds in Python's types, objects as dicts that can be read by attribute."""
    import js

    if not hasattr(value, "constructor"):
        return value if isinstance(value, bool | int | float | str) else None  # null, undefined
    return jsjson.parse(js.JSON.stringify(value), object_hook=JsDict)


def native_object(value: Any, error: type[BindingError] = BindingError) -> Any:
    """A value of JSON's kinds for JavaScript; ``error`` for what JSON cannot hold."""
    import js

    return js.JSON.parse(json_text(value, error))


def _length(text: Any) -> int | None:
    """A Content-Length, which Cloudflare has checked."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else None


def _lines(headers: Any) -> list[tuple[bytes, bytes]]:
    # JavaScript joins repeats, and leaves each Set-Cookie by itself.
    return [(name.encode(), jsjson.to_utf8(value)) for name, value in headers]


def _native_headers(raw: RawHeaders) -> Any:
    import js
    from pyodide.ffi import to_js

    return js.Headers.new(to_js([[name.decode(), value.decode("utf-8", "replace")] for name, value in raw]))
