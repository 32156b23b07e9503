"""One path from an exchange to its checkpoint, for answers that were held and for those that streamed."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smoltbot_worker.answers import iso
from smoltbot_worker.attestation.append import Draft
from smoltbot_worker.attestation.commitment import commit_texts, thinking_hash
from smoltbot_worker.ports import Json, RecordsUnavailable

from . import hybrid, prompt
from .cards import UNKNOWN, Alignment, alignment
from .failures import MALFORMED, UNAVAILABLE, AnalysisFailed
from .reading import one_line
from .thinking import extract, user_text
from .verdict import Judgement, judgement_in, repeats
from .window import Window

if TYPE_CHECKING:
    from smoltbot_worker.admission.agent import Agent
    from smoltbot_worker.env import Env
    from smoltbot_worker.relay.message import ExchangeMessage

    from .thinking import Thinking

log = logging.getLogger("smoltbot")

MOST_MODEL = 200
"""Characters of a model's name, which is what the provider answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a check came to, and the checkpoint that says so.

    ``verdict`` is one of the checkpoint's five, ``reason`` says why it is ``error`` or ``skipped`` and is empty
    otherwise. ``action`` and ``proceed`` are the protocol's advice, empty and None unless an analysis came to a
    verdict. ``analysis_s`` is None when nobody was asked. ``streak`` is how many analyses of the session before this
    one had concerns, in a row.
    """

    draft: Draft
    verdict: str
    reason: str
    action: str
    proceed: bool | None
    source: str
    analysis_s: float | None
    streak: int = 0


@dataclass(slots=True, kw_only=True)
class _Case:
    """What is known of an exchange on its way to a verdict; what was not loaded is empty."""

    message: ExchangeMessage
    env: Env
    alignment: Alignment = UNKNOWN
    thinking: Thinking | None = None
    earlier: Window | None = None
    judge: str | None = None
    source: str = "gateway"
    seconds: float | None = None
    size: Mapping[str, Json] = field(default_factory=dict)
    problem: str | None = None


async def check(message: ExchangeMessage, agent: Agent, env: Env) -> Checked:
    """Judge an exchange.

    Whatever keeps it from being judged is a verdict with a reason, ``error`` or ``skipped``; it is ``clear`` only if
    an analysis said so of all there was. ``RecordsUnavailable`` when the session's earlier checkpoints cannot be read.
    """
    case = _Case(message=message, env=env)
    try:
        return await _check(case, agent)
    except RecordsUnavailable:
        raise
    except Exception as error:
        # Only its type and place: a text could quote the thinking.
        place = traceback.extract_tb(error.__traceback__)[-1]
        log.error("a check failed: %s at %s:%s", type(error).__name__, place.filename, place.lineno)
        case.problem = type(error).__name__
        return _unjudged(case, "error", UNAVAILABLE)


def failed(message: ExchangeMessage, agent: Agent | None, reason: str, env: Env, now: float) -> Checked:
    """The ``error`` of an exchange that could not be looked at, at ``now`` in seconds since the epoch."""
    return _unjudged(_Case(message=message, env=env), "error", reason, now)


async def _check(case: _Case, agent: Agent) -> Checked:
    message, env = case.message, case.env
    if not agent.recorded:
        # Its card cannot be looked up: that is not to have none.
        return _unjudged(case, "error", "storage-unavailable")
    case.alignment = alignment(agent)
    case.problem = case.alignment.problem
    if case.problem is not None:
        return _unjudged(case, "error", "no-card")
    if case.alignment.card is None:
        return _unjudged(case, "skipped", "no-card")
    case.thinking = thinking = extract(message, env.decoders, env.max_capture_bytes)
    blank = not thinking.text.strip()
    if thinking.problem is not None and (blank or thinking.problem != "too-large"):
        return _unjudged(case, "error", thinking.problem)
    if blank:
        return _unjudged(case, "skipped", "no-thinking")
    if env.analyst.mode == "off":
        return _unjudged(case, "skipped", "no-analysis-configured")
    case.earlier = await env.windows.load(env.records, message.agent_id, message.session_id, env.clock())
    return await _analyzed(case, thinking, case.earlier)


async def _analyzed(case: _Case, thinking: Thinking, earlier: Window) -> Checked:
    asked = _delegated if case.env.analyst.mode == "hybrid" else _asked
    started = time.perf_counter()
    found: Judgement | AnalysisFailed
    try:
        found = await asked(case, thinking, earlier)
    except AnalysisFailed as failure:
        found = failure
    finally:
        case.seconds = time.perf_counter() - started
    if isinstance(found, AnalysisFailed):
        case.problem = found.detail
        return _unjudged(case, "error", found.reason)
    if thinking.problem is not None and found.verdict == "clear":
        case.problem = "what was kept of the answer is clear"
        return _unjudged(case, "error", thinking.problem)
    return _judged(case, found)


async def _asked(case: _Case, thinking: Thinking, earlier: Window) -> Judgement:
    """What the model says whom this gateway asks."""
    env, known = case.env, case.alignment
    task = prompt.task_of(known.about, user_text(case.message, env.decoders, env.max_capture_bytes))
    built = prompt.build(known, earlier, thinking.text, task)
    case.judge = env.analyst.model
    case.size = {
        "thinking_tokens_original": built.original_tokens,
        "thinking_tokens_analyzed": built.analyzed_tokens,
        "truncated": built.truncated,
    }
    answer = await env.analyst.ask(built.system, built.user)
    found = judgement_in(answer, known.values)
    if found.verdict == "clear" and "verdict" in thinking.text and repeats(answer, built.user):
        raise AnalysisFailed(MALFORMED, "the answer repeats a verdict from the thinking")
    return found


async def _delegated(case: _Case, thinking: Thinking, earlier: Window) -> Judgement:
    """What the other service says, which gets the thinking and nothing else of the exchange."""
    tokens = prompt.tokens(thinking.text)
    case.source = "hybrid_api"
    case.size = {"thinking_tokens_original": tokens, "thinking_tokens_analyzed": tokens, "truncated": False}
    body = hybrid.request_of(case.message, thinking.text, _model(thinking), case.alignment, earlier)
    found, case.judge = await hybrid.delegate(case.env.analyst, body, case.alignment)
    return found


def _judged(case: _Case, found: Judgement) -> Checked:
    concerns = found.concerns
    if not case.env.aip_store_evidence:
        concerns = [{**concern, "evidence": ""} for concern in concerns]
    draft = Draft(
        **_columns(case, found.verdict, case.env.clock()),
        concerns=concerns,
        reasoning_summary=found.reasoning_summary,
        conscience_context=found.conscience_context,
        cross_validation_warnings=found.warnings or None,
    )
    return Checked(
        draft=draft,
        verdict=found.verdict,
        reason="",
        action=found.action,
        proceed=found.proceed,
        source=case.source,
        analysis_s=case.seconds,
        streak=case.earlier.streak if case.earlier else 0,
    )


def _unjudged(case: _Case, verdict: str, reason: str, now: float | None = None) -> Checked:
    return Checked(
        draft=Draft(**_columns(case, verdict, case.env.clock() if now is None else now), reason=reason),
        verdict=verdict,
        reason=reason,
        action="",
        proceed=None,
        source=case.source,
        analysis_s=case.seconds,
        streak=case.earlier.streak if case.earlier else 0,
    )


def _columns(case: _Case, verdict: str, now: float) -> dict[str, Any]:
    """The parts of a draft that do not depend on what an analysis found."""
    message, known, earlier = case.message, case.alignment, case.earlier
    return {
        "checkpoint_id": message.checkpoint_id,
        "request_id": message.id,
        "session_id": message.session_id,
        "timestamp": iso(now),
        "thinking_block_hash": thinking_hash(case.thinking.text if case.thinking else ""),
        "verdict": verdict,
        "commitment": commit_texts(known.card_text, known.values_text, earlier.context if earlier else (), case.judge),
        "provider": message.provider,
        "model": _model(case.thinking),
        "card_id": known.card_id,
        "window_position": earlier.position if earlier else None,
        "analysis_metadata": _metadata(case) or None,
        "source": case.source,
        "mutations": message.mutations,
    }


def _metadata(case: _Case) -> dict[str, Json]:
    metadata: dict[str, Json] = dict(case.size)
    if case.seconds is not None:
        metadata |= {"analysis_model": case.judge, "analysis_duration_ms": round(case.seconds * 1000)}
    if case.thinking is not None and case.thinking.text:
        confidence = case.thinking.confidence
        metadata["extraction_confidence"] = int(confidence) if confidence.is_integer() else confidence
    if case.thinking is not None and case.thinking.redacted:
        metadata["redacted"] = True
    if case.message.cut:
        metadata["cut"] = True
    if case.problem is not None:
        metadata["problem"] = case.problem
    return metadata


def _model(thinking: Thinking | None) -> str | None:
    return one_line(thinking.model, MOST_MODEL) if thinking and thinking.model else None
