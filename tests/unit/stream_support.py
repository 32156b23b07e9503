"""What the tests of streams share: a scripted stream, and a generator that records how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from worker_compat.streams import ReadableStream
from worker_compat.testing import ScriptedBody

CHUNKS = [b"one ", b"two ", b"three"]
WHOLE = b"one two three"


def scripted(**options: Any) -> tuple[ReadableStream, ScriptedBody]:
    source = ScriptedBody(CHUNKS, **options)
    return ReadableStream(source), source


async def collected(stream: ReadableStream) -> list[bytes]:
    return [chunk async for chunk in stream]


async def turns(count: int = 5) -> None:
    """Let every task that can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


class Guarded:
    """An async generator that records how it ended."""

    def __init__(self, *chunks: Any, gate: asyncio.Event | None = None, stubborn: bool = False) -> None:
        self.chunks = chunks
        self.gate = gate
        self.stubborn = stubborn
        self.ended = asyncio.Event()

    async def run(self) -> AsyncIterator[Any]:
        try:
            for chunk in self.chunks:
                yield chunk
                if self.gate is not None:
                    await self._wait(self.gate)
        finally:
            self.ended.set()

    async def _wait(self, gate: asyncio.Event) -> None:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            if not self.stubborn:
                raise
