"""Inspection: what becomes of a provider's answer, held until it was checked, or passed on and checked afterwards."""

from __future__ import annotations

import asyncio
import logging

from smoltbot_worker import answers
from smoltbot_worker.admission.agents import Agent
from smoltbot_worker.control import enforcement
from smoltbot_worker.env import Env
from smoltbot_worker.integrity import drift, metering
from smoltbot_worker.integrity.check import Checked, check
from smoltbot_worker.integrity.record import Recorded, drifts, record
from smoltbot_worker.ports import RecordsUnavailable
from worker_compat.context import ExecutionContext
from worker_compat.errors import ConnectionLost
from worker_compat.response import Response
from worker_compat.streams import ByteSource, BytesSource, ReadableStream

from .capture import Broken, Capture, Prefixed, Watched, read_up_to
from .exchange import Exchange, Tap
from .headers import RESPONSE, Lines
from .message import ExchangeMessage
from .providers import streams

log = logging.getLogger("smoltbot")

_STORAGE = "storage-unavailable"


async def inspect(
    upstream: Response, env: Env, ctx: ExecutionContext, exchange: Exchange, notes: dict[bytes, bytes]
) -> Response:
    """The answer for the client: the provider's bytes, and the lines that say what became of it.

    A buffered answer that is due is held until its check is on record, and may be withheld; a stream passes and is
    checked after its end.
    """
    lines, seen = RESPONSE.split(upstream.headers.raw)
    exchange.streaming = streams(exchange.provider, exchange.path, seen.get(b"content-type"))
    upstream_id = seen.get(b"request-id") or seen.get(b"x-request-id")
    if upstream_id:
        exchange.upstream_request_id = upstream_id.decode("latin-1")
    body = upstream.body
    source = None if body is None else body.detach()
    if exchange.is_due:
        exchange.response_encoding = seen.get(b"content-encoding", b"").decode("latin-1")
        if exchange.streaming and source is not None and source.length != 0:
            source = _streamed(source, env, ctx, exchange)
        else:
            passing = await _held(source or BytesSource(b""), env, ctx, exchange)
            if isinstance(passing, Response):
                return finished(passing, env, exchange, notes, "refused")
            source = source and passing
    else:
        judge(env, exchange)
    lines += _cors(lines, env, notes)
    lines += own_lines(exchange)
    if source is None:
        exchange.end("complete")
        return Response.from_raw(upstream.status, upstream.reason, lines, None)
    return Response.from_raw(upstream.status, upstream.reason, lines, ReadableStream(Tap(source, exchange)))


def judge(env: Env, exchange: Exchange) -> None:
    """The verdict on an exchange that is not checked: never one that looks as if a check had passed."""
    agent = exchange.agent
    if not env.aip_enabled or (agent is not None and not agent.aip_enabled):
        exchange.verdict = "disabled"
        return
    exchange.verdict = "skipped"
    if not env.agents.available or (agent is not None and not agent.recorded):
        exchange.reason = _STORAGE
    elif not 200 <= exchange.status <= 299:
        exchange.reason = "upstream-status"
    else:
        exchange.reason = "not-generation" if not exchange.generation else _STORAGE


def finished(response: Response, env: Env, exchange: Exchange, notes: dict[bytes, bytes], outcome: str) -> Response:
    """An answer of the gateway's own, with the lines that every answer has."""
    lines = list(response.headers.raw)
    lines += _cors(lines, env, notes)
    exchange.status = response.status
    lines += own_lines(exchange)
    exchange.end(outcome)
    return Response.from_raw(response.status, None, lines, response._release())


def own_lines(exchange: Exchange) -> Lines:
    """The gateway's lines of an answer (``http-surface`` 6.3)."""
    lines: Lines = [(b"x-smoltbot-request-id", exchange.request_id.encode())]
    agent = exchange.agent
    if agent is None:
        return lines
    lines += (agent.id_line, (b"x-smoltbot-session", exchange.session_id.encode()))
    lines.append((b"X-AIP-Verdict", exchange.verdict.encode()))
    if exchange.reason:
        lines.append((b"X-AIP-Reason", exchange.reason.encode()))
    if exchange.source == "hybrid_api":
        lines.append((b"X-AIP-Source", b"hybrid"))
    if exchange.certificate_id:
        lines += _attested(exchange)
    lines += exchange.quota
    if exchange.nudges:
        lines += ((b"X-AIP-Enforcement", b"nudge"), (b"X-AIP-Nudge-Count", b"%d" % exchange.nudges))
    if exchange.mutations:
        kinds = dict.fromkeys(str(mutation["kind"]) for mutation in exchange.mutations)
        lines.append((b"X-Smoltbot-Mutated", ", ".join(kinds).encode()))
    return lines


def _attested(exchange: Exchange) -> Lines:
    lines: Lines = [(b"X-AIP-Checkpoint-Id", exchange.checkpoint_id.encode())]
    if exchange.action:
        lines.append((b"X-AIP-Action", exchange.action.encode()))
        lines.append((b"X-AIP-Proceed", b"true" if exchange.proceed else b"false"))
    lines.append((b"X-AIP-Certificate-Id", exchange.certificate_id.encode()))
    lines.append((b"X-AIP-Chain-Hash", exchange.chain_hash.encode()))
    return lines


def _cors(lines: Lines, env: Env, notes: dict[bytes, bytes]) -> Lines:
    origin = notes.get(b"origin")
    if origin is None or answers.has_cors(lines):
        return []
    return answers.cors(env.cors_allow_origins, origin.decode("latin-1"))


