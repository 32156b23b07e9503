"""The few statistics of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; 0 when there are no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def spread(values: Sequence[float]) -> float:
    """The distance between the extremes, as a share of the middle."""
    middle = percentile(values, 50)
    return (max(values) - min(values)) / middle if middle else 0.0


def ratio(part: float | None, whole: float | None) -> float | None:
    """`part / whole`, or None when either was not measured or the whole is nothing."""
    return part / whole if part is not None and whole is not None and whole > 0 else None
