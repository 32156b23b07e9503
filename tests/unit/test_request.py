"""Request: the constructor's rules, what a host hands in, and copies of both."""

from __future__ import annotations

from http import HTTPMethod
from typing import Any

import pytest

from worker_compat.body import Body
from worker_compat.headers import Headers
from worker_compat.request import Request, split_url
from worker_compat.streams import ReadableStream
from worker_compat.testing import ScriptedBody
from worker_compat.url import parse

URL = "https://host.example:8443/b?q=%2f#fragment"
LINES = ((b"Host", b"Example.COM:8787"), (b"X-D", b"1"), (b"x-d", b"2"))
NO_BODY = r"^Request with a GET or HEAD method cannot have a body\.$"
IMMUTABLE = r"^Can't modify immutable headers\.$"


def stream(*chunks: bytes) -> ReadableStream:
    return ReadableStream(ScriptedBody(chunks))


def incoming(method: str = "POST", body: ReadableStream | None = None, **options: Any) -> Request:
    return Request.incoming(method, "/a%2Fb/../c?x=1&&", LINES, body, **options)


async def refused(message: str, *args: Any, **options: Any) -> None:
    with pytest.raises(TypeError, match=message):
        Request(*args, **options)


class TestMaking:
    async def test_defaults(self) -> None:
        request = Request(URL)
        assert (request.method, request.url, request.redirect) == ("GET", URL, "follow")
        assert request.headers.raw == []
        assert request.body is None
        assert await request.text() == ""
        assert not request.body_used
        assert (request.cf, request.informational, request.overload) == (None, None, None)

    async def test_everything_given(self) -> None:
        request = Request(
            URL, method="put", headers=[("A", "1"), ("a", "2")], body=b"x", redirect="manual", cf={"colo": "HAM"}
        )
        assert (request.method, request.redirect, request.cf) == ("PUT", "manual", {"colo": "HAM"})
        assert request.headers.raw == [(b"A", b"1"), (b"a", b"2")]
        assert await request.bytes() == b"x"

    @pytest.mark.parametrize(
        "url",
        ["", "/path", "host/path", "//host/path", "/next?to=http://x/", "http://", "http:", "1a://x", "http://h:x/"],
    )
    async def test_the_url_is_absolute(self, url: str) -> None:
        await refused("^Invalid URL: ", url)

    @pytest.mark.parametrize(
        "url", ["https://Host.example:8443/a/../b?q=%2f#fragment", "https:host.example:8443/b?q=%2f#fragment"]
    )
    def test_the_url_is_normalised(self, url: str) -> None:
        assert Request(url).url == URL
        assert Request(parse(url)).url == URL

    async def test_no_error_shows_a_query_or_a_password(self) -> None:
        for url, shown in (("/v1/models?key=secret", "/v1/models"), ("http://me:secret@h:x/#secret", "http://h:x/")):
            with pytest.raises(TypeError) as caught:
                Request(url)
            assert str(caught.value) == f"Invalid URL: {shown}"

    @pytest.mark.parametrize("method", ["get", "Patch", "propfind", "PURGE", "MSEARCH", HTTPMethod.DELETE])
    def test_known_methods_are_upper_cased(self, method: str) -> None:
        assert Request(URL, method=method).method == str(method).upper()

    @pytest.mark.parametrize("method", ["FOO", "CONNECT", "TRACK", "", "GET ", "patchy"])
    async def test_unknown_methods_are_refused(self, method: str) -> None:
        await refused(f"^Invalid HTTP method string: {method}$", URL, method=method)

    def test_a_method_is_an_http_method_where_python_has_one(self) -> None:
        assert Request(URL, method="POST").method is HTTPMethod.POST
        method = Request(URL, method="PROPFIND").method
        assert method == "PROPFIND"
        assert not isinstance(method, HTTPMethod)

    @pytest.mark.parametrize("method", ["GET", "HEAD", "head", None])
    @pytest.mark.parametrize("body", ["x", "", b"", b"x"])
    async def test_get_and_head_have_no_body(self, method: str | None, body: str | bytes) -> None:
        await refused(NO_BODY, URL, method=method, body=body)

    @pytest.mark.parametrize("mode", ["error", "", "Follow"])
    async def test_redirect_is_follow_or_manual(self, mode: str) -> None:
        await refused(r'^Invalid redirect value, must be one of "follow" or "manual"', URL, redirect=mode)

    @pytest.mark.parametrize("option", ["json", "timeout", "cache", "encode_response_body"])
    async def test_unknown_options_are_refused(self, option: str) -> None:
        await refused(f"unexpected keyword argument '{option}'", URL, **{option: "x"})

    def test_a_content_type_of_its_own_is_kept(self) -> None:
        given = Request(URL, method="POST", headers={"content-TYPE": "a/b"}, body="x")
        assert given.headers.raw == [(b"content-TYPE", b"a/b")]
        default = Request(URL, method="POST", body="x")
        assert default.headers.raw == [(b"Content-Type", b"text/plain;charset=UTF-8")]

    def test_headers_are_a_copy_that_may_be_changed(self) -> None:
        headers = Headers({"A": "1"})
        request = Request(URL, headers=headers)
        request.headers.set("A", "2")
        assert headers["a"] == "1"


