"""Commands in a mount namespace of their own, where this machine permits it: a read-only root, a disk that is full."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.faults.migration_support import ROOT

NOBODY = 65534
"""A user who owns nothing."""

_NEEDED = (Path(sys.base_prefix), Path(sys.prefix), ROOT)
_PROBES = ("/", "/tmp", "/var/tmp", "/dev/shm", "/run", str(ROOT))

_FREEZE = """
while read -r _ point _; do
    case "$point" in "$writable" | /proc | /proc/* | /sys | /sys/*) continue ;; esac
    mount -o remount,bind,ro "$(printf '%b' "$point")"
done </proc/self/mounts
for folder in {probes}; do
    if [ -d "$folder" ] && (: >"$folder/.probe") 2>/dev/null; then echo "$folder can be written" >&2; exit 99; fi
done
"""


@cache
def may_mount() -> bool:
    """Whether this process may have mounts of its own: root in a container mostly may not."""
    return (
        os.geteuid() == 0
        and subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0
    )


@cache
def may_enter() -> bool:
    """Whether :data:`NOBODY` reaches Python and this repository as they lie."""
    return not any(map(_closed, _NEEDED))


def _closed(path: Path) -> Path | None:
    """The first folder on the way to ``path`` that others may not enter."""
    return next((folder for folder in reversed([path, *path.parents]) if not folder.stat().st_mode & 1), None)


def as_nobody(command: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The command run by :data:`NOBODY` without groups and capabilities, with this environment only."""
    texts = [f"{name}={value}" for name, value in environ.items()]
    user = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--bounding-set", "-all"]
    return [str(shutil.which("setpriv")), *user, "--no-new-privs", "env", "--ignore-environment", *texts, *command]


def on_read_only_root(command: Sequence[str], writable: Path, holds: Path) -> list[str]:
    """The command where nothing on the machine can be written, by root neither, but the folder ``writable``.

    ``holds`` is an empty folder for the mounts that let others enter what this command needs.
    """
    lines = ["set -eu", f"writable={shlex.quote(str(writable))}", 'mount --bind "$writable" "$writable"']
    closed = {path: folder for path in _NEEDED if (folder := _closed(path)) is not None}
    for number, path in enumerate(closed):
        hold = holds / str(number)
        hold.mkdir()
        lines.append(shlex.join(["mount", "--bind", str(path), str(hold)]))
    lines += [
        shlex.join(["mount", "-t", "tmpfs", "-o", "mode=755", "none", str(folder)]) for folder in {*closed.values()}
    ]
    for number, path in enumerate(closed):
        lines.append(shlex.join(["mkdir", "-p", str(path)]))
        lines.append(shlex.join(["mount", "--bind", str(holds / str(number)), str(path)]))
    lines += [_FREEZE.format(probes=" ".join(map(shlex.quote, _PROBES))), f"exec {shlex.join(command)}"]
    return in_namespace("\n".join(lines))


def in_namespace(script: str) -> list[str]:
    """The shell script where its mounts are seen by nobody else."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
