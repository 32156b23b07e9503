"""The real gateway on real sockets inside the test's event loop: aiohttp, SQLite, wiring, checks and all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from smoltbot_host import data_dir, records, signing_keys
from smoltbot_host.wiring import Wiring, wire
from smoltbot_worker.env import read_variables
from smoltbot_worker.gateway import Default

from .raw import RawUpstream


class Stack:
    """A gateway and its upstream."""

    def __init__(self, wiring: Wiring, upstream: RawUpstream) -> None:
        self.wiring = wiring
        self.upstream = upstream

    @property
    def port(self) -> int:
        """Where the gateway listens."""
        return self.wiring.host.addresses[0][1]

    async def idle(self, limit_s: float = 3.0) -> None:
        """Wait until nothing is in flight."""
        async with asyncio.timeout(limit_s):
            while self.wiring.host.in_flight:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def open_stack(folder: Path, **variables: str) -> AsyncIterator[Stack]:
    """A gateway with all three providers pointed at one raw upstream; ``variables`` are environment variables."""
    upstream = RawUpstream()
    await upstream.start()
    environ = {f"UPSTREAM_{name}_URL": upstream.url for name in ("ANTHROPIC", "OPENAI", "GEMINI")}
    environ |= {"HOST": "127.0.0.1", "PORT": "0", "DATA_DIR": str(folder)} | variables
    values: dict[str, Any] = read_variables(environ)[0]
    url = records.database_url(values)
    data_dir.prepare(values["data_dir"])
    await records.adapter(url).migrate(url, records.schema_dir(url))
    try:
        async with wire(values, None) as wiring:
            serving = asyncio.create_task(wiring.host.serve(wiring.runtime.handler(Default, wiring.env)))
            await wiring.host.listening.wait()
            await signing_keys.use(wiring.env.records, wiring.crypto, values)
            wiring.env.state.started = True
            try:
                yield Stack(wiring, upstream)
            finally:
                wiring.host.stop(0.2)
                await serving
                await wiring.env.agents.flush()
                for task in list(wiring.runtime.background._tasks):
                    task.cancel()
                await wiring.runtime.background.drain(1)
                await wiring.env.exchanges.drain(1)
    finally:
        await upstream.stop()