class TestFromRequest:
    async def test_it_takes_the_body_over_and_copies_the_rest(self) -> None:
        first = Request(URL, method="POST", headers={"A": "1"}, body="x", redirect="manual", cf={"a": 1})
        second = Request(first)
        assert (second.method, second.url, second.redirect, second.cf) == ("POST", URL, "manual", {"a": 1})
        assert second.headers.raw == first.headers.raw
        assert first.body_used
        assert await second.text() == "x"

    async def test_options_win(self) -> None:
        first = Request(URL, method="POST", headers={"A": "1"}, body="old", redirect="manual", cf={"a": 1})
        second = Request(first, method="PUT", headers={"B": "2"}, body="new", redirect="follow", cf={})
        assert (second.method, second.redirect, second.cf) == ("PUT", "follow", {})
        assert second.headers.items() == [("b", "2"), ("content-type", "text/plain;charset=UTF-8")]
        assert await second.text() == "new"
        assert await first.text() == "old"

    async def test_the_copy_of_an_incoming_request_may_be_changed_and_is_not_redirected(self) -> None:
        request = incoming(body=stream(b"x"))
        copy = Request(request)
        copy.headers.set("X-D", "3")
        assert request.headers["x-d"] == "1, 2"
        assert copy.redirect == "manual"
        assert copy.url == request.url

    async def test_an_incoming_get_with_a_body_may_be_copied(self) -> None:
        copy = Request(incoming("GET", stream(b"query")), headers={})
        assert copy.method == "GET"
        assert await copy.text() == "query"

    async def test_but_it_gets_no_new_one(self) -> None:
        await refused(NO_BODY, incoming("GET"), body="x")
        await refused(NO_BODY, incoming("GET", stream(b"x")), method="HEAD")

    @pytest.mark.parametrize("method", ["GET", "head"])
    async def test_a_body_does_not_become_a_gets(self, method: str) -> None:
        post = Request(URL, method="POST", body="x")
        await refused(NO_BODY, post, method=method)
        assert not post.body_used

    async def test_an_unknown_method_from_the_wire_is_kept(self) -> None:
        assert Request(incoming("FOO")).method == "FOO"

    async def test_a_used_body_needs_another(self) -> None:
        used = Request(URL, method="POST", body="old")
        await used.text()
        await refused(r"^Cannot reconstruct a Request with a used body\.$", used)
        assert await Request(used, body="new").text() == "new"

    async def test_a_locked_body_counts_as_used(self) -> None:
        locked = incoming(body=stream(b"x"))
        assert locked.body is not None
        locked.body.get_reader()
        await refused("^Cannot reconstruct a Request with a used body", locked)

    async def test_a_null_body_may_be_taken_again(self) -> None:
        request = Request(URL)
        await request.text()
        assert Request(request).body is None
        assert Request(request).body is None


