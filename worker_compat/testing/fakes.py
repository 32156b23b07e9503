"""Scripted implementations of the ports, for tests of handlers and adapters: a fetcher, a clock, a body."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from worker_compat.headers import Headers, RawHeaders
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.streams import ByteSource, ReadableStream

Answer: TypeAlias = (
    "Response | BaseException | type[BaseException] | Callable[[Request], Response | Awaitable[Response]]"
)
"""What one request gets: a response, an error to raise, or a function (async or not) that gives or raises one."""


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request as it would have gone out; ``body`` is ``b""`` also when there was none (``has_body`` tells)."""

    method: str
    url: str
    raw_headers: RawHeaders
    body: bytes
    has_body: bool

    @property
    def headers(self) -> Headers:
        """The headers, for reading by name."""
        return Headers.from_raw(self.raw_headers, immutable=True)


class ScriptedFetcher:
    """A Fetcher that answers from a table and remembers what it was asked.

    A key is a method and a URL (``"POST https://host/path"``), with or without the query; the exact URL wins. A
    value is one :data:`Answer` for every request, or a list of them, one for each request in turn. A response
    with a stream for a body answers once, others as often as asked. Like a real fetcher it reads the whole body
    of each request, ignores ``redirect``, and gives responses with immutable headers and, to HEAD, no body.
    """

    def __init__(self, routes: Mapping[str, Answer | list[Answer]]) -> None:
        self._routes = {route: list(answer) if isinstance(answer, list) else answer for route, answer in routes.items()}
        self.requests: list[SeenRequest] = []

    async def fetch(self, request: Request) -> Response:
        """Answer ``request``; see :class:`worker_compat.ports.Fetcher`. ``AssertionError`` when no route fits."""
        method, url = str(request.method), request.url
        content = request._release()
        body = await content.read_all() if isinstance(content, ReadableStream) else content
        raw_headers = tuple(request.headers.raw)
        self.requests.append(SeenRequest(method, url, raw_headers, body or b"", body is not None))
        again = Request.outgoing(url, method, raw_headers, body, request.informational)
        return _received(await _given(self._answer(method, url), again), method, url)

    def _answer(self, method: str, url: str) -> Answer:
        route = f"{method} {url}"
        if route not in self._routes:
            route = route.partition("?")[0]
        try:
            answer = self._routes[route]
        except KeyError:
            known = "".join(f"\n  {name}" for name in self._routes) or " none"
            raise AssertionError(f"no route for {method} {url}; known routes:{known}") from None
        if not isinstance(answer, list):
            return answer
        if not answer:
            raise AssertionError(f"{route} was fetched more often than it has answers")
        return answer.pop(0)


async def _given(answer: Answer, request: Request) -> Response:
    if isinstance(answer, Response):
        return answer
    if isinstance(answer, BaseException):
        raise answer
    if isinstance(answer, type):
        raise answer()
    response = answer(request)
    return await response if inspect.isawaitable(response) else response


def _received(response: Response, method: str, url: str) -> Response:
    """``response`` as a fetcher gives it: its own object, immutable headers, the URL that it came from."""
    content = None if method == "HEAD" else response._content
    if isinstance(content, ReadableStream) and (content.disturbed or content.locked):
        raise AssertionError(f"the stream that answers {method} {url} was used before; give a list or a function")
    lines = tuple(response.headers.raw)
    return Response.from_raw(response.status, response.reason, lines, content, url=url, immutable=True)


class FakeClock:
    """Seconds since the epoch that pass when told."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self.now = start

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class ScriptedBody(ByteSource):
    """A source of given chunks that records how it was closed.

    ``error`` is raised by the pull after the ``error_after``-th chunk (the last one by default). With ``gate``
    every chunk but the first waits for it to be set, and clears it: one ``set()`` lets one chunk pass.
    ``close_reasons`` has one entry for each call of ``close``.
    """

    def __init__(
        self,
        chunks: Iterable[bytes],
        *,
        error: BaseException | None = None,
        error_after: int | None = None,
        gate: asyncio.Event | None = None,
        length: int | None = None,
    ) -> None:
        self._chunks = list(chunks)
        self._error = error
        self._error_after = len(self._chunks) if error_after is None else error_after
        self._gate = gate
        self.length = length
        self.pulled = 0
        self.close_reasons: list[BaseException | None] = []

    @property
    def closed(self) -> bool:
        """Whether somebody gave up the rest."""
        return bool(self.close_reasons)

    async def pull(self) -> bytes:
        """The next chunk."""
        if self._error is not None and self.pulled == self._error_after:
            raise self._error
        if self.pulled == len(self._chunks):
            return b""
        if self._gate is not None and self.pulled:
            await self._gate.wait()
            self._gate.clear()
        self.pulled += 1
        return self._chunks[self.pulled - 1]

    def close(self, reason: BaseException | None = None) -> None:
        """Record the reason."""
        self.close_reasons.append(reason)


async def read_response(response: Response) -> bytes:
    """The body of ``response``, taken from it in the way of a host; it is used afterwards."""
    content = response._release()
    if not isinstance(content, ReadableStream):
        return content or b""
    source = content.detach()
    whole = source.take()
    if whole is not None:
        return whole
    chunks = [source.pull_now()]
    while chunk := await source.pull():
        chunks.append(chunk)
    return b"".join(chunks)
