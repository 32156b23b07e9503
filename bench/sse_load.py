"""The stream load: many SSE requests over raw connections, each answer timed and checked byte for byte."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
from time import perf_counter
from typing import Any

from bench.payloads import PATH, REQUEST_HEADERS, STREAM_REQUEST, sse_events
from bench.stats import percentile

_END = b"\r\n0\r\n\r\n"
_GRACE = 30.0


class Load:
    """What the connections of one run share: the request, the expected bytes, the clock and the figures."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.port: int = options.port
        self.expected = b"".join(sse_events(options.events))
        self.request = _request(options.port, f"{options.path}?events={options.events}&gap_ms={options.gap_ms}")
        self.ttfb: list[float] = []
        self.ends_at = 0.0
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, reason: str) -> None:
        if not self.failed.done():
            self.failed.set_exception(RuntimeError(reason))


class Stream(asyncio.Protocol):
    """One connection: it asks for a stream, checks every byte, and asks again until the time is up."""

    transport: asyncio.Transport

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = bytearray()
        self._body_at = 0
        self._asked_at = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self) -> None:
        self._buffer.clear()
        self._body_at = 0
        self._asked_at = perf_counter()
        self.transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._body_at:
            head_end = buffer.find(b"\r\n\r\n") + 4
            if head_end < 4 or len(buffer) == head_end:
                return
            self._load.ttfb.append(perf_counter() - self._asked_at)
            self._body_at = head_end
            if not _is_stream(bytes(buffer[:head_end])):
                self._load.fail(f"not a stream: {bytes(buffer[:600])!r}")
        if buffer.endswith(_END):
            self._finish()

    def _finish(self) -> None:
        payload = dechunk(bytes(self._buffer[self._body_at :]))
        if payload != self._load.expected:
            self._load.fail(f"a stream differs: {len(payload)} bytes of {len(self._load.expected)}")
        elif perf_counter() < self._load.ends_at:
            self.ask()
        else:
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._load.fail(f"a connection closed inside a stream, after {len(self._buffer)} bytes ({exc})")


def _request(port: int, target: str) -> bytes:
    headers = {**REQUEST_HEADERS, "host": f"127.0.0.1:{port}", "content-length": str(len(STREAM_REQUEST))}
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + STREAM_REQUEST


def _is_stream(head: bytes) -> bool:
    lowered = head.lower()
    return lowered.startswith(b"http/1.1 200 ") and b"\r\ntransfer-encoding: chunked\r\n" in lowered


def dechunk(body: bytes) -> bytes:
    """The payload of a chunked body; what is malformed ends it early, so that the comparison fails."""
    parts, at = [], 0
    while (line_end := body.find(b"\r\n", at)) > 0:
        try:
            size = int(body[at:line_end], 16)
        except ValueError:
            break
        if not size:
            break
        parts.append(body[line_end + 2 : line_end + 2 + size])
        at = line_end + 2 + size + 2
    return b"".join(parts)


async def run(options: argparse.Namespace) -> dict[str, float]:
    """Runs the load to its end and returns its figures; raises when one stream is not complete."""
    loop = asyncio.get_running_loop()
    load = Load(options)
    streams = []
    for _ in range(options.streams):
        _, stream = await loop.create_connection(lambda: Stream(load), "127.0.0.1", options.port)
        streams.append(stream)
    gc.freeze()
    started = perf_counter()
    load.ends_at = started + options.seconds
    # Streams begin at moments spread over one stream's length, as callers do; a herd would time a queue.
    length = options.events * options.gap_ms / 1000
    spread = random.Random(options.streams)  # the same moments for every target
    for stream in streams:
        loop.call_later(spread.uniform(0, length), stream.ask)
    everything = asyncio.gather(*(stream.done for stream in streams))
    async with asyncio.timeout(options.seconds + length + _GRACE):
        waiting: set[asyncio.Future[Any]] = {everything, load.failed}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if load.failed.done():
        await load.failed
    elapsed = perf_counter() - started
    return {
        "streams": float(len(load.ttfb)),
        "events": float(len(load.ttfb) * options.events),
        "events_s": len(load.ttfb) * options.events / elapsed,
        "ttfb_p50_ms": percentile(load.ttfb, 50) * 1000,
        "ttfb_p99_ms": percentile(load.ttfb, 99) * 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.sse_load", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default=PATH)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--events", type=int, default=10)
    parser.add_argument("--gap-ms", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3.0)
    try:
        print(json.dumps(asyncio.run(run(parser.parse_args()))))
    except TimeoutError:
        sys.exit("sse_load: the streams did not end in time")
    except (RuntimeError, OSError) as error:
        sys.exit(f"sse_load: {error}")


if __name__ == "__main__":
    main()
