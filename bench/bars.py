"""The bars of the project: the figures the gateway has promised, and whether this run met them."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from bench.loads import Figures
from bench.stats import ratio

Medians = dict[tuple[str, int, str], Figures]


@dataclass(frozen=True)
class Bar:
    """A promise and what was measured; no figure when this run did not measure it."""

    name: str
    kind: str
    figure: float | None
    sign: str
    limit: float
    unit: str

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return "not measured"
        met = operator.ge if self.sign == ">=" else operator.le
        return "PASS" if met(self.figure, self.limit) else "FAIL"


def figure(medians: Medians, kind: str, size: int, target: str, name: str) -> float | None:
    """One median, or None when it was not measured."""
    return medians.get((kind, size, target), {}).get(name)


def beside_floor(medians: Medians, kind: str, size: int, target: str, name: str) -> float | None:
    """A figure of a target as a multiple of the aiohttp floor's."""
    own, floor = (figure(medians, kind, size, who, name) for who in (target, "aiohttp"))
    return ratio(own, floor)


def added_p50(medians: Medians, connections: int, target: str) -> float | None:
    """The milliseconds a target adds to the median of the direct way."""
    own = figure(medians, "plain", connections, target, "p50_ms")
    direct = figure(medians, "plain", connections, "direct", "p50_ms")
    return own - direct if own is not None and direct is not None else None


def bars(medians: Medians) -> list[Bar]:
    """Every bar of the project, in the order of the README."""
    rps = beside_floor(medians, "plain", 64, "gateway", "rps")
    added = ratio(added_p50(medians, 1, "gateway"), added_p50(medians, 1, "aiohttp"))
    ttfb = beside_floor(medians, "sse", 32, "gateway", "ttfb_p50_ms")
    checked = figure(medians, "plain", 64, "checked", "rps")
    long = [figure(medians, "long", 32, who, "cpu_us") for who in ("checked", "gateway")]
    memory = figure(medians, "memory", 0, "gateway", "idle_mib")
    start = figure(medians, "start", 0, "gateway", "start_s")
    return [
        Bar("requests/s at 64 connections, x aiohttp", "plain", rps, ">=", 1.2, "x"),
        Bar("added p50 at 1 connection, x aiohttp", "plain", added, "<=", 1.0, "x"),
        Bar("SSE first byte p50 at 32 streams, x aiohttp", "sse", ttfb, "<=", 1.0, "x"),
        Bar("requests/s at 64 connections, every answer checked", "plain", checked, ">=", 1000.0, "/s"),
        Bar("CPU per event of long streams, checked, x unchecked", "long", ratio(*long), "<=", 1.15, "x"),
        Bar("idle memory", "memory", memory, "<=", 60.0, "MiB"),
        Bar("start to ready", "start", start, "<=", 1.0, "s"),
    ]
