"""Cloudflare's own Python SDK, obtained at test time: its source distribution, checked by hash, unpacked once."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_REQUIREMENT = "workers-runtime-sdk==1.9.5"
_NAME = "workers_runtime_sdk-1.9.5"
_SHA256 = "605c87a36a38557bf4ccf657de22fe4ee85fb96b1b04c1aacaa476b461ef71bc"
_CACHE = Path(__file__).parents[2] / ".cache" / "workers-runtime-sdk"


def sdk_source() -> Path:
    """The folder of the unpacked distribution: the package ``workers`` in ``src``, its tests in ``tests``.

    Downloaded by pip on the first call and kept below ``.cache``; safe in parallel test processes.
    """
    unpacked = _CACHE / _NAME
    with _alone():
        if not unpacked.exists():
            _unpack(_downloaded(), unpacked)
    return unpacked


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock among processes; it ends with the process that holds it."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _downloaded() -> Path:
    archive = _CACHE / f"{_NAME}.tar.gz"
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        done = subprocess.run([*command, "--dest", str(_CACHE), _REQUIREMENT], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{_REQUIREMENT} could not be downloaded:\n{done.stderr[-2000:]}")
    seen = hashlib.sha256(archive.read_bytes()).hexdigest()
    if seen != _SHA256:
        archive.unlink()
        raise RuntimeError(f"{archive.name} has the hash {seen}, not {_SHA256}")
    return archive


def _unpack(archive: Path, target: Path) -> None:
    partial = target.with_name("partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as members:
        members.extractall(partial, filter="data")
    # Renamed in one step: a folder that is there is whole.
    (partial / target.name).rename(target)
    partial.rmdir()
