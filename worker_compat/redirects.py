"""Following redirects by the rules of Workers' fetch."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from .headers import Headers
from .ports import Fetcher
from .request import Request
from .response import Response
from .streams import ReadableStream

MAX_REDIRECTS = 20
_FOLLOWED = frozenset((301, 302, 303, 307, 308))
_PORTS = {"http": 80, "https": 443}


async def follow(fetcher: Fetcher, request: Request) -> Response:
    """Fetch, following up to 20 redirects; ``TypeError`` beyond, and where the body was a stream unless it is a 303.

    301 and 302 turn POST into GET, 303 everything but HEAD; the body is dropped then, headers stay.
    ``Authorization`` does not cross to another origin.
    """
    url, method, headers, body = request.url, request._method, request.headers, request._release()
    if isinstance(body, ReadableStream) and (whole := body._buffered()) is not None:
        body = whole
    for hops in range(MAX_REDIRECTS + 1):
        hop = Request.outgoing(url, method, headers.raw, body, request.informational)
        response = await fetcher.fetch(hop)
        location = response.headers.get("location")
        if response.status not in _FOLLOWED or location is None:
            response.url, response.redirected = url.partition("#")[0], hops > 0
            return response
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


def _target(url: str, location: str) -> tuple[str, bool]:
    """Where a redirect leads, and whether that is another origin."""
    try:
        target = urljoin(url, location)
        return target, _origin(target) != _origin(url)
    except ValueError:
        raise TypeError("Invalid Location header; unable to follow redirect.") from None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
