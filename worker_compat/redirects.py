"""Following redirects by the rules of Workers' fetch."""

from __future__ import annotations

from .headers import Headers
from .ports import Fetcher
from .request import Request
from .response import NULL_BODY_STATUSES, Response
from .streams import ReadableStream
from .url import loggable, parse

MAX_REDIRECTS = 20
_INVALID = "Invalid Location header; unable to follow redirect."
_FOLLOWED = frozenset((301, 302, 303, 307, 308))


async def follow(fetcher: Fetcher, request: Request) -> Response:
    """Fetch, following up to 20 redirects; ``TypeError`` beyond, and where the body was a stream unless it is a 303.

    301 and 302 turn POST into GET, 303 everything but HEAD; the body is dropped then, headers stay.
    ``Authorization`` does not cross to another origin. With ``redirect="manual"`` the first answer is the last.
    """
    url, method, headers, body = request.url, request._method, request.headers, request._release()
    if isinstance(body, ReadableStream) and (whole := body._buffered()) is not None:
        body = whole
    for hops in range(MAX_REDIRECTS + 1):
        require_http(url)
        hop = Request.outgoing(url, method, headers.raw, body, request.informational)
        response = await fetcher.fetch(hop)
        location = response.headers.get("location")
        if response.status not in _FOLLOWED or not location or request.redirect == "manual":
            response.url, response.redirected = url.partition("#")[0], hops > 0
            return await _without_body(response) if response.status in NULL_BODY_STATUSES else response
        if response.body is not None:
            await response.body.cancel()
        target, crosses = _target(url, location)
        if response.status != 303 and isinstance(body, ReadableStream):
            raise TypeError(
                "A request with a one-time-use body (it was initialized from a stream, not a buffer) "
                "encountered a redirect requiring the body to be retransmitted. To avoid this error "
                "in the future, construct this request from a buffer-like body initializer."
            )
        if (response.status in (301, 302) and method == "POST") or (response.status == 303 and method != "HEAD"):
            method, body = "GET", None
        if crosses:
            headers = Headers(headers)
            headers.delete("authorization")
        url = target
    raise TypeError("Too many redirects.")


async def _without_body(response: Response) -> Response:
    """A 205 may carry bytes; its body is null for code all the same."""
    if response.body is not None:
        await response.body.cancel()
        response._content = None
    return response


def _target(url: str, location: str) -> tuple[str, bool]:
    """Where a redirect leads, and whether that is another origin."""
    base = parse(url)
    try:
        target = parse(location, base)
    except TypeError:
        raise TypeError(_INVALID) from None
    if target.opaque:
        raise TypeError(_INVALID)
    return target.href, target.origin != base.origin


def require_http(url: str) -> None:
    """``TypeError`` for a URL of another scheme."""
    if not url.startswith(("http://", "https://")):
        raise TypeError(f"Fetch API cannot load: {loggable(url)}")
