"""The event stream parser: the same events however the bytes are split, and no line that fills the memory."""

from __future__ import annotations

import random
import re
import time
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smoltbot_worker.relay.sse import Event, EventParser
from tests.scale import figure

Seen = list[tuple[bytes, bytes, bool]]


def model(stream: bytes) -> Seen:
    """The standard's algorithm, a line at a time, with the event that the stream broke off in."""
    seen: Seen = []
    name, data = b"", list[bytes]()
    for line, end in re.findall(rb"([^\r\n]*)(\r\n|\r|\n|\Z)", stream.removeprefix(b"\xef\xbb\xbf")):
        if not line and end:
            seen += [(name, b"\n".join(data), False)] if data else []
            name, data = b"", []
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return seen + ([(name, b"\n".join(data), True)] if data else [])


def parsed(chunks: list[bytes], limit: int = 1 << 20) -> tuple[Seen, int]:
    parser = EventParser(limit)
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    if (last := parser.end()) is not None:
        events.append(last)
    return [(event.name, event.data, event.cut) for event in events], parser.oversized


def events(*chunks: bytes) -> Seen:
    return parsed(list(chunks))[0]


PARTS = [
    b"data: {\"type\":\"ping\"}", b"data:x", b"data:  two", b"data", b"data:", b"data : no", b"event: one",
    b"event:two", b"event", b": a comment", b":", b"id: 7", b"retry: 10", b"unknown: field",
    b"data: Gr\xc3\xbc\xc3\x9fe \xf0\x9f\x99\x82", b"data: \xff\xfe",
    b"\xef\xbb\xbfdata: late mark", b" data: indented", b"Data: upper", b"data: a:b: c", b"\0",
]  # fmt: skip
ENDS = [b"\n", b"\r\n", b"\r"]


def corpus(size: int, seed: int = 1) -> bytes:
    chance = random.Random(seed)
    stream = b"\xef\xbb\xbf"
    while len(stream) < size:
        stream += chance.choice([*PARTS, *[b""] * len(PARTS)]) + chance.choice(ENDS)
    return stream + b"data: the last one is c"


