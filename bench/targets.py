"""The targets under test: how each is started, where its API is, and when it is ready."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import string
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench import payloads
from bench.errors import BenchError
from bench.processes import ROOT, Child, Fleet, clean_environment

NAMES = ("direct", "nginx", "aiohttp", "gateway", "checked")
GATEWAYS = ("gateway", "checked")
# Those whose start and memory are compared; nginx is another language, direct is no process.
PYTHON = ("aiohttp", *GATEWAYS)
_READY_SECONDS = 30.0
_POLL_SECONDS = 0.005
_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Target:
    """A running target: the port and path a load asks, and its process unless it is `direct`."""

    name: str
    port: int
    path: str
    child: Child | None
    start_seconds: float = 0.0


def open_provider(fleet: Fleet) -> int:
    """Starts the provider and returns its port."""
    port = _free_port()
    command = [sys.executable, "-m", "bench.provider", "--port", str(port)]
    child = fleet.start("provider", command, core=fleet.load_core, env={})
    _wait_ready(child, port, time.perf_counter())
    return port


def open_target(name: str, fleet: Fleet, provider: int) -> Target:
    """Starts a target in front of the provider and waits until it is ready."""
    if name == "direct":
        return Target(name, provider, payloads.PATH, None)
    port = _free_port()
    command, env = _launch(name, fleet, port, provider)
    started = time.perf_counter()
    child = fleet.start(name, command, core=fleet.proxy_core, env=env)
    seconds = _wait_ready(child, port, started)
    return Target(name, port, "/anthropic" + payloads.PATH, child, seconds)


def check_answer(target: Target) -> None:
    """One request before any figure: a target that answers wrongly must not be measured."""
    connection = http.client.HTTPConnection(_HOST, target.port, timeout=10)
    try:
        connection.request("POST", target.path, payloads.PLAIN_REQUEST, payloads.REQUEST_HEADERS)
        answer = connection.getresponse()
        body = answer.read()
    except OSError as error:
        output = target.child.output() if target.child else ""
        raise BenchError(f"{target.name} did not answer a request ({error}); its output:\n{output}") from error
    finally:
        connection.close()
    if answer.status != 200 or body != payloads.PLAIN_ANSWER:
        output = target.child.output() if target.child else ""
        raise BenchError(
            f"{target.name} answered {answer.status} {body[:300]!r}, not the provider's answer; its output:\n{output}"
        )


def _launch(name: str, fleet: Fleet, port: int, provider: int) -> tuple[list[str], dict[str, str]]:
    upstream = f"http://{_HOST}:{provider}"
    home = fleet.home / f"{name}-{port}"
    home.mkdir()
    if name == "nginx":
        return _nginx(home, port, provider), {}
    if name == "aiohttp":
        command = [sys.executable, "-m", "bench.floor_aiohttp", "--port", str(port), "--upstream", upstream]
        return command, {}
    env = {
        "HOST": _HOST,
        "PORT": str(port),
        "DATA_DIR": str(home),
        "UPSTREAM_ANTHROPIC_URL": upstream,
        "LOG_LEVEL": "info",
    }
    if name == "checked":
        env |= {"ANTHROPIC_API_KEY": "bench", "ANALYSIS_BASE_URL": f"{upstream}/judge"}
    else:
        env["AIP_ENABLED"] = "false"
    return [sys.executable, "-m", "smoltbot_cli", "serve"], env


def _nginx(home: Path, port: int, provider: int) -> list[str]:
    binary = shutil.which("nginx", path=clean_environment()["PATH"])
    if not binary:
        raise BenchError("nginx is not installed: run bench/install.sh, or leave it out with --targets")
    template = string.Template((ROOT / "bench" / "nginx.conf.template").read_text())
    config = home / "nginx.conf"
    # As root the workers would be somebody else, to whom our directory is closed.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(template.substitute(user=user, home=home, port=port, provider=provider))
    return [binary, "-p", str(home), "-e", "stderr", "-c", str(config)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _wait_ready(child: Child, port: int, started: float) -> float:
    """Seconds from `started` to the first 200 of /health/ready."""
    while (passed := time.perf_counter() - started) < _READY_SECONDS:
        if child.process.poll() is not None:
            break
        if _is_ready(port):
            return time.perf_counter() - started
        time.sleep(_POLL_SECONDS)
    code = child.process.poll()
    fate = f"ended with code {code}" if code is not None else f"was not ready after {passed:.0f} s"
    raise BenchError(f"{child.name} failed to start: it {fate}; its output:\n{child.output()}")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=1)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
