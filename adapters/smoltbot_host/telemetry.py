"""Telemetry: the gateway's events as Prometheus metrics and request log lines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from smoltbot_worker.events import (
    AnswerBlocked,
    BreakerChanged,
    CheckEnded,
    ContainmentChanged,
    CronRan,
    DriftFound,
    Event,
    ExchangeEnded,
    ExchangesDelayed,
    LicenseChanged,
    NudgesChanged,
    RecordsChanged,
    RequestAnswered,
    UpstreamFailed,
    WebhookSettled,
)

from .logs import LEVELS, LogWriter
from .metrics import ControlMetrics, RelayMetrics

log = logging.getLogger("smoltbot")

# One more series per counter, of no use to anybody.
disable_created_metrics()  # type: ignore[no-untyped-call]

_QUIET = ("/health", "/metrics")


_WORDS = frozenset(
    """v1 v1beta v1alpha messages count_tokens batches batch results cancel models complete chat completions
    responses embeddings files content images generations edits variations audio speech transcriptions
    translations moderations fine_tuning jobs assistants threads runs vector_stores uploads realtime sessions
    organization input_items cachedContents tunedModels upload health live ready startup metrics models.json agent
    anthropic openai gemini agents checkpoints keys head export certificate merkle-root inclusion-proof
    verify""".split()
)

_ACTIONS = frozenset(
    """generateContent streamGenerateContent countTokens embedContent batchEmbedContents batchGenerateContent predict
    cancel""".split()
)


@lru_cache(maxsize=4096)
def _shown(path: str) -> str:
    """A path for a log line. It is the client's text, where a key may have slipped in: only known words are shown."""
    segments = []
    for segment in path.split("/"):
        name, _, action = segment.partition(":")
        shown = name if name in _WORDS or not name else "*"
        segments.append(f"{shown}:{action}" if action in _ACTIONS else shown)
    return "/".join(segments[:12])


