"""Drift: a session whose judged checks have concerns several times in a row, and the one alert of each such run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from smoltbot_worker.answers import iso
from smoltbot_worker.events import DriftFound
from smoltbot_worker.records import integrity as records

from .window import MOST_CHECKS

if TYPE_CHECKING:
    from smoltbot_worker.env import Env

_RUN = 3
"""Concerns in a row that are drift (the SDK's DEFAULT_SUSTAINED_CHECKS_THRESHOLD)."""
_LOOKED_AT = 20
"""Checks that are looked at for runs that ended: many may be committed together before anybody looks."""
_LONGEST_KEY = 200


async def follow(agent_id: str, card_id: str | None, session_id: str, env: Env) -> None:
    """See to the alerts of a session after a judged checkpoint was stored: as often as one likes, by any process.

    A run of concerns has one alert, made when it is found to be long enough and resolved when a clear check has ended
    the run. ``RecordsUnavailable`` when the database cannot be used; the next call makes up for it.
    """
    found = await records.session_checks(env.records, agent_id, session_id, _LOOKED_AT)
    for first, last in _ended(found):
        await _resolve(first, last, (agent_id, card_id, session_id), env)
    if found["streak"]["length"] >= _RUN:
        await _record(found, (agent_id, card_id, session_id), env)


def _ended(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The first and the last checkpoint in sight of every run that is over, of those long enough for an alert."""
    checks = found["checks"]
    run: list[str] = []
    for place, check in enumerate(checks):
        if check["verdict"] != "clear":
            run.append(check["checkpoint_id"])
            continue
        if len(run) >= _RUN:
            yield found["ended"] if place == len(checks) - 1 else run[0], run[-1]
        run = []


async def _resolve(first: str, last: str, of: tuple[str, str | None, str], env: Env) -> None:
    agent_id, _, session_id = of
    if await records.resolve_drift(env.records, agent_id, _key(agent_id, session_id, first)):
        return
    # The run was over before anybody looked, or it began out of sight: what there is to tell as of its end.
    found = await records.session_checks(env.records, agent_id, session_id, _LOOKED_AT, last)
    await _record(found, of, env)
    await records.resolve_drift(env.records, agent_id, _key(agent_id, session_id, found["streak"]["first"]))


async def _record(found: Mapping[str, Any], of: tuple[str, str | None, str], env: Env) -> None:
    agent_id, card_id, session_id = of
    alert = _judged(found)
    given = {
        "alert_id": alert.alert_id,
        "agent_id": agent_id,
        "card_id": card_id,
        "session_id": session_id,
        "alert_type": f"aip:{alert.drift_direction}",
        "severity": alert.severity,
        "description": alert.message,
        "drift_data": {
            "drift_direction": alert.drift_direction,
            "integrity_similarity": alert.integrity_similarity,
            "sustained_checks": alert.sustained_checks,
        },
        "trace_ids": [],
        "checkpoint_ids": alert.checkpoint_ids,
        "detection_timestamp": iso(env.clock()),
        "dedup_key": _key(agent_id, session_id, found["streak"]["first"]),
    }
    if await records.record_drift(env.records, given):
        env.telemetry.emit(DriftFound(agent_id, session_id, alert.drift_direction, alert.severity))


def _judged(found: Mapping[str, Any]) -> Any:
    """What the SDK says of the streak at the end of a session: an ``IntegrityDriftAlert``.

    It gets the state in which it would be had it seen the streak but for the last check. That it tells of a run again
    every five checks is left to the database, which stores one alert of it.
    """
    from aip import DriftState, detect_integrity_drift

    streak, checks = found["streak"], found["checks"]
    known = [check["checkpoint_id"] for check in checks[-streak["length"] :]]
    ids = known if known[0] == streak["first"] else [streak["first"], *known]
    categories = [category for category, number in streak["categories"].items() for _ in range(number)]
    state = DriftState(
        sustained_nonclear=streak["length"] - 1, streak_checkpoint_ids=ids[:-1], streak_categories=categories
    )
    window = [_checkpoint(check) for check in checks[-MOST_CHECKS:]]
    _, alert = detect_integrity_drift(state, window[-1], window, _RUN)
    assert alert is not None, "a streak of this length is drift"
    return alert


def _checkpoint(check: Mapping[str, Any]) -> Any:
    """A check as an ``IntegrityCheckpoint``; its id and verdict are looked at, the state has the concerns already."""
    from aip import AnalysisMetadata, ConscienceContext, IntegrityCheckpoint, WindowPosition

    return IntegrityCheckpoint(
        checkpoint_id=check["checkpoint_id"], agent_id="", card_id="", session_id="", timestamp=check["timestamp"],
        thinking_block_hash="", provider="", model="", verdict=check["verdict"], concerns=[], reasoning_summary="",
        conscience_context=ConscienceContext(), window_position=WindowPosition(0, 0),
        analysis_metadata=AnalysisMetadata("", 0, 0, 0, False, 0),
    )  # fmt: skip


def _key(agent_id: str, session_id: str, first: str) -> str:
    """The name of a run: the same for all who see it, however long it is."""
    key = f"aip:{agent_id}:{session_id}:{first}"
    return key if len(key) <= _LONGEST_KEY else f"aip:{hashlib.sha256(key.encode()).hexdigest()}"
