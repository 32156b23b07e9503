"""URLs: what errors show, how a base is given, limits, and that usual ones cost next to nothing."""

from __future__ import annotations

import time
import timeit

import pytest

from tests.scale import figure
from worker_compat.url import URL, loggable, normalise, parse


def test_the_parts() -> None:
    url = parse("HTTPS://me:pass%20word@B\u00fccher.example:8443/a/../b%2f?x='#y z")
    assert url == URL(
        "https", "me", "pass%20word", "xn--bcher-kva.example", 8443, "/b%2f", "x=%27", "y%20z"
    )  # fmt: skip
    assert url.href == str(url) == "https://me:pass%20word@xn--bcher-kva.example:8443/b%2f?x=%27#y%20z"
    assert (url.host, url.origin) == ("xn--bcher-kva.example:8443", "https://xn--bcher-kva.example:8443")


@pytest.mark.parametrize(
    ("text", "path", "query", "fragment"),
    [("http://h", "/", None, None), ("http://h/?", "/", "", None), ("http://h/#", "/", None, "")],
)
def test_a_mark_without_text_is_kept(text: str, path: str, query: str | None, fragment: str | None) -> None:
    url = parse(text)
    assert (url.path, url.query, url.fragment) == (path, query, fragment)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://h:80/x", "http://h"), ("ftp://h/", "ftp://h"), ("file:///x", "null"), ("mailto:x", "null"),
        ("blob:https://h:1/x", "https://h:1"), ("blob:ftp://h/x", "null"), ("blob:x", "null"),
    ],
)  # fmt: skip
def test_origins(text: str, origin: str) -> None:
    assert parse(text).origin == origin


@pytest.mark.parametrize("base", ["http://h/a/b?c", parse("http://h/a/b?c")])
def test_a_base_is_text_or_a_url(base: str | URL) -> None:
    assert parse("../d", base).href == "http://h/d"
    with pytest.raises(TypeError, match=r"^Invalid URL: /x$"):
        parse("http://h/", "/x")


@pytest.mark.parametrize(
    ("text", "is_shown"),
    [
        ("/rel?key=secret#secret", "/rel"),
        ("http://me:secret@h:x/", "http://h:x/"),
        ("http:\\\\me:secret@h:x/", "http:\\\\h:x/"),
        ("//me:sec@ret@h/?secret", "//h/"),
        ("http://[::secret?secret", "http://[::secret"),
    ],
)
def test_errors_show_neither_query_nor_password(text: str, is_shown: str) -> None:
    assert loggable(text) == is_shown
    with pytest.raises(TypeError) as caught:
        parse(text)
    assert str(caught.value) == f"Invalid URL: {is_shown}"
    assert caught.value.__suppress_context__


def test_lone_surrogates_become_replacement_characters() -> None:
    assert parse("http://h/\ud800\udc00\udfff").href == "http://h/%F0%90%80%80%EF%BF%BD"


@pytest.mark.parametrize(
    "text",
    [
        "http://" + "\u4e00" * 600 + "/",
        "http://" + "1." * 50_000 + "/",
        "http://[" + ":" * 50_000 + "]/",
        "http://" + "9" * 50_000 + "/",
        "http://h:" + "9" * 50_000 + "/",
        "http://" + "@" * 50_000,
    ],
)
def test_hostile_lengths_are_refused_quickly(text: str) -> None:
    begun = time.process_time()
    with pytest.raises(TypeError, match=r"^Invalid URL: "):
        parse(text)
    assert time.process_time() - begun < 0.5


def test_a_long_name_in_ascii_is_allowed() -> None:
    assert parse("http://" + "a" * 5_000 + "/").host == "a" * 5_000


@pytest.mark.alone
def test_a_usual_url_costs_next_to_nothing() -> None:
    url = "https://api.provider.example/v1/messages?beta=true"
    assert normalise(url) is url
    cost_us = min(timeit.repeat(lambda: normalise(url), number=2_000, repeat=20)) / 2_000 * 1e6
    figure("a usual URL is checked in", f"{cost_us:.2f} us")
    assert cost_us < 3
