"""Content codings: fetched bodies are decoded when read and pass as they came; what code sets is compressed."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import AsyncIterator
from typing import Any

import brotli
import pytest
import zstandard

from worker_compat import fetch
from worker_compat.decoding import CHUNK, DeflateDecoder, EncodedStream, GzipDecoder
from worker_compat.entrypoint import WorkerEntrypoint
from worker_compat.errors import ConnectionLost
from worker_compat.ports import Decoder
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import Runtime
from worker_compat.streams import ReadableStream
from worker_compat.testing import ScriptedBody, ScriptedFetcher, read_response
from worker_compat_brotli import open_decoder
from worker_compat_zstd import open_decoder as open_zstd
from worker_compat_zstd.decoder import MAX_FRAMES

URL = "http://h.example/"
TEXT = b"event: one\n\n" * 400
GZIPPED = gzip.compress(TEXT, mtime=0)
LINES = {"Content-Encoding": "gzip", "Content-Length": str(len(GZIPPED)), "ETag": '"x"'}


def upstream(data: bytes = GZIPPED, headers: Any = LINES, pieces: int = 1) -> tuple[ScriptedFetcher, ScriptedBody]:
    size = -(-len(data) // pieces) or 1
    source = ScriptedBody([data[at : at + size] for at in range(0, len(data), size)], length=len(data))
    return ScriptedFetcher({f"GET {URL}": Response(ReadableStream(source), headers=headers)}), source


async def fetched(data: bytes = GZIPPED, headers: Any = LINES, pieces: int = 1, **options: Any) -> Response:
    fetcher, _ = upstream(data, headers, pieces)
    with Runtime(fetcher, decoders={"br": open_decoder}).use():
        return await fetch(URL, **options)


class Sent:
    """What a host is given, and its bytes."""

    async def __call__(self, response: Response) -> None:
        self.response = response
        self.data = await read_response(response)


async def served(answer: Any, **upstream_is: Any) -> Sent:
    """What leaves for a handler that answers with what ``answer`` makes of the fetched response."""

    class Default(WorkerEntrypoint):
        async def fetch(self, request: Request) -> Response:
            made = answer(await fetch(URL))
            return made if isinstance(made, Response) else await made

    fetcher, _ = upstream(**upstream_is)
    sent = Sent()
    await Runtime(fetcher).handler(Default, None)(Request.incoming("GET", "/", (), None), sent)
    return sent


class TestReading:
    @pytest.mark.parametrize("pieces", [1, 2, 7, len(GZIPPED)])
    async def test_each_way_to_read(self, pieces: int) -> None:
        assert await (await fetched(pieces=pieces)).bytes() == TEXT
        assert await (await fetched(pieces=pieces)).text() == TEXT.decode()
        body = (await fetched(pieces=pieces)).body
        assert body is not None
        assert b"".join([chunk async for chunk in body]) == TEXT
        left, right = (await fetched(pieces=pieces)).clone(), await fetched(pieces=pieces)
        assert await left.bytes() == await right.bytes() == TEXT

    async def test_headers_stay_as_they_came(self) -> None:
        response = await fetched()
        await response.text()
        assert dict(response.headers.items()) == {name.lower(): value for name, value in LINES.items()}

    async def test_a_chunk_is_there_as_soon_as_its_bytes_are(self) -> None:
        one = zlib.compressobj(wbits=31)
        first = one.compress(b"event: one\n\n") + one.flush(zlib.Z_SYNC_FLUSH)
        source = ScriptedBody([first], error=ConnectionLost("cut"))
        fetcher = ScriptedFetcher({f"GET {URL}": Response(ReadableStream(source), headers=LINES)})
        with Runtime(fetcher).use():
            body = (await fetch(URL)).body
        assert body is not None
        reader = body.get_reader()
        assert await reader.read() == b"event: one\n\n"
        with pytest.raises(ConnectionLost):
            await reader.read()
        assert source.closed

    async def test_brotli_is_left_alone_without_a_decoder(self) -> None:
        data = brotli.compress(TEXT)
        fetcher, _ = upstream(data, {"Content-Encoding": "br"})
        with Runtime(fetcher).use():
            assert await (await fetch(URL)).bytes() == data
        assert await (await fetched(data, {"Content-Encoding": "br"}, pieces=5)).bytes() == TEXT

    @pytest.mark.parametrize(
        ("coding", "data"),
        [("zstd", zstandard.compress(TEXT)), ("deflate", zlib.compress(TEXT))],
        ids=["zstd", "deflate"],
    )
    async def test_what_workers_do_not_decode_is_left_alone(self, coding: str, data: bytes) -> None:
        fetcher, _ = upstream(data, {"Content-Encoding": coding})
        everything = {"br": open_decoder, "zstd": open_zstd, "deflate": DeflateDecoder}
        with Runtime(fetcher, decoders=everything).use():
            assert await (await fetch(URL)).bytes() == data

    async def test_cancelling_closes_the_source(self) -> None:
        fetcher, source = upstream(pieces=9)
        with Runtime(fetcher).use():
            body = (await fetch(URL)).body
        assert body is not None
        await body.cancel()
        assert source.closed

    async def test_broken_input_closes_the_source(self) -> None:
        fetcher, source = upstream(b"no gzip at all", pieces=2)
        with Runtime(fetcher).use():
            response = await fetch(URL)
        with pytest.raises(TypeError, match=r"^Gzip decompression failed\.$"):
            await response.text()
        assert source.closed

    async def test_manual(self) -> None:
        assert await (await fetched(encodeResponseBody="manual")).bytes() == GZIPPED
        request = Request(Request(URL, encodeResponseBody="manual"), headers={"A": "1"})
        fetcher, _ = upstream()
        with Runtime(fetcher).use():
            assert await (await fetch(request)).bytes() == GZIPPED

    async def test_a_relay_sees_every_byte_and_is_not_looked_at(self) -> None:
        fetcher, source = upstream()
        with Runtime(fetcher).use():
            response = await fetch(Request.outgoing(URL, "GET", (), None))
        assert not isinstance(response.body, EncodedStream)
        assert response.body is not None
        assert response.body.detach() is source
        assert response.headers._index is None


class TestBombs:
    @pytest.mark.parametrize(
        ("make", "open_one"),
        [
            (lambda data: gzip.compress(data, mtime=0), GzipDecoder),
            (zlib.compress, DeflateDecoder),
            (brotli.compress, open_decoder),
            (zstandard.compress, open_zstd),
        ],
        ids=["gzip", "deflate", "brotli", "zstd"],
    )
    def test_no_call_gives_much_more_than_asked_for(self, make: Any, open_one: Any) -> None:
        decoder: Decoder = open_one()
        data, total, largest = make(bytes(8_000_000)), 0, 0
        while out := decoder.decode(data, CHUNK):
            total, largest, data = total + len(out), max(largest, len(out)), b""
        decoder.finish()
        assert total == 8_000_000
        assert largest <= 2 * CHUNK

    async def test_a_stream_gives_it_piece_by_piece(self) -> None:
        body = (await fetched(gzip.compress(bytes(8_000_000), mtime=0))).body
        assert body is not None
        reader = body.get_reader()
        assert [len(await reader.read()) for _ in range(3)] == [CHUNK] * 3
        await reader.cancel()

    def test_many_empty_members(self) -> None:
        decoder = GzipDecoder()
        assert decoder.decode(gzip.compress(b"", mtime=0) * 3_000 + GZIPPED, CHUNK) == TEXT
        decoder.finish()

    @pytest.mark.parametrize("seed", range(20))
    def test_random_members_in_random_pieces(self, seed: int) -> None:
        chance = random.Random(seed)
        plain = [chance.randbytes(chance.randrange(3)) * chance.randrange(40_000) for _ in range(4)]
        data = b"".join(gzip.compress(part, chance.randrange(10), mtime=0) for part in plain)
        decoder, decoded = GzipDecoder(), b""
        while data:
            size = chance.randrange(1, 5_000)
            piece, data = data[:size], data[size:]
            while out := decoder.decode(piece, 1_000):
                decoded, piece = decoded + out, b""
        decoder.finish()
        assert decoded == b"".join(plain)


def undone(decoder: Decoder, data: bytes, size: int = 1 << 20) -> bytes:
    decoded = b""
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        while out := decoder.decode(piece, 1_000):
            decoded, piece = decoded + out, b""
    decoder.finish()
    return decoded


def deflated(data: bytes, wbits: int) -> bytes:
    deflate = zlib.compressobj(wbits=wbits)
    return deflate.compress(data) + deflate.flush()


class TestDeflate:
    @pytest.mark.parametrize("size", [1, 2, 3, 1_000])
    @pytest.mark.parametrize("wbits", [15, 9, -15, -9])
    @pytest.mark.parametrize("text", [b"", b"x", TEXT, random.Random(1).randbytes(3_000)], ids=len)
    def test_wrapped_and_bare(self, text: bytes, wbits: int, size: int) -> None:
        assert undone(DeflateDecoder(), deflated(text, wbits), size) == text

    @pytest.mark.parametrize("data", [b"no deflate", zlib.compress(TEXT) + b"x", zlib.compress(TEXT)[:-4] + b"abcd"])
    def test_broken(self, data: bytes) -> None:
        with pytest.raises(TypeError, match=r"^Deflate decompression failed\.$"):
            undone(DeflateDecoder(), data)

    @pytest.mark.parametrize("data", [b"", b"x", zlib.compress(TEXT)[:-1], deflated(TEXT, -15)[:-1]], ids=len)
    def test_cut(self, data: bytes) -> None:
        with pytest.raises(TypeError, match=r"^Deflate compressed stream ended prematurely\.$"):
            undone(DeflateDecoder(), data)


def zstd(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def zstd_flushed(*parts: bytes) -> bytes:
    """A frame with the end of a block behind each part, as a server sends events."""
    one = zstandard.ZstdCompressor().compressobj()
    flush = zstandard.COMPRESSOBJ_FLUSH_BLOCK
    return b"".join([*(one.compress(part) + one.flush(flush) for part in parts), one.flush()])


SKIPPABLE = b"\x5a\x2a\x4d\x18\x05\x00\x00\x00hello"


class TestZstd:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000, 100_000])
    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (zstd(b""), b""),
            (zstd(b"x"), b"x"),
            (zstd(TEXT), TEXT),
            (zstd(TEXT, write_checksum=True), TEXT),
            (zstd(TEXT, write_content_size=False), TEXT),
            (zstd(bytes(3_000)), bytes(3_000)),
            (zstd(random.Random(1).randbytes(3_000)), random.Random(1).randbytes(3_000)),
            (zstd_flushed(b"one", b"", TEXT, b"two"), b"one" + TEXT + b"two"),
            (SKIPPABLE + zstd(b"one") + SKIPPABLE + zstd(b"two", write_checksum=True) + SKIPPABLE, b"onetwo"),
        ],
        ids="empty one usual checksum unsized zeros random flushed frames".split(),
    )
    def test_frames_in_pieces(self, data: bytes, text: bytes, size: int) -> None:
        assert undone(open_zstd(), data, size) == text

    def test_large_blocks(self) -> None:
        text = random.Random(2).randbytes(400_000) + bytes(400_000) + TEXT * 100
        assert undone(open_zstd(), zstd(text), 16_384) == text

    def test_an_event_is_there_as_soon_as_its_bytes_are(self) -> None:
        one = zstandard.ZstdCompressor().compressobj()
        first = one.compress(b"event: one\n\n") + one.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        assert open_zstd().decode(first, CHUNK) == b"event: one\n\n"

    @pytest.mark.parametrize(
        "data",
        [
            b"no zstandard", zstd(TEXT) + b"garbage", zstd(TEXT, write_checksum=True)[:-4] + b"abcd",
            zstd(bytes(9 << 20), compression_params=zstandard.ZstdCompressionParameters(window_log=24)),
            zstd(b"") * (MAX_FRAMES + 1),
        ],
        ids="garbage behind checksum window frames".split(),
    )  # fmt: skip
    def test_broken(self, data: bytes) -> None:
        with pytest.raises(TypeError, match=r"^Zstandard decompression failed\.$"):
            undone(open_zstd(), data)

    def test_as_many_frames_as_there_may_be(self) -> None:
        assert undone(open_zstd(), zstd(b"x") * MAX_FRAMES) == b"x" * MAX_FRAMES

    @pytest.mark.parametrize(
        "data",
        [b"", b"\x28\xb5", zstd(TEXT)[:5], zstd(TEXT)[:-1], zstd(TEXT, write_checksum=True)[:-4], zstd(TEXT) + b"\x28"],
        ids="nothing magic header block checksum frame".split(),
    )
    def test_cut(self, data: bytes) -> None:
        with pytest.raises(TypeError, match=r"^Zstandard compressed stream ended prematurely\.$"):
            undone(open_zstd(), data)

    @pytest.mark.parametrize("at", range(0, 60, 3))
    def test_damage_is_told_in_one_way(self, at: int) -> None:
        data = bytearray(zstd(random.Random(at).randbytes(40) + TEXT, write_checksum=True))
        data[at % len(data)] ^= 0x55
        with pytest.raises(
            TypeError, match=r"^Zstandard (decompression failed|compressed stream ended prematurely)\.$"
        ):
            undone(open_zstd(), bytes(data))


class TestPassingOn:
    @pytest.mark.parametrize(
        "answer",
        [
            lambda response: response,
            lambda response: response.clone(),
            lambda response: Response(response.body, headers=response.headers),
            lambda response: Response(response.body, response.status, headers=list(response.headers.items())),
            lambda response: response.replace_body(response.body),
        ],
        ids=["itself", "clone", "headers", "pairs", "replace_body"],
    )
    async def test_untouched_bytes_pass(self, answer: Any) -> None:
        sent = await served(answer, pieces=3)
        assert sent.data == GZIPPED
        assert sent.response.headers["content-encoding"] == "gzip"
        assert sent.response.headers["etag"] == '"x"'

    async def test_without_its_headers_the_body_goes_decoded(self) -> None:
        sent = await served(lambda response: Response(response.body))
        assert (sent.data, sent.response.headers["content-encoding"]) == (TEXT, None)

    async def test_under_another_coding_it_is_not_sent_as_gzip(self) -> None:
        sent = await served(lambda response: Response(response.body, headers={"Content-Encoding": "identity"}))
        assert sent.data == TEXT

    async def test_headers_changed_at_the_end_count(self) -> None:
        def plain(response: Response) -> Response:
            made = Response(response.body, headers=response.headers)
            made.headers.delete("content-encoding")
            return made

        assert (await served(plain)).data == TEXT

    async def test_new_text_under_old_headers_is_compressed(self) -> None:
        async def changed(response: Response) -> Response:
            return Response((await response.text()).upper(), headers=response.headers)

        sent = await served(changed)
        assert gzip.decompress(sent.data) == TEXT.upper()
        assert sent.response.headers["content-encoding"] == "gzip"

    @pytest.mark.parametrize("empty", ["", b""])
    async def test_an_empty_body_is_compressed_too(self, empty: Any) -> None:
        sent = await served(lambda response: Response(empty, headers=LINES))
        assert gzip.decompress(sent.data) == b""

    async def test_no_body_stays_none(self) -> None:
        assert (await served(lambda response: Response(None, headers=LINES))).response.body is None

    async def test_what_is_encoded_already_is_said_so(self) -> None:
        def made(response: Response) -> Response:
            return Response(GZIPPED, headers=LINES, encodeBody="manual")

        assert (await served(made)).data == GZIPPED
        assert (await served(lambda response: made(response).clone())).data == GZIPPED

    @pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "zstd"])
    async def test_other_codings_are_the_handlers_work(self, coding: str) -> None:
        assert (await served(lambda response: Response(b"x", headers={"Content-Encoding": coding}))).data == b"x"

    async def test_events_are_not_held_back(self) -> None:
        async def events() -> AsyncIterator[bytes]:
            yield b"event: one\n\n"
            raise ConnectionLost("later")

        sent: list[bytes] = []

        async def send(response: Response) -> None:
            assert response.body is not None
            source = response.body.detach()
            sent.append(await source.pull())
            with pytest.raises(ConnectionLost):
                await source.pull()

        class Default(WorkerEntrypoint):
            async def fetch(self, request: Request) -> Response:
                return Response(events(), headers=LINES)

        await Runtime(ScriptedFetcher({})).handler(Default, None)(Request.incoming("GET", "/", (), None), send)
        assert zlib.decompressobj(31).decompress(b"".join(sent)) == b"event: one\n\n"

    async def test_a_request_is_sent_what_can_be_read(self) -> None:
        fetcher, _ = upstream()
        fetcher._routes[f"POST {URL}"] = Response("ok")
        with Runtime(fetcher).use():
            response = await fetch(URL)
            await fetch(URL, method="POST", body=response.body)
        assert fetcher.requests[1].body == TEXT
        assert response.body_used


class TestTee:
    async def test_both_branches_pass_or_decode(self) -> None:
        response = await fetched(pieces=4)
        assert response.body is not None
        left, right = response.body.tee()
        assert await left.read_all() == TEXT
        assert await read_response(Response(right, headers=LINES)) == GZIPPED

    async def test_what_was_read_in_part_goes_on_decoded(self) -> None:
        body = (await fetched(gzip.compress(bytes(300_000), mtime=0))).body
        assert body is not None
        reader = body.get_reader()
        first = await reader.read()
        reader.release_lock()
        left, right = body.tee()
        assert await left.read_all() == await right.read_all() == bytes(300_000 - len(first))