def _streamed(source: ByteSource, env: Env, ctx: ExecutionContext, exchange: Exchange) -> ByteSource:
    exchange.verdict = "pending"
    return _watched(source, Capture(env.max_capture_bytes), env, ctx, exchange)


def _watched(source: ByteSource, capture: Capture, env: Env, ctx: ExecutionContext, exchange: Exchange) -> Watched:
    """``source``, whose exchange goes to the queue when it is over, however it ends."""
    exchange.recorded = True

    def message(cut: bool) -> ExchangeMessage:
        return exchange.message(capture.data(), version=env.gateway_version, truncated=capture.truncated, cut=cut)

    async def finish(cut: bool) -> None:
        pushing = asyncio.ensure_future(env.exchanges.push(message(cut)))
        ctx.wait_until(pushing)
        on_record = env.exchange_durability != "durable" or await pushing
        if not on_record and env.db_failure_mode == "closed":
            raise ConnectionLost("the exchange cannot be put on record, and DB_FAILURE_MODE is closed")

    return Watched(source, capture, finish, lambda: ctx.wait_until(env.exchanges.push(message(True))))


async def _held(source: ByteSource, env: Env, ctx: ExecutionContext, exchange: Exchange) -> ByteSource | Response:
    """The answer that may pass, or the refusal in its place."""
    agent = exchange.agent
    assert agent is not None
    length = source.length
    try:
        known_too_large = length is not None and length > env.max_capture_bytes
        data, rest = (b"", source) if known_too_large else await read_up_to(source, env.max_capture_bytes)
    except BaseException:
        exchange.recorded = True
        ctx.wait_until(env.exchanges.push(exchange.message(b"", version=env.gateway_version, cut=True)))
        raise
    if rest is not None:
        return _unjudged(data, rest, length, env, ctx, exchange)
    message = exchange.message(data, version=env.gateway_version)
    exchange.recorded = True
    checked = await _checked(message, agent, env, ctx, exchange)
    if checked is not None and enforcement.blocks_violation(agent, checked.verdict):
        return enforcement.violation(checked.draft, checked.action, agent.id, env)
    if enforcement.blocks_unchecked(agent, exchange.verdict, exchange.reason, env):
        return enforcement.unchecked(agent.id, exchange.request_id, env)
    if checked is None and env.db_failure_mode == "closed":
        return answers.error_answer(503, "Records unavailable", "storage_unavailable", ((b"Retry-After", b"2"),))
    whole = BytesSource(data)
    whole.length = length  # the provider's framing is kept
    return whole


def _unjudged(
    data: bytes, rest: ByteSource, length: int | None, env: Env, ctx: ExecutionContext, exchange: Exchange
) -> ByteSource | Response:
    """An answer that cannot be held whole: it passes unchecked or not at all, and its record says why."""
    agent = exchange.agent
    assert agent is not None
    exchange.verdict = "error"
    exchange.reason = "undecodable-encoding" if isinstance(rest, Broken) else "too-large"
    capture = Capture(env.max_capture_bytes)
    capture.keep(data)
    passing = _watched(rest, capture, env, ctx, exchange)
    if enforcement.blocks_unchecked(agent, exchange.verdict, exchange.reason, env):
        capture.truncated = not isinstance(rest, Broken)
        passing.close()
        return enforcement.unchecked(agent.id, exchange.request_id, env)
    whole = Prefixed(data, passing) if data else passing
    whole.length = length  # the provider's framing is kept
    return whole


async def _checked(
    message: ExchangeMessage, agent: Agent, env: Env, ctx: ExecutionContext, exchange: Exchange
) -> Checked | None:
    """The check, on record; None when that is not possible now: then the observer does it later.

    A violation that was found is one, on record or not.
    """
    checked = None
    try:
        if not env.agents.available or agent.unreadable:
            raise RecordsUnavailable("the database is away, or damaged")
        checked = await check(message, agent, env)
        recorded = await record(checked, message, agent, env)
    except asyncio.CancelledError:
        ctx.wait_until(env.exchanges.push(message))
        raise
    except Exception as error:
        if not isinstance(error, RecordsUnavailable):
            log.exception("a checkpoint could not be made (%s)", message.id)
        ctx.wait_until(env.exchanges.push(message))
        if checked is not None and enforcement.blocks_violation(agent, checked.verdict):
            _note(checked, Recorded(None), exchange)
            return checked
        exchange.verdict, exchange.reason = "skipped" if not env.agents.available else "error", _STORAGE
        return None
    _note(checked, recorded, exchange)
    if checked.action:
        _follow_up(checked, message, agent, env, ctx)
    return checked


def _follow_up(checked: Checked, message: ExchangeMessage, agent: Agent, env: Env, ctx: ExecutionContext) -> None:
    """What follows an analysis, in the background and in as few tasks as possible."""
    storing = metering.meter_soon(agent, message.checkpoint_id, checked.source, env)
    if storing is not None:
        ctx.wait_until(storing)
    if drifts(checked):
        ctx.wait_until(drift.follow(agent.id, checked.draft.card_id, message.session_id, env))


def _note(checked: Checked, recorded: Recorded, exchange: Exchange) -> None:
    exchange.verdict = checked.verdict
    exchange.reason = checked.reason
    exchange.action = checked.action
    exchange.proceed = checked.proceed
    exchange.source = checked.source
    if recorded.row is not None:
        exchange.certificate_id = recorded.row["certificate_id"]
        exchange.chain_hash = recorded.row["chain_hash"]
