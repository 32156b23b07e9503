"""``worker-compat run --watch``: the handler runs in a child process, which is replaced when a file changes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import click

from worker_compat.errors import ConfigError

from .plan import CONFIG_NAMES, Options, read_configs
from .run import CannotListen

_POLL_S = 0.3
_PASSED_OVER = frozenset({"__pycache__", "node_modules", "site-packages"})

Snapshot = Mapping[Path, tuple[int, int]]


def watch(options: Options, host: str, port: int, arguments: Sequence[str]) -> int:
    """Run ``arguments`` without ``--watch`` again and again until a signal; the exit code.

    A mistake in a file ends the child with its sentence; the next change starts another one. The port stays.
    """
    command = [sys.executable, "-P", "-m", "worker_compat_cli", *(text for text in arguments if text != "--watch")]
    command += ["--port", str(port or _free_port(host)), "--watched-by", str(os.getpid())]
    children = _Children(command)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, children.signalled)
    seen = _snapshot(options)
    children.start()
    while not children.ending:
        time.sleep(_POLL_S)
        now = _snapshot(options)
        if now != seen:
            changed = sorted(str(path) for path in {*now, *seen} if now.get(path) != seen.get(path))
            click.echo(f"changed: {', '.join(changed[:3])}; starting again", err=True)
            seen = now
            children.stop()
            children.start()
    return children.stop()


class _Children:
    """The one child at a time; a signal to this process is passed on to it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None
        self.ending = False

    def start(self) -> None:
        """Start a child, unless the end has begun. A group of its own keeps the terminal's Ctrl-C from it."""
        if not self.ending:
            self._child = subprocess.Popen(self._command, process_group=0)

    def stop(self) -> int:
        """End the child in order and wait; its exit code, 0 when it has none."""
        if self._child is None:
            return 0
        if self._child.poll() is None:
            self._child.terminate()
        return self._child.wait()

    def signalled(self, number: int, frame: FrameType | None) -> None:
        """The first signal lets the child finish what it does; the second one ends both at once."""
        if self.ending:
            if self._child is not None:
                self._child.kill()
            os._exit(128 + number)
        self.ending = True


def _snapshot(options: Options) -> Snapshot:
    """Time and size of every file that a new start could see differently."""
    found = {}
    for path in _files(options):
        try:
            status = path.stat()
        except OSError:
            continue  # removed since it was listed
        found[path] = (status.st_mtime_ns, status.st_size)
    return found


def _files(options: Options) -> Iterator[Path]:
    configs = [options.handler] if options.handler else [*options.configs] or [Path(name) for name in CONFIG_NAMES]
    folders = {file.parent for file in configs}
    yield from configs
    for folder in list(folders):
        yield from folder.glob(".dev.vars*")
    with suppress(ConfigError):  # the child says what is wrong; the configuration itself is watched anyway
        folders |= {config.main.parent for config in read_configs(options)}
    for folder in folders:
        yield from _modules(folder)


def _modules(folder: Path) -> Iterator[Path]:
    for place, names, files in os.walk(folder):
        names[:] = [name for name in names if name not in _PASSED_OVER and not name.startswith(".")]
        yield from (Path(place, name) for name in files if name.endswith(".py"))


def _free_port(host: str) -> int:
    """A port for every child; ``CannotListen`` where the first one could not listen either."""
    try:
        family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, 0), family=family) as probe:
            return int(probe.getsockname()[1])
    except OSError as error:
        raise CannotListen(host, 0, error) from error
