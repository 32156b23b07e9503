"""The kits of fetchers and hosts: green over aiohttp, and each planted defect is named by the case that sees it."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from worker_compat.errors import ConnectionLost
from worker_compat.ports import Fetcher, Handle, Host, Send
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.streams import ByteSource, ReadableStream
from worker_compat.testing import (
    FetcherConformance,
    HostConformance,
    Origin,
    fetcher_subjects,
    host_subjects,
    open_origin,
)
from worker_compat.testing.fakes import read_response
from worker_compat.testing.kit import cases, run
from worker_compat_aiohttp import open_fetcher, open_host


def free_address() -> tuple[str, int]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host, port = unused.getsockname()
        return host, port


class TestAiohttpFetcher(FetcherConformance):
    @pytest.fixture
    async def fetcher(self) -> AsyncIterator[Fetcher]:
        async with open_fetcher() as fetcher:
            yield fetcher

    @pytest.fixture
    async def server(self) -> AsyncIterator[Origin]:
        async with open_origin() as origin:
            yield origin


async def test_an_unread_response_closes_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that looks at the status only leaves neither a connection nor a complaint about one."""
    closed = asyncio.Event()

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome")
        await reader.read()
        closed.set()
        writer.close()

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server, open_fetcher() as fetcher:
        host, port = server.sockets[0].getsockname()
        assert (await fetcher.fetch(Request.outgoing(f"http://{host}:{port}/", "GET", (), None))).status == 200
        async with asyncio.timeout(5):
            await closed.wait()
    assert caplog.records == []


class TestAiohttpHost(HostConformance):
    @pytest.fixture
    def address(self) -> tuple[str, int]:
        return free_address()

    @pytest.fixture
    async def host(self, address: tuple[str, int]) -> AsyncIterator[Host]:
        async with open_host(*address) as host:
            yield host


class Altered:
    """A fetcher around another one; a subclass plants a defect."""

    def __init__(self, inner: Fetcher) -> None:
        self.inner = inner

    async def fetch(self, request: Request) -> Response:
        return await self.inner.fetch(request)

    async def again(self, request: Request, **changes: Any) -> Response:
        given: dict[str, Any] = {
            "url": request.url, "method": str(request.method), "headers": list(request.headers.raw),
            "informational": request.informational,
        }  # fmt: skip
        if "body" not in changes:
            given["body"] = request._release()
        return await self.inner.fetch(Request.outgoing(**{**given, **changes}))


class AddsAHeader(Altered):
    async def fetch(self, request: Request) -> Response:
        return await self.again(request, headers=[*request.headers.raw, (b"User-Agent", b"me")])


class LowersNames(Altered):
    async def fetch(self, request: Request) -> Response:
        return await self.again(request, headers=[(name.lower(), value) for name, value in request.headers.raw])


class Decodes(Altered):
    async def fetch(self, request: Request) -> Response:
        response = await self.inner.fetch(request)
        if response.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(await read_response(response))
            return Response.from_raw(response.status, response.reason, response.headers.raw, body, immutable=True)
        return response


class Follows(Altered):
    async def fetch(self, request: Request) -> Response:
        response = await self.inner.fetch(request)
        if response.status == 302:
            await read_response(response)
            return await self.again(request, url=request.url + str(response.headers["location"])[1:])
        return response


class SendsAgain(Altered):
    async def fetch(self, request: Request) -> Response:
        body = request._release()
        try:
            return await self.again(request, body=body)
        except ConnectionLost:
            if isinstance(body, ReadableStream):
                raise
            return await self.again(request, body=body)


class HidesACut(Altered):
    class Source(ByteSource):
        def __init__(self, inner: ByteSource) -> None:
            self.inner, self.length = inner, inner.length

        async def pull(self) -> bytes:
            try:
                return await self.inner.pull()
            except ConnectionLost:
                return b""

        def close(self, reason: BaseException | None = None) -> None:
            self.inner.close(reason)

    async def fetch(self, request: Request) -> Response:
        response = await self.inner.fetch(request)
        if isinstance(response._content, ReadableStream):
            response._content = ReadableStream(self.Source(response._content.detach()))
        return response


FETCHER_DEFECTS = {
    AddsAHeader: "the_request_is_sent_as_it_is",
    LowersNames: "the_request_is_sent_as_it_is",
    Decodes: "encoded_bodies_stay_encoded",
    Follows: "redirects_are_answers",
    SendsAgain: "a_connection_cut_before_the_head",
    HidesACut: "a_body_that_is_cut",
}


async def failed(kit: type, subjects: Any, *names: str) -> set[str]:
    """Which of these cases fail; the others are not run."""
    chosen = type(kit.__name__, (), {f"test_{name}": getattr(kit, f"test_{name}") for name in names})
    return {outcome.case.name for outcome in await run(chosen, subjects) if not outcome.passed}


@pytest.mark.parametrize(("defect", "case"), FETCHER_DEFECTS.items(), ids=lambda value: getattr(value, "__name__", ""))
async def test_a_planted_defect_of_a_fetcher_is_named(defect: type[Altered], case: str) -> None:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Fetcher]:
        async with open_fetcher() as inner:
            yield defect(inner)

    assert await failed(FetcherConformance, fetcher_subjects(opened), case, "many_at_once") == {case}


class AlteredHost:
    """A host around another one; a subclass plants a defect."""

    def __init__(self, inner: Host) -> None:
        self.inner = inner

    async def serve(self, handle: Handle) -> None:
        await self.inner.serve(lambda request, send: self.handled(handle, request, send))

    async def handled(self, handle: Handle, request: Request, send: Send) -> None:
        await handle(request, send)

    def stop(self, grace_s: float) -> None:
        self.inner.stop(grace_s)


class GoesOnForNobody(AlteredHost):
    async def handled(self, handle: Handle, request: Request, send: Send) -> None:
        self.going = asyncio.ensure_future(handle(request, send))
        await asyncio.shield(self.going)

    def stop(self, grace_s: float) -> None:
        self.going.cancel()
        super().stop(grace_s)


class CutsAtOnce(AlteredHost):
    def stop(self, grace_s: float) -> None:
        self.inner.stop(0)


class AddsADate(AlteredHost):
    async def handled(self, handle: Handle, request: Request, send: Send) -> None:
        async def dated(response: Response) -> None:
            lines = [*response.headers.raw, (b"Date", b"today")]
            await send(Response.from_raw(response.status, response.reason, lines, response._release()))

        await handle(request, dated)


HOST_DEFECTS = {
    CutsAtOnce: "stop_lets_requests_end",
    AddsADate: "a_response_leaves_as_it_is",
    GoesOnForNobody: "a_client_that_leaves_cancels_the_handler",
}


@pytest.mark.parametrize(("defect", "case"), HOST_DEFECTS.items(), ids=lambda value: getattr(value, "__name__", ""))
async def test_a_planted_defect_of_a_host_is_named(defect: type[AlteredHost], case: str) -> None:
    @asynccontextmanager
    async def opened(address: tuple[str, int]) -> AsyncIterator[Host]:
        async with open_host(*address) as inner:
            yield defect(inner)

    subjects = host_subjects(opened, free_address())
    assert await failed(HostConformance, subjects, case, "a_connection_serves_many") == {case}


def test_every_case_says_its_rule() -> None:
    for kit, at_least in ((FetcherConformance, 18), (HostConformance, 14)):
        rules = [case.rule for case in cases(kit)]
        assert len(rules) >= at_least
        assert all(rule.endswith(".") for rule in rules)
