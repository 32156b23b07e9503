"""Logs: one JSON object per line on stdout, redacted, written by a thread so that no request waits for a pipe."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
import traceback
from collections import deque
from datetime import UTC, datetime
from typing import IO, Any

import orjson

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_NAMES = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warn"} | dict.fromkeys(
    (logging.ERROR, logging.CRITICAL), "error"
)
_MAX_WAITING = 100_000
_WAKE_S = 0.05
_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS

# Bounded where a run of characters may lead nowhere: a log line must not take the time of its square.
_SECRETS = re.compile(
    r"""(?ix)
    (\bbearer\s+|\bbasic\s+) [^\s"',;]+                          # authorization values
    | ((?:^|[?&;\s"'])key=) [^&\s"'\\]+                          # Gemini's query key
    | ((?:x-(?:goog-|mnemom-)?api-key|authorization)["']?\s*[:=,]\s*(?:\[?b?["'])?)           # header lines, in any
      (?:[a-z]+\s+)? [^\s"',;&\\]+                               # form that Python shows them in
    | ((?:api_?key|password|secret|token)["']?\s*[:=]\s*(?:b?["'])?) [^\s"',;&\\]+
    | (\b\w{1,32}://[^\s:/@"]*:) [^\s/@"]+ (?=@)                 # passwords in URLs
    | \b (?:sk-|mnm_|smk_|whsec_) [A-Za-z0-9_\-]{4,}             # key shapes
    | \b AIza [A-Za-z0-9_\-]{8,}
    | \b eyJ [A-Za-z0-9_\-]{8,1000} \. [A-Za-z0-9_\-]+ (?:\.[A-Za-z0-9_\-]*)?
    """
)
_REDACTED = "[redacted]"


def redact(text: str) -> str:
    """``text`` without anything that looks like a key, token or password."""
    return _SECRETS.sub(lambda match: (match[match.lastindex] if match.lastindex else "") + _REDACTED, text)


class LogWriter:
    """Lines go into a bounded queue; a thread writes them. What does not fit is counted and reported."""

    def __init__(self, stream: IO[bytes], service: str) -> None:
        self._stream = stream
        self._service = service
        self._waiting: deque[bytes] = deque()
        self._dropped = 0
        self._reported = 0
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, level: str, message: str, fields: dict[str, Any] | None = None) -> None:
        """Queue one line; ``fields`` must already be free of secrets."""
        if len(self._waiting) >= _MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(self._line(level, message, fields or {}))
        if level != "info":
            self._wake.set()

    def _line(self, level: str, message: str, fields: dict[str, Any]) -> bytes:
        now = datetime.fromtimestamp(time.time(), UTC)
        line = {"timestamp": now, "level": level, "service": self._service, "message": message, **fields}
        try:
            return orjson.dumps(line, default=str, option=_OPTIONS)
        except TypeError:  # text that is no UTF-8, a number beyond 64 bits: a log must not end what it tells of
            texts = {key: str(value).encode("utf-8", "backslashreplace").decode() for key, value in line.items()}
            return orjson.dumps({**texts, "timestamp": now}, option=_OPTIONS)

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        while True:
            # Lines of one wake are written together: a thread switch per line would cost more than the line.
            self._wake.wait(_WAKE_S)
            self._wake.clear()
            closing = self._closing  # looked at before: what was queued until then is still written
            self._flush()
            if closing:
                return

    def _flush(self) -> None:
        batch = []
        while self._waiting:
            batch.append(self._waiting.popleft())
        if dropped := self._dropped - self._reported:
            self._reported += dropped
            batch.append(self._line("warn", f"{dropped} log lines were dropped", {}))
        if batch:
            try:
                self._stream.write(b"".join(batch))
                self._stream.flush()
            except (OSError, ValueError):
                return  # nobody reads: a log must not end the service


class JsonHandler(logging.Handler):
    """Standard logging into a :class:`LogWriter`; message and traceback are redacted."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name}
        try:
            message = redact(record.getMessage())
            if record.exc_info and record.exc_info[1] is not None:
                fields["exception"] = redact("".join(traceback.format_exception(record.exc_info[1])))
        except Exception:
            self.handleError(record)
            return
        self._writer.write(_NAMES.get(record.levelno, "info"), message, fields)


def open_logs(level: str, role: str) -> LogWriter:
    """Send all logging to stdout as JSON; errors too."""
    writer = LogWriter(sys.stdout.buffer, f"smoltbot-{role}")
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(JsonHandler(writer))
    root.setLevel(LEVELS[level])
    logging.raiseExceptions = False
    return writer
