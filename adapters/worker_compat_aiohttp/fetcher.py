"""The client half: requests over aiohttp's connection pool and resolver, relayed byte for byte.

It works one level below ``aiohttp.ClientSession``, whose request and response classes lose header bytes, repeats
and a bare question mark: pool, TLS, DNS and parser are aiohttp's, the head is our own bytes.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import hdrs
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from yarl import URL

from worker_compat.errors import ConnectFailed, ConnectionLost, FetchTimeout
from worker_compat.request import Request, split_url
from worker_compat.response import Response

from .reading import Watchdog
from .upstream import Exchange, UpstreamProtocol


class Origin:
    """A scheme, host and port: what the pool asks for, and the value of the Host header."""

    __slots__ = ("host", "request")

    def __init__(self, origin: str, loop: asyncio.AbstractEventLoop) -> None:
        try:
            url = URL(origin, encoded=True)
        except ValueError:
            raise TypeError(f"Invalid URL: {origin}") from None
        if url.scheme not in ("http", "https") or not url.raw_host or url.user or url.password:
            raise TypeError(f"Fetch API cannot load: {url.scheme}://{url.raw_host or ''}")
        self.request = ClientRequest(hdrs.METH_GET, url, loop=loop)
        self.host = origin.partition("://")[2].encode()


class AiohttpFetcher:
    """The Fetcher port over aiohttp. ``read_timeout_s`` limits the wait for the head and between any two bytes.

    ``protocol`` reads the responses; ``options`` are further ones of aiohttp's ``TCPConnector``.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 300.0,
        keepalive_s: float = 15.0,
        ssl_context: ssl.SSLContext | None = None,
        protocol: type[UpstreamProtocol] = UpstreamProtocol,
        **options: Any,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect_timeout = aiohttp.ClientTimeout(connect=connect_timeout_s, ceil_threshold=3600)
        self._connect_limit_s = connect_timeout_s
        self._origins: dict[str, Origin] = {}
        self.read_limit_s = read_timeout_s
        self.watchdog = Watchdog(self._loop, read_timeout_s)
        # Below any provider's own idle limit, so that we seldom write into a closing connection. aiodns resolves
        # when it is installed: aiohttp chooses it by itself.
        self._connector = _Connector(
            protocol,
            limit=0,
            keepalive_timeout=keepalive_s,
            ttl_dns_cache=30,
            ssl=True if ssl_context is None else ssl_context,
            **options,
        )

    async def fetch(self, request: Request) -> Response:
        """Send ``request``; see :class:`worker_compat.ports.Fetcher`. Redirects are not followed."""
        origin, target = split_url(request.url)
        dest = self._origins.get(origin) or self._remember(origin)
        exchange = Exchange(self, dest, request, target, request._release())
        while True:
            connection = await self._connect(dest)
            try:
                return await exchange.run(connection)
            except ConnectionLost:
                if not exchange.may_retry():
                    raise

    def soon(self, call: Callable[[BaseException | None], None], reason: BaseException | None) -> None:
        """Call from the loop, unless it has ended: then its connections have, too."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, reason)

    async def close(self) -> None:
        """Close every connection."""
        self.watchdog.stop()
        await self._connector.close()

    def _remember(self, origin: str) -> Origin:
        if len(self._origins) >= 1024:
            self._origins.clear()
        dest = self._origins[origin] = Origin(origin, self._loop)
        return dest

    async def _connect(self, dest: Origin) -> Connection:
        try:
            while True:
                connection = await self._connector.connect(dest.request, [], self._connect_timeout)
                protocol = connection.protocol
                if not isinstance(protocol, UpstreamProtocol) or not protocol.unsolicited():
                    return connection
                connection.close()
        except TimeoutError as error:
            raise FetchTimeout("connect", self._connect_limit_s) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectFailed(f"could not connect: {type(error).__name__}") from error


class _Connector(aiohttp.TCPConnector):
    """aiohttp's pool, making our protocol."""

    def __init__(self, protocol: type[UpstreamProtocol], **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(protocol, self._loop)  # type: ignore[assignment] # a subclass


@asynccontextmanager
async def open_fetcher(
    *,
    connect_timeout_s: float = 10.0,
    read_timeout_s: float = 300.0,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[AiohttpFetcher]:
    """A fetcher whose connections are closed at the end. Time limits in seconds."""
    fetcher = AiohttpFetcher(
        connect_timeout_s=connect_timeout_s, read_timeout_s=read_timeout_s, ssl_context=ssl_context
    )
    try:
        yield fetcher
    finally:
        await fetcher.close()
