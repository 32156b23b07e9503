"""The command: `python -m bench`."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path

from bench import machine, measure, report
from bench.bars import Bar, bars
from bench.errors import BenchError
from bench.plan import Plan, read_plan
from bench.processes import ROOT, Fleet

RESULTS = ROOT / "bench" / "results" / "latest.json"


def gate_passes(plan: Plan, all_bars: list[Bar]) -> bool:
    """Whether every bar of the plan's cells is met; one without a figure counts as missed."""
    return all(bar.verdict == "PASS" for bar in all_bars if bar.kind in (*plan.kinds, "memory"))


def run(plan: Plan) -> int:
    """Measures, reports, and returns the exit code."""
    proxy_core, load_core, pinning = machine.choose_cores()
    facts = machine.facts(pinning)
    print(f"{pinning}; load average {facts['load_average']}", file=sys.stderr)
    started = time.monotonic()
    disturbance = machine.Disturbance()
    with (
        tempfile.TemporaryDirectory(prefix="smoltbot-bench-", ignore_cleanup_errors=True) as home,
        Fleet(Path(home), proxy_core=proxy_core, load_core=load_core) as fleet,
    ):
        samples = measure.run(plan, fleet)
    seconds = time.monotonic() - started
    facts |= disturbance.cores()  # the children have ended by now, so their time is known
    medians = measure.medians(samples)
    report.save(RESULTS, plan, facts, samples, medians, seconds)
    print(report.text(plan, facts, medians, seconds))
    print(f"\nwritten to {RESULTS.relative_to(ROOT)}")
    return 1 if plan.gate and not gate_passes(plan, bars(medians)) else 0


def main() -> int:
    plan = read_plan()
    # SIGTERM unwinds like Ctrl-C: the processes we started are ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run(plan)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
