"""Answers made of any bytes at all: never an error, never text out of nothing, bounded time."""

from __future__ import annotations

import gzip
import json
import random
import time
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from smoltbot_worker.integrity.thinking import user_text
from tests.scale import figure, scaled
from tests.unit.thinking_support import DECODERS, LIMIT, PATHS, exchange, found, sse, streamed

SHAPES = sorted(PATHS)
ANTHROPIC = '{"content": [{"type": "thinking", "thinking": %s}], "model": "m", "x": %s}'
UNDECODABLE = "undecodable-encoding"


class TestJson:
    @pytest.mark.parametrize(
        ("extra", "text"),
        [
            ("1e400", "x"), ("-1e400", "x"), ("9" * 1_000_000, "x"), ("[1, 2.5e999, -0]", "x"),
            ("NaN", "x"), ("[-Infinity]", "x"), ('"\\ud800"', "x"), ('"\0\n"', "x"), ("[" * 500 + "]" * 500, "x"),
        ],
        ids=range(9),
    )  # fmt: skip
    def test_what_only_some_readers_take_hides_nothing(self, extra: str, text: str) -> None:
        seen = found("anthropic", (ANTHROPIC % ('"x"', extra)).encode())
        assert (seen.text, seen.model, seen.problem) == (text, "m", None)

    @pytest.mark.parametrize(
        "body",
        [
            b"", b" ", b"null", b"true", b'"thinking"', b"5", b"{", b'{"a":1', b"[}", b"{'a': 1}", b"nope", b"\xff\xfe",
            b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 10_000, b"{} {}", b'{"a": 01}', b"\0" * 50, b"<html>",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("shape", SHAPES)
    def test_no_json_is_a_problem(self, shape: str, body: bytes) -> None:
        seen = found(shape, body)
        assert (seen.text, seen.problem) == ("", UNDECODABLE)

    def test_ten_thousand_levels_beside_thinking(self) -> None:
        seen = found("anthropic", (ANTHROPIC % ('"x"', "[" * 10_000 + "]" * 10_000)).encode())
        assert seen.text in ("", "x")
        assert seen.problem == (None if seen.text else UNDECODABLE)

    def test_of_equal_keys_the_last_one_counts(self) -> None:
        block = '{"type": "text", "type": "thinking", "thinking": "a", "thinking": "b"}'
        body = f'{{"content": [], "content": [{block}], "model": "l", "model": "m"}}'
        seen = found("anthropic", body.encode())
        assert (seen.text, seen.model) == ("b", "m")

    @pytest.mark.parametrize(
        ("written", "text"),
        [
            ('"a\\ud83d\\ude00b"', "a😀b"), ('"\\ud83d"', "\ufffd"), ('"\\ude00\\ud83d"', "\ufffd\ufffd"),
            ('"a\\u0000b"', "a\0b"), ('"\\ud83d\\ud83d\\ude00x"', "\ufffd😀x"),
        ],
    )  # fmt: skip
    def test_text_can_always_be_encoded(self, written: str, text: str) -> None:
        seen = found("anthropic", (ANTHROPIC % (written, "1")).encode())
        assert seen.text == text
        assert seen.text.encode()

    def test_halves_of_a_character_meet_across_events(self) -> None:
        halves = [{"choices": [{"delta": {"reasoning_content": half}}]} for half in ("\ud83d", "\ude00")]
        assert streamed("chat", *halves).text == "😀"

    def test_bytes_that_are_no_utf8(self) -> None:
        body = b'\xef\xbb\xbf{"content":[{"type":"thinking","thinking":"a\xff\xc3"}]}'
        assert found("anthropic", body).text == "a\ufffd\ufffd"


JUNK: list[Any] = [None, True, 0, -1, 1.5, 1e300, float("inf"), "", "x", [], [[]], {}, {"type": 5}, [None, 1, "a", {}]]
WRONG: list[Callable[[Any], Any]] = [
    lambda junk: junk,
    lambda junk: dict.fromkeys(("content", "choices", "output", "candidates", "model"), junk),
    lambda junk: {name: [junk, {"index": junk, "type": junk}] for name in ("content", "choices", "output")},
    lambda junk: {"content": [{"type": "thinking", "thinking": junk}], "candidates": [{"content": {"parts": junk}}]},
    lambda junk: {"choices": [{"index": junk, "message": junk, "delta": junk}], "modelVersion": junk},
    lambda junk: {"output": [{"type": "reasoning", "summary": junk, "content": [{"text": junk}]}], "usage": junk},
    lambda junk: {"candidates": [{"index": junk, "content": {"parts": [{"thought": True, "text": junk}]}}]},
    lambda junk: {"candidates": [{"content": junk}, junk]},
    lambda junk: {"type": "message_start", "message": junk, "response": junk, "item": junk, "part": junk},
    lambda junk: block_start(junk, {"type": "thinking", "thinking": junk}),
    lambda junk: block_start(0, junk),
    lambda junk: {"type": "content_block_delta", "index": junk, "delta": {"type": "thinking_delta", "thinking": junk}},
    lambda junk: {"type": "response.reasoning_text.delta", "output_index": junk, "content_index": junk, "delta": junk},
    lambda junk: {"type": "response.reasoning_summary_part.done", "part": {"text": junk}, "text": junk},
    lambda junk: {"type": "response.output_item.done", "item": {"type": "reasoning", "summary": junk}},
]


def block_start(index: Any, block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


class TestWrongTypes:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("make", WRONG, ids=range(len(WRONG)))
    def test_they_are_nothing(self, shape: str, make: Callable[[Any], Any]) -> None:
        documents = [make(junk) for junk in JUNK]
        for document in documents:
            assert len(found(shape, document).text) <= 1
        first = {"model": "m", "modelVersion": "m"}
        seen = streamed(shape, first, *(item for item in documents if isinstance(item, dict)))
        assert set(seen.text) <= {"x", "\n", "-"}
        assert seen.problem is None

    @pytest.mark.parametrize("index", JUNK)
    def test_an_index_that_is_none_loses_no_text(self, index: Any) -> None:
        assert found("chat", {"choices": [{"index": index, "message": {"reasoning_content": "x"}}]}).text == "x"
        event = {"type": "content_block_delta", "index": index, "delta": {"type": "thinking_delta", "thinking": "x"}}
        assert streamed("anthropic", event).text == "x"


DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "x"}}


class TestStreams:
    def test_comments_unknown_events_and_done_mean_nothing(self) -> None:
        body = b": hi\n\nretry: 5\n\nevent: what\ndata: {}\n\n" + sse(DELTA, "[DONE]") + b"event: thinking\n\n"
        seen = found("anthropic", body, streamed=True)
        assert (seen.text, seen.problem) == ("x", None)

    @pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
    @pytest.mark.parametrize("start", ["", "\ufeff", "\r\n\n", ": comment\n"])
    def test_line_ends_and_a_mark(self, start: str, end: str) -> None:
        seen = found("anthropic", start.encode() + sse(DELTA, DELTA, end=end), streamed=True)
        assert (seen.text, seen.problem) == ("xx", None)

    def test_a_document_in_several_data_lines(self) -> None:
        body = "".join(f"data: {line}\n" for line in json.dumps(DELTA, indent=1).splitlines()).encode()
        assert found("anthropic", body + b"\n", streamed=True).text == "x"
        assert found("anthropic", body, streamed=True).text == "x"

    def test_an_event_that_speaks_of_thinking_and_cannot_be_read(self) -> None:
        assert streamed("anthropic", DELTA, '{"delta": {"thinking": }').problem == UNDECODABLE
        assert streamed("anthropic", DELTA, '{"delta": {"th\\u0069nking": }').problem == UNDECODABLE
        assert streamed("anthropic", DELTA, "not of it").problem is None

    def test_an_escaped_name_is_still_read(self) -> None:
        name = '{"type":"content_block_delta","delta":{"type":"th\\u0069nking_delta","th\\u0069nking":"y"}}'
        assert streamed("anthropic", {"type": "message_start", "message": {"model": "m"}}, name).text == "y"

    @pytest.mark.parametrize("body", [b"", b"\n", b"data: hello\n\n", b"event: x\n\n", b"data: [1]\n\n", b"x" * 500])
    def test_no_event_stream(self, body: bytes) -> None:
        assert found("chat", body, streamed=True).problem == UNDECODABLE
        assert found("chat", body).problem == UNDECODABLE

    @pytest.mark.parametrize("body", [b"", b"\n", b"event: x\n\n", b'data: {"id', b"eve", b"\xef\xbb"])
    def test_a_stream_that_broke_off_before_it_began(self, body: bytes) -> None:
        seen = found("chat", body, streamed=True, cut=True)
        assert (seen.text, seen.problem) == ("", None)
        assert found("chat", body, cut=True).problem == UNDECODABLE

    def test_a_cut_last_event_is_tolerated(self) -> None:
        seen = found("anthropic", sse(DELTA, DELTA)[:-9], streamed=True)
        assert (seen.text, seen.problem) == ("x", None)

    def test_a_line_over_the_cap(self) -> None:
        huge = sse(DELTA) + b'data: {"x": "' + b"y" * (10 << 20) + b'"}\n\n' + sse(DELTA)
        seen = found("anthropic", huge, limit=20 << 20, streamed=True)
        assert (seen.text, seen.problem) == ("xx", "too-large")

    def test_more_events_than_anyone_sends(self) -> None:
        seen = found("anthropic", b'data:{"thinking":1}\n\n' * 3_000, limit=65_536, streamed=True)
        assert seen.problem == "too-large"
        assert found("anthropic", b'data:{"thinking":1}\n\n' * 1_000, limit=65_536, streamed=True).problem is None


class TestCrowds:
    """What would cost more time than an answer is worth is not looked at, and says so."""

    @pytest.mark.parametrize("part", [b"[],", b"{},", b"1,"])
    def test_documents(self, part: bytes) -> None:
        body = b'{"content":[{"type":"thinking","thinking":"x"}],"x":[' + part * 9_000 + b"0]}"
        seen = found("anthropic", body, limit=65_536)
        assert (seen.text, seen.problem) == ("", "too-large")
        assert found("anthropic", body).text == "x"

    def test_what_is_in_strings_does_not_count(self) -> None:
        text = '[{,\\"' * 9_000
        body = json.dumps({"content": [{"type": "thinking", "thinking": text}]}).encode()
        seen = found("anthropic", body, limit=len(body))
        assert (seen.text, seen.problem) == (text, None)

    def test_requests(self) -> None:
        body = b'{"input": "x", "y": [' + b"1," * 9_000 + b"0]}"
        assert user_text(exchange("responses", request_body=body), DECODERS, LIMIT) == "x"
        assert user_text(exchange("responses", request_body=body), DECODERS, 65_536) == ""
        padded = exchange("responses", request_body=b'{"input": "x"}' + b" " * 99)
        assert (user_text(padded, DECODERS, LIMIT), user_text(padded, DECODERS, 50)) == ("x", "")

    @pytest.mark.parametrize("more", [b":\n" * 4_300, b":\r" * 4_300, b"data: [" + b"[]," * 9_000 + b"0]\n\n"])
    def test_streams(self, more: bytes) -> None:
        body = sse(DELTA) + more
        assert found("anthropic", body, limit=65_536, streamed=True).problem == "too-large"
        assert found("anthropic", body, streamed=True).text == "x"


class TestCodings:
    BODY = json.dumps({"model": "m", "content": [{"type": "thinking", "thinking": "x" * 500}]}).encode()

    @pytest.mark.parametrize("coding", ["zip", "gzip;q=1", "GZIP2", "br, what", "compress", "\0", "gzip " * 50])
    def test_unknown(self, coding: str) -> None:
        assert found("anthropic", self.BODY, response_encoding=coding).problem == UNDECODABLE

    @pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "br", "zstd"])
    def test_broken_and_cut(self, coding: str) -> None:
        assert found("anthropic", self.BODY, response_encoding=coding).problem == UNDECODABLE
        whole = COMPRESS[coding](self.BODY)
        assert found("anthropic", whole, response_encoding=coding.upper()).text == "x" * 500
        assert found("anthropic", whole[:-1], response_encoding=coding).problem == UNDECODABLE
        assert found("anthropic", b"", response_encoding=coding).problem == UNDECODABLE

    def test_a_truncated_copy_of_an_encoded_body(self) -> None:
        text = random.Random(1).randbytes(20_000).hex()
        body = gzip.compress(json.dumps({"content": [{"type": "thinking", "thinking": text}]}).encode())
        seen = found("anthropic", body[:10_000], response_encoding="gzip", body_truncated=True)
        assert seen.problem == "too-large"
        assert 1_000 < len(seen.text) < 40_000
        assert text.startswith(seen.text)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, "gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress,
    "zstd": zstandard.compress,
}  # fmt: skip


