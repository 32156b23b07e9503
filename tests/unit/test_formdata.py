"""FormData: a mapping with repeats, and its wire forms; each error text is a case in fetch_cases.json."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_compat.blob import Blob, File
from worker_compat.formdata import FormData, decoded, encoded
from worker_compat.request import Request
from worker_compat.response import Response

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"


@pytest.fixture
def form() -> FormData:
    return FormData([("a", "1"), ("b", "2"), ("a", "3")])


class TestMapping:
    def test_each_way_to_read(self, form: FormData) -> None:
        assert (form["a"], form.get("b"), form.get_all("a"), form.getAll("z")) == ("1", "2", ["1", "3"], [])
        assert (form["z"], form.get("z"), form.get("z", "default")) == (None, None, "default")
        assert ("a" in form, form.has("a"), "z" in form, form.has("z")) == (True, True, False, False)
        assert (list(form), form.keys(), form.values()) == (["a", "b", "a"], ["a", "b", "a"], ["1", "2", "3"])
        assert form.items() == form.entries() == [("a", "1"), ("b", "2"), ("a", "3")]
        assert len(form) == 3
        assert not FormData()

    def test_each_way_to_write(self, form: FormData) -> None:
        form["a"] = "4"
        assert form.items() == [("a", "4"), ("b", "2")]
        form.append("b", "5")
        form.set("b", "6")
        form.set("c", "7")
        assert form.items() == [("a", "4"), ("b", "6"), ("c", "7")]
        del form["a"]
        form.delete("z")
        del form["z"]
        assert form.items() == [("b", "6"), ("c", "7")]
        form.update({"b": "8"})
        assert (form.pop("b"), form.pop("b"), form.pop("b", "none")) == ("8", None, "none")
        assert (form.setdefault("c", "no"), form.setdefault("d", "9")) == ("7", "9")

    @pytest.mark.parametrize("init", [{"a": "1"}, [("a", "1")], FormData({"a": "1"})])
    def test_what_it_is_made_from(self, init: Any) -> None:
        made = FormData(init)
        assert made.items() == [("a", "1")]
        made.append("b", "2")
        assert len(FormData(init)) == 1

    @pytest.mark.parametrize(("value", "text"), [(1, "1"), (1.0, "1"), (True, "true"), (None, "null")])
    def test_primitives_become_strings_as_in_javascript(self, value: Any, text: str) -> None:
        assert FormData({"a": value})["a"] == text

    @pytest.mark.parametrize("value", [b"x", ["x"], {"x": 1}, object()])
    def test_other_values_are_refused(self, form: FormData, value: Any) -> None:
        for write in (form.append, form.set, form.__setitem__):
            with pytest.raises(TypeError, match="a form field is a str, Blob or File"):
                write("x", value)

    def test_a_blob_becomes_a_file(self, form: FormData) -> None:
        form.append("f", Blob("x", "a/b"))
        form.append("f", Blob("x"), "named")
        form.append("f", File("x", "own"))
        form.append("f", File("x", "own"), "other")
        assert [(file.name, file.content_type) for file in form.get_all("f") if isinstance(file, File)] == [
            ("f", "a/b"), ("named", ""), ("own", ""), ("other", ""),
        ]  # fmt: skip
        with pytest.raises(TypeError, match="a filename is for a Blob or File"):
            form.append("f", "text", "name")

    def test_a_repr_shows_no_values(self) -> None:
        assert repr(FormData({"a": "secret"})) == "<FormData ['a']>"


class TestWire:
    async def test_as_a_body(self, form: FormData) -> None:
        form.append("f", File(b"\xff\r\n--", 'q"\\.bin', "a/b"))
        for make in (lambda: Response(form), lambda: Request("http://h/", method="POST", body=form)):
            body = make()
            kind = body.headers["content-type"]
            assert kind is not None
            assert kind.startswith("multipart/form-data; boundary=")
            boundary = kind.rpartition("=")[2]
            assert 32 <= len(boundary) <= 70
            data = await make().bytes()
            assert boundary.encode() not in data
            read = await body.form_data()
            assert read.items()[:3] == form.items()[:3]
            file = read["f"]
            assert (file.name, file.content_type, await file.bytes()) == ("q%22\\.bin", "a/b", b"\xff\r\n--")

    async def test_the_exact_bytes(self) -> None:
        data, kind = encoded(FormData([("a\r\n", "\u00e9"), ("f", Blob("x"))]))
        boundary = kind.rpartition("=")[2]
        assert data.decode() == (
            f'--{boundary}\r\nContent-Disposition: form-data; name="a%0D%0A"\r\n\r\n\u00e9\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n'
            f"Content-Type: application/octet-stream\r\n\r\nx\r\n--{boundary}--"
        )

    async def test_an_empty_form(self) -> None:
        data, kind = encoded(FormData())
        assert decoded(data, kind).items() == []

    async def test_both_spellings_and_used_bodies(self) -> None:
        response = Response("a=1", headers={"content-type": URLENCODED})
        assert (await response.formData())["a"] == "1"
        with pytest.raises(OSError, match="Body already used"):
            await response.form_data()

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.text(min_size=1).filter(lambda name: not set(name) & set('"\r\n\\')), st.text())))
    def test_what_is_written_is_read(self, fields: list[tuple[str, str]]) -> None:
        names = [(name.strip() or "x", value) for name, value in fields if name.isprintable()]
        assert decoded(*encoded(FormData(names))).items() == names

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.sampled_from(["--x", "--", "\r\n", "\n", 'Content-Disposition: form-data; name="a"', ": ", "v"]))
    )
    def test_whatever_comes_is_a_form_or_a_type_error(self, pieces: list[str]) -> None:
        try:
            form = decoded("".join(pieces).encode(), MULTIPART)
        except TypeError:
            return
        assert all(isinstance(value, str) for value in form.values())

    @pytest.mark.parametrize(
        "data",
        [
            b"--x\r\n" * 100_000,
            b"--x\r\n" + b"a: b\r\n" * 100_000 + b"\r\n\r\n--x--",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"\n--" * 300_000 + b"\r\n--x--",
            b"--x\r\nContent-Disposition: form-data" + b'; name="a' * 30_000 + b"\r\n\r\n\r\n--x--",
            b"--x\r\nContent-Disposition: form-data; a=" + b'"' + b"\\" * 100_000 + b"\r\n\r\n\r\n--x--",
        ],
    )
    def test_hostile_bodies_take_linear_time(self, data: bytes) -> None:
        begun = time.process_time()
        with suppress(TypeError):
            decoded(data, MULTIPART)
        assert time.process_time() - begun < 2

    def test_too_many_fields(self) -> None:
        with pytest.raises(TypeError, match="more than 10000 fields"):
            decoded(b"a&" * 10_001, URLENCODED)
        part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
        with pytest.raises(TypeError, match="more than 10000 fields"):
            decoded(part * 10_001 + b"--x--", MULTIPART)
