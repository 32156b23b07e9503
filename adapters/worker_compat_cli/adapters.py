"""``worker-compat adapters``: what is registered, which package brings it, and what it lacks."""

from __future__ import annotations

from worker_compat import registry

_GROUPS = (registry.KV, registry.QUEUE, registry.HOST, registry.FETCHER, registry.DECODER)
_HEADS = ("group", "name", "package", "extra", "library")


def table() -> str:
    """One line for each registered name, in columns."""
    rows = [_HEADS]
    for group in _GROUPS:
        for adapter in registry.installed(group):
            name = f"{adapter.name}://" if group in (registry.KV, registry.QUEUE) else adapter.name
            short = group.removeprefix("worker_compat.")
            rows.append((short, name, adapter.package, adapter.extra or "-", adapter.problem or "installed"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    )
