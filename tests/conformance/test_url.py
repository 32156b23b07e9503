"""URLs judged by the cases of web-platform-tests, and by a second parser on random ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ada_url
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.architecture.tree import ROOT
from tests.scale import figure, scaled
from worker_compat.url import URL, normalise, parse

DATA = Path(__file__).with_name("data") / "wpt"

DIFFERENCES: dict[str, str] = {}
"""Cases that are decided otherwise here, by input and base, with the reason: none. Each would be a row of parity.md."""


def cases(name: str) -> list[dict[str, Any]]:
    return [case for case in json.loads((DATA / name).read_text(encoding="utf-8")) if isinstance(case, dict)]


URLS = cases("urltestdata.json")
NAMES = cases("toascii.json")


def shown(case: dict[str, Any]) -> str:
    return f"{case['input']!r} against {case.get('base')!r}"


def href(text: str, base: str | None = None) -> str | None:
    """The normalised URL, None when it is none."""
    try:
        return parse(text, base).href
    except TypeError:
        return None


def parts(url: URL) -> dict[str, str]:
    """The attributes of JavaScript's URL."""
    return {
        "protocol": f"{url.scheme}:",
        "username": url.username,
        "password": url.password,
        "host": url.host,
        "hostname": url.hostname or "",
        "port": "" if url.port is None else str(url.port),
        "pathname": url.path,
        "search": f"?{url.query}" if url.query else "",
        "hash": f"#{url.fragment}" if url.fragment else "",
        "origin": url.origin,
    }


def test_the_cases_are_those_of_the_suite() -> None:
    assert (len(URLS), sum(1 for case in URLS if case.get("failure"))) == (891, 267)
    assert len(NAMES) == 87
    figure("URL cases of web-platform-tests decided alike", f"{len(URLS) - len(DIFFERENCES)} of {len(URLS)}")


@pytest.mark.parametrize("start", range(0, len(URLS), 81))
def test_every_url_is_decided_as_the_standard_says(start: int) -> None:
    wrong = [
        f"{shown(case)}: {given!r} instead of {case.get('href')!r}"
        for case in URLS[start : start + 81]
        if (given := href(case["input"], case.get("base"))) != case.get("href") and shown(case) not in DIFFERENCES
    ]
    assert wrong == []


def test_every_part_is_what_the_standard_says() -> None:
    wrong = []
    for case in URLS:
        if case.get("failure") or shown(case) in DIFFERENCES:
            continue
        given = parts(parse(case["input"], case.get("base")))
        wrong += [
            f"{shown(case)}: {name} is {value!r}" for name, value in given.items() if case.get(name, value) != value
        ]
    assert wrong == []


def test_every_name_is_decided_as_the_standard_says() -> None:
    given = {case["input"]: _host(f"https://{case['input']}/x") for case in NAMES}
    assert given == {case["input"]: case["output"] for case in NAMES}


def _host(url: str) -> str | None:
    try:
        return parse(url).host
    except TypeError:
        return None


def test_the_list_of_differences_is_exact() -> None:
    known = {shown(case): case for case in URLS}
    assert set(DIFFERENCES) <= set(known)
    stale = [
        name for name in DIFFERENCES if href(known[name]["input"], known[name].get("base")) == known[name].get("href")
    ]
    assert stale == []
    parity = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    assert [name for name, reason in DIFFERENCES.items() if reason not in parity] == []


def test_what_is_normalised_stays() -> None:
    for case in URLS:
        if "href" in case:
            assert normalise(case["href"]) == case["href"]
            assert parse(case["href"]).href == case["href"]


# Pieces that decide something; letters of other scripts are old enough for every version of Unicode.
PIECES = [
    *"http https file ws ftp a mailto : / // \\ ? # @ . .. %2e %2E %41 %zz % [ ] [::1] [1::2:3] 1.2.3.4 0x7f".split(),
    *"256 65535 65536 80 443 a.b EXAMPLE.com xn--bcher-kva b\u00fccher \u65e5\u672c \u3002 \u0627\u0644 \u05d0".split(),
    *"\u00df \u2126 e\u0301 C: c| \u00ad localhost - _ ~ ! $ & ' ( ) * + , ; = ^ ` { | } \" < > \u00e9 \u20ac".split(),
    *" \t\n\r\x00\x1f\x7f\ufffd\U0001f600",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
AUTHORITIES = st.tuples(st.sampled_from(["http://", "https:", "file://", "ws:/", "a://", ""]), TEXTS).map("".join)


@pytest.mark.proof
@settings(max_examples=scaled(1_000, 30_000), deadline=None)
@given(
    AUTHORITIES | TEXTS, st.none() | st.sampled_from(["http://h.example/a/b?c#d", "file:///C:/x", "a:b", "a://h/x/y"])
)
@example("http://a.b/c?d=%zz#e", None)
@example("file:c|/x", "file:///D:/y")
def test_a_second_parser_agrees(text: str, base: str | None) -> None:
    try:
        expected: str | None = ada_url.URL(text, base).href if base else ada_url.URL(text).href
    except ValueError:
        expected = None
    assert href(text, base) == expected


@pytest.mark.parametrize(
    "url", ["https://h{}.x/", "https://h/{}", "https://h/a{}/b", "https://h/?{}", "https://h/?a{}b", "https://h/#{}a"]
)
def test_the_quick_way_knows_each_character(url: str) -> None:
    for point in range(0x180):
        text = url.format(chr(point))
        assert _outcome(normalise, text) == _outcome(lambda one: parse(one).href, text), ascii(text)


@settings(max_examples=scaled(500, 50_000), deadline=None)
@given(st.lists(st.sampled_from([*PIECES[:70], "/", "/", "b", "b.c", "x1"]), max_size=8).map("".join))
def test_the_quick_way_gives_what_the_long_way_gives(text: str) -> None:
    url = f"https://h{text}"
    assert _outcome(normalise, url) == _outcome(lambda url: parse(url).href, url)


def _outcome(make: Any, text: str) -> str | None:
    try:
        return str(make(text))
    except TypeError:
        return None
