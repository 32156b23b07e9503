"""`python -m tests.provider --port 0`: prints one line, serves until SIGTERM or until its stdin closes."""

import argparse
import asyncio
import os
import signal
import stat
import sys

from tests.provider.server import Provider


async def serve(port: int) -> None:
    provider = Provider()
    bound = await provider.start(port)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    _watch_stdin(loop, stop)
    sys.stdout.write(f"listening on http://127.0.0.1:{bound}\n")
    sys.stdout.flush()
    await stop.wait()
    await provider.stop()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # Only a pipe has an owner whose death closes it; /dev/null and a terminal say nothing about a parent.
    mode = os.fstat(0).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        loop.add_reader(0, _read_stdin, stop)


def _read_stdin(stop: asyncio.Event) -> None:
    if not os.read(0, 4096):
        stop.set()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.provider", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
