"""``worker-compat`` as a child process: run to its end, or served until a test is done with it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

COMMAND = [str(Path(sys.executable).with_name("worker-compat"))]
LIMIT_S = 60.0


def environment(**more: str) -> dict[str, str]:
    """PATH and what the test gives; output comes as it is written."""
    return {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **more}


def ran(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def write(folder: Path, **files: str) -> None:
    """Files by name; ``__`` stands for a dot, ``___`` for a slash."""
    for name, text in files.items():
        file = folder / name.replace("___", "/").replace("__", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


class Served:
    """``with Served(folder, "handler.py") as worker:`` runs until the block ends, then by SIGTERM."""

    def __init__(self, folder: Path, *arguments: str | Path, port: int = 0) -> None:
        self._command = [*COMMAND, "run", *map(str, arguments), "--port", str(port)]
        self._folder = folder
        self._log = folder / "output.log"
        self.port = port

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self.child = subprocess.Popen(
                self._command, cwd=self._folder, env=environment(), stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self.port = int(self.wait_for(r" on http://[^ ;]+:(\d+)")[1])
        except BaseException:
            self.child.kill()
            self.child.wait()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.child.poll() is None:
            # Never SIGKILL: a watcher must end its own child.
            self.child.send_signal(signal.SIGTERM)
        code = self.child.wait(LIMIT_S)
        assert kind is not None or code == 0, f"it ended with {code}:\n{self.output()}"

    def output(self) -> str:
        """Everything that it has written."""
        return self._log.read_text(encoding="utf-8")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first place in the output that matches."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(filter(None, [re.search(pattern, self.output())]))
            return bool(found) or self.child.poll() is not None

        until(look, lambda: f"no {pattern!r} in:\n{self.output()}")
        assert found, f"it ended with {self.child.poll()}:\n{self.output()}"
        return found[0]

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Status and text of an answer."""
        status, _, text = self.answer(path, method, body, headers)
        return status, text

    def answer(
        self, path: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, str]:
        """Status, headers and text of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()
        finally:
            connection.close()


def until(condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Wait for a condition; what is wrong when it does not come."""
    ends = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < ends, otherwise()
        time.sleep(0.02)
