"""Clients that leave: the provider's connection closes at once, and nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import socket
from pathlib import Path

import psutil
import pytest

from tests.scale import figure, scaled

from .raw import Message, RawClient, Respond
from .stack import Stack, open_stack

_REQUEST = (
    b"POST /anthropic/v1/messages HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000
)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_ABORTS = scaled(1_000, 10_000)
_AT_ONCE = 20


async def _streams(message: Message, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD)
    while True:
        writer.write(b"12\r\ndata: some words\n\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.002)


async def _silent(message: Message, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def _silent_after_head(message: Message, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"2\r\nok\r\n")
    await asyncio.sleep(3600)


async def _leave(stack: Stack, seed: int) -> None:
    """Send a random part of a request, read a random part of the answer, and reset."""
    dice = random.Random(seed)
    sent = len(_REQUEST) if dice.random() < 0.8 else dice.randrange(1, len(_REQUEST))
    client = await RawClient.connect(stack.port)
    await client.send(_REQUEST[:sent])
    wanted = dice.randrange(0, 2000)
    got = 0
    try:
        async with asyncio.timeout(dice.uniform(0.001, 0.05)):
            while got < wanted:
                part = await client.reader.read(wanted - got)
                if not part:
                    break
                got += len(part)
    except TimeoutError:
        pass  # a silent provider: leave without having read anything
    client.reset()


@pytest.mark.proof
@pytest.mark.parametrize("respond", [_streams, _silent, _silent_after_head], ids=lambda respond: respond.__name__)
async def test_a_thousand_resets_leave_nothing(
    stack: Stack, respond: Respond, caplog: pytest.LogCaptureFixture
) -> None:
    stack.upstream.respond = respond
    # What is opened once and kept (the database, the resolver) is no leftover.
    await _leave(stack, 0)
    await stack.wiring.env.agents.flush()
    await stack.upstream.until_closed(1.0)
    tasks, files = len(asyncio.all_tasks()), psutil.Process().num_fds()
    count = _ABORTS if respond is _streams else _ABORTS // 2
    with caplog.at_level(logging.INFO):
        for start in range(0, count, _AT_ONCE):
            await asyncio.gather(*(_leave(stack, seed) for seed in range(start, start + _AT_ONCE)))
            await stack.upstream.until_closed(1.0)
        await stack.idle(1.0)
        gc.collect()
    async with asyncio.timeout(1):
        # The one background task that writes last_seen may be running.
        while psutil.Process().num_fds() > files or len(asyncio.all_tasks()) > tasks + 1:
            await asyncio.sleep(0.01)
    assert stack.wiring.host.connections == 0
    assert not stack.wiring.runtime.fetcher._connector._acquired  # type: ignore[attr-defined] # nothing checked out
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    figure(f"client resets, {respond.__name__.strip('_')}", f"{count}, provider closed within 1 s, nothing left")


async def test_a_reset_closes_a_provider_that_does_not_read_the_upload(stack: Stack) -> None:
    """Reading from the client is paused then, and asyncio does not watch a paused socket."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        stack.wiring.env.upstream_anthropic_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = await RawClient.connect(stack.port)
        client.writer.write(
            b"POST /anthropic/v1/files HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\nContent-Length: 90000000\r\n\r\n"
            + b"x" * 30_000_000
        )
        held, _ = await loop.sock_accept(listener)
        with held:
            await asyncio.sleep(0.5)
            assert stack.wiring.host.in_flight == 1
            client.reset()
            await stack.idle(1.0)
            assert not stack.wiring.runtime.fetcher._connector._acquired  # type: ignore[attr-defined]


async def test_a_half_close_is_no_departure(stack: Stack) -> None:
    go_on = asyncio.Event()

    async def later(message: Message, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    stack.upstream.respond = later
    async with await RawClient.connect(stack.port) as client:
        await client.send(_REQUEST)
        client.half_close()
        await asyncio.wait_for(stack.upstream.arrived.wait(), 3)
        await asyncio.sleep(0.1)
        assert stack.wiring.host.in_flight == 1
        go_on.set()
        assert (await client.response()).body == b"ok"
        assert await client.at_end()


async def test_a_half_close_is_a_departure_when_it_is_set_so(tmp_path: Path) -> None:
    async with open_stack(tmp_path, CLIENT_FIN="abort") as stack:
        stack.upstream.respond = _silent
        async with await RawClient.connect(stack.port) as client:
            await client.send(_REQUEST)
            await stack.upstream.arrived.wait()
            client.half_close()
            await stack.upstream.until_closed(1.0)
            assert await client.at_end()


async def test_a_half_close_in_the_middle_of_a_request_ends_it(stack: Stack) -> None:
    stack.upstream.respond = _silent
    async with await RawClient.connect(stack.port) as client:
        await client.send(_REQUEST[:-10])
        await asyncio.sleep(0.05)
        client.half_close()
        assert await client.at_end()
    await stack.upstream.until_closed(1.0)
    await stack.idle(1.0)