@settings(max_examples=scaled(300, 20_000), deadline=None)
@given(
    body=st.binary(max_size=300),
    shape=st.sampled_from(SHAPES),
    coding=st.sampled_from(sorted(COMPRESS)),
    encoded=st.booleans(),
    flags=st.fixed_dictionaries({name: st.booleans() for name in ("streamed", "cut", "body_truncated")}),
)
def test_any_bytes(body: bytes, shape: str, coding: str, encoded: bool, flags: dict[str, bool]) -> None:
    body = COMPRESS[coding](body) if encoded else body
    seen = found(shape, body, response_encoding=coding, request_body=body, request_encoding=coding, **flags)
    assert seen.text == ""
    assert seen.problem in (None, UNDECODABLE, "too-large")
    message = exchange(shape, request_body=body, request_encoding=coding)
    assert user_text(message, DECODERS, LIMIT) == ""


NAMES = (
    "type index content thinking choices message delta reasoning_content output summary text candidates parts thought"
    " response item part role messages input contents model"
).split()
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=3)
KINDS = st.sampled_from(["thinking", "reasoning", "user", "content_block_delta", "response.reasoning_x"])
DOCUMENTS = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner | KINDS, max_size=5),
    max_leaves=12,
)


@settings(max_examples=scaled(300, 20_000), deadline=None)
@given(document=DOCUMENTS, shape=st.sampled_from(SHAPES), at=st.integers(0, 200))
def test_any_json(document: Any, shape: str, at: int) -> None:
    body = json.dumps(document).encode()
    for stream in (False, True):
        data = sse(document) if stream else body
        for flags in ({}, {"cut": True}, {"body_truncated": True}):
            for answer in (data, data[:at]):
                seen = found(shape, answer, streamed=stream, request_body=data, **flags)
                assert isinstance(seen.text.encode(), bytes)
    assert user_text(exchange(shape, request_body=body), DECODERS, LIMIT).encode() is not None


