"""Providers are spoken to over TLS, and their certificates are checked."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trustme

from worker_compat.errors import ConnectFailed
from worker_compat.request import Request
from worker_compat_aiohttp import open_fetcher

from .raw import read_body, read_head


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def _provider(authority: trustme.CA, name: str) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A TLS server for ``name`` that answers twice on one connection; its base URL and what it read."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                message = await read_head(reader)
                await read_body(reader, message, until_close=False)
                seen.append(message.start)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (EOFError, ConnectionError):
            return
        finally:
            writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}", seen


async def test_a_trusted_provider_is_relayed_to_and_its_connection_kept(authority: trustme.CA) -> None:
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    async with _provider(authority, "localhost") as (url, seen), open_fetcher(ssl_context=trusted) as fetcher:
        for _ in range(2):
            response = await fetcher.fetch(Request.outgoing(f"{url}/v1/x?y", "POST", [(b"A", b"1")], b"body"))
            assert await response.bytes() == b"ok"
        assert seen == [b"POST /v1/x?y HTTP/1.1"] * 2
        await fetcher.close()
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("name", ["localhost", "elsewhere.test"])
async def test_a_certificate_that_does_not_fit_is_refused_and_nothing_is_sent(authority: trustme.CA, name: str) -> None:
    context = ssl.create_default_context()
    if name != "localhost":  # trusted, but for another host
        authority.configure_trust(context)
    async with _provider(authority, name) as (url, seen), open_fetcher(ssl_context=context) as fetcher:
        with pytest.raises(ConnectFailed):
            await fetcher.fetch(Request.outgoing(f"{url}/", "GET", [(b"x-api-key", b"secret")], None))
        assert seen == []
