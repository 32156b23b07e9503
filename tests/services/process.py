"""Starting a private server for tests on a free port, and ending exactly that process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_LIMIT_S = 20.0


def free_port() -> int:
    """A TCP port on the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    command: Sequence[str],
    *,
    ready: Callable[[], bool],
    log: Path,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process that is ready; ended at exit, by force if need be. Its output goes to ``log``."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, user=user, env={**os.environ, **(environment or {})}
        )
    try:
        wait_for(lambda: ready() or process.poll() is not None, START_LIMIT_S)
        if process.poll() is not None or not ready():
            raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
        yield process
    finally:
        end(process)


def wait_for(happened: Callable[[], bool], limit_s: float) -> bool:
    """Look until it happened or the time is over; whether it happened."""
    deadline = time.monotonic() + limit_s
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that may be stopped, hung or gone."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