def of_size(start: bytes, part: bytes, end: bytes = b"", size: int = LIMIT) -> bytes:
    return start + part * ((size - len(start) - len(end)) // len(part)) + end


THIN = b'data: {"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"x"}}\n\n'
HOSTILE = {
    "lists": of_size(b"[", b"[],", b"0]"),
    "objects": of_size(b"[", b'{"a":1},', b"0]"),
    "keys": b"{" + b",".join(b'"%07d":1' % number for number in range(LIMIT // 13)) + b"}",
    "cut keys": b'{"thinking":1,' + b",".join(b'"%07d":1' % number for number in range(LIMIT // 13)) + b',"',
    "strings": of_size(b"[", b'"abcdef",', b"0]"),
    "numbers": of_size(b"[", b"1234567,", b"0]"),
    "deep": b"[" * LIMIT,
    "open string": of_size(b'{"a":"', b"x"),
    "backslashes": of_size(b'{"a":"', b"\\"),
    "escapes": of_size(b'["', b"\\u0041", b'"]'),
    "no utf-8": of_size(b"{", b"\xff"),
    "nul": bytes(LIMIT),
    "blank": b" " * LIMIT,
    "line ends": b"\n" * LIMIT,
    "comments": of_size(b"", b": abcdefghijklmn\n"),
    "empty events": of_size(b"", b"data:\n\n"),
    "no json": of_size(b"", b"data:thinking\n\n"),
    "broken events": of_size(b'data: {"model":"m"}\n\n', b"data:{thinking" + b"x" * 50 + b"\n\n"),
    "thin events": of_size(b"", THIN),
    "one event": of_size(b"data: [", b"1234567,", b"0]\n\n"),
}
ENCODED = {
    "gzip bomb": ("gzip", gzip.compress(bytes(LIMIT * 32), 6)),
    "brotli bomb": ("br", brotli.compress(bytes(LIMIT * 32))),
    "zstd bomb": ("zstd", zstandard.compress(bytes(LIMIT * 32))),
    "gzip in gzip": ("gzip, gzip", gzip.compress(gzip.compress(bytes(LIMIT * 32), 6))),
    "gzip members": ("gzip", of_size(b"", gzip.compress(b"x" * 20, mtime=0))),
    "empty gzip members": ("gzip", of_size(b"", gzip.compress(b"", mtime=0))),
    "zstd frames": ("zstd", of_size(b"", zstandard.compress(b""))),
    "zstd blocks": ("zstd", of_size(b"\x28\xb5\x2f\xfd\x00\x58", b"\x08\x00\x00a")),
    "empty zstd blocks": ("zstd", of_size(b"\x28\xb5\x2f\xfd\x00\x58", b"\x00\x00\x00")),
}
HOSTILE_MS = 100
"""Half of it is what is aimed at; the rest is for slower machines."""


def cpu_ms(run: Callable[[], object], times: int = 3) -> float:
    best = float("inf")
    for _ in range(times):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return best * 1e3


@pytest.mark.alone
class TestTime:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_a_mebibyte_of_anything(self, name: str) -> None:
        body = HOSTILE[name]
        assert len(body) <= LIMIT
        for flags in ({}, {"body_truncated": True, "streamed": True}):
            took = cpu_ms(lambda flags=flags: found("anthropic", body, **flags))  # type: ignore[misc]
            figure(f"hostile answer: {name}{', truncated' if flags else ''}", f"{took:.1f} ms")
            assert took < HOSTILE_MS
        took = cpu_ms(lambda: user_text(exchange("chat", request_body=body), DECODERS, LIMIT))
        assert took < HOSTILE_MS

    @pytest.mark.parametrize("name", ENCODED)
    def test_codings_that_are_bombs(self, name: str) -> None:
        coding, body = ENCODED[name]
        assert len(body) <= LIMIT
        took = cpu_ms(lambda: found("anthropic", body, response_encoding=coding))
        figure(f"hostile coding: {name}", f"{took:.1f} ms")
        assert took < HOSTILE_MS
        assert found("anthropic", body, response_encoding=coding).problem in ("too-large", UNDECODABLE)

    def test_ordinary_answers(self) -> None:
        block = {"type": "thinking", "thinking": "I weigh the options. " * 35, "signature": "s" * 300}
        document = {"id": "msg_1", "model": "m", "content": [block, {"type": "text", "text": "hello " * 120}]}
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "a word"}}
        text = {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": " some words"}}
        stream = sse({"type": "message_start", "message": {"model": "m"}}, *[delta] * 200, *[text] * 250)
        written = json.dumps(document).encode()
        small = cpu_ms(lambda: [found("anthropic", written) for _ in range(100)], 5) / 100
        large = cpu_ms(lambda: found("anthropic", stream, streamed=True), 9)
        figure(f"thinking in a document of {len(written)} bytes", f"{small * 1e3:.1f} us")
        figure(f"thinking in a stream of {len(stream)} bytes", f"{large:.2f} ms")
        assert small < 0.1
        assert large < 5
