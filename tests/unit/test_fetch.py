"""fetch(): options, errors and redirects by the rules of Workers, over a scripted fetcher; and that fetcher itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from worker_compat.errors import BodyUsedError, ConnectFailed, FetchError
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import Runtime, fetch
from worker_compat.streams import ReadableStream
from worker_compat.testing import ScriptedBody, ScriptedFetcher, SeenRequest
from worker_compat.url import parse

A, B = "http://a.example/start", "http://a.example/next"


def redirect(location: str | None, status: int = 302) -> Response:
    return Response("moved", status, headers={} if location is None else {"Location": location})


def summary(seen: SeenRequest) -> tuple[str, str, bytes | None]:
    return seen.method, seen.url, seen.body if seen.has_body else None


class Web(ScriptedFetcher):
    """The scripted fetcher, entered as the runtime of a test."""

    def __enter__(self) -> Web:
        self._use = Runtime(self).use()
        self._use.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._use.__exit__(*error)

    def route(self, route: str, answer: Any) -> None:
        self._routes[route] = answer


@pytest.fixture
def web() -> Iterator[Web]:
    with Web({}) as web:
        yield web


class TestFetch:
    async def test_options_are_those_of_a_request(self, web: Web) -> None:
        web.route("POST http://a.example/", Response("made", 201))
        response = await fetch("http://a.example/", method="POST", headers={"X-A": "1"}, body="é")
        assert (response.status, response.url, response.redirected) == (201, "http://a.example/", False)
        assert await response.text() == "made"
        (seen,) = web.requests
        assert summary(seen) == ("POST", "http://a.example/", "é".encode())
        assert seen.raw_headers == ((b"X-A", b"1"), (b"Content-Type", b"text/plain;charset=UTF-8"))

    async def test_no_header_is_added(self, web: Web) -> None:
        web.route(f"GET {A}", Response())
        await fetch(A)
        assert web.requests[0].raw_headers == ()

    async def test_options_come_by_keyword(self, web: Web) -> None:
        with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
            await fetch(A, {"method": "POST"})  # type: ignore[call-arg]

    async def test_a_request_and_one_with_other_options(self, web: Web) -> None:
        web.route(f"PUT {A}", Response())
        request = Request(A, method="PUT", headers={"A": "1"}, body="x")
        await fetch(request.clone())
        await fetch(request, headers={"B": "2"})
        assert [seen.headers.items()[0] for seen in web.requests] == [("a", "1"), ("b", "2")]
        assert [seen.body for seen in web.requests] == [b"x", b"x"]
        with pytest.raises(BodyUsedError):
            await fetch(request)

    async def test_an_incoming_request_goes_on_byte_for_byte(self, web: Web) -> None:
        web.route("POST http://H:1/a/../b?&", redirect("http://elsewhere/"))
        lines = ((b"hOST", b"H:1"), (b"X", b"1"), (b"x", b"2"))
        body = ReadableStream(ScriptedBody([b"a", b"b"]))
        response = await fetch(Request.incoming("POST", "/a/../b?&", lines, body))
        assert (response.status, response.headers["location"]) == (302, "http://elsewhere/")
        assert summary(web.requests[0]) == ("POST", "http://H:1/a/../b?&", b"ab")
        assert web.requests[0].raw_headers == lines

    @pytest.mark.parametrize("status", [404, 500, 599])
    async def test_a_bad_status_is_no_error(self, web: Web, status: int) -> None:
        web.route(f"GET {A}", Response("x", status))
        response = await fetch(A)
        assert (response.status, response.ok) == (status, False)

    async def test_no_response_is_an_os_error(self, web: Web) -> None:
        web.route(f"GET {A}", ConnectFailed("could not connect"))
        with pytest.raises(OSError, match="could not connect") as caught:
            await fetch(A)
        assert isinstance(caught.value, FetchError)

    async def test_headers_of_the_response_are_immutable(self, web: Web) -> None:
        web.route(f"GET {A}", Response(headers={"A": "1"}))
        with pytest.raises(TypeError, match="immutable"):
            (await fetch(A)).headers.set("A", "2")

    @pytest.mark.parametrize("mode", ["follow", "manual"])
    async def test_the_url_of_a_response_has_no_fragment(self, web: Web, mode: str) -> None:
        web.route(f"GET {A}?x#part", Response())
        assert (await fetch(f"{A}?x#part", redirect=mode)).url == f"{A}?x"

    @pytest.mark.parametrize("url", ["", "/path", "a.example"])
    async def test_a_relative_url(self, web: Web, url: str) -> None:
        with pytest.raises(TypeError, match=r"^Invalid URL: "):
            await fetch(url)


class TestMethodAndBody:
    @pytest.mark.parametrize(
        ("status", "method", "then", "keeps_body"),
        [
            *((status, "POST", "GET", False) for status in (301, 302, 303)),
            *((status, "PUT", "PUT", True) for status in (301, 302)),
            *((status, "DELETE", "DELETE", True) for status in (301, 302)),
            *((status, "PATCH", "PATCH", True) for status in (301, 302, 307, 308)),
            *((303, method, "GET", False) for method in ("PUT", "DELETE", "PROPFIND")),
            *((status, "POST", "POST", True) for status in (307, 308)),
        ],
    )
    async def test_with_a_body(self, web: Web, status: int, method: str, then: str, keeps_body: bool) -> None:
        web.route(f"{method} {A}", redirect(B, status))
        web.route(f"{then} {B}", Response("there"))
        headers = {"Content-Type": "a/b", "Cookie": "a=1", "X-Api-Key": "k", "Authorization": "Bearer t"}
        response = await fetch(A, method=method, headers=headers, body="x")
        assert (await response.text(), response.url, response.redirected) == ("there", B, True)
        assert summary(web.requests[1]) == (then, B, b"x" if keeps_body else None)
        # Content-Type stays although the body is gone.
        assert web.requests[1].raw_headers == web.requests[0].raw_headers

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_without_a_body(self, web: Web, status: int, method: str) -> None:
        then = "GET" if status == 303 and method != "HEAD" else method
        web.route(f"{method} {A}", redirect(B, status))
        web.route(f"{then} {B}", Response("there"))
        response = await fetch(A, method=method)
        assert response.redirected
        assert summary(web.requests[1]) == (then, B, None)

    @pytest.mark.parametrize("method", ["POST", "PUT"])
    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    async def test_a_stream_cannot_be_sent_twice(self, web: Web, status: int, method: str) -> None:
        web.route(f"{method} {A}", redirect(B, status))
        body = ReadableStream(ScriptedBody([b"a", b"b"]))
        with pytest.raises(TypeError, match=r"^A request with a one-time-use body \(it was initialized from a stream"):
            await fetch(A, method=method, body=body)
        assert [summary(seen) for seen in web.requests] == [(method, A, b"ab")]

    async def test_but_after_a_303_nobody_needs_it(self, web: Web) -> None:
        web.route(f"POST {A}", redirect(B, 303))
        web.route(f"GET {B}", Response("there"))
        response = await fetch(A, method="POST", body=ReadableStream(ScriptedBody([b"a"])))
        assert await response.text() == "there"

    async def test_a_body_of_bytes_that_was_looked_at_as_a_stream_is_still_one_of_bytes(self, web: Web) -> None:
        web.route(f"POST {A}", redirect(B, 307))
        web.route(f"POST {B}", Response("there"))
        request = Request(A, method="POST", body="x")
        assert request.body is not None
        assert await (await fetch(request)).text() == "there"
        assert [seen.body for seen in web.requests] == [b"x", b"x"]


class TestWhere:
    @pytest.mark.parametrize(
        ("location", "url"),
        [
            ("/next", "http://a.example/next"),
            ("next?b", "http://a.example/dir/next?b"),
            ("../x/./y", "http://a.example/x/y"),
            ("?only=query", "http://a.example/dir/start?only=query"),
            ("//b.example/x", "http://b.example/x"),
            ("https://b.example", "https://b.example/"),
            ("http:?", "http://a.example/dir/start?"),
            ("http://a.example/%2f?a=http://x/", "http://a.example/%2f?a=http://x/"),
        ],
    )
    async def test_relative_to_the_url_that_answered(self, web: Web, location: str, url: str) -> None:
        web.route("GET http://a.example/dir/start?q#f", redirect(location))
        web.route(f"GET {url}", Response())
        response = await fetch("http://a.example/dir/start?q#f")
        assert (response.url, response.redirected) == (url, True)

    async def test_no_location_and_other_statuses_are_answers(self, web: Web) -> None:
        for status in (301, 307):
            web.route(f"GET {A}", redirect(None, status))
            response = await fetch(A)
            assert (response.status, response.redirected) == (status, False)
            assert await response.text() == "moved"

    @pytest.mark.parametrize("status", [300, 305, 306])
    async def test_these_are_not_followed(self, web: Web, status: int) -> None:
        web.route(f"GET {A}", redirect(B, status))
        assert (await fetch(A)).status == status

    async def test_a_304_is_not_followed(self, web: Web) -> None:
        web.route(f"GET {A}", Response(None, 304, headers={"Location": B}))
        assert (await fetch(A)).status == 304

    @pytest.mark.parametrize("location", ["http://[bad", "http://h:port/", "http://h:99999/", "mailto:me"])
    async def test_a_location_that_is_no_url(self, web: Web, location: str) -> None:
        web.route(f"GET {A}", redirect(location))
        with pytest.raises(TypeError, match=r"^Invalid Location header; unable to follow redirect\.$"):
            await fetch(A)

    async def test_manual_gives_the_redirect_itself(self, web: Web) -> None:
        web.route(f"GET {A}", redirect(B, 308))
        response = await fetch(A, redirect="manual")
        assert (response.status, response.type, response.headers["location"]) == (308, "default", B)
        assert await response.text() == "moved"

    async def test_fragments_are_not_propagated(self, web: Web) -> None:
        web.route(f"GET {A}#one", redirect("/next#two"))
        web.route(f"GET {B}#two", Response())
        assert (await fetch(f"{A}#one")).url == B

    @pytest.mark.parametrize("hops", [20, 21])
    async def test_twenty_are_followed(self, web: Web, hops: int) -> None:
        web.route(f"GET {A}", [redirect(A) for _ in range(hops)] + [Response("there")])
        if hops == 20:
            assert await (await fetch(A)).text() == "there"
        else:
            with pytest.raises(TypeError, match=r"^Too many redirects\."):
                await fetch(A)
        assert len(web.requests) == 21

    async def test_the_bodies_on_the_way_are_given_up(self, web: Web) -> None:
        source = ScriptedBody([b"moved"])
        web.route(f"GET {A}", Response(ReadableStream(source), 302, headers={"Location": B}))
        web.route(f"GET {B}", Response("there"))
        await fetch(A)
        assert source.closed

    @pytest.mark.parametrize(
        ("start", "location", "keeps"),
        [
            ("http://a.example/", "/next", True),
            ("http://a.example/", "http://A.example:80/next", True),
            ("https://a.example/", "https://a.example:443/next", True),
            ("http://a.example/", "https://a.example/next", False),
            ("http://a.example/", "http://a.example:81/next", False),
            ("http://a.example/", "http://b.a.example/next", False),
            ("http://a.example/", "//b.example/next", False),
        ],
    )
    async def test_authorization_stays_with_its_origin(self, web: Web, start: str, location: str, keeps: bool) -> None:
        target = parse(location, start).href
        web.route(f"GET {start}", redirect(location))
        web.route(f"GET {target}", Response())
        headers = {"AUTHORIZATION": "Bearer t", "Cookie": "a=1", "X-Api-Key": "k"}
        request = Request(start, headers=headers)
        await fetch(request)
        first, second = (seen.headers for seen in web.requests)
        assert first["authorization"] == request.headers["authorization"] == "Bearer t"
        assert (second["authorization"] is not None) == keeps
        assert (second["cookie"], second["x-api-key"]) == ("a=1", "k")


class TestScriptedFetcher:
    async def test_an_unknown_route_names_those_that_are_known(self) -> None:
        fetcher = ScriptedFetcher({"GET http://a/": Response(), "POST http://b/x": Response()})
        with pytest.raises(AssertionError) as caught:
            await fetcher.fetch(Request("http://b/x?q"))
        assert str(caught.value) == "no route for GET http://b/x?q; known routes:\n  GET http://a/\n  POST http://b/x"
        with pytest.raises(AssertionError, match="known routes: none"):
            await ScriptedFetcher({}).fetch(Request("http://a/"))

    async def test_each_kind_of_answer(self, web: Web) -> None:
        async def slowly(request: Request) -> Response:
            await asyncio.sleep(0)
            return Response(f"async {await request.text()}")

        web.route(
            f"POST {A}",
            [Response("first"), ValueError("second"), ConnectFailed, lambda request: Response(request.target), slowly],
        )
        assert await (await fetch(A, method="POST")).text() == "first"
        for error in (ValueError, ConnectFailed):
            with pytest.raises(error):
                await fetch(A, method="POST")
        assert await (await fetch(f"{A}?q", method="POST")).text() == "/start?q"
        assert await (await fetch(A, method="POST", body="x")).text() == "async x"
        with pytest.raises(AssertionError, match="more often than it has answers"):
            await fetch(A, method="POST")
        assert len(web.requests) == 6

    async def test_one_response_for_every_request(self, web: Web) -> None:
        web.route(f"GET {A}", Response("again"))
        web.route(f"HEAD {A}", Response("again", headers={"Content-Length": "5"}))
        assert [await (await fetch(A)).text() for _ in range(2)] == ["again", "again"]
        head = await fetch(A, method="HEAD")
        assert (head.body, head.headers["content-length"]) == (None, "5")

    async def test_a_stream_answers_once(self, web: Web) -> None:
        web.route(f"GET {A}", Response(ReadableStream(ScriptedBody([b"once"]))))
        assert await (await fetch(A)).text() == "once"
        with pytest.raises(AssertionError, match="was used before"):
            await fetch(A)

    async def test_a_request_body_that_breaks(self, web: Web) -> None:
        web.route(f"POST {A}", Response())
        source = ScriptedBody([b"half"], error=OSError("cut off"))
        with pytest.raises(OSError, match="cut off"):
            await fetch(A, method="POST", body=ReadableStream(source))
        assert web.requests == []
