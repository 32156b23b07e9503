"""Request: what a client sent, or what a handler is about to send."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPMethod
from typing import Any

from .body import Body, BodyInit, content_of
from .headers import Headers, HeadersInit, RawHeaders
from .streams import ReadableStream

Informational = Callable[[int, str, RawHeaders], None]
"""Passes a 1xx response (status, status text, header lines) on to the client. Never called with 100 or 101."""

_REDIRECT = (
    'Invalid redirect value, must be one of "follow" or "manual" ("error" won\'t be implemented since it does not '
    'make sense at the edge; use "manual" and check the response status code).'
)
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]")
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

_BY_NAME: dict[str, str] = {method.value: method for method in HTTPMethod}


class Request(Body):
    """An HTTP request.

    For a handler the constructor is that of Cloudflare's Python SDK. A host makes incoming requests with
    :meth:`incoming`: nothing of them is parsed, copied or normalised before somebody asks.
    https://developers.cloudflare.com/workers/runtime-apis/request/
    """

    __slots__ = ("_headers", "_method", "_target", "_url", "cf", "informational", "overload", "redirect")

    _method: str
    cf: Mapping[str, Any] | None
    redirect: str

    def __init__(
        self,
        input: str | Request,
        *,
        method: str | None = None,
        headers: HeadersInit | None = None,
        body: BodyInit = None,
        redirect: str | None = None,
        cf: Mapping[str, Any] | None = None,
        informational: Informational | None = None,
    ) -> None:
        content, content_type = content_of(body, "Request")
        if isinstance(input, Request):
            url, name, mode = input.url, input._method, input.redirect
            lines = Headers(input.headers if headers is None else headers)
            cf = input.cf if cf is None else cf
        else:
            if not is_absolute(input):
                raise TypeError(f"Invalid URL: {_loggable(input)}")
            url, name, mode, lines = input, "GET", "follow", Headers(headers)
        if method is not None:
            name = _known_method(method)
        mode = mode if redirect is None else redirect
        if mode not in ("follow", "manual"):
            raise TypeError(_REDIRECT)
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
    def headers(self) -> Headers:
        """The headers; those of an incoming request are immutable."""
        return self._headers

    def clone(self) -> Request:
        """A second request with its own copy of the body; immutable headers stay so."""
        copy = Request.outgoing(self.url, self._method, (), self._split())
        copy._headers = self._headers.clone()
        copy._target = self._target
        copy.redirect = self.redirect
        copy.cf = self.cf
        copy.informational = self.informational
        copy.overload = self.overload
        return copy

    def __repr__(self) -> str:
        # Neither query nor headers: both may carry keys.
        return f"<Request {self._method} {_loggable(self.url)}>"


def is_absolute(url: str) -> bool:
    """Whether ``url`` begins with a scheme and a host. It is not parsed any further."""
    return _ABSOLUTE.match(url) is not None


def _loggable(url: str) -> str:
    return url.partition("?")[0]


def _known_method(method: str) -> str:
    name = method.upper()
    if name not in _METHODS:
        raise TypeError(f"Invalid HTTP method string: {method}")
    return name


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
