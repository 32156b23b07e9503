"""Blob and File: what they are made from, types, slices."""

from __future__ import annotations

import time
from typing import Any

import pytest

from worker_compat.blob import Blob, BlobEnding, File


@pytest.mark.parametrize(
    ("parts", "data"),
    [
        ("h\u00e9", b"h\xc3\xa9"),
        (b"\xff", b"\xff"),
        (bytearray(b"a"), b"a"),
        (memoryview(b"abc")[1:], b"bc"),
        (["a", b"b", Blob("c"), memoryview(b"d")], b"abcd"),
        ((part for part in ("a", "b")), b"ab"),
        ([], b""),
        ("\ud800", b"\xed\xa0\x80"),
    ],
)
async def test_parts(parts: Any, data: bytes) -> None:
    blob = Blob(parts)
    assert (await blob.bytes(), blob.size, blob.content_type) == (data, len(data), "")


@pytest.mark.parametrize("parts", [1, [1], [None], {"a": 1}.values()])
def test_other_parts(parts: Any) -> None:
    with pytest.raises(TypeError):
        Blob(parts)


async def test_text_is_utf8() -> None:
    assert await Blob(b"\xef\xbb\xbfa\xff").text() == "a\ufffd"


@pytest.mark.parametrize(
    ("given", "kept"),
    [("Text/HTML; Charset=UTF-8", "text/html; charset=utf-8"), ("a/\u00e9", ""), ("a\n/b", ""), ("", ""), (None, "")],
)
def test_content_types(given: str | None, kept: str) -> None:
    assert Blob("x", given).content_type == kept


def test_one_blob_hands_its_type_on() -> None:
    source = Blob("x", "a/b")
    assert Blob(source).content_type == "a/b"
    assert Blob(source, "c/d").content_type == "c/d"
    assert Blob([source]).content_type == ""


async def test_line_ends() -> None:
    text = "a\r\nb\rc\nd"
    assert await Blob(text).text() == text
    assert await Blob(text, endings="transparent").text() == text
    assert await Blob([text, b"\r\n"], endings=BlobEnding.NATIVE).text() == "a\nb\nc\nd\r\n"
    with pytest.raises(TypeError, match="endings"):
        Blob(text, endings="dos")


@pytest.mark.parametrize(
    ("start", "end", "data"),
    [(None, None, b"abc"), (1, None, b"bc"), (-2, -1, b"b"), (2, 1, b""), (-9, 9, b"abc"), (0, 10**20, b"abc")],
)
async def test_slices(start: int | None, end: int | None, data: bytes) -> None:
    part = Blob("abc", "a/b").slice(start, end)
    assert (await part.bytes(), part.content_type) == (data, "")
    assert Blob("abc").slice(0, 1, "C/D").content_type == "c/d"


def test_files() -> None:
    before = int(time.time() * 1000)
    file = File(["x"], "name.txt", "text/plain")
    assert (file.name, file.content_type, file.size) == ("name.txt", "text/plain", 1)
    assert before <= file.last_modified <= int(time.time() * 1000)
    assert File("x", "y", last_modified=5).last_modified == 5
    assert File("x", "y", last_modified=0).last_modified == 0


def test_one_file_hands_its_date_and_type_on_but_not_its_name() -> None:
    first = File("x", "first", "a/b", last_modified=5)
    second = File(first, "second")
    assert (second.name, second.content_type, second.last_modified) == ("second", "a/b", 5)
    assert not isinstance(Blob(first), File)


def test_a_repr_shows_no_content() -> None:
    assert "secret" not in repr(Blob("secret")) + repr(File("secret", "secret"))
