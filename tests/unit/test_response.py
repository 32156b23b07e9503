"""Response: the constructor's rules, JSON, redirects, copies, and what a fetcher hands in."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import pytest

from worker_compat.response import NULL_BODY_STATUSES, Response
from worker_compat.streams import ReadableStream
from worker_compat.testing import ScriptedBody, read_response

RANGE = r"^Responses may only be constructed with status codes in the range 200 to 599, inclusive\.$"
NULL_BODY = r"^Response with null body status \(101, 204, 205, or 304\) cannot have a body\.$"
IMMUTABLE = r"^Can't modify immutable headers\.$"
LINES = ((b"Content-Length", b"2"), (b"X", b"1"), (b"x", b"2"))


def stream(*chunks: bytes) -> ReadableStream:
    return ReadableStream(ScriptedBody(chunks))


def fetched(status: int = 200, body: bytes | ReadableStream | None = b"ab") -> Response:
    return Response.from_raw(status, "Fine", LINES, body, url="https://h/", immutable=True)


class TestMaking:
    async def test_defaults(self) -> None:
        response = Response()
        assert (response.status, response.status_text, response.ok) == (200, "", True)
        assert (response.url, response.redirected, response.type) == ("", False, "default")
        assert response.headers.raw == []
        assert response.body is None
        assert await response.text() == ""

    async def test_arguments_by_position(self) -> None:
        response = Response("x", 201, "Made", {"A": "1"})
        assert (response.status, response.status_text) == (201, "Made")
        assert response.headers.items() == [("a", "1"), ("content-type", "text/plain;charset=UTF-8")]
        assert await response.text() == "x"

    @pytest.mark.parametrize(
        ("status", "code"), [(None, 200), (0, 200), (200, 200), (599, 599), (HTTPStatus.NOT_FOUND, 404), (299, 299)]
    )
    def test_status(self, status: Any, code: int) -> None:
        response = Response(None, status)
        assert response.status == code
        assert type(response.status) is int
        assert response.ok == (code < 300)

    @pytest.mark.parametrize("status", [100, 101, 199, 600, 999, -1])
    def test_status_out_of_range(self, status: int) -> None:
        with pytest.raises(ValueError, match=RANGE):
            Response(None, status)

    @pytest.mark.parametrize("status", sorted(NULL_BODY_STATUSES - {101}))
    async def test_statuses_without_a_body(self, status: int) -> None:
        for body in ("x", b"x", stream(), stream(b"x")):
            with pytest.raises(TypeError, match=NULL_BODY):
                Response(body, status)
        with pytest.raises(TypeError, match=NULL_BODY):
            Response.json({}, status=status)
        for empty in ("", b"", None):
            response = Response(empty, status)
            assert response.body is None
            assert response.headers.raw == []
            assert await response.text() == ""

    @pytest.mark.parametrize("text", ["a\nb", "a\rb", "\0", "\t", "a\x1f"])
    def test_a_status_text_has_no_control_characters(self, text: str) -> None:
        with pytest.raises(TypeError, match=r"^Invalid statusText$"):
            Response(None, status_text=text)

    @pytest.mark.parametrize("text", ["", "Not quite", "\x7f", "déjà"])
    def test_any_other_status_text(self, text: str) -> None:
        assert Response(None, status_text=text).status_text == text

    def test_a_content_type_of_its_own_is_kept(self) -> None:
        assert Response("x", headers=[("content-TYPE", "a/b")]).headers.raw == [(b"content-TYPE", b"a/b")]

    def test_repeated_headers_stay_apart(self) -> None:
        response = Response(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        assert response.headers.get_set_cookie() == ["a=1", "b=2"]

    def test_headers_may_be_changed_and_are_a_copy(self) -> None:
        upstream = fetched()
        response = Response(upstream.body, upstream.status, headers=upstream.headers)
        response.headers.set("X", "3")
        assert upstream.headers["x"] == "1, 2"
        assert response.headers.raw == [LINES[0], (b"X", b"3")]

    @pytest.mark.parametrize("option", ["web_socket", "statusText", "encode_body"])
    def test_unknown_options_are_refused(self, option: str) -> None:
        options: dict[str, Any] = {option: "x"}
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
            Response("x", **options)

    def test_a_repr_shows_no_content(self) -> None:
        assert repr(Response("secret", 404, headers={"A": "secret"})) == "<Response 404>"


class TestJson:
    @pytest.mark.parametrize("make", [Response.json, Response.from_json])
    async def test_it_is_what_json_dumps_gives(self, make: Any) -> None:
        data = {"a": [1.0, None, "é"], "b": float("nan")}
        response = make(data)
        assert response.status == 200
        assert response.headers.raw == [(b"Content-Type", b"application/json")]
        text = await response.text()
        assert text == json.dumps(data) == '{"a": [1.0, null, "\\u00e9"], "b": NaN}'

    async def test_options(self) -> None:
        response = Response.json([], 201, "Made", {"Content-Type": "application/problem+json", "A": "1"})
        assert (response.status, response.status_text) == (201, "Made")
        assert response.headers.items() == [("a", "1"), ("content-type", "application/problem+json")]
        assert await response.json() == []

    @pytest.mark.parametrize("data", [object(), {1, 2}, b"x"])
    def test_what_json_cannot_write(self, data: Any) -> None:
        with pytest.raises(TypeError):
            Response.json(data)

    async def test_on_an_instance_it_reads(self) -> None:
        assert await Response('{"a": 1.5}').json(parse_float=str) == {"a": "1.5"}


class TestRedirect:
    @pytest.mark.parametrize("make", [Response.redirect, Response.redirect_to])
    def test_default(self, make: Any) -> None:
        response = make("https://h/a?b#c")
        assert (response.status, response.body) == (302, None)
        assert list(response.headers.raw) == [(b"Location", b"https://h/a?b#c")]
        with pytest.raises(TypeError, match=IMMUTABLE):
            response.headers.set("A", "1")

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_statuses(self, status: int) -> None:
        assert Response.redirect("https://h/", status).status == status

    @pytest.mark.parametrize("status", [200, 300, 304, 305, 306, 400, 0])
    def test_other_statuses(self, status: int) -> None:
        with pytest.raises(ValueError, match=f"^{status} is not a redirect status code"):
            Response.redirect("https://h/", status)

    @pytest.mark.parametrize("url", ["", "/path", "h/path", "/login?next=https://h/"])
    def test_the_url_is_absolute(self, url: str) -> None:
        with pytest.raises(TypeError, match=r"^Unable to parse URL: "):
            Response.redirect(url)

    @pytest.mark.parametrize(
        ("given", "sent"),
        [
            ("HTTPS://H:443/a/../\u00fc?'", b"https://h/%C3%BC?%27"),
            ("https://h/\r\nSet-Cookie: a=1", b"https://h/Set-Cookie:%20a=1"),
        ],
    )
    def test_the_url_is_normalised_so_that_nothing_smuggles_a_line_in(self, given: str, sent: bytes) -> None:
        assert Response.redirect(given).headers.raw == ((b"Location", sent),)


class TestFromRaw:
    async def test_nothing_is_checked_or_added(self) -> None:
        for status in (101, 204, 600, 999):
            response = fetched(status)
            assert (response.status, response.status_text, response.url) == (status, "Fine", "https://h/")
            assert response.headers.raw is LINES
            assert await response.text() == "ab"

    def test_the_headers_of_a_fetched_response_are_immutable(self) -> None:
        for response in (fetched(), fetched().clone()):
            with pytest.raises(TypeError, match=IMMUTABLE):
                response.headers.append("A", "1")
        mine = Response.from_raw(200, "", list(LINES), None)
        mine.headers.append("A", "1")
        assert mine.headers["a"] == "1"

    def test_a_status_beyond_599_cannot_be_wrapped_again(self) -> None:
        with pytest.raises(ValueError, match=RANGE):
            fetched(600).replace_body("x")


class TestCopies:
    @pytest.mark.parametrize("body", [b"ab", None])
    async def test_a_clone_has_everything(self, body: bytes | None) -> None:
        response = fetched(404, body if body is None else stream(b"a", b"b"))
        response.redirected = True
        copy = response.clone()
        assert (copy.status, copy.status_text, copy.url, copy.redirected) == (404, "Fine", "https://h/", True)
        assert list(copy.headers.raw) == list(LINES)
        assert await copy.bytes() == await response.bytes() == (body or b"")

    def test_the_headers_of_a_clone_are_its_own(self) -> None:
        response = Response("x", headers={"A": "1"})
        copy = response.clone()
        copy.headers.set("A", "2")
        response.headers.set("B", "3")
        assert (response.headers["a"], copy.headers["b"]) == ("1", None)

    async def test_replace_body(self) -> None:
        upstream = fetched(202)
        response = upstream.replace_body("other")
        assert (response.status, response.status_text) == (202, "Fine")
        assert response.headers.get_all("X") == ["1", "2"]
        response.headers.set("X", "3")
        assert upstream.headers["x"] == "1, 2"
        assert await response.text() == "other"
        assert await upstream.text() == "ab"

    def test_replace_body_keeps_the_rules(self) -> None:
        with pytest.raises(TypeError, match=NULL_BODY):
            fetched(304, None).replace_body("x")

    async def test_a_response_around_the_body_of_another(self) -> None:
        upstream = fetched(body=stream(b"a", b"b"))
        response = Response(upstream.body)
        assert response.headers.raw == []
        assert await response.text() == "ab"
        assert upstream.body_used


async def test_how_a_host_reads_it() -> None:
    assert await read_response(Response("x")) == b"x"
    assert await read_response(Response()) == b""
    assert await read_response(Response(stream(b"a", b"b"))) == b"ab"
    assert await read_response(Response(ReadableStream.from_bytes(b"ab"))) == b"ab"
    used = Response("x")
    await used.text()
    with pytest.raises(OSError, match="Body already used"):
        await read_response(used)