class TestLines:
    @pytest.mark.parametrize(
        ("stream", "seen"),
        [
            (b"data: x\n\n", [(b"", b"x", False)]),
            (b"data:x\n\n", [(b"", b"x", False)]),
            (b"data:  x \n\n", [(b"", b" x ", False)]),
            (b"data: a\ndata:b\ndata\n\n", [(b"", b"a\nb\n", False)]),
            (b"data\n\n", [(b"", b"", False)]),
            (b"event: e\ndata: x\r\n\r\ndata: y\r\rdata: z\n\n",
             [(b"e", b"x", False), (b"", b"y", False), (b"", b"z", False)]),
            (b"event: e\n\ndata: x\n\n", [(b"", b"x", False)]),
            (b"event: a\nevent: b\ndata: x\n\n", [(b"b", b"x", False)]),
            (b"event: a\nevent\ndata: x\n\n", [(b"", b"x", False)]),
            (b": comment\nid: 1\nretry: 5\nfoo: bar\nfoo\ndata: x\n\n", [(b"", b"x", False)]),
            (b"\xef\xbb\xbfdata: x\n\n", [(b"", b"x", False)]),
            (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
            (b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [(b"", b"x", False)]),
            (b"\n\n\n\r\r\n\ndata: x\n\n", [(b"", b"x", False)]),
            (b"database: x\n\n", []),
            (b"", []),
        ],
    )  # fmt: skip
    def test_the_rules_of_the_standard(self, stream: bytes, seen: Seen) -> None:
        assert events(stream) == seen
        assert model(stream) == seen

    @pytest.mark.parametrize(
        ("stream", "seen"),
        [
            (b"data: x\n", [(b"", b"x", True)]),
            (b"data: x", [(b"", b"x", True)]),
            (b"data: a\n\nevent: e\ndata: b\ndata: c", [(b"", b"a", False), (b"e", b"b\nc", True)]),
            (b"event: e\n", []),
            (b": comment", []),
            (b"dat", []),
            (b"data: x\r\n\r", [(b"", b"x", False)]),
        ],
    )
    def test_the_last_event_of_a_stream_that_broke_off_is_marked(self, stream: bytes, seen: Seen) -> None:
        assert events(stream) == seen

    def test_an_event_is_there_with_the_byte_that_ends_it(self) -> None:
        parser = EventParser()
        assert parser.feed(b"data: x\r\n") == []
        (event,) = parser.feed(b"\r")
        assert (event.data, event.cut) == (b"x", False)
        assert parser.feed(b"\ndata: y\n\n")[0].data == b"y"

    def test_text_is_read_leniently(self) -> None:
        assert Event(b"", b"Gr\xc3\xbc\xc3\x9fe \xff").text == "Grüße \ufffd"

    def test_a_parser_may_end_twice(self) -> None:
        parser = EventParser()
        parser.feed(b"data: x")
        assert parser.end() is not None
        assert parser.end() is None


class TestSplits:
    def test_every_split_in_two_of_a_corpus(self) -> None:
        stream = corpus(5_000)
        whole = events(stream)
        assert whole == model(stream)
        assert len(whole) > 100
        assert [at for at in range(len(stream)) if events(stream[:at], stream[at:]) != whole] == []

    @pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
    def test_pieces_of_one_size(self, size: int) -> None:
        stream = corpus(5_000, seed=2)
        assert events(*(stream[at : at + size] for at in range(0, len(stream), size))) == model(stream)

    @settings(max_examples=300, deadline=None)
    @given(
        parts=st.lists(st.tuples(st.sampled_from([*PARTS, b"", b""]) | st.binary(max_size=9), st.sampled_from(ENDS))),
        tail=st.sampled_from([b"", *PARTS]),
        cuts=st.lists(st.integers(0, 400), max_size=12),
    )
    @example(parts=[(b"data: x", b"\r\n"), (b"", b"\r\n")], tail=b"", cuts=[8, 9, 10])
    def test_any_stream_in_any_pieces(self, parts: list[tuple[bytes, bytes]], tail: bytes, cuts: list[int]) -> None:
        stream = b"".join(line + end for line, end in parts) + tail
        at = [0, *sorted(cuts), len(stream)]
        assert events(*(stream[a:b] for a, b in pairwise(at))) == model(stream)


class TestLimits:
    @pytest.mark.parametrize("size", [1, 7, 50, 10_000])
    @pytest.mark.parametrize(
        ("event", "skipped"),
        [
            (b"data: " + b"x" * 94 + b"\n\n", 0),
            (b"data: " + b"x" * 95 + b"\n\n", 1),
            (b"data: " + b"x" * 500 + b"\n\n", 1),
            (b"event: e\n: " + b"x" * 500 + b"\ndata: y\n\n", 1),
            (b"data: 12\n" * 11 + b"\n", 0),
            (b"data: 123\n" * 12 + b"\n", 1),
            (b"data: " + b"x" * 500 + b"\ndata: y\n" + b"data: " + b"x" * 500 + b"\n\n", 1),
            (b"event: " + b"x" * 500 + b"\ndata: y\n\n", 1),
            (b"data\n" * 30 + b"\n", 1),
        ],
    )
    def test_what_is_too_large_is_left_out_and_counted(self, event: bytes, skipped: int, size: int) -> None:
        stream = b"data: a\n\n" + event + b"event: n\ndata: b\n\n" + event
        seen, oversized = parsed([stream[at : at + size] for at in range(0, len(stream), size)], limit=100)
        assert oversized == 2 * skipped
        assert len(seen) == 2 + 2 * (1 - skipped)
        assert (b"", b"a", False) in seen
        assert (b"n", b"b", False) in seen

    def test_a_cut_event_that_is_too_large_is_counted(self) -> None:
        assert parsed([b"data: a\n\ndata: " + b"x" * 200], limit=100) == ([(b"", b"a", False)], 1)
        assert parsed([b"x" * 90, b"x" * 90], limit=100) == ([], 1)

    def test_the_end_of_a_line_that_is_too_large_is_no_blank_line(self) -> None:
        chunks = [b"data: " + b"x" * 200, b"\n", b"data: y\n\n", b"data: z\n\n"]
        assert parsed(chunks, limit=100) == ([(b"", b"z", False)], 1)

    @pytest.mark.alone
    @pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: " + b"x" * 250 + b"\n"], ids=["a line", "an event"])
    def test_ten_megabytes_take_little_memory_and_time(self, piece: bytes) -> None:
        parser, count = EventParser(), (10 << 20) // len(piece)
        tracemalloc.start()
        started = time.process_time()
        for _ in range(count):
            assert parser.feed(piece) == []
        took, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert parser.feed(b"\n\ndata: y\n\n")[-1].data == b"y"
        assert parser.oversized == 1
        assert peak < 4 << 20
        assert took < 1.0

    @pytest.mark.alone
    def test_a_stream_costs_little(self) -> None:
        one = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":"hello"}}\n\n'
        parser, best = EventParser(), 1.0
        for _ in range(5):
            started = time.process_time()
            for _ in range(2_000):
                parser.feed(one)
            best = min(best, (time.process_time() - started) / 2_000)
        figure("event stream parser, one event in a chunk", f"{best * 1e6:.1f} us")
        assert best < 20e-6
