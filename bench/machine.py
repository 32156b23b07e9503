"""Facts about the machine and the tree, and whether the run can be pinned to two cores."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.processes import ROOT, clean_environment


def choose_cores() -> tuple[int | None, int | None, str]:
    """The proxy's core, the core of load and provider, and a sentence about it; no cores when unpinned."""
    if sys.platform != "linux":
        return None, None, "unpinned: this system has no CPU affinity"
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return None, None, "unpinned: fewer than 2 cores, so proxy, load and provider share one"
    proxy, load = allowed[:2]
    try:
        os.sched_setaffinity(0, {load})
    except OSError as error:
        return None, None, f"unpinned: the affinity cannot be set ({error})"
    return proxy, load, f"pinned: proxy on core {proxy}, load and provider on core {load}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _said(*command: str) -> str:
    """What a command prints on its first line, on either channel; empty when it is missing or fails."""
    found = shutil.which(command[0], path=clean_environment()["PATH"])
    if not found:
        return ""
    # wrk -v prints its version and exits with 1.
    done = subprocess.run([found, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False, timeout=10)
    if done.returncode and command[0] != "wrk":
        return ""
    return next(iter((done.stdout + done.stderr).strip().splitlines()), "")


def _commit() -> str:
    commit = _said("git", "rev-parse", "--short=12", "HEAD") or "none"
    # Without optional locks: others may be at work in the same tree.
    dirty = _said("git", "--no-optional-locks", "status", "--porcelain", "--untracked-files=normal")
    return f"{commit}-dirty" if dirty else commit


class Disturbance:
    """How much of the machine was taken by others while a run went on, in cores."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._busy, self._stolen = _machine_seconds()
        self._own = _own_seconds()

    def cores(self) -> dict[str, float]:
        """Cores used by processes that are not the run's, and by other guests of the host."""
        busy, stolen = _machine_seconds()
        passed = time.monotonic() - self._started
        foreign = (busy - self._busy) - (_own_seconds() - self._own)
        return {
            "foreign_cores": round(max(0.0, foreign) / passed, 2),
            "stolen_cores": round((stolen - self._stolen) / passed, 2),
        }


def _machine_seconds() -> tuple[float, float]:
    """CPU seconds of all processes, and those given to other guests; interrupts belong to nobody."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except (OSError, ValueError):
        return 0.0, 0.0
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system = fields[:3]
    return (user + nice + system) / tick, fields[7] / tick


def _own_seconds() -> float:
    """CPU seconds of this process and of all its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def facts(pinning: str) -> dict[str, object]:
    """All that a reader needs to compare this run with another."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "pinning": pinning,
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "aiohttp": _version("aiohttp"),
        "nginx": _said("nginx", "-v").rpartition("/")[2] or "not installed",
        "wrk": _said("wrk", "-v").removeprefix("wrk ").partition(" [")[0] or "not installed",
    }
