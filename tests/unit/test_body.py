"""Body: what requests and responses share about reading once, decoding, and handing a body on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from worker_compat.body import Body, content_of
from worker_compat.errors import BodyUsedError
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.streams import ReadableStream
from worker_compat.testing import ScriptedBody

USED = "^Body already used$"
DISTURBED = "^This ReadableStream is disturbed"
READERS: list[Callable[[Body], Any]] = [Body.bytes, Body.text, Body.json, Body.buffer]


def stream(*chunks: bytes) -> ReadableStream:
    return ReadableStream(ScriptedBody(chunks))


@pytest.fixture(params=["bytes", "stream"])
def body(request: pytest.FixtureRequest) -> Body:
    """A body of ``[1]``, here already or still to come."""
    return Body(b"[1]" if request.param == "bytes" else stream(b"[", b"1]"))


class TestReading:
    async def test_each_way_to_read(self) -> None:
        for content in (b"[1, 2]", lambda: stream(b"[1,", b" 2]")):
            fresh = [Body(content if isinstance(content, bytes) else content()) for _ in range(5)]
            assert await fresh[0].bytes() == b"[1, 2]"
            assert await fresh[1].text() == "[1, 2]"
            assert await fresh[2].json() == [1, 2]
            view = await fresh[3].buffer()
            assert isinstance(view, memoryview)
            assert view.readonly
            assert bytes(view) == bytes(await fresh[4].arrayBuffer()) == b"[1, 2]"

    @pytest.mark.parametrize("again", READERS)
    @pytest.mark.parametrize("first", READERS)
    async def test_a_body_is_read_once(self, body: Body, first: Callable[[Body], Any], again: Any) -> None:
        assert (body.body_used, body.bodyUsed) == (False, False)
        await first(body)
        assert (body.body_used, body.bodyUsed) == (True, True)
        with pytest.raises(BodyUsedError, match=USED) as caught:
            await again(body)
        assert isinstance(caught.value, OSError)

    async def test_a_null_body_may_be_read_again_and_is_never_used(self) -> None:
        empty = Body(None)
        assert empty.body is None
        for _ in range(2):
            assert await empty.bytes() == b""
            assert await empty.text() == ""
            assert len(await empty.buffer()) == 0
            with pytest.raises(json.JSONDecodeError):
                await empty.json()
        assert not empty.body_used

    async def test_an_empty_body_is_not_null(self) -> None:
        empty = Body(b"")
        assert await empty.text() == ""
        assert empty.body_used
        with pytest.raises(BodyUsedError):
            await empty.text()

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            ("é\U0001f600".encode(), "é\U0001f600"),
            (b"\xef\xbb\xbfbom", "bom"),
            (b"\xef\xbb\xbf\xef\xbb\xbfbom", "\ufeffbom"),
            (bytes([0xFF, 0x41, 0xE2, 0x82, 0x42, 0xF0, 0x9F, 0x98]), "\ufffdA\ufffdB\ufffd"),
            (b"\xed\xa0\x80", "\ufffd" * 3),
            (b"\x00\r\n", "\0\r\n"),
        ],
    )
    async def test_text_is_utf8_without_a_leading_mark(self, data: bytes, text: str) -> None:
        assert await Body(data).text() == text
        assert await Body(data).bytes() == data

    async def test_json_is_pythons_and_takes_its_options(self) -> None:
        assert await Body(b'\xef\xbb\xbf{"a": 1.0}').json(parse_float=str) == {"a": "1.0"}
        with pytest.raises(json.JSONDecodeError):
            await Body(b"{").json()

    async def test_a_source_that_breaks(self) -> None:
        source = ScriptedBody([b"half"], error=OSError("cut off"))
        broken = Body(ReadableStream(source))
        with pytest.raises(OSError, match="cut off"):
            await broken.bytes()
        assert broken.body_used
        assert source.closed


class TestStream:
    async def test_reading_the_stream_uses_the_body(self, body: Body) -> None:
        content = body.body
        assert content is not None
        assert content is body.body
        reader = content.get_reader()
        assert not content.disturbed
        with pytest.raises(BodyUsedError, match=USED):
            await body.text()
        await reader.read()
        reader.release_lock()
        assert body.body_used
        with pytest.raises(BodyUsedError, match=USED):
            await body.text()

    async def test_cancelling_the_stream_uses_the_body(self, body: Body) -> None:
        content = body.body
        assert content is not None
        await content.cancel()
        assert body.body_used

    @pytest.mark.parametrize("use", [Body.bytes, Body._release])
    async def test_nothing_is_left_in_the_stream_of_a_used_body(self, use: Callable[[Body], Any]) -> None:
        used = Body(b"secret")
        if use is Body.bytes:
            await use(used)
        else:
            use(used)
        content = used.body
        assert content is not None
        assert content.disturbed
        with pytest.raises(TypeError):
            await content.read_all()

    async def test_the_body_may_be_teed_by_hand(self, body: Body) -> None:
        content = body.body
        assert content is not None
        left, right = content.tee()
        assert await left.read_all() == await right.read_all() == b"[1]"
        assert body.body_used


class TestHandingOn:
    async def test_whoever_takes_the_body_over_uses_it(self, body: Body) -> None:
        content = body._release()
        assert body.body_used
        with pytest.raises(BodyUsedError, match=USED):
            body._release()
        assert await Body(content).text() == "[1]"
        assert Body(None)._release() is None

    async def test_a_split_body_is_two(self, body: Body) -> None:
        other = Body(body._split())
        assert (body.body_used, other.body_used) == (False, False)
        assert await other.text() == "[1]"
        assert not body.body_used
        assert await body.json() == [1]
        assert Body(None)._split() is None

    @pytest.mark.parametrize("part", [Request.clone, Response.clone])
    async def test_a_used_or_locked_body_has_no_second(self, part: Callable[[Any], Any]) -> None:
        def make() -> Request | Response:
            return Request("http://h/", method="POST", body="x") if part is Request.clone else Response("x")

        used, locked = make(), make()
        await used.text()
        assert locked.body is not None
        locked.body.get_reader()
        for message in (used, locked):
            with pytest.raises(BodyUsedError, match=USED):
                part(message)


class TestMaking:
    @pytest.mark.parametrize("kind", [Response, lambda body: Request("http://h/", method="PUT", body=body)])
    @pytest.mark.parametrize(
        ("init", "data", "content_type"),
        [
            ("é", "é".encode(), "text/plain;charset=UTF-8"),
            ("", b"", "text/plain;charset=UTF-8"),
            ("\ud83d\ude00", "\U0001f600".encode(), "text/plain;charset=UTF-8"),
            ("a\ud800", b"a\xed\xa0\x80", "text/plain;charset=UTF-8"),
            (b"\xff", b"\xff", None),
            (b"", b"", None),
            (None, b"", None),
        ],
    )
    async def test_what_a_body_is_made_from(self, kind: Any, init: Any, data: bytes, content_type: str | None) -> None:
        message = kind(init)
        assert message.headers["content-type"] == content_type
        assert (message.body is None) == (init is None)
        assert await message.bytes() == data

    async def test_streams_and_async_iterables(self) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        for init in (stream(b"a", b"b"), chunks()):
            response = Response(init)
            assert response.headers["content-type"] is None
            assert await response.bytes() == b"ab"

    async def test_a_stream_in_use_makes_no_body(self) -> None:
        read, locked = stream(b"a", b"b"), stream(b"a")
        reader = read.get_reader()
        await reader.read()
        reader.release_lock()
        locked.get_reader()
        for init in (read, locked):
            with pytest.raises(TypeError, match=DISTURBED):
                Response(init)
            with pytest.raises(TypeError, match=DISTURBED):
                Request("http://h/", method="POST", body=init)

    @pytest.mark.parametrize(
        ("init", "name"),
        [
            (bytearray(b"x"), "bytearray"),
            (memoryview(b"x"), "memoryview"),
            ({"a": 1}, "dict"),
            ([b"x"], "list"),
            (5, "int"),
            ((b"x" for _ in "ab"), "generator"),
            (Response("x"), "Response"),
        ],
    )
    def test_other_types_are_refused(self, init: Any, name: str) -> None:
        with pytest.raises(TypeError, match=f"^Unsupported type in Response: {name}$"):
            Response(init)
        with pytest.raises(TypeError, match=f"^Unsupported type in Request: {name}$"):
            Request("http://h/", method="POST", body=init)
        assert content_of(None, "Response") == (None, None)
