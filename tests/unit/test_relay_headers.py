"""The relay's header filters: what passes, what is noted, and how much is remembered."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoltbot_worker.relay import headers
from smoltbot_worker.relay.headers import REPEATED, REQUEST, RESPONSE, Filter

Pairs = list[tuple[bytes, bytes]]

HOP = ["Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Host", "Proxy-Authorization"]
OURS = ["x-smoltbot-agent", "x-smoltbot-", "X-Smoltbot-Session", "x-mnemom-api-key", "X-AIP-Verdict", "x-aip-x"]


def names(pairs: Pairs) -> list[bytes]:
    return [name for name, _ in pairs]


def spellings(name: str) -> list[bytes]:
    return [form.encode() for form in (name, name.lower(), name.upper(), name.swapcase(), name.title())]


@pytest.mark.parametrize("filter", [REQUEST, RESPONSE], ids=["request", "response"])
@pytest.mark.parametrize("name", [*HOP, *OURS, "Proxy-Connection", "proxy-x"])
def test_dropped_in_any_spelling(filter: Filter, name: str) -> None:
    kept, _ = filter.split([(b"a", b"1"), *((spelling, b"close") for spelling in spellings(name)), (b"b", b"2")])
    assert kept == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.parametrize("filter", [REQUEST, RESPONSE], ids=["request", "response"])
@pytest.mark.parametrize(
    "name",
    ["x-smoltbot", "xx-smoltbot-a", "x-aip", "x-mnemom", "proxy", "hosts", "x-host", "tex", "connections", "cf-aig"],
)
def test_names_that_only_look_alike_pass(filter: Filter, name: str) -> None:
    pairs = [(spelling, b"1") for spelling in spellings(name)]
    assert filter.split(pairs)[0] == pairs


def test_cf_aig_is_dropped_on_the_way_out_only() -> None:
    pairs = [(b"CF-AIG-Authorization", b"x"), (b"cf-aig-step", b"1")]
    assert REQUEST.split(pairs)[0] == []
    assert RESPONSE.split(pairs)[0] == pairs


def test_order_repeats_and_the_very_lines_are_kept() -> None:
    pairs = [(b"B", b"2"), (b"a", b"1"), (b"b", b"2"), (b"B", b"3"), (b"", b""), (b"Cookie", b"x"), (b"cookie", b"y")]
    kept, notes = REQUEST.split(pairs)
    assert kept == pairs
    assert all(one is two for one, two in zip(kept, pairs, strict=True))
    assert kept is not pairs
    assert notes == {}


_NAMES = st.sampled_from(
    [
        b"a",
        b"A",
        b"x-smoltbot-x",
        b"X-Api-Key",
        b"x-api-key",
        b"Connection",
        b"TE",
        b"content-length",
        b"Cookie",
        b"Origin",
    ]
)


@given(st.lists(st.tuples(_NAMES, st.sampled_from([b"1", b"2", b"close", b"a, cookie", b"x-api-key"]))))
def test_what_is_kept_is_a_part_of_what_came_in_its_order(pairs: Pairs) -> None:
    kept, notes = REQUEST.split(pairs)
    rest = iter(pairs)
    assert all(any(line is other for other in rest) for line in kept)
    assert not {name.lower() for name in names(kept)} & {b"x-smoltbot-x", b"connection", b"te"}
    for key in (b"x-api-key", b"origin"):
        values = [value for name, value in pairs if name.lower() == key]
        assert notes.get(key) == (values[0] if values else None)
        assert [value for name, value in kept if name.lower() == key] == values


class TestConnection:
    @pytest.mark.parametrize(
        ("value", "gone"),
        [
            (b"close", set()),
            (b"Keep-Alive", set()),
            (b"x-hop", {b"x-hop"}),
            (b"close, X-HOP", {b"x-hop"}),
            (b"  x-hop ,, \tX-Other,", {b"x-hop", b"x-other"}),
            (b"x-hop;x-other", set()),
            (b"*", set()),
            (b"", set()),
        ],
    )
    def test_what_it_names_goes(self, value: bytes, gone: set[bytes]) -> None:
        kept, _ = REQUEST.split([(b"X-Hop", b"1"), (b"connection", value), (b"x-hop", b"2"), (b"X-Other", b"3")])
        assert {name.lower() for name in names(kept)} == {b"x-hop", b"x-other"} - gone

    def test_several_lines(self) -> None:
        pairs = [(b"Connection", b"close"), (b"a", b"1"), (b"b", b"2"), (b"CONNECTION", b"a"), (b"connection", b"b")]
        assert REQUEST.split(pairs)[0] == []

    @pytest.mark.parametrize("name", [b"X-Api-Key", b"Authorization", b"x-goog-api-key", b"Origin", b"Content-Length"])
    def test_identity_and_framing_stay(self, name: bytes) -> None:
        kept, notes = REQUEST.split([(b"Connection", name + b", x-hop"), (name, b"1"), (b"x-hop", b"2")])
        assert kept == [(name, b"1")]
        assert notes.get(name.lower(), b"1") == b"1"


class TestNotes:
    @pytest.mark.parametrize("name", ["x-api-key", "authorization", "x-goog-api-key", "origin"])
    def test_noted_and_passed(self, name: str) -> None:
        for spelling in spellings(name):
            kept, notes = REQUEST.split([(spelling, b"1"), (name.encode(), b"2")])
            assert names(kept) == [spelling, name.encode()]
            assert notes == {name.encode(): b"1", REPEATED: name.encode() + b" "}
            assert REQUEST.split([(spelling, b"1"), (name.encode(), b"1")])[1] == {name.encode(): b"1"}

    @pytest.mark.parametrize("name", ["x-smoltbot-agent", "x-mnemom-agent", "upgrade"])
    def test_noted_and_dropped(self, name: str) -> None:
        for spelling in spellings(name):
            assert REQUEST.split([(spelling, b"1")]) == ([], {name.encode(): b"1"})

    def test_of_a_response(self) -> None:
        pairs = [(b"Content-Type", b"a"), (b"Request-Id", b"b"), (b"X-Request-Id", b"c"), (b"x-api-key", b"d")]
        kept, notes = RESPONSE.split(pairs)
        assert kept == pairs
        assert notes == {b"content-type": b"a", b"request-id": b"b", b"x-request-id": b"c"}


class TestMemory:
    def test_at_most_so_many_spellings_are_remembered(self) -> None:
        here = Filter(frozenset((b"x-1",)), (b"drop-",))
        for number in range(20_000):
            name = b"x-%d" % number
            assert here.split([(name, b"v"), (b"Drop-" + name, b"v")])[0] == [(name, b"v")]
            assert len(here._memo) <= headers._MAX_MEMO == 4096
        assert here.split([(b"X-1", b"v")]) == ([(b"X-1", b"v")], {b"x-1": b"v"})

    def test_every_spelling_of_one_name_is_bounded_too(self) -> None:
        name = b"x-smoltbot-agent"
        for number in range(1 << 13):
            letters = (byte - 32 if number >> at & 1 and 97 <= byte <= 122 else byte for at, byte in enumerate(name))
            assert REQUEST.split([(bytes(letters), b"v")])[0] == []
        assert len(REQUEST._memo) <= headers._MAX_MEMO

    def test_no_name_is_classified_as_another(self) -> None:
        assert re.fullmatch(rb"x-(smoltbot|mnemom|aip)-", headers._OURS[0])
        assert REQUEST.split([(b"x-smoltbot-\xff", b"1"), (b"\xffx-smoltbot-", b"2")])[0] == [
            (b"\xffx-smoltbot-", b"2")
        ]
