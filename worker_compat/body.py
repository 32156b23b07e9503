"""What Request and Response share: a body that is read once, as bytes, text, JSON, a blob or a form."""

from __future__ import annotations

import builtins
import json
from collections.abc import AsyncIterable
from typing import Any, TypeAlias

from . import jsjson
from .blob import Blob
from .decoding import EncodedStream
from .errors import BodyUsedError
from .formdata import FormData, decoded, encoded
from .headers import Headers
from .streams import ReadableStream

BodyInit: TypeAlias = "str | bytes | Blob | FormData | ReadableStream | AsyncIterable[bytes] | None"

TEXT = "text/plain;charset=UTF-8"
_DISTURBED = "This ReadableStream is disturbed (has already been read from), and cannot be used as a body."


class Body:
    """A body of bytes already here, a stream, or none.

    Reading a null body gives empty values and may be repeated; any other body is read once, after which
    :class:`worker_compat.errors.BodyUsedError` is raised.
    """

    __slots__ = ("_content", "_headers", "_used")
    _headers: Headers

    def __init__(self, content: builtins.bytes | ReadableStream | None) -> None:
        self._content = content
        self._used = False

    @property
    def headers(self) -> Headers:
        """The headers; those of an incoming request or a fetched response are immutable."""
        return self._headers

    @property
    def body(self) -> ReadableStream | None:
        """The body as a stream, or None. Reading from the stream uses the body."""
        if isinstance(self._content, builtins.bytes):
            self._content = ReadableStream.from_bytes(self._content)
            if self._used:
                self._content.detach()
        return self._content

    @property
    def body_used(self) -> bool:
        """Whether reading has begun."""
        content = self._content
        return self._used or (isinstance(content, ReadableStream) and content.disturbed)

    bodyUsed = body_used

    async def bytes(self) -> builtins.bytes:
        """The whole body."""
        content = self._release()
        if content is None:
            return b""
        return content if isinstance(content, builtins.bytes) else await content.read_all()

    async def text(self) -> str:
        """The body as UTF-8: invalid bytes become U+FFFD, a leading byte order mark is dropped."""
        return (await self.bytes()).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")

    async def json(self, **options: Any) -> Any:
        """The body parsed by ``json.loads``; ``options`` go to it, as in Cloudflare's SDK."""
        return json.loads(await self.text(), **options)

    async def buffer(self) -> memoryview:
        """The body as a read-only view of its bytes."""
        return memoryview(await self.bytes())

    arrayBuffer = buffer

    async def blob(self) -> Blob:
        """The whole body as a blob of the content type that the headers tell."""
        return Blob(await self.bytes(), self._headers.get("content-type"))

    async def form_data(self) -> FormData:
        """The fields of a form; ``TypeError`` when the body is none, or the content type is not that of a form."""
        return decoded(await self.bytes(), self._headers.get("content-type"))

    formData = form_data

    def _unusable(self) -> bool:
        """Whether the body was read or taken over, or somebody else holds its stream."""
        content = self._content
        return self._used or (isinstance(content, ReadableStream) and (content.disturbed or content.locked))

    def _release(self) -> builtins.bytes | ReadableStream | None:
        """Take the body over: this object's counts as used."""
        content = self._content
        if content is None:
            return None
        if self._unusable():
            raise BodyUsedError("Body already used")
        self._used = True
        return content

    def _split(self) -> builtins.bytes | ReadableStream | None:
        """A second, independent body with the same bytes."""
        content = self._content
        if self._unusable():
            raise BodyUsedError("Body already used")
        if not isinstance(content, ReadableStream):
            return content
        self._content, other = content.tee()
        return other


def content_of(init: BodyInit, owner: str) -> tuple[bytes | ReadableStream | None, str | None]:
    """The body of a constructor's argument and the content type that it implies, if any."""
    if init is None or isinstance(init, builtins.bytes):
        return init, None
    if isinstance(init, str):
        return jsjson.to_utf8(init), TEXT
    if isinstance(init, ReadableStream):
        if init.disturbed or init.locked:
            raise TypeError(_DISTURBED)
        # Only a response may pass an encoded body on; what else is sent is what can be read.
        return init.decoded() if owner == "Request" and isinstance(init, EncodedStream) else init, None
    if isinstance(init, FormData):
        return encoded(init)
    if isinstance(init, Blob):
        return init._data, init.content_type or None
    if isinstance(init, AsyncIterable):
        return ReadableStream.from_iterable(init), None
    raise TypeError(f"Unsupported type in {owner}: {type(init).__name__}")
