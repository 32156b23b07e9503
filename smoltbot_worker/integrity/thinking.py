"""What the model was thinking: found in the copy of its answer, whatever bytes that is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from smoltbot_worker.relay.message import ExchangeMessage
from smoltbot_worker.relay.sse import Event, EventParser
from worker_compat.ports import DecoderFactory

from .asked import model_of
from .asked import user_text as user_text
from .decoding import decoded
from .documents import SMALL, Crowded, NoJson, is_crowded, parse, parse_body, well_formed
from .shapes import Answer, shape_of

UNDECODABLE = "undecodable-encoding"
TOO_LARGE = "too-large"

_DOCUMENT = re.compile(rb"(?:\xef\xbb\xbf)?\s*+[\[{]")
_LINE = 16  # bytes of a line, and
_EVENT = 64  # of an event with thinking: the fewest on average that a stream of the full size may have
_ESCAPE = b"\\u"  # how JSON may spell any letter
_BROKEN = 100  # events that are no JSON, from which on it is no stream of a provider


@dataclass(frozen=True, slots=True)
class Thinking:
    """What was found.

    ``text``: all thinking joined, "" for none. ``model``: the one that answered, else the one that was asked.
    ``method`` and ``confidence`` are the protocol's words for where it stood. ``redacted``: there was more that only
    the provider can read. ``problem``: None, ``undecodable-encoding`` (a coding that is unknown or broken, no JSON, no
    event stream), or ``too-large`` (``text`` is what was there).
    """

    text: str
    model: str | None
    method: str
    confidence: float
    redacted: bool
    problem: str | None


def extract(message: ExchangeMessage, decoders: Mapping[str, DecoderFactory], limit: int) -> Thinking:
    """The thinking in an answer, read from ``limit`` bytes of its decoded copy at most. Never raises.

    A stream that broke off has no problem by that: the text is what came.
    """
    shape = shape_of(message.provider, message.path)
    if shape is None:
        return Thinking("", None, Answer.method, Answer.confidence, False, UNDECODABLE)
    answer = shape()
    problem = _read(answer, message, decoders, limit)
    model = answer.model or model_of(message, decoders, limit)
    return Thinking(
        well_formed(answer.text()),
        None if model is None else well_formed(model),
        answer.method,
        answer.confidence,
        answer.redacted,
        problem,
    )


def _read(answer: Answer, message: ExchangeMessage, decoders: Mapping[str, DecoderFactory], limit: int) -> str | None:
    copy = decoded(message.response_body, message.response_encoding, decoders, limit)
    truncated = message.body_truncated or copy.shortfall == "too-large"
    cut = truncated or message.cut
    if copy.shortfall in ("unknown", "broken") or (copy.shortfall == "incomplete" and not cut):
        return UNDECODABLE
    ends_early = truncated or (message.cut and message.streamed)
    read = _read_document if _DOCUMENT.match(copy.data) else _read_stream
    problem = read(answer, copy.data, limit, ends_early)
    return TOO_LARGE if truncated else problem


def _read_document(answer: Answer, body: bytes, limit: int, cut: bool) -> str | None:
    try:
        answer.read(parse_body(body, limit, cut=cut))
    except Crowded:
        return TOO_LARGE
    except NoJson:
        return UNDECODABLE
    return None


def _read_stream(answer: Answer, body: bytes, limit: int, cut: bool) -> str | None:
    size = max(limit, SMALL)
    if body.count(b"\n") + body.count(b"\r") > size // _LINE or is_crowded(body, limit):
        return TOO_LARGE
    parser = EventParser()
    left, broken, some = size // _EVENT, 0, False
    known = False
    for event in _events(parser, body, answer):
        some = True
        speaks = answer.mark in event.data or _ESCAPE in event.data
        if not speaks and known and (answer.model is not None or b"model" not in event.data):
            continue
        left -= 1
        if left < 0:
            return TOO_LARGE
        if _take(answer, event):
            known = True
        else:
            broken += 1
            if speaks or broken > _BROKEN:
                return UNDECODABLE
    last = parser.end()
    if parser.oversized:
        return TOO_LARGE
    known = (last is not None and _take(answer, last)) or known or (cut and not some)
    return None if known else UNDECODABLE


def _events(parser: EventParser, body: bytes, answer: Answer) -> Iterator[Event]:
    """The events of a body in which there may be thinking. Once the answer's model is known, text is passed over
    without being taken apart: it is most of a stream.
    """
    if b"\r" in body or body.startswith(b"\xef\xbb\xbf"):
        yield from parser.feed(body)
        return
    start, hits = 0, {answer.mark: -1, _ESCAPE: -1}
    while (end := body.find(b"\n\n", start)) >= 0:
        if answer.model is not None:
            for mark, place in hits.items():
                if place < start:
                    hits[mark] = body.find(mark, start) % (len(body) + 1)  # the end when there is none
            end = body.find(b"\n\n", min(hits.values()))
            if end < 0:
                break
            before = body.rfind(b"\n\n", start, end)
            start = start if before < 0 else before + 2
        yield from parser.feed(body[start : end + 2])
        start = end + 2
    last = body.rfind(b"\n\n")
    parser.feed(body[max(start, 0 if last < 0 else last + 2) :])


def _take(answer: Answer, event: Event) -> bool:
    """Whether an event is a JSON object; the answer knows what it says then."""
    try:
        value = parse(event.text)
    except NoJson:
        return False
    if not isinstance(value, dict):
        return False
    answer.follow(value)
    return True
