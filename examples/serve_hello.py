"""Serves ``hello.py`` with the aiohttp adapter: ``python examples/serve_hello.py 8080``."""

import asyncio
import importlib.util
import sys
from pathlib import Path

from worker_compat import Env, Runtime
from worker_compat.entrypoint import find_entrypoint
from worker_compat_aiohttp import open_fetcher, open_host


async def main(port: int) -> None:
    """Serve until interrupted."""
    spec = importlib.util.spec_from_file_location("hello", Path(__file__).with_name("hello.py"))
    assert spec is not None
    assert spec.loader is not None
    hello = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hello)
    async with open_fetcher() as fetcher, open_host("127.0.0.1", port) as host:
        await host.serve(Runtime(fetcher).handler(find_entrypoint(hello), Env()))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8080))
