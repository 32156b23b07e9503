"""The Decoder port over brotli.

Semantics: one Brotli stream (RFC 7932); bytes behind its end are an error, as on Workers.
Limits: the decoder's window takes up to 16 MiB for each body that is being read.
"""

from __future__ import annotations

import brotli

from worker_compat.ports import Decoder


class BrotliDecoder:
    """The decoder of one body; see :class:`worker_compat.ports.Decoder`."""

    __slots__ = ("_inner",)

    def __init__(self) -> None:
        self._inner = brotli.Decompressor()

    def decode(self, data: bytes, limit: int) -> bytes:
        """About ``limit`` bytes at most; see :class:`worker_compat.ports.Decoder`."""
        try:
            decoded: bytes = self._inner.process(data, output_buffer_limit=limit)
        except brotli.error:
            raise TypeError("Brotli decompression failed.") from None
        return decoded

    def finish(self) -> None:
        """``TypeError`` unless the stream is complete."""
        if not self._inner.is_finished():
            raise TypeError("Brotli compressed stream ended prematurely.")


def open_decoder() -> Decoder:
    """A decoder for one body, for ``Runtime(decoders={"br": open_decoder})``."""
    return BrotliDecoder()
