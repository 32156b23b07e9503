"""The loads: wrk for plain requests, the stream client for SSE, each beside the CPU time of the target."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from bench import payloads
from bench.errors import BenchError
from bench.processes import Fleet, clean_environment
from bench.targets import Target
from bench.usage import cpu_seconds

Figures = dict[str, float]

_PACED = {"events": 10, "gap_ms": 20}
_FLOOD = {"events": 100, "gap_ms": 0}
_LONG = {"events": 1000, "gap_ms": 2}
_SETTLED_SECONDS = 1.0
_MARK = "BENCH "
_SCRIPT = """
wrk.method = "POST"
%(headers)s
wrk.body = %(body)s
function done(summary, latency, requests)
  local e = summary.errors
  local broken = e.connect + e.read + e.write + e.timeout
  local seconds = summary.duration / 1e6
  io.write(string.format('\\nBENCH {"requests": %%d, "seconds": %%.6f, ', summary.requests, seconds))
  io.write(string.format('"p50_us": %%d, "p99_us": %%d, ', latency:percentile(50), latency:percentile(99)))
  io.write(string.format('"bad_status": %%d, "broken": %%d}\\n', e.status, broken))
end
"""


def write_script(home: Path) -> Path:
    """The lua script wrk is driven with; JSON strings of plain ASCII are lua strings too."""
    headers = "\n".join(
        f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in payloads.REQUEST_HEADERS.items()
    )
    script = home / "post.lua"
    script.write_text(_SCRIPT % {"headers": headers, "body": json.dumps(payloads.PLAIN_REQUEST.decode())})
    return script


def plain(fleet: Fleet, target: Target, connections: int, seconds: float) -> Figures:
    """Plain requests for `seconds`; one answer that is not a 200 fails the run."""
    binary = shutil.which("wrk", path=clean_environment()["PATH"])
    if not binary:
        raise BenchError("wrk is not installed: run bench/install.sh")
    url = f"http://127.0.0.1:{target.port}{target.path}"
    # wrk counts whole seconds.
    command = [binary, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    command += ["-s", str(fleet.home / "post.lua"), url]
    output, cpu = _with_cpu(target, lambda: fleet.run("wrk", command, timeout=seconds + 30))
    line = next((line for line in output.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise BenchError(f"wrk printed no figures:\n{output}")
    said: Figures = json.loads(line.removeprefix(_MARK))
    requests = said["requests"]
    if not requests or said["bad_status"] or said["broken"]:
        child = f"; {target.name} printed:\n{target.child.output()}" if target.child else ""
        raise BenchError(f"not every request to {target.name} was answered with 200: {line}{child}")
    figures = {
        "rps": requests / said["seconds"],
        "p50_ms": said["p50_us"] / 1000,
        "p99_ms": said["p99_us"] / 1000,
    }
    if cpu is not None:
        figures |= {"cpu_us": cpu * 1e6 / requests, "cpu_share": cpu / said["seconds"]}
    return figures


def streams(fleet: Fleet, target: Target, count: int, seconds: float) -> Figures:
    """SSE streams, first paced (time to first byte), then as fast as they go (events per second)."""
    paced, _ = _stream_load(fleet, target, count, seconds, _PACED)
    flood, cpu = _stream_load(fleet, target, count, max(0.5, seconds / 2), _FLOOD)
    figures = {
        "ttfb_p50_ms": paced["ttfb_p50_ms"],
        "ttfb_p99_ms": paced["ttfb_p99_ms"],
        "events_s": flood["events_s"],
        "flood_ttfb_p50_ms": flood["ttfb_p50_ms"],
    }
    if cpu is not None:
        seconds_taken = flood["events"] / flood["events_s"]
        figures |= {"cpu_us": cpu * 1e6 / flood["events"], "cpu_share": cpu / seconds_taken}
    return figures


def long_streams(fleet: Fleet, target: Target, count: int, seconds: float) -> Figures:
    """Streams of 1,000 events, one after the other as a model sends them: the CPU of each, checks included."""
    paced, cpu = _stream_load(fleet, target, count, seconds, _LONG)
    assert cpu is not None
    return {"events_s": paced["events_s"], "cpu_us": cpu * 1e6 / paced["events"]}


def _stream_load(
    fleet: Fleet, target: Target, count: int, seconds: float, pace: dict[str, int]
) -> tuple[Figures, float | None]:
    command = [sys.executable, "-m", "bench.sse_load", "--port", str(target.port), "--path", target.path]
    command += ["--streams", str(count), "--seconds", str(seconds)]
    command += ["--events", str(pace["events"]), "--gap-ms", str(pace["gap_ms"])]
    try:
        output, cpu = _with_cpu(target, lambda: fleet.run("sse_load", command, timeout=seconds + 60))
    except BenchError as error:
        child = f"\n{target.name} printed:\n{target.child.output()}" if target.child else ""
        raise BenchError(f"streams through {target.name}: {error}{child}") from error
    figures: Figures = json.loads(output)
    return figures, cpu


def _with_cpu(target: Target, load: Callable[[], str]) -> tuple[str, float | None]:
    """What the load printed, and the CPU seconds the target used meanwhile."""
    if target.child is None:
        return load(), None
    target.child.check()
    before = cpu_seconds(target.child.process.pid)
    output = load()
    if target.name == "checked":
        _wait_for_checks(target)
    target.child.check()
    return output, cpu_seconds(target.child.process.pid) - before


def _wait_for_checks(target: Target) -> None:
    """Wait until no stream's check is left: the work that a load causes counts, also what comes after its end."""
    seen, since = -1.0, time.monotonic()
    while time.monotonic() - since < _SETTLED_SECONDS:
        done = _checks(target.port)
        if done != seen:
            seen, since = done, time.monotonic()
        time.sleep(_SETTLED_SECONDS / 10)


def _checks(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        page = answer.read().decode()
    return sum(map(float, re.findall(r"^gateway_aip_checks_total\{[^}]*\} (\S+)$", page, re.MULTILINE)))
