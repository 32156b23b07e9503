"""The child processes of a run: started on a core, and each ended by its own pid however the run ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.errors import BenchError

ROOT = Path(__file__).resolve().parent.parent
# The gateway drains before it goes, so it may take a while over a polite request to end.
_STOP_SECONDS = 20.0
_TAIL = 4000
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Child:
    """A running process and the file its output goes to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        """The end of what it printed."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return text[-_TAIL:].strip() or "(no output)"

    def check(self) -> None:
        """Raises when the process has ended by itself."""
        code = self.process.poll()
        if code is not None:
            raise BenchError(f"{self.name} ended with code {code}; its output:\n{self.output()}")


class Fleet:
    """Starts the processes of a run and ends what is left of them on exit."""

    def __init__(self, home: Path, *, proxy_core: int | None, load_core: int | None) -> None:
        self.home = home
        self.proxy_core = proxy_core
        self.load_core = load_core
        self._children: list[Child] = []
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._children.copy()):
            self.stop(child)

    def start(self, name: str, command: list[str], *, core: int | None, env: dict[str, str]) -> Child:
        """Starts a process on `core`, from its first instruction on."""
        self._started += 1
        log = self.home / f"{self._started:03d}-{name}.log"
        with log.open("wb") as output, _on_core(core):
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=clean_environment() | env,
                # Its own session: a Ctrl-C at the terminal reaches us alone, and we end them in order.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def stop(self, child: Child) -> None:
        """Ends one process, politely first."""
        process = child.process
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                print(f"bench: {child.name} did not end on SIGTERM and was killed", file=sys.stderr)
                process.kill()
                process.wait()
        self._children.remove(child)

    def run(self, name: str, command: list[str], *, timeout: float) -> str:
        """Runs a load to its end on the load's core and returns what it printed."""
        child = self.start(name, command, core=self.load_core, env={})
        try:
            code = child.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{name} was not done after {timeout:.0f} s:\n{child.output()}") from None
        finally:
            self.stop(child)
        if code:
            raise BenchError(f"{name} failed with code {code}:\n{child.output()}")
        return child.log.read_text(errors="replace")


def clean_environment() -> dict[str, str]:
    """What a child needs of our environment; a developer's own settings must not change the figures."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "VIRTUAL_ENV") if name in os.environ}
    return {"PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin", **kept}


@contextlib.contextmanager
def _on_core(core: int | None) -> Iterator[None]:
    """A child inherits the affinity: we sit on its core while it is started, then go back."""
    if core is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _end_with_parent() -> None:
    """Asks the kernel to end the child with us, for the one case our own clean-up cannot cover: SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
