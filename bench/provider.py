"""The provider: a minimal, fast HTTP/1.1 server that answers like a model API, and judges like one at once."""

from __future__ import annotations

import argparse
import asyncio
import gc
from urllib.parse import parse_qs

from bench.payloads import JUDGEMENT, PLAIN_ANSWER, sse_events

_COMMON = (
    b"Date: Sun, 22 Nov 2026 12:00:00 GMT\r\n"
    b"Server: cloudflare\r\n"
    b"CF-RAY: 8e5f0a1b2c3d4e5f-FRA\r\n"
    b"request-id: req_011BenchBenchBenchBench00\r\n"
    b"anthropic-organization-id: 3f6f2a44-5f0e-4e3a-9c8e-0c6d6a1f1b11\r\n"
    b"anthropic-ratelimit-requests-limit: 4000\r\n"
    b"anthropic-ratelimit-requests-remaining: 3999\r\n"
    b"Strict-Transport-Security: max-age=31536000; includeSubDomains; preload\r\n"
)
_PLAIN = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    + _COMMON
    + b"Content-Length: %d\r\n\r\n" % len(PLAIN_ANSWER)
    + PLAIN_ANSWER
)
_JUDGED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(JUDGEMENT) + JUDGEMENT
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    + _COMMON
    + b"Transfer-Encoding: chunked\r\n\r\n"
)
_READY = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
_LAST_CHUNK = b"0\r\n\r\n"


class Feed:
    """One stream being sent: an event at once or at every gap, held while the peer does not read."""

    def __init__(self, connection: Provider, events: int, gap: float) -> None:
        self._connection = connection
        self._chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in sse_events(events)]
        self._chunks[0] = _STREAM_HEAD + self._chunks[0]
        self._chunks[-1] += _LAST_CHUNK
        self._gap = gap
        self._next = 0
        self._held = False
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()

    def step(self) -> None:
        """Sends the next event and plans the one after it."""
        if self._connection.paused:
            self._held = True
            return
        self._connection.transport.write(self._chunks[self._next])
        self._next += 1
        if self._next == len(self._chunks):
            self._connection.feed_done()
        elif self._gap:
            # An absolute plan: the events do not drift apart when the loop is late.
            self._loop.call_at(self._started + self._next * self._gap, self.step)
        else:
            self._loop.call_soon(self.step)

    def resume(self) -> None:
        """Goes on where the peer stopped reading; a step that is still planned must not be doubled."""
        if self._held:
            self._held = False
            self.step()


class Provider(asyncio.Protocol):
    """One keep-alive connection; requests are answered one after the other."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.paused = False
        self._buffer = b""
        self._feed: Feed | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.paused = True

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._feed is not None:
            self._feed.resume()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._serve()

    def feed_done(self) -> None:
        """The stream is sent: a request that came meanwhile may be answered."""
        self._feed = None
        if self._buffer:
            self._serve()

    def _serve(self) -> None:
        while self._buffer and self._feed is None:
            head_end = self._buffer.find(b"\r\n\r\n")
            if head_end < 0:
                return
            head = self._buffer[:head_end]
            end = _request_end(self._buffer, head, head_end + 4)
            if end < 0:
                return
            body = self._buffer[head_end + 4 : end]
            self._buffer = self._buffer[end:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if not head.startswith(b"POST "):
            self.transport.write(_READY)
            return
        path, _, query = head.split(b" ", 2)[1].partition(b"?")
        if path.startswith(b"/judge/"):
            self.transport.write(_JUDGED)
        elif b'"stream":true' in body or path.endswith(b"/stream"):
            options = parse_qs(query.decode("latin-1"))
            events = max(1, int(options.get("events", ["50"])[0]))
            gap = float(options.get("gap_ms", ["0"])[0]) / 1000
            self._feed = Feed(self, events, gap)
            self._feed.step()
        else:
            self.transport.write(_PLAIN)


def _request_end(buffer: bytes, head: bytes, body_start: int) -> int:
    """Where the request ends in the buffer, or -1 while it has not all come."""
    lowered = head.lower()
    at = lowered.find(b"\r\ncontent-length:")
    if at >= 0:
        line_end = lowered.find(b"\r\n", at + 2)
        length = int(lowered[at + 17 : line_end if line_end >= 0 else None])
        return body_start + length if len(buffer) >= body_start + length else -1
    if b"\r\ntransfer-encoding:" in lowered:
        # The bodies of the benchmark are JSON: the last-chunk mark cannot occur inside one.
        last = buffer.find(b"\r\n" + _LAST_CHUNK, body_start - 2)
        return last + 2 + len(_LAST_CHUNK) if last >= 0 else -1
    return body_start


async def serve(port: int) -> None:
    """Serves until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", port, backlog=1024)
    gc.freeze()
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.provider", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
