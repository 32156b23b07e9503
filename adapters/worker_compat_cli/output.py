"""What ``worker-compat run`` says: one line when it serves, and one sentence for each thing that goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from worker_compat.bindings import StorageUrls
from worker_compat.config import WorkerConfig
from worker_compat.loading import error_place


class Sentences(logging.Formatter):
    """A line for each record; an exception is its type, its text and the handler's line, not a trace."""

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__()
        self._folders = folders

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return text
        places = (error_place(error, folder) for folder in self._folders)
        place = next((f" ({found})" for found in places if found), "")
        return f"{text}: {type(error).__name__}: {error}{place}"


def configure_logs(folders: Sequence[Path], *, traceback: bool) -> None:
    """Send everything that is logged to the standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s") if traceback else Sentences(folders))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def banner(config: WorkerConfig, urls: StorageUrls, address: tuple[str, int]) -> str:
    """Where a worker is served and what its ``env`` holds; of a URL only the scheme, of a secret only the name."""
    host, port = address
    shown = f"[{host}]" if ":" in host else host
    parts = [f"{config.name} on http://{shown}:{port}"]
    bindings = ", ".join(_bindings(config, urls))
    if bindings:
        parts.append(f"env: {bindings}")
    if config.queue_consumers:
        parts.append(f"consumes: {', '.join(consumer.queue for consumer in config.queue_consumers)}")
    if config.crons:
        parts.append(f"crons: {', '.join(config.crons)}")
    return "; ".join(parts)


def _bindings(config: WorkerConfig, urls: StorageUrls) -> Iterable[str]:
    for name in config.vars:
        if name not in config.secrets:
            yield f"{name} (var)"
    for name in config.secrets:
        yield f"{name} (secret)"
    for namespace in config.kv_namespaces:
        url = urls.kv.get(namespace.binding, urls.kv_default)
        yield f"{namespace.binding} (KV, {_scheme(url)})"
    for producer in config.queue_producers:
        url = urls.queues.get(producer.queue, urls.queue_default)
        yield f"{producer.binding} (queue {producer.queue}, {_scheme(url)})"
    for service in config.services:
        yield f"{service.binding} (service {service.service})"


def _scheme(url: str) -> str:
    return url.partition("://")[0]
