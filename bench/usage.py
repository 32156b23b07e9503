"""What a process and its children use: CPU time and resident memory."""

from __future__ import annotations

import psutil


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """User and system time so far, with that of the children, ended ones too."""
    total = 0.0
    for process in _family(pid):
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def resident_mib(pid: int) -> float:
    """Resident memory now, with that of the children."""
    return float(sum(process.memory_info().rss for process in _family(pid))) / 2**20
