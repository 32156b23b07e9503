"""EGRESS: a fetcher for addresses that users configure; it reaches the public Internet and nothing else.

A name is looked up once. If any of its addresses is not public nothing is sent, since names that lead both ways are an
attack; otherwise the connection goes to one of the very addresses that were looked at. What comes after the answer's
head counts little: it is read for a while, up to a size, and then cut off.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType

from worker_compat.addresses import is_public, parse_address
from worker_compat.errors import ConnectFailed, FetchError, FetchTimeout
from worker_compat.request import Request, split_url
from worker_compat.response import Response

from .fetcher import AiohttpFetcher
from .upstream import UpstreamProtocol

MAX_ANSWER = 64 * 1024
"""Bytes of an answer's body that are read; the rest is not."""

_KEEPALIVE_S = 4.0
"""Below the idle limits of usual servers: a request that changes things is not sent again when one closes early."""


class EgressRefused(ConnectFailed):
    """Users may not make us ask this address; nothing was sent. The text names the setting that allows it."""


class _Refusal(Exception):
    """The same on its way through aiohttp, which would take any ``OSError`` for a look-up that failed."""


class EgressFetcher:
    """The Fetcher port for addresses that users configure. Redirects are not followed, proxies not used.

    A whole call takes ``timeout_s`` at most. The body of a response is what came of it by then, and no more than
    ``MAX_ANSWER`` bytes.
    """

    def __init__(self, fetcher: AiohttpFetcher, *, allow_private: bool, timeout_s: float) -> None:
        self._fetcher = fetcher
        self._allow_private = allow_private
        self._timeout_s = timeout_s

    async def fetch(self, request: Request) -> Response:
        """Send ``request``; see :class:`worker_compat.ports.Fetcher`. :class:`EgressRefused` where it may not go."""
        self._check_origin(split_url(request.url)[0])
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._fetcher.fetch(request)
        except TimeoutError:
            raise FetchTimeout("first-byte", self._timeout_s) from None
        except _Refusal as refusal:
            raise EgressRefused(str(refusal)) from None
        return await _read(response, deadline)

    def _check_origin(self, origin: str) -> None:
        scheme, _, authority = origin.partition("://")
        if "@" in authority:
            raise EgressRefused("a URL with a user or a password is refused; put what proves the caller elsewhere")
        if scheme != "https" and not (scheme == "http" and self._allow_private):
            raise EgressRefused("only https is allowed; set WEBHOOK_ALLOW_PRIVATE=true to allow http")


class _Names(AbstractResolver):
    """Gives the addresses of a name: all of them checked, and at least one."""

    def __init__(self, resolver: AbstractResolver, check: Callable[[str], None]) -> None:
        self._resolver = resolver
        self._check = check

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not found:
            raise OSError("the name has no address")
        for each in found:
            self._check(each["host"])
        return found

    async def close(self) -> None:
        await self._resolver.close()


class _Protocol(UpstreamProtocol):
    """Reads answers of strangers: what a head may weigh is a webhook's, not a provider's."""

    max_headers = 100
    max_field = 8 * 1024


def _allow(address: str) -> None:
    """Let every address pass."""


def _check(address: str) -> None:
    parsed = parse_address(address)
    if parsed is None or not is_public(parsed):
        raise _Refusal(
            f"the address {address} is not public; set WEBHOOK_ALLOW_PRIVATE=true to allow private addresses"
        )


def _public_socket(place: AddrInfoType) -> socket.socket:
    """The last gate, which addresses written as such pass too: no socket is made for one that is not public."""
    family, kind, protocol, _, address = place
    _check(str(address[0]))
    return socket.socket(family, kind, protocol)


async def _read(response: Response, deadline: float) -> Response:
    """The response with what comes of its body before the deadline; the connection is done with afterwards."""
    if response.body is None:
        return response
    source = response.body.detach()
    data = bytearray()
    try:
        # An answer whose body never ends, or breaks off, is an answer nevertheless: its head is here.
        with suppress(TimeoutError, FetchError):
            async with asyncio.timeout_at(deadline):
                while len(data) < MAX_ANSWER and (chunk := await source.pull()):
                    data += chunk
    finally:
        source.close()
    lines = response.headers.raw
    body = bytes(data[:MAX_ANSWER])
    return Response.from_raw(response.status, response.status_text, lines, body, url=response.url, immutable=True)


@asynccontextmanager
async def open_egress(
    *,
    allow_private: bool,
    timeout_s: float = 10.0,
    resolver: AbstractResolver | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[EgressFetcher]:
    """A fetcher that refuses http and every address that is not public, unless ``allow_private``.

    ``timeout_s`` limits a whole call. ``resolver`` replaces aiohttp's, and is closed at the end.
    """
    names = _Names(aiohttp.DefaultResolver() if resolver is None else resolver, _allow if allow_private else _check)
    fetcher = AiohttpFetcher(
        connect_timeout_s=timeout_s,
        read_timeout_s=timeout_s,
        keepalive_s=_KEEPALIVE_S,
        ssl_context=ssl_context,
        protocol=_Protocol,
        use_dns_cache=False,
        resolver=names,
        socket_factory=None if allow_private else _public_socket,
    )
    try:
        yield EgressFetcher(fetcher, allow_private=allow_private, timeout_s=timeout_s)
    finally:
        await fetcher.close()
        await names.close()
