"""Response: what a handler answers, or what an upstream answered."""

from __future__ import annotations

import json
from functools import partial
from http import HTTPStatus
from typing import Any

from .body import Body, BodyInit, content_of
from .headers import Headers, HeadersInit, RawHeaders
from .streams import ReadableStream
from .url import loggable, normalise

NULL_BODY_STATUSES = frozenset((101, 204, 205, 304))
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


class _Json:
    """``Response.json(data)`` builds a response; ``await response.json()`` reads one, as in Cloudflare's SDK."""

    def __get__(self, instance: Response | None, owner: type[Response]) -> Any:
        return owner.from_json if instance is None else partial(Body.json, instance)


class Response(Body):
    """An HTTP response, with the constructor of Cloudflare's Python SDK.

    The body is compressed when a host sends it under a ``Content-Encoding: gzip`` that code has set;
    ``encodeBody="manual"`` says that it is encoded already.
    https://developers.cloudflare.com/workers/runtime-apis/response/
    """

    __slots__ = ("_encodes", "reason", "redirected", "status", "status_text", "url")
    type = "default"

    def __init__(
        self,
        body: BodyInit = None,
        status: int | HTTPStatus | None = None,
        status_text: str = "",
        headers: HeadersInit | None = None,
        *,
        encodeBody: str = "automatic",  # noqa: N803 # Cloudflare's spelling
    ) -> None:
        code = int(status) if status else 200
        if not 200 <= code <= 599:
            raise ValueError("Responses may only be constructed with status codes in the range 200 to 599, inclusive.")
        if any(character < " " for character in status_text):
            raise TypeError("Invalid statusText")
        if encodeBody not in ("automatic", "manual"):
            raise TypeError(f"encodeBody: unexpected value: {encodeBody}")
        content, content_type = content_of(body, "Response")
        if code in NULL_BODY_STATUSES:
            if content:
                raise TypeError("Response with null body status (101, 204, 205, or 304) cannot have a body.")
            content = content_type = None
        Body.__init__(self, content)
        self.status = code
        self.status_text = status_text
        self.reason: str | None = status_text or None
        self.url = ""
        self.redirected = False
        self._encodes = encodeBody == "automatic"
        self._headers = Headers(headers)
        if content_type is not None and not self._headers.has("content-type"):
            self._headers.append("Content-Type", content_type)

    @classmethod
    def from_raw(
        cls,
        status: int,
        status_text: str | None,
        headers: RawHeaders,
        body: bytes | ReadableStream | None,
        *,
        url: str = "",
        immutable: bool = False,
    ) -> Response:
        """A response with header lines that were already checked; any status, nothing added."""
        self = cls.__new__(cls)
        self._content = body
        self._used = False
        self.status = status
        self.status_text = status_text or ""
        self.reason = status_text
        self.url = url
        self.redirected = False
        self._encodes = False
        self._headers = Headers.from_raw(headers, immutable=immutable)
        return self

    @property
    def ok(self) -> bool:
        """Whether the status is 200 to 299."""
        return 200 <= self.status <= 299

    @classmethod
    def from_json(
        cls, data: Any, status: int = 200, status_text: str = "", headers: HeadersInit | None = None
    ) -> Response:
        """A JSON response; the text is that of ``json.dumps``, as in Cloudflare's Python SDK."""
        lines = Headers(headers)
        if not lines.has("content-type"):
            lines.append("Content-Type", "application/json")
        return cls(json.dumps(data), status, status_text, lines)

    json = _Json()  # reads the body on an instance, builds a response on the class

    @classmethod
    def redirect_to(cls, url: str, status: int = 302) -> Response:
        """A redirect to an absolute URL."""
        if status not in _REDIRECTS:
            raise ValueError(f"{status} is not a redirect status code. It must be one of: 301, 302, 303, 307, or 308.")
        try:
            location = normalise(url)
        except TypeError:
            raise TypeError(f"Unable to parse URL: {loggable(url)}") from None
        response = cls(None, status)
        response._headers = Headers.from_raw(((b"Location", location.encode()),), immutable=True)
        return response

    redirect = redirect_to

    def replace_body(self, body: BodyInit) -> Response:
        """The same status and headers with another body."""
        return Response(body, self.status, self.status_text, self._headers)

    def clone(self) -> Response:
        """A second response with its own copy of the body; immutable headers stay so."""
        copy = Response.from_raw(self.status, self.reason, (), self._split(), url=self.url)
        copy._headers = self._headers.clone()
        copy.redirected = self.redirected
        copy._encodes = self._encodes
        return copy

    def __repr__(self) -> str:
        return f"<Response {self.status}>"
