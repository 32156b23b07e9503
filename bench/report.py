"""The report: aligned tables for a reader, and everything as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.bars import Bar, Medians, added_p50, bars, beside_floor, figure
from bench.measure import LONG_STREAMS, Sample
from bench.plan import Plan
from bench.targets import GATEWAYS, PYTHON

# Background work of an idle machine stays well below this.
_QUIET_CORES = 0.1
_PLAIN_HEAD = (
    "conns", "target", "req/s", "x aiohttp", "p50 ms", "p99 ms", "added p50 ms", "CPU us/req", "CPU %",
    "spread %",
)  # fmt: skip
_SSE_HEAD = (
    "streams", "target", "TTFB p50 ms", "TTFB p99 ms", "x aiohttp", "events/s", "x aiohttp", "CPU us/event",
    "CPU %", "spread %",
)  # fmt: skip


def text(plan: Plan, machine: dict[str, object], medians: Medians, seconds: float) -> str:
    """The whole report as plain text."""
    tables = [
        _machine(plan, machine, seconds),
        _plain(plan, medians) if "plain" in plan.kinds else "",
        _sse(plan, medians) if "sse" in plan.kinds else "",
        _long(plan, medians) if "long" in plan.kinds else "",
        _process(plan, medians),
        _bars(bars(medians)),
    ]
    return "\n\n".join(table for table in tables if table)


def save(
    path: Path,
    plan: Plan,
    machine: dict[str, object],
    samples: Iterable[Sample],
    medians: Medians,
    seconds: float,
) -> None:
    """Writes everything the run knows, samples of single rounds included."""
    document = {
        "machine": machine,
        "plan": asdict(plan),
        "duration_s": round(seconds, 1),
        "bars": [asdict(bar) | {"verdict": bar.verdict} for bar in bars(medians)],
        "medians": [
            {"kind": kind, "size": size, "target": target, "figures": figures}
            for (kind, size, target), figures in medians.items()
        ],
        "samples": [asdict(sample) for sample in samples],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _machine(plan: Plan, machine: dict[str, object], seconds: float) -> str:
    return "\n".join(
        (
            "smoltbot bench  {date}  commit {commit}".format(**machine),
            "{cpu}, {cores} cores, {pinning}; load average before the run {load_average}".format(**machine),
            "python {python}, aiohttp {aiohttp}, nginx {nginx}, wrk {wrk}, {system}".format(**machine),
            _disturbance(machine),
            f"medians of {plan.rounds} round(s), {plan.seconds:g} s a cell; the run took {seconds:.0f} s",
        )
    )


def _disturbance(machine: dict[str, object]) -> str:
    """What others took, and a warning when it was enough to bend the figures."""
    foreign, stolen = float(str(machine["foreign_cores"])), float(str(machine["stolen_cores"]))
    line = f"meanwhile other processes used {foreign:.2f} cores and other guests {stolen:.2f}"
    return f"{line}: NOISY, do not quote these figures" if foreign + stolen > _QUIET_CORES else line


def _plain(plan: Plan, medians: Medians) -> str:
    rows = []
    for size in plan.connections:
        for target in plan.targets:
            figures = medians["plain", size, target]
            rows.append(
                (
                    str(size),
                    target,
                    _number(figures["rps"], 0),
                    _number(beside_floor(medians, "plain", size, target, "rps"), 2),
                    _number(figures["p50_ms"], 3),
                    _number(figures["p99_ms"], 3),
                    _number(added_p50(medians, size, target) if target != "direct" else None, 3),
                    _number(figures.get("cpu_us"), 0),
                    _percent(figures.get("cpu_share")),
                    _percent(figures.get("spread")),
                )
            )
    return _table("plain POST, 1 KB of JSON each way", _PLAIN_HEAD, rows)


def _sse(plan: Plan, medians: Medians) -> str:
    rows = []
    for size in plan.streams:
        for target in plan.targets:
            figures = medians["sse", size, target]
            rows.append(
                (
                    str(size),
                    target,
                    _number(figures["ttfb_p50_ms"], 3),
                    _number(figures["ttfb_p99_ms"], 3),
                    _number(beside_floor(medians, "sse", size, target, "ttfb_p50_ms"), 2),
                    _number(figures["events_s"], 0),
                    _number(beside_floor(medians, "sse", size, target, "events_s"), 2),
                    _number(figures.get("cpu_us"), 1),
                    _percent(figures.get("cpu_share")),
                    _percent(figures.get("spread")),
                )
            )
    return _table("SSE, every stream byte-complete; TTFB of paced streams, events/s unpaced", _SSE_HEAD, rows)


def _long(plan: Plan, medians: Medians) -> str:
    rows = []
    for target in plan.targets:
        if target in GATEWAYS:
            figures = medians["long", LONG_STREAMS, target]
            rows.append((target, _number(figures["events_s"], 0), _number(figures["cpu_us"], 1)))
    head = ("target", "events/s", "CPU us/event")
    return _table("streams of 1,000 events 2 ms apart, their checks included", head, rows) if rows else ""


def _process(plan: Plan, medians: Medians) -> str:
    rows = [
        (
            target,
            _number(figure(medians, "start", 0, target, "start_s"), 2),
            _number(figure(medians, "memory", 0, target, "idle_mib"), 1),
            _number(figure(medians, "memory", 0, target, "loaded_mib"), 1),
        )
        for target in plan.targets
        if target in PYTHON
    ]
    head = ("target", "start to ready s", "idle MiB", "after load MiB")
    return _table("start and memory", head, rows) if rows else ""


def _bars(all_bars: Sequence[Bar]) -> str:
    rows = [
        (
            bar.name,
            "-" if bar.figure is None else f"{bar.figure:.2f} {bar.unit}",
            f"{bar.sign} {bar.limit:g} {bar.unit}",
            bar.verdict,
        )
        for bar in all_bars
    ]
    return _table("the gateway and its bars", ("what", "measured", "bar", "verdict"), rows)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.0f}"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; words to the left, figures to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    words = {column for column, name in enumerate(head) if name in ("target", "what", "verdict")}
    lines = [
        "  ".join(
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join((title, *lines))
