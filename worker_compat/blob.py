"""Blob and File: immutable bytes with a content type, as forms and bodies carry them."""

from __future__ import annotations

import builtins
import os
import time
from collections.abc import Iterable
from enum import StrEnum
from typing import TypeAlias

from . import jsjson

BlobValue: TypeAlias = "str | bytes | bytearray | memoryview | Blob"
"""One part of a blob; text becomes UTF-8."""


class BlobEnding(StrEnum):
    """What becomes of line ends in text: nothing, or those of the platform."""

    TRANSPARENT = "transparent"
    NATIVE = "native"


class Blob:
    """Bytes in memory with a content type, with the constructor of Cloudflare's Python SDK.

    ``content_type`` is lower-cased, and dropped when it has characters beyond printable ASCII; a single blob
    hands its own on. ``TypeError`` for a part or ending that is none.
    https://developers.cloudflare.com/workers/runtime-apis/web-standards/
    """

    __slots__ = ("_content_type", "_data")

    def __init__(
        self,
        blob_parts: Iterable[BlobValue] | BlobValue,
        content_type: str | None = None,
        endings: BlobEnding | str | None = None,
    ) -> None:
        parts: Iterable[BlobValue]
        if isinstance(blob_parts, str | builtins.bytes | bytearray | memoryview | Blob):
            parts = (blob_parts,)
            if not content_type and isinstance(blob_parts, Blob):
                content_type = blob_parts.content_type
        else:
            parts = blob_parts
        if endings is not None and endings not in list(BlobEnding):
            raise TypeError(f'endings is "transparent" or "native", not {endings!r}')
        native = endings == BlobEnding.NATIVE
        self._data = b"".join(_bytes_of(part, native) for part in parts)
        self._content_type = _normalised(content_type or "")

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self._data)

    @property
    def content_type(self) -> str:
        """The MIME type in lower case, ``""`` when none was given."""
        return self._content_type

    async def text(self) -> str:
        """The content as UTF-8: invalid bytes become U+FFFD, a leading byte order mark is dropped."""
        return self._data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")

    async def bytes(self) -> builtins.bytes:
        """The content."""
        return self._data

    def slice(self, start: int | None = None, end: int | None = None, content_type: str | None = None) -> Blob:
        """The bytes from ``start`` to before ``end``, which count from the end when negative."""
        return Blob(self._data[start:end], content_type)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.size} bytes {self._content_type}>"


class File(Blob):
    """A blob with a name; ``last_modified`` is in milliseconds since the epoch, now unless given."""

    __slots__ = ("_last_modified", "_name")

    def __init__(
        self,
        blob_parts: Iterable[BlobValue] | BlobValue,
        filename: str,
        content_type: str | None = None,
        endings: BlobEnding | str | None = None,
        last_modified: int | None = None,
    ) -> None:
        super().__init__(blob_parts, content_type, endings)
        if last_modified is None and isinstance(blob_parts, File):
            last_modified = blob_parts.last_modified
        self._name = filename
        self._last_modified = int(time.time() * 1000) if last_modified is None else last_modified

    @classmethod
    def received(cls, content: builtins.bytes, filename: str, content_type: str) -> File:
        """A file as a form brought it, its content type as it was written."""
        file = cls(content, filename)
        file._content_type = content_type
        return file

    @property
    def name(self) -> str:
        """The file name."""
        return self._name

    @property
    def last_modified(self) -> int:
        """Milliseconds since the epoch."""
        return self._last_modified


def _bytes_of(part: BlobValue, native: bool) -> bytes:
    if isinstance(part, str):
        if native:
            part = part.replace("\r\n", "\n").replace("\r", "\n").replace("\n", os.linesep)
        return jsjson.to_utf8(part)
    if isinstance(part, Blob):
        return part._data
    if isinstance(part, bytes | bytearray | memoryview):
        return bytes(part)
    raise TypeError(f"Don't know how to handle {type(part)} for Blob()")


def _normalised(content_type: str) -> str:
    return content_type.lower() if content_type.isascii() and content_type.isprintable() else ""
