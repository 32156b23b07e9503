"""Headers: every header rule of Workers that the class claims, and the wire form underneath."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from worker_compat.headers import Headers

IMMUTABLE = r"^Can't modify immutable headers\.$"
RAW = [(b"Host", b"h"), (b"X-D", b"1"), (b"x-d", b"2"), (b"Set-Cookie", b"a=1; Expires=Wed, 1 Jan"), (b"A", b"")]


@pytest.fixture
def headers() -> Headers:
    return Headers.from_raw(RAW)


class TestReading:
    def test_repeats_are_joined_on_read_and_separate_on_the_wire(self, headers: Headers) -> None:
        assert headers.get("X-D") == headers["x-D"] == "1, 2"
        assert headers.get_all("X-d") == ["1", "2"]
        assert headers.raw == RAW
        cookies = Headers([("Cookie", "a=1"), ("Cookie", "b=2")])
        assert cookies.get("cookie") == "a=1, b=2"

    def test_set_cookie_stays_separate(self) -> None:
        headers = Headers([("Set-Cookie", "a=1; Expires=Wed, 1 Jan"), ("B", "x"), ("set-cookie", "b=2")])
        cookies = ["a=1; Expires=Wed, 1 Jan", "b=2"]
        assert headers.get_set_cookie() == headers.getSetCookie() == headers.getAll("Set-Cookie") == cookies
        assert headers.get("set-cookie") == "a=1; Expires=Wed, 1 Jan, b=2"
        assert headers.items() == [("b", "x"), ("set-cookie", cookies[0]), ("set-cookie", cookies[1])]

    def test_get_all_of_javascript_is_for_cookies_only(self, headers: Headers) -> None:
        with pytest.raises(TypeError, match=r'^getAll\(\) can only be used with the header name "Set-Cookie"\.$'):
            headers.getAll("Accept")
        assert Headers().getAll("SET-COOKIE") == []

    def test_iteration_is_sorted_lower_case_and_a_snapshot(self, headers: Headers) -> None:
        assert headers.keys() == list(headers) == ["a", "host", "set-cookie", "x-d"]
        assert headers.values() == ["", "h", "a=1; Expires=Wed, 1 Jan", "1, 2"]
        assert headers.entries() == headers.items() == list(zip(headers.keys(), headers.values(), strict=True))
        assert len(headers) == 4
        seen = []
        for name in headers:
            headers.delete("x-d")
            headers.set("b", "new")
            seen.append(name)
        assert seen == ["a", "host", "set-cookie", "x-d"]
        assert headers.keys() == ["a", "b", "host", "set-cookie"]

    @pytest.mark.parametrize("name", ["missing", "in valid", "", "\ud800", "ä", "x_d"])
    def test_a_missing_name_reads_as_none(self, headers: Headers, name: str) -> None:
        assert headers.get(name) is None
        assert headers[name] is None
        assert headers.get(name, "default") == "default"
        assert headers.get_all(name) == []
        assert not headers.has(name)
        assert name not in headers

    def test_an_empty_value_is_not_missing(self, headers: Headers) -> None:
        assert headers.get("a", "default") == ""
        assert headers.has("A")
        assert "a" in headers
        assert 5 not in headers

    def test_bytes_that_are_not_utf8_survive(self) -> None:
        raw = [(b"A", b"caf\xe9"), (b"B", "café".encode())]
        headers = Headers.from_raw(raw)
        assert headers["b"] == "café"
        assert Headers(headers.items()).raw == [(name.lower(), value) for name, value in raw]

    def test_a_repr_shows_no_values(self) -> None:
        text = repr(Headers([("Authorization", "Bearer secret")]))
        assert "Authorization" in text
        assert "secret" not in text


class TestWriting:
    def test_set_replaces_every_line_at_the_place_of_the_first_and_keeps_its_case(self, headers: Headers) -> None:
        headers.set("X-d", "3")
        assert headers.raw == [(b"Host", b"h"), (b"X-D", b"3"), *RAW[3:]]
        headers["new"] = "4"
        assert headers.raw[-1] == (b"new", b"4")

    def test_append_and_delete(self, headers: Headers) -> None:
        headers.append("Set-Cookie", "b=2")
        assert len(headers.get_set_cookie()) == 2
        headers.delete("SET-cookie")
        assert headers.get_set_cookie() == []
        del headers["x-d"]
        headers.delete("missing")
        assert headers.raw == [(b"Host", b"h"), (b"A", b"")]

    @pytest.mark.parametrize("name", ["", "in valid", "a:b", "a\n", "\tA", "ä", "A\0", "(x)", '"', "a/b"])
    def test_names_are_tokens(self, name: str) -> None:
        headers = Headers()
        calls: list[Callable[[], Any]] = [
            lambda: headers.set(name, "x"),
            lambda: headers.append(name, "x"),
            lambda: headers.delete(name),
            lambda: Headers({name: "x"}),
        ]
        for call in calls:
            with pytest.raises(TypeError, match=r"^Invalid header name\.$"):
                call()
        assert headers.raw == []

    def test_any_token_is_a_name(self) -> None:
        name = "!#$%&'*+-.^_`|~09AZaz"
        assert Headers({name: "x"}).raw == [(name.encode(), b"x")]

    @pytest.mark.parametrize(
        "name", ["Host", "Cookie", "Origin", "Content-Length", "Connection", "Transfer-Encoding", "Set-Cookie"]
    )
    def test_no_name_is_forbidden(self, name: str) -> None:
        assert Headers({name: "x"}).raw == [(name.encode(), b"x")]

    @pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\r\n b", "a\0b", "\0"])
    def test_values_have_no_line_breaks_or_nul(self, value: str) -> None:
        headers = Headers()
        for method in (headers.set, headers.append):
            with pytest.raises(TypeError, match=r"^Invalid header value\.$"):
                method("A", value)
        assert headers.raw == []

    @pytest.mark.parametrize(
        ("value", "wire"),
        [
            ("  a b\t", b"a b"),
            ("\r\na\r\n", b"a"),
            ("", b""),
            (" \t\r\n", b""),
            ("\x01\x7f", b"\x01\x7f"),
            ("\u00a0a\x0b", b"\xc2\xa0a\x0b"),  # JavaScript's trim would take more; this is HTTP's
            ("é\u20ac\U0001f600", "é\u20ac\U0001f600".encode()),
            ("\ud83d\ude00", "\U0001f600".encode()),
            ("\udce9", b"\xe9"),
        ],
    )
    def test_values_are_trimmed_and_sent_as_utf8(self, value: str, wire: bytes) -> None:
        assert Headers({"A": value}).raw == [(b"A", wire)]

    @pytest.mark.parametrize(
        ("value", "text"),
        [(5, "5"), (1.0, "1"), (True, "true"), (None, "null"), (-0.5, "-0.5"), (10**20, "1" + "0" * 20)],
    )
    def test_primitives_become_strings_as_in_javascript(self, value: Any, text: str) -> None:
        assert Headers({"A": value})["a"] == text

    @pytest.mark.parametrize("value", [b"bytes", ["a"], {}, object()])
    def test_other_values_are_a_type_error(self, value: Any) -> None:
        with pytest.raises(TypeError, match="a header value is a str, not"):
            Headers().append("A", value)


class TestMaking:
    @pytest.mark.parametrize(
        "init",
        [
            {"A": "1", "b": "2"},
            [("A", "1"), ("b", "2")],
            (("A", "1"), ("b", "2")),
            iter([("A", "1"), ("b", "2")]),
            Headers([("A", "1"), ("b", "2")]),
            Headers.from_raw([(b"A", b"1"), (b"b", b"2")], immutable=True),
        ],
    )
    def test_from_mapping_pairs_and_headers(
        self, init: Headers | Mapping[str, str] | Iterable[tuple[str, str]]
    ) -> None:
        headers = Headers(init)
        assert headers.raw == [(b"A", b"1"), (b"b", b"2")]
        headers.set("A", "3")
        assert headers["a"] == "3"

    def test_pairs_may_repeat(self) -> None:
        assert Headers([("Set-Cookie", "a"), ("Set-Cookie", "b")]).get_set_cookie() == ["a", "b"]

    @pytest.mark.parametrize("init", ["ab", b"ab", 5])
    def test_from_anything_else_is_a_type_error(self, init: Any) -> None:
        with pytest.raises(TypeError):
            Headers(init)

    def test_from_nothing(self) -> None:
        assert Headers().raw == Headers(None).raw == Headers({}).raw == []


class TestGuards:
    def test_immutable_headers_are_read_only(self) -> None:
        headers = Headers.from_raw(RAW, immutable=True)
        calls: list[Callable[[], Any]] = [
            lambda: headers.set("A", "x"),
            lambda: headers.append("A", "x"),
            lambda: headers.delete("A"),
            lambda: headers.__setitem__("A", "x"),
            lambda: headers.__delitem__("A"),
        ]
        for call in calls:
            with pytest.raises(TypeError, match=IMMUTABLE):
                call()
        assert headers.immutable
        assert headers.raw is RAW

    def test_a_clone_keeps_the_guard_and_a_copy_does_not(self) -> None:
        headers = Headers.from_raw(RAW, immutable=True)
        with pytest.raises(TypeError, match=IMMUTABLE):
            headers.clone().set("A", "x")
        copy = Headers(headers)
        copy.set("Host", "other")
        assert headers["host"] == "h"
        assert not copy.immutable
        twin = copy.clone()
        twin.set("Host", "third")
        assert copy["host"] == "other"

    @pytest.mark.parametrize("lines", [RAW, tuple(RAW)])
    def test_lines_from_elsewhere_are_never_changed(self, lines: Any) -> None:
        before = list(lines)
        incoming = Headers.from_raw(lines, immutable=True)
        outgoing = Headers.from_raw(incoming.raw)
        outgoing.set("Host", "other")
        outgoing.append("B", "1")
        outgoing.delete("x-d")
        assert outgoing.raw == [(b"Host", b"other"), *RAW[3:], (b"B", b"1")]
        assert list(incoming.raw) == list(lines) == before
        assert incoming["host"] == "h"
