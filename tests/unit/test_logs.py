"""Logs: one JSON object per line, redacted, and nobody waits for the reader of the pipe."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smoltbot_host import logs
from smoltbot_host.logs import JsonHandler, LogWriter, redact

Lines = list[dict[str, Any]]


def parsed(data: bytes) -> Lines:
    assert data.endswith(b"\n") or not data
    return [json.loads(line) for line in data.splitlines()]


def written(act: Callable[[LogWriter], Any]) -> Lines:
    """The lines that ``act`` makes."""
    stream = io.BytesIO()
    writer = LogWriter(stream, "smoltbot-all")
    act(writer)
    writer.close()
    return parsed(stream.getvalue())


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of its own, so that pytest's own handlers stay out of it."""
    logger = logging.Logger("test.logs")
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)


def handled(logger: logging.Logger, act: Callable[[], Any]) -> Lines:
    """The lines that ``act`` makes through standard logging."""

    def run(writer: LogWriter) -> None:
        logger.addHandler(JsonHandler(writer))
        act()

    return written(run)


class TestLines:
    def test_one_object_per_line(self) -> None:
        [line] = written(
            lambda writer: writer.write("info", 'a "quoted"\nline \u00e9 \u2028', {"status": 200, "x": None})
        )
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", line.pop("timestamp"))
        assert line == {
            "level": "info", "service": "smoltbot-all", "message": 'a "quoted"\nline \u00e9 \u2028',
            "status": 200, "x": None,
        }  # fmt: skip

    def test_in_order(self) -> None:
        def run(writer: LogWriter) -> None:
            for number in range(5000):
                writer.write("info", str(number))

        lines = written(run)
        assert [line["message"] for line in lines] == [str(number) for number in range(5000)]

    def test_from_several_threads(self) -> None:
        def write(writer: LogWriter) -> None:
            for _ in range(200):
                writer.write("warn", "x" * 500)

        def run(writer: LogWriter) -> None:
            threads = [threading.Thread(target=write, args=(writer,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert [line["message"] for line in written(run)] == ["x" * 500] * 800

    @pytest.mark.parametrize(
        ("value", "shown"),
        [("\udcff", "\\udcff"), (1 << 70, str(1 << 70)), (float("nan"), None), ({"\udcff": 1}, "{'\\udcff': 1}")],
    )
    def test_what_json_cannot_hold_is_told_nevertheless(self, value: Any, shown: Any) -> None:
        [line] = written(lambda writer: writer.write("error", "it broke", {"value": value, "status": 500}))
        assert (line["level"], line["message"], line["value"]) == ("error", "it broke", shown)
        assert re.match(r"\d{4}-\d\d-\d\dT", line["timestamp"])

    def test_a_message_that_is_no_utf_8(self) -> None:
        [line] = written(lambda writer: writer.write("error", "before \udc80 after"))
        assert line["message"] == "before \\udc80 after"

    def test_any_object(self) -> None:
        [line] = written(lambda writer: writer.write("info", "m", {"path": ValueError("x"), 1: 2}))  # type: ignore[dict-item]
        assert (line["path"], line["1"]) == ("x", 2)

    def test_a_line_is_out_within_a_moment(self) -> None:
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb") as sink:
            writer = LogWriter(sink, "smoltbot-all")
            started = time.monotonic()
            writer.write("info", "soon")
            assert json.loads(source.readline())["message"] == "soon"
            assert time.monotonic() - started < 0.5
            writer.close()


class TestStandardLogging:
    @pytest.mark.parametrize(
        ("number", "name"),
        [
            (logging.DEBUG, "debug"),
            (logging.INFO, "info"),
            (logging.WARNING, "warn"),
            (logging.ERROR, "error"),
            (logging.CRITICAL, "error"),
        ],
    )
    def test_levels(self, logger: logging.Logger, number: int, name: str) -> None:
        [line] = handled(logger, lambda: logger.log(number, "%s of %d", "one", 2))
        assert (line["level"], line["message"], line["logger"]) == (name, "one of 2", "test.logs")

    def test_a_traceback_is_one_line(self, logger: logging.Logger) -> None:
        def run() -> None:
            try:
                raise ValueError("x-api-key: the-secret")
            except ValueError:
                logger.exception("it broke with key=the-secret")

        [line] = handled(logger, run)
        assert line["message"] == "it broke with key=[redacted]"
        assert line["exception"].startswith("Traceback (most recent call last):\n")
        assert line["exception"].endswith("ValueError: x-api-key: [redacted]\n")
        assert "the-secret" not in json.dumps(line)

    def test_causes_are_redacted_too(self, logger: logging.Logger) -> None:
        def run() -> None:
            try:
                try:
                    raise OSError("redis://:the-secret@h")
                except OSError as error:
                    raise ValueError("Authorization: Bearer the-secret") from error
            except ValueError:
                logger.exception("twice")

        [line] = handled(logger, run)
        assert line["exception"].count("[redacted]") >= 2
        assert "the-secret" not in json.dumps(line)

    def test_a_message_that_cannot_be_made_is_no_failure(
        self, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logging, "raiseExceptions", False)

        def run() -> None:
            logger.error("%d", "x")
            logger.error("\udcff %s", "next")

        lines = handled(logger, run)
        assert [line["message"] for line in lines] == ["\\udcff next"]


CANARY = "canary-7f3a91d2c4"
SHAPES = [
    "Authorization: Bearer {}", "authorization: bearer {}", "AUTHORIZATION: Basic {}", "Authorization: {}",
    "Authorization: Token {}", "Proxy-Authorization: Negotiate {}", "'authorization': 'Bearer {}'", "bearer {}",
    '"Authorization": "Bearer {}"', "(b'Authorization', b'Bearer {}')", "{{'authorization': ['{}']}}",
    "x-api-key: {}", "X-API-KEY:{}", "x-goog-api-key: {}", "x-mnemom-api-key={}", "'x-api-key': '{}'",
    "b'x-api-key: {}\\r\\n'",
    "(b'x-api-key', b'{}')", "('X-Goog-Api-Key', '{}')", '["x-api-key", "{}"]',
    "https://h/v1?key={}", "/v1?alt=sse&key={}&x=1", "key={}", "GET /x?key={} HTTP/1.1", "params key={}",
    "api_key={}", "apikey: {}", "password={}", "PASSWORD: {}", '"secret": "{}"', "ADMIN_TOKEN={}", "token = {}",
    "postgres://user:{}@db:5432/x", "redis://:{}@h", "https://u:{}@h/x?y",
    "sk-{}", "key sk-ant-api03-{}, and more", "mnm_{}", "smk_{}", "whsec_{}", "AIza{}", "(sk-{})", "x=sk-{}",
    "eyJhbGciOiJFZERTQSJ9.{}.c2ln", "eyJhbGciOiJFZERTQSJ9.eyJjYW5h{}.c2ln", "token eyJhbGciOiJFZERTQSJ9.{}.",
]  # fmt: skip
HARMLESS = [
    "", "ready", "listening on http://127.0.0.1:8787 as all", "applied migration 0001_agents_and_cards.sql",
    "made signing.key in DATA_DIR, readable by this user only; back it up", "task-list desk-job risk-free ask-me",
    "the token, please; the password is secret", "monkey=banana", "no answer from openai: could not connect (01a2-7b)",
    "keys in hand", "https://api.anthropic.com:443/v1/messages", "eyJ is a prefix", "2 of 3 tokens left",
]  # fmt: skip


class TestRedaction:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_each_shape(self, shape: str) -> None:
        shown = redact(f"before {shape.format(CANARY)} after")
        assert CANARY not in shown
        assert "[redacted]" in shown
        assert shown.startswith("before ")
        assert shown.endswith(" after")

    @pytest.mark.parametrize("shape", SHAPES)
    def test_each_shape_alone(self, shape: str) -> None:
        assert CANARY not in redact(shape.format(CANARY))

    def test_all_at_once(self) -> None:
        assert CANARY not in redact("\n".join(shape.format(CANARY) for shape in SHAPES))

    @pytest.mark.parametrize("text", HARMLESS)
    def test_other_text_is_left_alone(self, text: str) -> None:
        assert redact(text) == text

    def test_what_stands_around_a_secret_stays(self) -> None:
        assert redact("GET /v1?a=1&key=abc&b=2") == "GET /v1?a=1&key=[redacted]&b=2"
        assert redact("postgres://user:abc@db/x") == "postgres://user:[redacted]@db/x"
        assert redact("{'x-api-key': 'abc', 'n': 1}") == "{'x-api-key': '[redacted]', 'n': 1}"

    @pytest.mark.parametrize(
        "piece",
        [
            "authorization", "authorization:", "eyJ", "eyJaaaaaaaa-", "eyJaaaaaaaa.", "://", "a://b:", "a://b:c@", "a",
            " a", "a-", "key=", "sk-", "token ", "bearer ", "x://y:z:", "basic\n", "'", "authorization' : ",
        ],
    )  # fmt: skip
    def test_long_text_takes_no_time(self, piece: str) -> None:
        started = time.monotonic()
        redact(piece * (100_000 // len(piece)))
        redact(piece + " " * 100_000)
        assert time.monotonic() - started < 1


class TestPressure:
    def test_what_does_not_fit_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs, "_MAX_WAITING", 10)
        stream = Blocked()
        writer = LogWriter(stream, "smoltbot-all")
        writer.write("warn", "first")
        assert stream.reached.wait(5)
        for number in range(100):
            writer.write("info", str(number))
        stream.go_on.set()
        writer.close()
        first, *lines, last = parsed(stream.getvalue())
        assert first["message"] == "first"
        assert [line["message"] for line in lines] == [str(number) for number in range(10)]
        assert last.pop("timestamp")
        assert last == {"level": "warn", "service": "smoltbot-all", "message": "90 log lines were dropped"}

    def test_every_loss_is_told_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs, "_MAX_WAITING", 0)
        stream = Blocked()
        stream.go_on.set()
        writer = LogWriter(stream, "smoltbot-all")
        for _ in range(3):
            stream.reached.clear()
            writer.write("error", "x")
            writer._wake.set()
            assert stream.reached.wait(5)
        writer.close()
        messages = [line["message"] for line in parsed(stream.getvalue())]
        assert messages == ["1 log lines were dropped"] * 3

    def test_a_blocked_pipe_blocks_nobody(self) -> None:
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb") as sink:
            writer = LogWriter(sink, "smoltbot-all")
            started = time.monotonic()
            for number in range(20_000):
                writer.write("error", f"{number} {'x' * 100}")
            assert time.monotonic() - started < 2
            lines = [json.loads(source.readline())["message"].split()[0] for _ in range(20_000)]
            assert lines == [str(number) for number in range(20_000)]
            writer.close()

    def test_a_pipe_without_a_reader_is_no_failure(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        sink = os.fdopen(writing, "wb", buffering=0)
        writer = LogWriter(sink, "smoltbot-all")
        for _ in range(3):
            writer.write("error", "nobody hears this")
        writer.close()
        assert not writer._thread.is_alive()
        sink.close()


class Blocked(io.BytesIO):
    """A stream whose first write waits."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def write(self, data: Any) -> int:
        self.reached.set()
        assert self.go_on.wait(5)
        return super().write(data)


_CHILD = """
import logging, sys
from smoltbot_host import logs
writer = logs.open_logs(sys.argv[1], "gateway")
log = logging.getLogger("smoltbot")
log.debug("debug"); log.info("info"); log.warning("warning")
try:
    raise RuntimeError("mnm_secret")
except RuntimeError:
    log.exception("error")
logging.getLogger("asyncio").critical("critical")
log.error("%d", "not a number")
writer.close()
"""


@pytest.mark.parametrize(
    ("level", "messages"),
    [
        ("debug", ["debug", "info", "warning", "error", "critical"]),
        ("info", ["info", "warning", "error", "critical"]),
        ("warn", ["warning", "error", "critical"]),
        ("error", ["error", "critical"]),
    ],
)
def test_everything_goes_to_stdout(level: str, messages: list[str]) -> None:
    ran = subprocess.run([sys.executable, "-c", _CHILD, level], capture_output=True, timeout=20, check=True)
    lines = parsed(ran.stdout)
    assert [line["message"] for line in lines] == messages
    assert {line["service"] for line in lines} == {"smoltbot-gateway"}
    assert b"mnm_secret" not in ran.stdout
    assert ran.stderr == b""
