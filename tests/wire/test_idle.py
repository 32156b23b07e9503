"""A client that never completes a request head does not keep its connection."""

from __future__ import annotations

import asyncio

import pytest

from worker_compat.entrypoint import WorkerEntrypoint
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import Runtime
from worker_compat_aiohttp import open_fetcher, open_host

from .raw import RawClient


class Hello(WorkerEntrypoint):
    async def fetch(self, request: Request) -> Response:
        return Response("hello")


_WHOLE = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("before", [b"", _WHOLE])
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo"])
async def test_it_is_closed_after_the_limit(before: bytes, sent: bytes) -> None:
    async with open_fetcher() as fetcher, open_host("127.0.0.1", 0, keepalive_s=0.3) as host:
        serving = asyncio.create_task(host.serve(Runtime(fetcher).handler(Hello, None)))
        await host.listening.wait()
        async with await RawClient.connect(host.addresses[0][1]) as client:
            if before:
                assert (await client.request(before)).body == b"hello"
            client.writer.write(sent)
            assert await client.at_end()
        host.stop(0)
        await serving