class TestIncoming:
    async def test_nothing_is_normalised(self) -> None:
        request = incoming(body=stream(b"a", b"b"), overload="connections")
        assert request.method is HTTPMethod.POST
        assert request.target == "/a%2Fb/../c?x=1&&"
        assert request.url == "http://Example.COM:8787/a%2Fb/../c?x=1&&"
        assert request.headers.raw is LINES
        assert request.redirect == "manual"
        assert request.overload == "connections"
        assert await request.bytes() == b"ab"

    def test_headers_are_immutable_also_in_clones(self) -> None:
        request = incoming()
        for one in (request, request.clone()):
            with pytest.raises(TypeError, match=IMMUTABLE):
                one.headers.set("A", "1")

    @pytest.mark.parametrize("method", ["FOO", "PROPFIND"])
    def test_a_method_python_does_not_know_is_a_str(self, method: str) -> None:
        assert type(incoming(method).method) is str

    @pytest.mark.parametrize(
        ("lines", "target", "url"),
        [
            ((), "/", "http://localhost/"),
            (((b"host", b""),), "/x", "http://localhost/x"),
            (LINES, "*", "http://Example.COM:8787"),
        ],
    )
    def test_urls_at_the_edge(self, lines: Any, target: str, url: str) -> None:
        assert Request.incoming("OPTIONS", target, lines, None).url == url

    async def test_a_null_body_and_an_empty_one(self) -> None:
        assert incoming(body=None).body is None
        empty = incoming(body=ReadableStream.from_bytes(b""))
        assert empty.body is not None
        assert await empty.text() == ""
        assert empty.body_used

    def test_informational_responses_have_a_way_to_the_client(self) -> None:
        seen: list[Any] = []
        request = incoming(informational=lambda *args: seen.append(args))
        assert request.informational is not None
        request.informational(103, "Early Hints", [(b"Link", b"</a>")])
        assert seen == [(103, "Early Hints", [(b"Link", b"</a>")])]
        assert request.clone().informational is request.informational
        assert Request(request).informational is None


class TestOutgoing:
    async def test_it_goes_as_it_is(self) -> None:
        for body in (b"x", stream(b"x")):
            request = Request.outgoing("http://H/a/../b?", "foo", LINES, body)
            assert (request.url, request.target, request.method) == ("http://H/a/../b?", "/a/../b?", "foo")
            assert request.headers.raw is LINES
            assert request.redirect == "manual"
            assert await request.text() == "x"

    def test_changing_its_headers_leaves_the_lines_alone(self) -> None:
        lines = list(LINES)
        request = Request.outgoing(URL, "GET", lines, None)
        request.headers.delete("x-d")
        assert request.headers.raw == [LINES[0]]
        assert lines == list(LINES)


class TestClone:
    @pytest.mark.parametrize("kind", ["bytes", "stream", "incoming"])
    async def test_both_have_the_whole_body(self, kind: str) -> None:
        chunks = stream(b"a", b"b")
        request = (
            incoming(body=chunks)
            if kind == "incoming"
            else Request(URL, method="POST", body=b"ab" if kind == "bytes" else chunks, cf={"a": 1})
        )
        copy = request.clone()
        assert (copy.method, copy.url, copy.target) == (request.method, request.url, request.target)
        assert (copy.redirect, copy.cf, copy.overload) == (request.redirect, request.cf, request.overload)
        assert list(copy.headers.raw) == list(request.headers.raw)
        assert await copy.text() == "ab"
        assert await request.text() == "ab"

    def test_headers_are_separate(self) -> None:
        request = Request(URL, headers={"A": "1"})
        copy = request.clone()
        copy.headers.set("A", "2")
        assert request.headers["a"] == "1"

    async def test_a_null_body_stays_null(self) -> None:
        assert Request(URL).clone().body is None


def test_a_repr_shows_neither_query_nor_headers() -> None:
    request = Request("https://h/path?key=secret", headers={"Authorization": "secret"})
    assert repr(request) == "<Request GET https://h/path>"
    assert isinstance(request, Body)


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("https://h", "https://h", "/"),
        ("https://h?x", "https://h", "/?x"),
        ("https://h#f", "https://h", "/"),
        ("https://h:1/a?b?c#d?e", "https://h:1", "/a?b?c"),
        ("http://[::1]:80/a//b", "http://[::1]:80", "/a//b"),
        ("https://h/a?u=http://x/", "https://h", "/a?u=http://x/"),
    ],
)
def test_split_url(url: str, origin: str, target: str) -> None:
    assert split_url(url) == (origin, target)
    assert Request(url).target == target
