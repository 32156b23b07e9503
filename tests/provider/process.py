"""The provider as a child process of a test run, and a client for its control plane."""

import base64
import contextlib
import json
import select
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_ROOT = Path(__file__).resolve().parents[2]
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ProviderProcess:
    """`with ProviderProcess() as provider:` starts one on a free port and ends it by its pid."""

    def __init__(self, port: int = 0) -> None:
        self._wanted = port
        self._child: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout: float = 10.0) -> None:
        command = [sys.executable, "-m", "tests.provider", "--port", str(self._wanted)]
        self._child = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stdout = self._child.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], timeout)
        line = stdout.readline().decode() if ready else ""
        if not line.startswith("listening on "):
            self.stop()
            raise RuntimeError(f"the provider did not start: {line!r}")
        self.url = line.removeprefix("listening on ").strip()
        self.port = int(self.url.rpartition(":")[2])

    def stop(self, timeout: float = 5.0) -> int:
        """End the child; its exit code."""
        child, self._child = self._child, None
        if child is None:
            return 0
        child.terminate()
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            code = child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        return code

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def requests(self) -> list[dict[str, Any]]:
        """Received since the last reset, oldest first (`records.Received`)."""
        seen: list[dict[str, Any]] = self._call("GET", "/__requests")
        return seen

    def connections(self) -> dict[str, Any]:
        """`{"now", "open": [...], "closed": [...]}` of the data plane (`records.Link`)."""
        seen: dict[str, Any] = self._call("GET", "/__connections")
        return seen

    def now(self) -> float:
        return float(self._call("GET", "/__now")["now"])

    def reset(self) -> None:
        """Forget requests, closed connections and the default scripts, the analyser's included."""
        self._call("POST", "/__reset")

    def script(self, script: dict[str, Any] | None) -> None:
        """For every request that brings no x-script of its own, until the next reset."""
        self._call("POST", "/__script", json.dumps(script).encode())

    @property
    def analyser_url(self) -> str:
        """For ANALYSIS_BASE_URL: the scripted model that judges (`analyser.py`)."""
        return f"{self.url}/__judge"

    @property
    def hosted_url(self) -> str:
        """For MNEMOM_ANALYZE_URL: the scripted service that judges."""
        return f"{self.url}/__analyze/v1/analyze"

    def judge(self, *following: dict[str, Any], always: dict[str, Any] | None = None) -> None:
        """What the analyser answers next, one script after another, and then always (None: as the thinking says)."""
        self._call("POST", "/__judge/script", json.dumps({"always": always, "next": following}).encode())

    def judged(self) -> list[dict[str, Any]]:
        """The last thousand requests to the analyser, oldest first: `{"path", "headers", "body"}`, bodies as bytes."""
        seen: list[dict[str, Any]] = self._call("GET", "/__judge/requests")["requests"]
        return [{**request, "body": base64.b64decode(request["body"])} for request in seen]

    def judged_count(self) -> int:
        """How many requests came to the analyser since the last reset."""
        return int(self._call("GET", "/__judge/requests")["count"])

    def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(self.url + path, data=body, method=method)
        with _OPENER.open(request, timeout=10) as answer:
            return json.load(answer)
