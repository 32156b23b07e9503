"""A PostgreSQL server that says it is starting up, so many times, before it lets anybody in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

_SSL_REQUEST = 80877103
_REFUSAL = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"


@dataclass
class StartingServer:
    """What clients connect to; ``refused`` counts those it turned away."""

    port: int = 0
    refused: int = 0


@asynccontextmanager
async def starting_server(behind: int, refusals: int) -> AsyncIterator[StartingServer]:
    """A port that refuses ``refusals`` clients as a starting server does, and leads the others to port ``behind``."""
    front = StartingServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if front.refused < refusals:
                await _refuse(reader, writer)
                front.refused += 1
            else:
                await _relay(reader, writer, behind)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        front.port = server.sockets[0].getsockname()[1]
        yield front


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        size = int.from_bytes(await reader.readexactly(4))
        message = await reader.readexactly(size - 4)
        if int.from_bytes(message[:4]) != _SSL_REQUEST:
            break
        writer.write(b"N")
    writer.write(b"E" + (len(_REFUSAL) + 4).to_bytes(4) + _REFUSAL)
    await writer.drain()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, behind: int) -> None:
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", behind)
    try:
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
    finally:
        inner_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
