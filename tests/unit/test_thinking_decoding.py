"""The copy that is checked: content codings undone up to a limit, and cut documents read as far as they go."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from smoltbot_worker.integrity.decoding import Decoded, decoded, with_standard
from smoltbot_worker.integrity.documents import NoJson, parse, parse_body
from tests.scale import scaled
from tests.unit.thinking_support import DECODERS, LIMIT

TEXT = "Grüezi mitenand, ".encode() * 200


def bare_deflate(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(data) + deflate.flush()


def flushed_zstd(data: bytes) -> bytes:
    """A block for each 100 bytes, as a server writes events."""
    one = zstandard.ZstdCompressor().compressobj()
    parts = [data[at : at + 100] for at in range(0, len(data), 100)]
    return b"".join(
        [*(one.compress(part) + one.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for part in parts), one.flush()]
    )


WAYS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "none": ("", bytes),
    "identity": ("identity", bytes),
    "gzip": ("gzip", gzip.compress),
    "x-gzip": (" X-GZip ", gzip.compress),
    "members": ("gzip", lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:])),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", bare_deflate),
    "br": ("br", lambda data: brotli.compress(data, quality=4)),
    "zstd": ("zstd", zstandard.compress),
    "flushed": ("zstd", flushed_zstd),
    "list": ("gzip, br", lambda data: brotli.compress(gzip.compress(data), quality=4)),
    "three": ("zstd,identity,, deflate , gzip", lambda data: gzip.compress(zlib.compress(zstandard.compress(data)))),
}


class TestCodings:
    @pytest.mark.parametrize(("coding", "encode"), WAYS.values(), ids=WAYS)
    @pytest.mark.parametrize("text", [b"", b"x", TEXT, random.Random(1).randbytes(200_000)], ids=len)
    def test_round_trip(self, coding: str, encode: Callable[[bytes], bytes], text: bytes) -> None:
        assert decoded(encode(text), coding, DECODERS, LIMIT) == Decoded(text)

    @pytest.mark.parametrize(("coding", "encode"), WAYS.values(), ids=WAYS)
    def test_the_limit(self, coding: str, encode: Callable[[bytes], bytes]) -> None:
        body = encode(TEXT)
        assert decoded(body, coding, DECODERS, len(TEXT)) == Decoded(TEXT)
        assert decoded(body, coding, DECODERS, len(TEXT) - 1) == Decoded(TEXT[:-1], "too-large")
        assert decoded(body, coding, DECODERS, 1).data in (TEXT[:1], b"")

    @pytest.mark.parametrize("coding", ["zip", "gzip, zip", "zip, gzip", "*", "gzip;level=1", ", ".join(["gzip"] * 5)])
    def test_unknown(self, coding: str) -> None:
        assert decoded(gzip.compress(TEXT), coding, DECODERS, LIMIT) == Decoded(b"", "unknown")

    def test_only_what_is_installed_is_known(self) -> None:
        assert decoded(zlib.compress(TEXT), "deflate", with_standard({}), LIMIT).data == TEXT
        assert decoded(brotli.compress(TEXT), "br", with_standard({}), LIMIT).shortfall == "unknown"

    @pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
    def test_broken(self, coding: str) -> None:
        assert decoded(b"plain text that is no coding", coding, DECODERS, LIMIT) == Decoded(b"", "broken")
        nested = gzip.compress(b"plain text that is no coding")
        assert decoded(nested, f"{coding}, gzip", DECODERS, LIMIT) == Decoded(b"", "broken")

    @pytest.mark.parametrize("name", [name for name in WAYS if name not in ("none", "identity", "members")])
    def test_incomplete(self, name: str) -> None:
        coding, encode = WAYS[name]
        part = decoded(encode(TEXT)[:-3], coding, DECODERS, LIMIT)
        assert part.shortfall == "incomplete"
        assert TEXT.startswith(part.data)

    def test_what_costs_more_than_it_gives_is_broken(self) -> None:
        tiny = gzip.compress(b"", mtime=0)
        assert decoded(tiny * 1_000 + gzip.compress(TEXT), "gzip", DECODERS, LIMIT) == Decoded(TEXT)
        assert decoded(tiny * 10_000, "gzip", DECODERS, LIMIT).shortfall == "broken"
        small = gzip.compress(b"x" * 30, mtime=0)
        assert decoded(small * 16_000, "gzip", DECODERS, LIMIT).data == b"x" * 480_000
        assert decoded(small * 25_000, "gzip", DECODERS, LIMIT).shortfall == "broken"

    def test_events_flushed_one_by_one_are_honest(self) -> None:
        text = random.Random(1).randbytes(1_000_000)
        assert decoded(flushed_zstd(text), "zstd", DECODERS, LIMIT) == Decoded(text)

    @pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd", "list"])
    def test_a_bomb_takes_little_memory(self, name: str) -> None:
        coding, encode = WAYS[name]
        bomb = encode(bytes(64 << 20))
        tracemalloc.start()
        seen = decoded(bomb, coding, DECODERS, LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (len(seen.data), seen.shortfall) == (LIMIT, "too-large")
        assert peak < 4 * LIMIT


RICH = {
    "a": [1, -2.5e-7, True, False, None, "x", [], {}, [[1]], {"k": "v"}],
    'quo"te\\': 'a "quoted" \\ and \\" \\\\" [{,:]} 🙂 é \u2028 \x01',
    "": {"deep": [[[{"x": [{"thinking": "y\ud83d"}]}]]], ",": ":", "[": "{"},
    "last": "u0041 \\u0041 \\",
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.sampled_from('ab"\\u01[]{},: \n🙂\ud800')),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.sampled_from('ab"\\[{,:'), max_size=3), inner)
    ),
    max_leaves=10,
)


class TestCutDocuments:
    @pytest.mark.parametrize("ascii_only", [True, False])
    @pytest.mark.parametrize("indent", [None, 1])
    def test_every_cut_can_be_read(self, ascii_only: bool, indent: int | None) -> None:
        body = json.dumps(RICH, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
        sizes = []
        for at in range(1, len(body) + 1):
            value = parse_body(body[:at], LIMIT, cut=True)
            assert list(value) == list(RICH)[: len(value)], at
            sizes.append(len(json.dumps(value, ensure_ascii=False)))
        assert value == parse_body(body, LIMIT)
        # A value that was told is not lost later; numbers are left out until something follows them.
        assert all(later > earlier - 12 for earlier, later in pairwise(sizes))

    @settings(max_examples=scaled(200, 20_000), deadline=None)
    @given(value=st.lists(VALUES, max_size=3), at=st.integers(1, 300), indent=st.sampled_from([None, 0, 2]))
    def test_any_cut_of_any_list(self, value: Any, at: int, indent: int | None) -> None:
        body = json.dumps(value, indent=indent).encode()
        assert isinstance(parse_body(body[:at], LIMIT, cut=True), list)

    @pytest.mark.parametrize("body", [b'{"a": }', b"{]", b"[" * 65, b'"abc', b"t", b"", b'{"a" "b', b"[1}"])
    def test_what_is_no_document_is_none(self, body: bytes) -> None:
        with pytest.raises(NoJson):
            parse_body(body, LIMIT, cut=True)

    def test_an_error_carries_nothing_of_the_text(self) -> None:
        with pytest.raises(NoJson) as error:
            parse('{"secret": ')
        assert error.value.__context__ is None
        assert "secret" not in str(error.value)
