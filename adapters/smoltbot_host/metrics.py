"""Metrics of the relay path: counted in plain dictionaries, made into Prometheus families when scraped.

A counter of prometheus-client takes a lock and a histogram walks its buckets: more than the rest of the gateway's
bookkeeping for a request. Everything off that path uses prometheus-client directly: :class:`ControlMetrics`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from prometheus_client import Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ANALYSIS_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TTFB_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class _Histogram:
    """One label's histogram."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        rows, count = [], 0
        for bound, here in zip((*self._bounds, float("inf")), self.counts, strict=True):
            count += here
            rows.append(("+Inf" if bound == float("inf") else repr(float(bound)), float(count)))
        return rows


LICENSE_STATES = ("none", "pending", "valid", "grace", "invalid")


class ControlMetrics:
    """What is done about verdicts, and the state of what that depends on. Labels are a fixed, small set."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(name, help, labels, registry=registry)

        self.nudges = counter("gateway_nudges_total", "Notices to agents", "event")
        self.blocks = counter("gateway_enforcement_blocks_total", "Answers withheld")
        self.containment = counter("gateway_containment_changes_total", "Changes of containment", "action")
        self.drifts = counter("gateway_drift_alerts_total", "Runs of drift")
        self.webhooks = counter("gateway_webhook_deliveries_total", "Attempts at a delivery", "result")
        self.lost = counter("gateway_exchanges_lost_total", "Exchanges given up before they were in the queue")
        self.delayed = Gauge("gateway_exchanges_delayed", "Exchanges waiting for the queue", registry=registry)
        self.breaker = Gauge("gateway_circuit_breaker_open", "1 while nobody is asked", registry=registry)
        self._license = Gauge("gateway_license_status", "1 for the current state", ["state"], registry=registry)

    def license(self, state: str) -> None:
        """Note the license's state."""
        for known in LICENSE_STATES:
            self._license.labels(known).set(1 if known == state else 0)


class RelayMetrics(Collector):
    """Requests, verdicts, outcomes, durations. Labels are a fixed, small set: never an agent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests: dict[tuple[str, int], int] = {}
        self._checks: dict[str, int] = {}
        self._outcomes: dict[tuple[str, str], int] = {}
        self._duration: dict[str, _Histogram] = {}
        self._ttfb: dict[str, _Histogram] = {}
        self._analysis = _Histogram(ANALYSIS_BUCKETS)
        registry.register(self)

    def request(self, provider: str, status: int) -> None:
        """Count an answer."""
        key = (provider, status)
        self._requests[key] = self._requests.get(key, 0) + 1

    def exchange(self, provider: str, outcome: str, duration_s: float, ttfb_s: float | None) -> None:
        """Count an exchange that ended; ``ttfb_s`` is None when the provider gave no answer."""
        key = (provider, outcome)
        self._outcomes[key] = self._outcomes.get(key, 0) + 1
        duration = self._duration.get(provider)
        if duration is None:
            duration = self._duration[provider] = _Histogram(DURATION_BUCKETS)
            self._ttfb[provider] = _Histogram(TTFB_BUCKETS)
        duration.observe(duration_s)
        if ttfb_s is not None:
            self._ttfb[provider].observe(ttfb_s)

    def verdict(self, verdict: str) -> None:
        """Count a final verdict."""
        self._checks[verdict] = self._checks.get(verdict, 0) + 1

    def analysis(self, duration_s: float) -> None:
        """Count an analysis by its time."""
        self._analysis.observe(duration_s)

    def collect(self) -> Iterable[Metric]:
        """For the registry."""
        requests = CounterMetricFamily("gateway_requests", "Requests answered", labels=["provider", "status"])
        for (provider, status), count in list(self._requests.items()):
            requests.add_metric([provider, str(status)], count)
        checks = CounterMetricFamily("gateway_aip_checks", "Final verdicts", labels=["verdict"])
        for verdict, count in list(self._checks.items()):
            checks.add_metric([verdict], count)
        outcomes = CounterMetricFamily("gateway_exchanges", "How exchanges ended", labels=["provider", "outcome"])
        for labels, count in list(self._outcomes.items()):
            outcomes.add_metric(list(labels), count)
        yield from (requests, checks, outcomes)
        yield from self._histograms()

    def _histograms(self) -> Iterator[Metric]:
        for name, help, book in (
            ("gateway_request_duration_seconds", "To the last byte of the answer", self._duration),
            ("gateway_ttfb_seconds", "To the head of the provider's answer", self._ttfb),
        ):
            family = HistogramMetricFamily(name, help, labels=["provider"])
            for provider, histogram in list(book.items()):
                family.add_metric([provider], histogram.buckets(), histogram.total)
            yield family
        family = HistogramMetricFamily("gateway_analysis_duration_seconds", "Of one analysis of an answer")
        family.add_metric([], self._analysis.buckets(), self._analysis.total)
        yield family
