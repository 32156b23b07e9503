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
    checked: bool = False
    """Its verdict is told by a :class:`CheckEnded`, now or later."""


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


@dataclass(slots=True)
class CheckEnded:
    """An exchange was judged, or it is certain that it was not: its checkpoint is in the log.

    ``verdict`` and ``reason`` are those of the checkpoint; ``source`` is ``gateway`` or ``hybrid_api``. ``analysis_s``
    is None when nobody was asked. ``concerns`` holds ``(category, severity)``.
    """

    provider: str
    agent_id: str
    session_id: str
    request_id: str
    checkpoint_id: str
    verdict: str
    reason: str
    source: str
    streaming: bool
    analysis_s: float | None
    concerns: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class AnswerBlocked:
    """An answer was withheld; ``reason`` is ``boundary_violation`` or ``integrity_unavailable``."""

    agent_id: str
    request_id: str
    reason: str


@dataclass(slots=True)
class BreakerChanged:
    """The circuit breaker of the analysis opened (no call is made) or closed."""

    open: bool


@dataclass(slots=True)
class NudgesChanged:
    """``count`` nudges of an agent were ``created``, ``delivered`` or ``returned`` (the provider did not take them)."""

    agent_id: str
    change: str
    count: int


@dataclass(slots=True)
class ContainmentChanged:
    """An agent's containment is another now; ``action`` is ``pause``, ``resume``, ``kill``, ``reactivate`` or
    ``auto_pause``.
    """

    agent_id: str
    action: str
    status: str


@dataclass(slots=True)
class DriftFound:
    """A session's reasoning drifts; told once for each run of concerns."""

    agent_id: str
    session_id: str
    direction: str
    severity: str


@dataclass(slots=True)
class WebhookSettled:
    """A delivery was ``delivered``, is to be tried again (``retry``), or was given up (``failed``)."""

    registration_id: str
    delivery_id: str
    outcome: str
    detail: str


@dataclass(slots=True)
class LicenseChanged:
    """The license's state; ``code`` is the error or warning of ``/health/ready``, empty when there is none."""

    state: str
    code: str


@dataclass(slots=True)
class ExchangesDelayed:
    """``count`` exchanges wait in memory because the queue cannot be reached; 0: none any more.

    ``lost`` were given up since the last event, because memory or time ran out.
    """

    count: int
    lost: int


Event = (
    ExchangeEnded
    | RequestAnswered
    | UpstreamFailed
    | RecordsChanged
    | CronRan
    | CheckEnded
    | AnswerBlocked
    | BreakerChanged
    | NudgesChanged
    | ContainmentChanged
    | DriftFound
    | WebhookSettled
    | LicenseChanged
    | ExchangesDelayed
)
