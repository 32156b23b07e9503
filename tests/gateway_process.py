"""A gateway as a child process of a test run: started as an operator would, ended by SIGTERM."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_POLL = 0.05


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class GatewayProcess:
    """`with GatewayProcess(tmp_path, {"UPSTREAM_ANTHROPIC_URL": provider.url}) as gateway:`

    The environment holds PATH, HOST, PORT, DATA_DIR and what the test gives, nothing else. Port, data and
    output outlive `stop()` and `kill()`, so that a test may `start()` the same gateway again.
    """

    def __init__(self, directory: Path, env: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "DATA_DIR": str(directory / "data"),
            **(env or {}),
        }
        self._log = directory / "gateway.log"
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            code = self.stop()
            assert code == 0, f"the gateway exited with {code}:\n{self.tail()}"
        else:
            self.kill()

    def start(self, env: Mapping[str, str] | None = None, *, ready_timeout: float = 15.0) -> None:
        """Start it with these variables on top, and wait until it is ready."""
        assert self._child is None, "already started"
        command = [sys.executable, "-m", "smoltbot_cli", "serve"]
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                command,
                env={**self._env, **(env or {})},
                cwd=self._log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_ready(ready_timeout)
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self, timeout: float) -> None:
        assert self._child is not None
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if (code := self._child.poll()) is not None:
                raise RuntimeError(f"the gateway exited with {code} while starting:\n{self.tail()}")
            if self.ready():
                return
            time.sleep(_POLL)
        raise RuntimeError(f"the gateway was not ready within {timeout} s:\n{self.tail()}")

    def ready(self) -> bool:
        """Whether GET /health/ready answers 200."""
        try:
            with _OPENER.open(f"{self.url}/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, then wait for the drain; the exit code. A gateway that does not end in time is killed."""
        if self._child is None:
            return 0
        self._child.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = 30.0) -> int:
        """The exit code of a gateway that was told to end already."""
        child, self._child = self._child, None
        assert child is not None, "not running"
        try:
            return child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise RuntimeError(f"no end {timeout} s after SIGTERM:\n{self.tail()}") from None

    def kill(self) -> None:
        """SIGKILL: a crash."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()

    @property
    def pid(self) -> int:
        assert self._child is not None, "not running"
        return self._child.pid

    def tail(self, lines: int = 15) -> str:
        """The last lines of the output, for error messages."""
        return "\n".join(self.output().splitlines()[-lines:])

    def output(self) -> str:
        """Everything it has written to stdout and stderr, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""
