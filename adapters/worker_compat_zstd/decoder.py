"""The Decoder port over zstandard.

Semantics: one or more Zstandard frames (RFC 8878); bytes behind them are an error, and so is a dictionary.
Limits: a window of up to 8 MiB for each body that is being read, which is what a sender may ask for (RFC 9659); 1,000
frames, because an empty one of 9 bytes costs as much as 2 KB of text.
"""

from __future__ import annotations

import zstandard

from worker_compat.ports import Decoder

MAX_WINDOW = 8 << 20
MAX_FRAMES = 1000

_SKIPPABLE = b"\x2a\x4d\x18"
_BLOCK_HEADER = 3
_RLE = 1
_DICTIONARY_ID = (0, 1, 2, 4)
_CONTENT_SIZE = (0, 2, 4, 8)


class ZstdDecoder:
    """The decoder of one body; see :class:`worker_compat.ports.Decoder`.

    The library decodes all that it is given in one go, and four bytes can stand for 128 KiB. So it is given no more
    than one block at a time, whose length its header tells.
    """

    __slots__ = ("_checksum", "_frame", "_frames", "_last", "_left", "_library", "_rest", "_whole")

    def __init__(self) -> None:
        self._library = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._rest = bytearray()
        self._left = 0  # until the next header
        self._frames = 0
        self._start()
        self._whole = False

    def decode(self, data: bytes, limit: int) -> bytes:
        """One block, up to 128 KiB whatever ``limit`` is; see :class:`worker_compat.ports.Decoder`."""
        self._rest += data
        while part := self._part():
            try:
                decoded = self._frame.decompress(part)
            except zstandard.ZstdError:
                raise TypeError("Zstandard decompression failed.") from None
            if self._frame.eof:
                self._start()
            if decoded:
                return decoded
        return b""

    def finish(self) -> None:
        """``TypeError`` in the middle of a frame, and when there was none."""
        if not self._whole:
            raise TypeError("Zstandard compressed stream ended prematurely.")

    def _start(self) -> None:
        self._frame = self._library.decompressobj()
        self._frames += 1
        self._whole = True
        self._last: bool | None = None  # of a block; None before the frame's header
        self._checksum = 0

    def _part(self) -> bytes:
        """The next input up to the end of a block at most; ``b""`` when there is too little."""
        if not self._left:
            self._left = self._length()
        part = bytes(self._rest[: self._left])
        del self._rest[: len(part)]
        self._left -= len(part)
        return part

    def _length(self) -> int:
        """How long the header at hand is with what it announces; 0 when it is not there as a whole."""
        rest = self._rest
        if rest:
            self._whole = False
        if self._last is None:
            if rest and self._frames > MAX_FRAMES:
                raise TypeError("Zstandard decompression failed.")
            return self._frame_header(rest)
        if self._last:
            return self._checksum
        if len(rest) < _BLOCK_HEADER:
            return 0
        header = int.from_bytes(rest[:_BLOCK_HEADER], "little")
        self._last = bool(header & 1)
        return _BLOCK_HEADER + (1 if header >> 1 & 3 == _RLE else header >> 3)

    def _frame_header(self, rest: bytearray) -> int:
        if rest[1:4] == _SKIPPABLE and rest[0] >> 4 == 5:
            return 8 + int.from_bytes(rest[4:8], "little") if len(rest) >= 8 else 0
        if len(rest) < 5:
            return 0
        descriptor = rest[4]
        one_segment = descriptor >> 5 & 1
        self._last = False
        self._checksum = 4 * (descriptor >> 2 & 1)
        content_size = _CONTENT_SIZE[descriptor >> 6] or one_segment
        return 5 + (1 - one_segment) + _DICTIONARY_ID[descriptor & 3] + content_size


def open_decoder() -> Decoder:
    """A decoder for one body. Workers' ``fetch`` does not decode zstd, so a ``Runtime`` does not use it."""
    return ZstdDecoder()
