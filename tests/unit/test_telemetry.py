"""Telemetry: events become metrics with fixed names, labels and buckets, and request lines without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from smoltbot_host.logs import LogWriter
from smoltbot_host.telemetry import PrometheusTelemetry
from smoltbot_worker import events
from smoltbot_worker.events import (
    AnswerBlocked,
    BreakerChanged,
    CheckEnded,
    ContainmentChanged,
    CronRan,
    DriftFound,
    ExchangeEnded,
    ExchangesDelayed,
    LicenseChanged,
    NudgesChanged,
    RecordsChanged,
    RequestAnswered,
    UpstreamFailed,
    WebhookSettled,
)

DURATION = ["0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "60.0", "+Inf"]
ANALYSIS = ["0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "+Inf"]
TTFB = ["0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "+Inf"]
NAMES = {
    "gateway_requests": "counter",
    "gateway_request_duration_seconds": "histogram",
    "gateway_ttfb_seconds": "histogram",
    "gateway_aip_checks": "counter",
    "gateway_exchanges": "counter",
    "gateway_upstream_errors": "counter",
    "gateway_background_tasks": "counter",
    "gateway_background_task_errors": "counter",
    "gateway_cron_runs": "counter",
    "gateway_db_errors": "counter",
    "gateway_dependency_up": "gauge",
    "gateway_analysis_duration_seconds": "histogram",
    "gateway_circuit_breaker_open": "gauge",
    "gateway_nudges": "counter",
    "gateway_enforcement_blocks": "counter",
    "gateway_webhook_deliveries": "counter",
    "gateway_license_status": "gauge",
    "gateway_drift_alerts": "counter",
    "gateway_containment_changes": "counter",
    "gateway_exchanges_delayed": "gauge",
    "gateway_exchanges_lost": "counter",
}


@pytest.fixture
def telemetry() -> PrometheusTelemetry:
    return PrometheusTelemetry(None)


def exchange(**given: Any) -> ExchangeEnded:
    """A complete one, unless told otherwise."""
    values: dict[str, Any] = {
        "provider": "anthropic", "method": "POST", "path": "/v1/messages", "status": 200, "request_id": "r-1",
        "agent_id": "smolt-1", "session_id": "s-1", "verdict": "skipped", "reason": "no-thinking", "streaming": False,
        "bytes_out": 10, "duration_s": 0.2, "ttfb_s": 0.02, "outcome": "complete", "upstream_request_id": "req_1",
    }  # fmt: skip
    return ExchangeEnded(**{**values, **given})


def check(**given: Any) -> CheckEnded:
    """A clear one, unless told otherwise."""
    values: dict[str, Any] = {
        "provider": "anthropic", "agent_id": "smolt-1", "session_id": "s-1", "request_id": "r-1",
        "checkpoint_id": "ic-1", "verdict": "clear", "reason": "", "source": "gateway", "streaming": False,
        "analysis_s": 0.3, "concerns": (),
    }  # fmt: skip
    return CheckEnded(**{**values, **given})


def families(telemetry: PrometheusTelemetry) -> dict[str, Metric]:
    """What a scrape gives, by name."""
    content_type, page = telemetry.page()
    assert content_type.startswith("text/plain; version=")
    return {family.name: family for family in text_string_to_metric_families(page.decode())}


def samples(telemetry: PrometheusTelemetry, name: str) -> dict[tuple[str, ...], float]:
    """The values of one series name by their label values; a page has the labels in alphabetical order."""
    found = {}
    for family in families(telemetry).values():
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels.values())] = sample.value
    return found


class TestMetrics:
    def test_names_and_kinds(self, telemetry: PrometheusTelemetry) -> None:
        found = families(telemetry)
        assert {name: found[name].type for name in NAMES} == NAMES
        assert all(found[name].documentation for name in NAMES)
        assert not [name for name in found if name.endswith("_created") or name.startswith("nodejs_")]

    def test_the_process_and_python(self, telemetry: PrometheusTelemetry) -> None:
        found = families(telemetry)
        for name in ("process_resident_memory_bytes", "process_start_time_seconds", "process_open_fds"):
            assert found[name].samples[0].value > 0
        assert "process_cpu_seconds" in found
        assert "python_info" in found
        assert "python_gc_collections" in found

    def test_requests(self, telemetry: PrometheusTelemetry) -> None:
        for _ in range(1000):
            telemetry.emit(exchange())
        telemetry.emit(exchange(status=529))
        telemetry.emit(exchange(provider="gemini", status=401, outcome="refused", ttfb_s=None))
        for _ in range(3):
            telemetry.emit(RequestAnswered("GET", "/nowhere", 404, "r"))
        telemetry.emit(RequestAnswered("GET", "/models.json", 200, "r"))
        assert samples(telemetry, "gateway_requests_total") == {
            ("anthropic", "200"): 1000,
            ("anthropic", "529"): 1,
            ("gemini", "401"): 1,
            ("unknown", "404"): 3,
            ("unknown", "200"): 1,
        }
        [labels] = {tuple(sample.labels) for sample in families(telemetry)["gateway_requests"].samples}
        assert labels == ("provider", "status")

    @pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/health/startup", "/metrics"])
    def test_probes_and_scrapes_are_no_traffic(self, telemetry: PrometheusTelemetry, path: str) -> None:
        telemetry.emit(RequestAnswered("GET", path, 200, "r"))
        assert samples(telemetry, "gateway_requests_total") == {}

    def test_durations(self, telemetry: PrometheusTelemetry) -> None:
        values = [0.01, 0.05, 0.051, 0.3, 1.0, 4.0, 30.0, 59.9, 60.1, 1000.0]
        for value in values:
            telemetry.emit(exchange(provider="openai", duration_s=value, ttfb_s=value / 100))
        telemetry.emit(exchange(provider="openai", duration_s=2.0, ttfb_s=None))
        buckets = samples(telemetry, "gateway_request_duration_seconds_bucket")
        assert [bound for bound, provider in buckets] == DURATION
        assert list(buckets.values()) == [2, 3, 3, 4, 5, 6, 7, 7, 8, 9, 11]
        assert samples(telemetry, "gateway_request_duration_seconds_count") == {("openai",): 11}
        assert samples(telemetry, "gateway_request_duration_seconds_sum")[("openai",)] == pytest.approx(sum(values) + 2)
        buckets = samples(telemetry, "gateway_ttfb_seconds_bucket")
        assert [bound for bound, provider in buckets] == TTFB
        assert samples(telemetry, "gateway_ttfb_seconds_count") == {("openai",): 10}

    def test_the_edges_of_buckets_belong_to_them(self, telemetry: PrometheusTelemetry) -> None:
        for bound in DURATION[:-1]:
            telemetry.emit(exchange(duration_s=float(bound)))
        assert list(samples(telemetry, "gateway_request_duration_seconds_bucket").values()) == [*range(1, 11), 10]

    def test_final_verdicts_of_answered_exchanges(self, telemetry: PrometheusTelemetry) -> None:
        for verdict in ("skipped", "skipped", "disabled"):
            telemetry.emit(exchange(verdict=verdict))
        telemetry.emit(exchange(verdict="skipped", outcome="client-left"))
        telemetry.emit(exchange(verdict="", outcome="refused", ttfb_s=None, status=401))
        assert samples(telemetry, "gateway_aip_checks_total") == {("skipped",): 3, ("disabled",): 1}

    def test_outcomes(self, telemetry: PrometheusTelemetry) -> None:
        for outcome in ("complete", "client-left", "upstream-broke", "refused", "complete"):
            telemetry.emit(exchange(outcome=outcome))
        assert samples(telemetry, "gateway_exchanges_total") == {
            ("complete", "anthropic"): 2,
            ("client-left", "anthropic"): 1,
            ("upstream-broke", "anthropic"): 1,
            ("refused", "anthropic"): 1,
        }

    def test_failures_of_providers(self, telemetry: PrometheusTelemetry, caplog: pytest.LogCaptureFixture) -> None:
        for kind in ("connect", "timeout", "connect"):
            telemetry.emit(UpstreamFailed("openai", kind, "could not connect: OSError", "r-9"))
        assert samples(telemetry, "gateway_upstream_errors_total") == {
            ("connect", "openai"): 2,
            ("timeout", "openai"): 1,
        }
        assert caplog.messages == ["no answer from openai: could not connect: OSError (r-9)"] * 3

    def test_the_database(self, telemetry: PrometheusTelemetry, caplog: pytest.LogCaptureFixture) -> None:
        assert samples(telemetry, "gateway_dependency_up") == {("database",): 1, ("kv",): 1}
        telemetry.emit(RecordsChanged(False, "it is locked"))
        assert samples(telemetry, "gateway_dependency_up") == {("database",): 0, ("kv",): 1}
        telemetry.emit(RecordsChanged(True, ""))
        assert samples(telemetry, "gateway_dependency_up") == {("database",): 1, ("kv",): 1}
        assert samples(telemetry, "gateway_db_errors_total") == {(): 1}
        assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]
        assert "it is locked" in caplog.text

    def test_the_kv_store(self, telemetry: PrometheusTelemetry) -> None:
        telemetry.kv_changed(False)
        assert samples(telemetry, "gateway_dependency_up") == {("database",): 1, ("kv",): 0}
        for result in ("hit", "hit", "error"):
            telemetry.cache_operation("get", result)
        assert samples(telemetry, "gateway_cache_operations_total") == {("get", "hit"): 2, ("get", "error"): 1}

    def test_scheduled_runs(self, telemetry: PrometheusTelemetry) -> None:
        for result in ("success", "success", "error"):
            telemetry.emit(CronRan("observer", result))
        assert samples(telemetry, "gateway_cron_runs_total") == {("observer", "success"): 2, ("observer", "error"): 1}

    def test_background_tasks(self, telemetry: PrometheusTelemetry) -> None:
        for number in range(100):
            telemetry.background_done("flush_soon", ValueError() if number < 3 else None)
        telemetry.background_done("probe", None)
        assert samples(telemetry, "gateway_background_tasks_total") == {("flush_soon",): 100, ("probe",): 1}
        assert samples(telemetry, "gateway_background_task_errors_total") == {("flush_soon",): 3}

    def test_gauges_are_read_when_scraped(self, telemetry: PrometheusTelemetry) -> None:
        values = [1.0, 5.0]
        telemetry.gauge("gateway_connections", "Open client connections", lambda: values[0])
        assert samples(telemetry, "gateway_connections") == {(): 1}
        values[0] = 7.0
        assert samples(telemetry, "gateway_connections") == {(): 7}

    def test_labels_do_not_grow_with_traffic(self, telemetry: PrometheusTelemetry) -> None:
        telemetry.emit(exchange())
        telemetry.emit(RequestAnswered("GET", "/a", 404, "r"))
        before = len(telemetry.page()[1].splitlines())
        for number in range(500):
            telemetry.emit(
                exchange(
                    agent_id=f"smolt-{number}", session_id=f"s{number}", path=f"/{number}", request_id=f"r{number}"
                )
            )
            telemetry.emit(RequestAnswered(f"M{number}", f"/{number}", 404, f"r{number}"))
            telemetry.emit(
                check(
                    verdict="skipped", agent_id=f"smolt-{number}", checkpoint_id=f"ic-{number}", reason=f"no {number}"
                )
            )
        assert len(telemetry.page()[1].splitlines()) == before
        assert b"smolt-" not in telemetry.page()[1]

    def test_a_verdict_is_counted_once(self, telemetry: PrometheusTelemetry) -> None:
        # A buffered answer: checked before it left. A stream: checked later. One that nobody was to check.
        telemetry.emit(check(verdict="clear"))
        telemetry.emit(exchange(verdict="clear", checked=True))
        telemetry.emit(exchange(verdict="pending", checked=True, streaming=True))
        telemetry.emit(check(verdict="boundary_violation", streaming=True))
        telemetry.emit(exchange(verdict="disabled"))
        telemetry.emit(exchange(verdict="error", checked=True, ttfb_s=None, outcome="upstream-broke"))
        telemetry.emit(check(verdict="error", analysis_s=None))
        assert samples(telemetry, "gateway_aip_checks_total") == {
            ("clear",): 1,
            ("boundary_violation",): 1,
            ("disabled",): 1,
            ("error",): 1,
        }

    def test_the_time_of_analyses(self, telemetry: PrometheusTelemetry) -> None:
        assert samples(telemetry, "gateway_analysis_duration_seconds_count") == {(): 0}
        for seconds in (0.1, 0.11, 4.0, 31.0, None):
            telemetry.emit(check(analysis_s=seconds))
        buckets = samples(telemetry, "gateway_analysis_duration_seconds_bucket")
        assert [bound for (bound,) in buckets] == ANALYSIS
        assert list(buckets.values()) == [1, 2, 2, 2, 2, 3, 3, 3, 4]
        assert samples(telemetry, "gateway_analysis_duration_seconds_count") == {(): 4}
        assert samples(telemetry, "gateway_analysis_duration_seconds_sum")[()] == pytest.approx(35.21)

    def test_the_breaker(self, telemetry: PrometheusTelemetry, caplog: pytest.LogCaptureFixture) -> None:
        for is_open in (True, False):
            telemetry.emit(BreakerChanged(is_open))
            assert samples(telemetry, "gateway_circuit_breaker_open") == {(): is_open}
        assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.WARNING]

    def test_nudges(self, telemetry: PrometheusTelemetry) -> None:
        for change, count in (("created", 1), ("created", 1), ("delivered", 5), ("returned", 3)):
            telemetry.emit(NudgesChanged("smolt-1", change, count))
        assert samples(telemetry, "gateway_nudges_total") == {("created",): 2, ("delivered",): 5, ("returned",): 3}

    def test_blocked_answers(self, telemetry: PrometheusTelemetry, caplog: pytest.LogCaptureFixture) -> None:
        assert samples(telemetry, "gateway_enforcement_blocks_total") == {(): 0}
        for reason in ("boundary_violation", "integrity_unavailable"):
            telemetry.emit(AnswerBlocked("smolt-1", "r-1", reason))
        assert samples(telemetry, "gateway_enforcement_blocks_total") == {(): 2}
        assert caplog.messages[0] == "an answer to smolt-1 was withheld: boundary_violation (r-1)"

    def test_containment(self, telemetry: PrometheusTelemetry, caplog: pytest.LogCaptureFixture) -> None:
        for action, status in (("pause", "paused"), ("kill", "killed"), ("auto_pause", "paused"), ("kill", "killed")):
            telemetry.emit(ContainmentChanged("smolt-1", action, status))
        expected = {("pause",): 1, ("kill",): 2, ("auto_pause",): 1}
        assert samples(telemetry, "gateway_containment_changes_total") == expected
        assert caplog.messages[0] == "containment of smolt-1: pause, now paused"

    def test_drift(self, telemetry: PrometheusTelemetry, caplog: pytest.LogCaptureFixture) -> None:
        telemetry.emit(DriftFound("smolt-1", "s-1", "value_erosion", "high"))
        assert samples(telemetry, "gateway_drift_alerts_total") == {(): 1}
        assert caplog.messages == ["smolt-1 drifts: value_erosion, high (s-1)"]

    def test_webhooks(self, telemetry: PrometheusTelemetry, caplog: pytest.LogCaptureFixture) -> None:
        for outcome in ("delivered", "retry", "retry", "failed"):
            telemetry.emit(WebhookSettled("reg-1", "del-1", outcome, "status 500"))
        expected = {("delivered",): 1, ("retry",): 2, ("failed",): 1}
        assert samples(telemetry, "gateway_webhook_deliveries_total") == expected
        assert caplog.messages == ["the webhook del-1 was given up for reg-1: status 500"]

    def test_the_license(self, telemetry: PrometheusTelemetry, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        for state, code in (
            ("none", ""), ("pending", ""), ("valid", ""), ("valid", "license_expires_soon"),
            ("grace", "license_expired_grace_period"), ("invalid", "license_expired"),
        ):  # fmt: skip
            telemetry.emit(LicenseChanged(state, code))
            found = samples(telemetry, "gateway_license_status")
            names = {("none",), ("pending",), ("valid",), ("grace",), ("invalid",)}
            assert found == {**dict.fromkeys(names, 0), (state,): 1}
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
            (logging.INFO, "the license is valid"),
            (logging.WARNING, "the license counts for now: license_expires_soon"),
            (logging.WARNING, "the license counts for now: license_expired_grace_period"),
            (logging.WARNING, "the license does not count: license_expired"),
        ]

    def test_exchanges_that_wait(self, telemetry: PrometheusTelemetry, caplog: pytest.LogCaptureFixture) -> None:
        for count, lost in ((1, 0), (7, 0), (5, 2), (0, 1), (0, 0)):
            telemetry.emit(ExchangesDelayed(count, lost))
            assert samples(telemetry, "gateway_exchanges_delayed") == {(): count}
        assert samples(telemetry, "gateway_exchanges_lost_total") == {(): 3}
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
            (logging.WARNING, "the queue cannot be reached: exchanges wait in memory"),
            (logging.ERROR, "exchanges were lost and will have no checkpoint: 2"),
            (logging.ERROR, "exchanges were lost and will have no checkpoint: 1"),
            (logging.WARNING, "the queue is back"),
        ]

    def test_every_event_is_taken(self, telemetry: PrometheusTelemetry) -> None:
        assert set(telemetry._takers) == set(get_args(events.Event))

    def test_two_gateways_of_one_process_count_apart(self) -> None:
        one, two = PrometheusTelemetry(None), PrometheusTelemetry(None)
        one.emit(exchange())
        assert samples(two, "gateway_requests_total") == {}


class TestLines:
    @pytest.fixture
    def stream(self) -> io.BytesIO:
        return io.BytesIO()

    @pytest.fixture
    def writer(self, stream: io.BytesIO) -> Iterator[LogWriter]:
        writer = LogWriter(stream, "smoltbot-all")
        yield writer
        writer.close()

    def lines(self, writer: LogWriter, stream: io.BytesIO) -> list[dict[str, Any]]:
        writer.close()
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    def test_an_exchange(self, writer: LogWriter, stream: io.BytesIO) -> None:
        PrometheusTelemetry(writer).emit(exchange(duration_s=1.23456, ttfb_s=0.01234))
        [line] = self.lines(writer, stream)
        assert line.pop("timestamp")
        assert line == {
            "level": "info", "service": "smoltbot-all", "message": "request", "request_id": "r-1",
            "agent_id": "smolt-1", "session_id": "s-1", "provider": "anthropic", "method": "POST",
            "path": "/v1/messages", "status": 200, "verdict": "skipped", "reason": "no-thinking", "streaming": False,
            "bytes_out": 10, "ttfb_ms": 12.34, "total_ms": 1234.56, "outcome": "complete",
            "upstream_request_id": "req_1",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("verdict", "level"), [("clear", "info"), ("error", "info"), ("boundary_violation", "warn")]
    )
    def test_a_check(self, writer: LogWriter, stream: io.BytesIO, verdict: str, level: str) -> None:
        concerns = (("deception", "words of a model"), ("words of a model", "high"))
        event = check(verdict=verdict, reason="analysis-timeout", analysis_s=0.123456, concerns=concerns)
        PrometheusTelemetry(writer).emit(event)
        [line] = self.lines(writer, stream)
        assert line.pop("timestamp")
        assert line == {
            "level": level, "service": "smoltbot-all", "message": "check", "request_id": "r-1", "agent_id": "smolt-1",
            "session_id": "s-1", "checkpoint_id": "ic-1", "provider": "anthropic", "verdict": verdict,
            "reason": "analysis-timeout", "source": "gateway", "streaming": False, "analysis_ms": 123.46, "concerns": 2,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("level", "verdicts"),
        [
            ("info", ["clear", "boundary_violation"]),
            ("warn", ["boundary_violation"]),
            ("error", []),
        ],
    )
    def test_checks_where_the_level_asks_for_them(
        self, writer: LogWriter, stream: io.BytesIO, level: str, verdicts: list[str]
    ) -> None:
        telemetry = PrometheusTelemetry(writer, level)
        for verdict in ("clear", "boundary_violation"):
            telemetry.emit(check(verdict=verdict, analysis_s=None))
        assert [line["verdict"] for line in self.lines(writer, stream)] == verdicts

    def test_another_request(self, writer: LogWriter, stream: io.BytesIO) -> None:
        telemetry = PrometheusTelemetry(writer)
        telemetry.emit(RequestAnswered("GET", "/nowhere", 404, "r-2"))
        telemetry.emit(RequestAnswered("GET", "/health/live", 200, "r-3"))
        [line] = self.lines(writer, stream)
        assert line.pop("timestamp")
        assert line == {
            "level": "info", "service": "smoltbot-all", "message": "request", "request_id": "r-2", "method": "GET",
            "path": "/*", "status": 404,
        }  # fmt: skip

    @pytest.mark.parametrize(("level", "count"), [("debug", 2), ("info", 2), ("warn", 0), ("error", 0)])
    def test_only_where_the_level_asks_for_them(
        self, writer: LogWriter, stream: io.BytesIO, level: str, count: int
    ) -> None:
        telemetry = PrometheusTelemetry(writer, level)
        telemetry.emit(exchange())
        telemetry.emit(RequestAnswered("GET", "/nowhere", 404, "r"))
        assert len(self.lines(writer, stream)) == count
        assert len(samples(telemetry, "gateway_requests_total")) == 2

    @pytest.mark.parametrize(
        ("path", "shown"),
        [
            ("/v1/messages", "/v1/messages"),
            ("/v1/messages/count_tokens", "/v1/messages/count_tokens"),
            ("/v1beta/models/gemini-2.5-pro:generateContent", "/v1beta/models/*:generateContent"),
            ("/v1/files/file-abc123/content", "/v1/files/*/content"),
            ("/sk-ant-the-secret", "/*"),
            ("/v1/the-secret:the-secret", "/v1/*"),
            ("/v1/x:the2secret", "/v1/*"),
            ("//v1//", "//v1//"),
            ("", ""),
            ("/" + "v1/" * 100, "/" + "/".join(["v1"] * 11)),
            ("/\udcff\n", "/*"),
        ],
    )
    def test_of_a_path_only_known_words(self, writer: LogWriter, stream: io.BytesIO, path: str, shown: str) -> None:
        PrometheusTelemetry(writer).emit(exchange(path=path))
        [line] = self.lines(writer, stream)
        assert line["path"] == shown

    def test_an_id_of_a_provider_is_cut(self, writer: LogWriter, stream: io.BytesIO) -> None:
        PrometheusTelemetry(writer).emit(exchange(upstream_request_id="x" * 10_000, ttfb_s=None))
        [line] = self.lines(writer, stream)
        assert (len(line["upstream_request_id"]), line["ttfb_ms"]) == (128, None)
