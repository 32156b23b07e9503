"""Content codings as Workers treat them: fetched bodies are decoded when read, and passed on as they came.

https://developers.cloudflare.com/workers/runtime-apis/fetch/
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from .ports import Decoder, DecoderFactory
from .streams import ByteSource, ReadableStream

if TYPE_CHECKING:
    from .response import Response

CHUNK = 64 * 1024
"""Decoded bytes handed on at once; a body of zeros gzips to a thousandth."""
_GZIP = 16 + zlib.MAX_WBITS


class GzipDecoder:
    """gzip (RFC 1952) with any number of members. See :class:`worker_compat.ports.Decoder`."""

    __slots__ = ("_inflate", "_rest")

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP)
        self._rest = b""

    def decode(self, data: bytes, limit: int) -> bytes:
        """The next decoded bytes; see :class:`worker_compat.ports.Decoder`."""
        data = self._rest + data
        while True:
            if self._inflate.eof and data:
                self._inflate = zlib.decompressobj(_GZIP)
            try:
                out = self._inflate.decompress(data, limit)
            except zlib.error:
                raise TypeError("Gzip decompression failed.") from None
            data = self._rest = self._inflate.unused_data or self._inflate.unconsumed_tail
            # An empty member is not the end of the input.
            if out or not data:
                return out

    def finish(self) -> None:
        """``TypeError`` in the middle of a member, and when there was none."""
        if not self._inflate.eof:
            raise TypeError("Gzip compressed stream ended prematurely.")


class DeflateDecoder:
    """deflate: one stream in the zlib format (RFC 1950), or bare (RFC 1951) as some servers send it.

    Workers' ``fetch`` leaves such bodies as they are; bytes behind the end are an error.
    See :class:`worker_compat.ports.Decoder`.
    """

    __slots__ = ("_inflate", "_rest")

    def __init__(self) -> None:
        self._inflate: zlib._Decompress | None = None
        self._rest = b""

    def decode(self, data: bytes, limit: int) -> bytes:
        """The next decoded bytes; see :class:`worker_compat.ports.Decoder`."""
        data = self._rest + data
        if self._inflate is None:
            if len(data) < 2:
                self._rest = data
                return b""
            wrapped = data[0] & 15 == zlib.DEFLATED and not (data[0] << 8 | data[1]) % 31
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        try:
            decoded = self._inflate.decompress(data, limit)
        except zlib.error:
            raise TypeError("Deflate decompression failed.") from None
        if self._inflate.unused_data:
            raise TypeError("Deflate decompression failed.")
        self._rest = self._inflate.unconsumed_tail
        return decoded

    def finish(self) -> None:
        """``TypeError`` unless the stream is complete."""
        if self._inflate is None or not self._inflate.eof:
            raise TypeError("Deflate compressed stream ended prematurely.")


class EncodedStream(ReadableStream):
    """A body in a content coding: whoever reads gets it decoded, whoever detaches its source gets it as it came."""

    __slots__ = ("_factory", "_raw", "encoding")

    def __init__(self, raw: ByteSource, encoding: str, factory: DecoderFactory) -> None:
        super().__init__(_Decoding(raw, factory()))
        self._raw = raw
        self._factory = factory
        self.encoding = encoding

    def detach(self) -> ByteSource:
        """The source of the encoded bytes."""
        super().detach()
        return self._raw

    def tee(self) -> tuple[ReadableStream, ReadableStream]:
        """Two streams that are encoded like this one."""
        if self.disturbed:
            return super().tee()
        left, right = ReadableStream(self.detach()).tee()
        self._disturbed = False
        return self._like(left), self._like(right)

    def decoded(self) -> ReadableStream:
        """A stream of the decoded bytes, for whoever would detach it; this one is locked."""
        super().detach()
        return ReadableStream(self._source)

    def _like(self, raw: ReadableStream) -> EncodedStream:
        return EncodedStream(raw.detach(), self.encoding, self._factory)


class _Decoding(ByteSource):
    __slots__ = ("_ahead", "_decoder", "_raw")

    def __init__(self, raw: ByteSource, decoder: Decoder) -> None:
        self._raw = raw
        self._decoder = decoder
        self._ahead = memoryview(b"")

    async def pull(self) -> bytes:
        data = b""
        while not (decoded := self._decoder.decode(data, CHUNK)):
            if not self._ahead:
                self._ahead = memoryview(await self._raw.pull())
            if not self._ahead:
                self._decoder.finish()
                return b""
            # In small pieces: a decoder copies what it has not used yet with every call.
            data, self._ahead = bytes(self._ahead[:CHUNK]), self._ahead[CHUNK:]
        return decoded

    def close(self, reason: BaseException | None = None) -> None:
        self._raw.close(reason)


def decode(response: Response, decoders: Mapping[str, DecoderFactory]) -> None:
    """Let the body of a fetched response be decoded when it is read, if its only coding is one of ``decoders``.

    The headers stay as they came, the length of the encoded body included.
    """
    factory = decoders.get(response.headers.get("content-encoding") or "")
    body = response.body if factory else None
    if factory is not None and body is not None:
        response._content = EncodedStream(body.detach(), response.headers.get("content-encoding") or "", factory)


def encode(response: Response) -> Response:
    """``response`` as it goes out: its body in the coding that its headers tell.

    A fetched body in that coding passes as it came, in another one it is decoded. What code puts under a gzip
    header is compressed; codings that nobody here makes are the handler's own work.
    """
    content, encoding = response._content, response.headers.get("content-encoding")
    if isinstance(content, EncodedStream):
        if content.encoding == encoding:
            return response
        response._content = content.decoded()
    if encoding == "gzip" and (body := response.body) is not None:
        response._content = ReadableStream.from_iterable(_gzipped(body))
    return response


async def _gzipped(stream: ReadableStream) -> AsyncIterator[bytes]:
    deflate = zlib.compressobj(wbits=_GZIP)
    async for chunk in stream:
        for start in range(0, len(chunk), CHUNK):
            # Flushed so that a reader of events need not wait for the next ones.
            if data := deflate.compress(chunk[start : start + CHUNK]) + deflate.flush(zlib.Z_SYNC_FLUSH):
                yield data
    yield deflate.flush()