class PrometheusTelemetry:
    """The Telemetry port over one registry of its own. Label values are a fixed, small set: never an agent."""

    def __init__(self, logs: LogWriter | None, level: str = "info") -> None:
        self.registry = CollectorRegistry()
        self._logs = logs if LEVELS[level] <= logging.INFO else None
        self._warnings = logs if LEVELS[level] <= logging.WARNING else None
        counter, registry = Counter, self.registry
        self._relay = RelayMetrics(registry)
        self._control = ControlMetrics(registry)
        self._failures = counter(
            "gateway_upstream_errors_total", "Requests without an answer", ["provider", "kind"], registry=registry
        )
        self._tasks = counter("gateway_background_tasks_total", "Background tasks done", ["task"], registry=registry)
        self._task_errors = counter(
            "gateway_background_task_errors_total", "Background tasks failed or cancelled", ["task"], registry=registry
        )
        self._cron = counter("gateway_cron_runs_total", "Scheduled runs", ["job", "result"], registry=registry)
        self._records = counter("gateway_db_errors_total", "Times the database became unavailable", registry=registry)
        self._up = Gauge("gateway_dependency_up", "1 while usable", ["dep"], registry=registry)
        self._up.labels("database").set(1)
        self._up.labels("kv").set(1)
        self._cache = counter(
            "gateway_cache_operations_total", "KV operations", ["operation", "result"], registry=registry
        )
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._waiting = False
        self._takers = self._by_event()

    def _by_event(self) -> dict[type, Callable[[Any], None]]:
        return {
            ExchangeEnded: self._exchange,
            RequestAnswered: self._answered,
            UpstreamFailed: self._failed,
            RecordsChanged: self._changed,
            CronRan: self._ran,
            CheckEnded: self._checked,
            AnswerBlocked: self._blocked,
            BreakerChanged: self._breaker,
            NudgesChanged: self._nudged,
            ContainmentChanged: self._contained,
            DriftFound: self._drifted,
            WebhookSettled: self._delivered,
            LicenseChanged: self._licensed,
            ExchangesDelayed: self._delayed,
        }

    def emit(self, event: Event) -> None:
        """See :class:`smoltbot_worker.ports.Telemetry`."""
        self._takers[type(event)](event)

    def page(self) -> tuple[str, bytes]:
        """Content type and body of ``/metrics``."""
        return CONTENT_TYPE_LATEST, generate_latest(self.registry)

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A gauge that is read when scraped."""
        Gauge(name, help, registry=self.registry).set_function(read)

    def background_done(self, task: str, error: BaseException | None) -> None:
        """Count a background task by the name of its coroutine, and those that failed or were cancelled."""
        self._tasks.labels(task).inc()
        if error is not None:
            self._task_errors.labels(task).inc()

    def cache_operation(self, operation: str, result: str) -> None:
        """See :class:`smoltbot_host.kv.KVTelemetry`."""
        self._cache.labels(operation, result).inc()

    def kv_changed(self, available: bool) -> None:
        """See :class:`smoltbot_host.kv.KVTelemetry`."""
        self._up.labels("kv").set(1 if available else 0)

    def _exchange(self, event: ExchangeEnded) -> None:
        self._relay.request(event.provider, event.status)
        self._relay.exchange(event.provider, event.outcome, event.duration_s, event.ttfb_s)
        if event.ttfb_s is not None and not event.checked:
            self._relay.verdict(event.verdict)
        if self._logs is not None:
            self._log(event)

    def _log(self, event: ExchangeEnded) -> None:
        fields = {
            "request_id": event.request_id,
            "agent_id": event.agent_id,
            "session_id": event.session_id,
            "provider": event.provider,
            "method": event.method,
            "path": _shown(event.path),
            "status": event.status,
            "verdict": event.verdict,
            "reason": event.reason,
            "streaming": event.streaming,
            "bytes_out": event.bytes_out,
            "ttfb_ms": None if event.ttfb_s is None else round(event.ttfb_s * 1000, 2),
            "total_ms": round(event.duration_s * 1000, 2),
            "outcome": event.outcome,
            "upstream_request_id": event.upstream_request_id[:128],
        }
        assert self._logs is not None
        self._logs.write("info", "request", fields)

    def _answered(self, event: RequestAnswered) -> None:
        if event.path.startswith(_QUIET):
            return  # probes and scrapes are not traffic
        self._relay.request("unknown", event.status)
        if self._logs is not None:
            path = _shown(event.path)
            fields = {"request_id": event.request_id, "method": event.method, "path": path, "status": event.status}
            self._logs.write("info", "request", fields)

    def _failed(self, event: UpstreamFailed) -> None:
        self._failures.labels(event.provider, event.kind).inc()
        log.warning("no answer from %s: %s (%s)", event.provider, event.detail, event.request_id)

    def _changed(self, event: RecordsChanged) -> None:
        self._up.labels("database").set(1 if event.available else 0)
        if event.available:
            log.warning("the database is available again")
        else:
            self._records.inc()
            log.error("the database is unavailable: %s", event.detail)

    def _ran(self, event: CronRan) -> None:
        self._cron.labels(event.job, event.result).inc()

    def _checked(self, event: CheckEnded) -> None:
        self._relay.verdict(event.verdict)
        if event.analysis_s is not None:
            self._relay.analysis(event.analysis_s)
        level, logs = ("warn", self._warnings) if event.verdict == "boundary_violation" else ("info", self._logs)
        if logs is None:
            return
        fields = {
            "request_id": event.request_id,
            "agent_id": event.agent_id,
            "session_id": event.session_id,
            "checkpoint_id": event.checkpoint_id,
            "provider": event.provider,
            "verdict": event.verdict,
            "reason": event.reason,
            "source": event.source,
            "streaming": event.streaming,
            "analysis_ms": None if event.analysis_s is None else round(event.analysis_s * 1000, 2),
            "concerns": len(event.concerns),
        }
        logs.write(level, "check", fields)

    def _blocked(self, event: AnswerBlocked) -> None:
        self._control.blocks.inc()
        log.warning("an answer to %s was withheld: %s (%s)", event.agent_id, event.reason, event.request_id)

    def _breaker(self, event: BreakerChanged) -> None:
        self._control.breaker.set(1 if event.open else 0)
        if event.open:
            log.warning("the analysis failed again and again: nobody is asked for a while, checks end as `error`")
        else:
            log.warning("the analysis is asked again")

    def _nudged(self, event: NudgesChanged) -> None:
        self._control.nudges.labels(event.change).inc(event.count)

    def _contained(self, event: ContainmentChanged) -> None:
        self._control.containment.labels(event.action).inc()
        log.warning("containment of %s: %s, now %s", event.agent_id, event.action, event.status)

    def _drifted(self, event: DriftFound) -> None:
        self._control.drifts.inc()
        log.warning("%s drifts: %s, %s (%s)", event.agent_id, event.direction, event.severity, event.session_id)

    def _delivered(self, event: WebhookSettled) -> None:
        self._control.webhooks.labels(event.outcome).inc()
        if event.outcome == "failed":
            text = "the webhook %s was given up for %s: %s"
            log.warning(text, event.delivery_id, event.registration_id, event.detail)

    def _licensed(self, event: LicenseChanged) -> None:
        self._control.license(event.state)
        if event.state == "invalid":
            log.warning("the license does not count: %s", event.code)
        elif event.code:
            log.warning("the license counts for now: %s", event.code)
        elif event.state == "valid":
            log.info("the license is valid")

    def _delayed(self, event: ExchangesDelayed) -> None:
        self._control.lost.inc(event.lost)
        if event.lost:
            log.error("exchanges were lost and will have no checkpoint: %d", event.lost)
        if bool(event.count) != self._waiting:
            self._waiting = bool(event.count)
            log.warning("the queue cannot be reached: exchanges wait in memory" if event.count else "the queue is back")
        self._control.delayed.set(event.count)
