"""The typed events that the gateway emits; a host turns them into metrics, logs and spans."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ExchangeEnded:
    """A request to a provider is over: its last byte was handed on, or it broke off.

    Times in seconds; ``ttfb_s`` is None when no response came. ``outcome`` is ``complete``, ``client-left``,
    ``upstream-broke`` or ``refused`` (answered by the gateway itself). Nothing here is secret: ``path`` has no
    query, and there is no header and no body.
    """

    provider: str
    method: str
    path: str
    status: int
    request_id: str
    agent_id: str
    session_id: str
    verdict: str
    reason: str
    streaming: bool
    bytes_out: int
    duration_s: float
    ttfb_s: float | None
    outcome: str
    upstream_request_id: str


@dataclass(slots=True)
class RequestAnswered:
    """A request outside the provider routes was answered (``/models.json``, an unknown path, ...)."""

    method: str
    path: str
    status: int
    request_id: str


@dataclass(slots=True)
class UpstreamFailed:
    """No response came from a provider; ``kind`` is ``connect``, ``timeout``, ``protocol`` or ``lost``."""

    provider: str
    kind: str
    detail: str
    request_id: str


@dataclass(slots=True)
class RecordsChanged:
    """The database became available or unavailable."""

    available: bool
    detail: str


@dataclass(slots=True)
class CronRan:
    """A scheduled job ended; ``result`` is ``success`` or ``error``."""

    job: str
    result: str


Event = ExchangeEnded | RequestAnswered | UpstreamFailed | RecordsChanged | CronRan
