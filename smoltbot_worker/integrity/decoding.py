"""Content codings undone on the copy of a body that is checked; the body that is relayed stays as it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from worker_compat.decoding import CHUNK, DeflateDecoder, GzipDecoder
from worker_compat.ports import Decoder, DecoderFactory

Shortfall = Literal["unknown", "broken", "incomplete", "too-large"]

MAX_CODINGS = 4
"""Codings on top of each other; nobody sends more than one."""

_PIECE = 16 * 1024  # decoders copy what they have not used yet with every call
_GRACE = 32 * 1024
_LEAST_EXPANSION = 1 / 8
_LEAST_STEP = 64


@dataclass(frozen=True, slots=True)
class Decoded:
    """``data`` is what could be decoded. ``shortfall`` says why that is not the whole body; None: it is.

    ``unknown``: a coding without a decoder. ``broken``: no such coding, or spread so thin that decoding it would cost
    more than it gives. ``incomplete``: the input ends in the middle. ``too-large``: ``data`` is as long as the limit,
    and there is more.
    """

    data: bytes
    shortfall: Shortfall | None = None


def with_standard(installed: Mapping[str, DecoderFactory]) -> dict[str, DecoderFactory]:
    """The decoders of every coding: the standard library's, and ``installed`` (``registry.decoders()``: br, zstd)."""
    return {"gzip": GzipDecoder, "x-gzip": GzipDecoder, "deflate": DeflateDecoder, **installed}


def decoded(body: bytes, encoding: str, decoders: Mapping[str, DecoderFactory], limit: int) -> Decoded:
    """``body`` without its content coding, at most ``limit`` bytes of it.

    ``encoding`` is the value of Content-Encoding: empty, one coding or a list. Never raises; memory is bounded by
    ``limit``, and time by ``limit`` and the length of the body.
    """
    codings = [coding for part in encoding.split(",") if (coding := part.strip().lower()) not in ("", "identity")]
    if len(codings) > MAX_CODINGS or any(coding not in decoders for coding in codings):
        return Decoded(b"", "unknown")
    shortfalls: set[Shortfall | None] = set()
    for coding in reversed(codings):
        step = _undone(body, decoders[coding], limit)
        if step.shortfall == "broken":
            return step
        body = step.data
        shortfalls.add(step.shortfall)
    if len(body) > limit or "too-large" in shortfalls:
        return Decoded(body[:limit], "too-large")
    return Decoded(body, "incomplete" if "incomplete" in shortfalls else None)


def _undone(body: bytes, factory: DecoderFactory, limit: int) -> Decoded:
    decoder = factory()
    pieces: list[bytes] = []
    size, steps = 0, max(limit, _GRACE) // _LEAST_STEP
    try:
        for at in range(0, len(body), _PIECE):
            piece = body[at : at + _PIECE]
            steps += 1
            while some := decoder.decode(piece, min(CHUNK, limit + 1 - size)):
                piece, size, steps = b"", size + len(some), steps - 1
                pieces.append(some)
                if size > limit:
                    return Decoded(b"".join(pieces)[:limit], "too-large")
            if steps < 0 or size < (at - _GRACE) * _LEAST_EXPANSION:
                return Decoded(b"", "broken")
    except TypeError:
        return Decoded(b"", "broken")
    return Decoded(b"".join(pieces), None if _ended(decoder) else "incomplete")


def _ended(decoder: Decoder) -> bool:
    try:
        decoder.finish()
    except TypeError:
        return False
    return True
