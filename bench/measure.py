"""The run: every cell of the plan on every target, round by round, into samples."""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench import loads
from bench.loads import Figures
from bench.plan import Plan
from bench.processes import Fleet
from bench.stats import spread
from bench.targets import GATEWAYS, PYTHON, Target, check_answer, open_provider, open_target
from bench.usage import resident_mib

# The gateway warms its heavy imports after it is ready; memory is read when that is over.
_SETTLE_SECONDS = 3.0
LONG_STREAMS = 32


@dataclass(frozen=True)
class Sample:
    """The figures of one cell of one round."""

    kind: str
    size: int
    target: str
    figures: Figures


def run(plan: Plan, fleet: Fleet) -> list[Sample]:
    """Measures the whole plan; raises `BenchError` when a figure would not be honest."""
    provider = open_provider(fleet)
    samples = list(_starts(plan, fleet, provider)) if "start" in plan.kinds else []
    targets = [open_target(name, fleet, provider) for name in plan.targets]
    for target in targets:
        check_answer(target)
    time.sleep(_SETTLE_SECONDS)
    idle = _memory(targets)
    loaded = plan.kinds != ("start",)
    if loaded:
        samples += _load(plan, fleet, targets)
    after = _memory(targets) if loaded else {}
    for name, mib in idle.items():
        figures = {"idle_mib": mib} | ({"loaded_mib": after[name]} if loaded else {})
        samples.append(Sample("memory", 0, name, figures))
    return samples


def medians(samples: Iterable[Sample]) -> dict[tuple[str, int, str], Figures]:
    """Per cell and target the median over the rounds, and how far the rounds were apart."""
    cells: dict[tuple[str, int, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        for name, value in sample.figures.items():
            cells[sample.kind, sample.size, sample.target][name].append(value)
    figures = {
        cell: {name: statistics.median(values) for name, values in rounds.items()} for cell, rounds in cells.items()
    }
    for cell, rounds in cells.items():
        for name in ("rps", "ttfb_p50_ms"):
            if len(rounds.get(name, ())) > 1:
                figures[cell]["spread"] = spread(rounds[name])
    return figures


def _starts(plan: Plan, fleet: Fleet, provider: int) -> Iterable[Sample]:
    """Start-up times, each of a fresh process with an empty data directory."""
    for turn in range(plan.starts):
        for name in plan.targets:
            if name in PYTHON:
                target = open_target(name, fleet, provider)
                if target.child is not None:
                    fleet.stop(target.child)
                yield Sample("start", 0, name, {"start_s": target.start_seconds})
                _say(f"start {turn + 1}/{plan.starts}  {name:8} {target.start_seconds:.2f} s")


def _memory(targets: Iterable[Target]) -> dict[str, float]:
    return {
        target.name: resident_mib(target.child.process.pid)
        for target in targets
        if target.child is not None and target.name in PYTHON
    }


def _load(plan: Plan, fleet: Fleet, targets: list[Target]) -> Iterable[Sample]:
    loads.write_script(fleet.home)
    for target in targets:  # warm code and connections; not figures
        if "plain" in plan.kinds:
            loads.plain(fleet, target, 16, 1.0)
        if "sse" in plan.kinds:
            loads.streams(fleet, target, 8, 0.5)
    for turn in range(plan.rounds):
        where = f"round {turn + 1}/{plan.rounds}"
        if "plain" in plan.kinds:
            yield from _cells(where, "plain", plan.connections, plan, fleet, targets, loads.plain)
        if "sse" in plan.kinds:
            yield from _cells(where, "sse", plan.streams, plan, fleet, targets, loads.streams)
        if "long" in plan.kinds:
            gateways = [target for target in targets if target.name in GATEWAYS]
            yield from _cells(where, "long", (LONG_STREAMS,), plan, fleet, gateways, loads.long_streams)


def _cells(
    where: str,
    kind: str,
    sizes: tuple[int, ...],
    plan: Plan,
    fleet: Fleet,
    targets: list[Target],
    load: Callable[[Fleet, Target, int, float], Figures],
) -> Iterable[Sample]:
    for size in sizes:
        for target in targets:
            figures = load(fleet, target, size, plan.seconds)
            name = "rps" if kind == "plain" else "events_s"
            _say(f"{where}  {kind} {size:3}  {target.name:8} {figures[name]:8.0f} {name}")
            yield Sample(kind, size, target.name, figures)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
