"""Request: what a client sent, or what a handler is about to send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPMethod
from typing import TYPE_CHECKING, Any, TypedDict

from .body import Body, BodyInit, content_of
from .headers import Headers, HeadersInit, RawHeaders
from .streams import ReadableStream
from .url import URL, loggable, normalise

if TYPE_CHECKING:
    from .abort import AbortSignal

Informational = Callable[[int, str, RawHeaders], None]
"""Passes a 1xx response (status, status text, header lines) on to the client. Never called with 100 or 101."""

_REDIRECT = (
    'Invalid redirect value, must be one of "follow" or "manual" ("error" won\'t be implemented since it does not '
    'make sense at the edge; use "manual" and check the response status code).'
)
# Those that workerd knows. https://developers.cloudflare.com/workers/runtime-apis/request/
_METHODS = frozenset(
    (
        "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "PURGE", "OPTIONS", "TRACE",
        "COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "SEARCH", "UNLOCK", "ACL",
        "REPORT", "MKACTIVITY", "CHECKOUT", "MERGE", "MSEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE",
    )
)  # fmt: skip
_BODILESS = ("GET", "HEAD")
_UNEXPECTED_BODY = "Request with a GET or HEAD method cannot have a body."


class RequestInitCfProperties(TypedDict, total=False):
    """Options for Cloudflare's edge, for annotations: nothing here acts on them.

    https://developers.cloudflare.com/workers/runtime-apis/request/#the-cf-property-requestinitcfproperties
    """

    apps: bool | None
    cacheEverything: bool | None
    cacheKey: str | None
    cacheTags: list[str] | None
    cacheTtl: int
    cacheTtlByStatus: dict[str, int]
    image: Any
    mirage: bool | None
    polish: str | None
    resolveOverride: str | None
    scrapeShield: bool | None
    webp: bool | None


class FetchKwargs(TypedDict, total=False):
    """The options of ``fetch`` and of :class:`Request`, for annotations."""

    method: str | None
    headers: HeadersInit | None
    body: BodyInit
    redirect: str | None
    cf: Mapping[str, Any] | None
    signal: AbortSignal | None
    encodeResponseBody: str | None


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """What :func:`worker_compat.fetch` does beside sending a request.

    ``signal`` ends it early; ``decodes`` is whether the response's body is decoded when it is read.
    """

    signal: AbortSignal | None = None
    decodes: bool = True


AUTOMATIC = FetchOptions()
RELAYED = FetchOptions(decodes=False)
"""That of :meth:`Request.outgoing`: neither redirects nor schemes nor codings are looked at."""

_BY_NAME: dict[str, str] = {method.value: method for method in HTTPMethod}


class Request(Body):
    """An HTTP request.

    For a handler the constructor is that of Cloudflare's Python SDK. A host makes incoming requests with
    :meth:`incoming`: nothing of them is parsed, copied or normalised before somebody asks.
    https://developers.cloudflare.com/workers/runtime-apis/request/
    """

    __slots__ = ("_method", "_options", "_target", "_url", "cf", "informational", "overload", "redirect")

    _method: str
    _options: FetchOptions
    cf: Mapping[str, Any] | None
    redirect: str

    def __init__(
        self,
        input: str | URL | Request,
        *,
        method: str | None = None,
        headers: HeadersInit | None = None,
        body: BodyInit = None,
        redirect: str | None = None,
        cf: Mapping[str, Any] | None = None,
        signal: AbortSignal | None = None,
        encodeResponseBody: str | None = None,  # noqa: N803 # Cloudflare's spelling
        informational: Informational | None = None,
    ) -> None:
        content, content_type = content_of(body, "Request")
        if isinstance(input, Request):
            url, name, mode = input.url, input._method, input.redirect
            lines = Headers(input.headers if headers is None else headers)
            cf = input.cf if cf is None else cf
        else:
            url, name, mode, lines = normalise(str(input)), "GET", "follow", Headers(headers)
        if method is not None:
            name = _known_method(method)
        mode = _known_mode(mode if redirect is None else redirect)
        if content is not None and name in _BODILESS:
            raise TypeError(_UNEXPECTED_BODY)
        if content is None and isinstance(input, Request):
            content = _taken_over(input, name if method is not None else "")
        if content_type is not None and not lines.has("content-type"):
            lines.append("Content-Type", content_type)
        Body.__init__(self, content)
        self._url: str | None = url
        self._target: str | None = None
        self._method = name
        self._headers = lines
        self._options = _chosen(input, signal, encodeResponseBody)
        self.redirect = mode
        self.cf = cf
        self.informational = informational
        self.overload: str | None = None

    @classmethod
    def outgoing(
        cls,
        url: str,
        method: str,
        headers: RawHeaders,
        body: bytes | ReadableStream | None,
        informational: Informational | None = None,
    ) -> Request:
        """A request to send on as it is: header lines already checked, URL exact, redirects not followed."""
        self = cls.__new__(cls)
        self._content = body
        self._used = False
        self._url = url
        self._target = None
        self._method = method
        self._headers = Headers.from_raw(headers)
        self._options = RELAYED
        self.redirect = "manual"
        self.cf = None
        self.informational = informational
        self.overload = None
        return self

    @classmethod
    def incoming(
        cls,
        method: str,
        target: str,
        headers: RawHeaders,
        body: ReadableStream | None,
        *,
        informational: Informational | None = None,
        overload: str | None = None,
    ) -> Request:
        """What a host read: ``target`` is the request target in origin form, byte for byte.

        ``overload`` says what the host has run out of ("connections", "held-bytes"), or None; the handler
        decides what that means.
        """
        self = cls.__new__(cls)
        self._content = body
        self._used = False
        self._url = None
        self._target = target
        self._method = method
        self._headers = Headers.from_raw(headers, immutable=True)
        self._options = AUTOMATIC
        self.redirect = "manual"
        self.cf = None
        self.informational = informational
        self.overload = overload
        return self

    @property
    def method(self) -> str:
        """The method: an ``http.HTTPMethod`` (a ``str``), or a plain ``str`` for one that it does not know."""
        return _BY_NAME.get(self._method, self._method)

    @property
    def url(self) -> str:
        """The absolute URL. That of an incoming request is not normalised, so that it can be relayed exactly."""
        url = self._url
        if url is None:
            path = "" if self._target == "*" else self._target
            url = self._url = f"http://{self._headers.get('host') or 'localhost'}{path}"
        return url

    @property
    def target(self) -> str:
        """Path and query exactly as on the wire (an extension of the Workers API)."""
        target = self._target
        if target is None:
            target = self._target = split_url(self.url)[1]
        return target

    @property
    def signal(self) -> AbortSignal | None:
        """What ends the fetch of this request early, if anything was given."""
        return self._options.signal

    def clone(self) -> Request:
        """A second request with its own copy of the body; immutable headers stay so."""
        copy = Request.outgoing(self.url, self._method, (), self._split())
        copy._headers = self._headers.clone()
        copy._target = self._target
        copy._options = self._options
        copy.redirect = self.redirect
        copy.cf = self.cf
        copy.informational = self.informational
        copy.overload = self.overload
        return copy

    def __repr__(self) -> str:
        # Neither query nor headers: both may carry keys.
        return f"<Request {self._method} {loggable(self.url)}>"


def _chosen(input: object, signal: AbortSignal | None, encode: str | None) -> FetchOptions:
    """What was asked for, else what the request has that this one is made from."""
    options = input._options if isinstance(input, Request) and input._options is not RELAYED else AUTOMATIC
    if signal is None and encode is None:
        return options
    if encode not in (None, "automatic", "manual"):
        raise TypeError(f"encodeResponseBody: unexpected value: {encode}")
    decodes = options.decodes if encode is None else encode == "automatic"
    return FetchOptions(options.signal if signal is None else signal, decodes)


def _known_method(method: str) -> str:
    name = method.upper()
    if name not in _METHODS:
        raise TypeError(f"Invalid HTTP method string: {method}")
    return name


def _known_mode(mode: str) -> str:
    if mode not in ("follow", "manual"):
        raise TypeError(_REDIRECT)
    return mode


def _taken_over(input: Request, new_method: str) -> bytes | ReadableStream | None:
    """The body of a request that another one is made from. A GET that came with one may be passed on as it is."""
    if input._content is not None and new_method in _BODILESS:
        raise TypeError(_UNEXPECTED_BODY)
    if input._unusable():
        raise TypeError("Cannot reconstruct a Request with a used body.")
    return input._release()


def split_url(url: str) -> tuple[str, str]:
    """Origin (``https://host:port``) and request target of an absolute URL; the fragment is dropped."""
    start = url.find("://") + 3
    end = len(url)
    for mark in "/?#":
        at = url.find(mark, start)
        if at != -1 and at < end:
            end = at
    target = url[end:].partition("#")[0]
    return url[:end], target if target.startswith("/") else f"/{target}"
