"""The relay: admit a request, forward it to its provider, inspect what comes back."""

from __future__ import annotations

from dataclasses import dataclass

from smoltbot_worker import answers
from smoltbot_worker.admission import containment, quota
from smoltbot_worker.admission.agents import Agent
from smoltbot_worker.admission.identity import bearer, digest_of, query_keys, valid_name
from smoltbot_worker.control import nudges
from smoltbot_worker.env import Env
from smoltbot_worker.events import UpstreamFailed
from worker_compat.context import ExecutionContext
from worker_compat.errors import ConnectFailed, FetchError, FetchTimeout, ProtocolError
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import fetch
from worker_compat.streams import ReadableStream

from . import mutations
from .capture import BodyTooLarge, Capture, Copied
from .exchange import Exchange
from .headers import REPEATED, REQUEST, RESPONSE, Lines
from .inspection import finished, inspect, judge
from .providers import Provider, is_generation

_NAME_RULE = (
    "An agent name has 1 to 64 letters, digits, '.', '_' or '-', begins with a letter or digit, "
    "and does not look like a key"
)


@dataclass(slots=True)
class Route:
    """Where a request goes: its provider, the target there (path and query), and the name in the path, if any."""

    provider: Provider
    target: str
    agent_name: str | None = None


class Refused(Exception):
    """The gateway answers by itself; ``response`` lacks only the lines that every answer has."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


async def handle(request: Request, env: Env, ctx: ExecutionContext, route: Route, request_id: str) -> Response:
    """Relay one request; every way out records the exchange."""
    method = request.method
    path, _, query = route.target.partition("?")
    exchange = Exchange(env.telemetry, route.provider, method, path, request_id, env.clock())
    exchange.generation = is_generation(route.provider, method, path)
    lines, notes = REQUEST.split(request.headers.raw)
    try:
        agent = await admit(request, env, ctx, route, query, notes, exchange)
        upstream = await forward(request, env, ctx, route, lines, notes, agent, exchange)
        return await inspect(upstream, env, ctx, exchange, notes)
    except Refused as refusal:
        return _refuse(refusal.response, env, exchange, notes)
    except BodyTooLarge:
        return _refuse(_too_large(env).response, env, exchange, notes)
    except Exception:
        exchange.refused(500)
        raise
    except BaseException:
        exchange.end("client-left")
        raise


async def admit(
    request: Request,
    env: Env,
    ctx: ExecutionContext,
    route: Route,
    query: str,
    notes: dict[bytes, bytes],
    exchange: Exchange,
) -> Agent:
    """Who sends this, and may it pass; :class:`Refused` otherwise."""
    if request.overload is not None:
        raise _refused(503, "Gateway overloaded", "overloaded", (b"Retry-After", b"1"), reason=request.overload)
    if b"websocket" in notes.get(b"upgrade", b"").lower():
        raise _refused(501, "WebSocket is not supported; use the HTTP endpoints", "invalid_request")
    name = _agent_name(route, notes)
    key = _provider_key(route.provider, notes, query)
    if name is not None and name.encode() == key:
        raise _refused(400, "Invalid agent name", "invalid_request", message="An agent's name must not be its key")
    agent = await _known(digest_of(key, name), name, env, ctx)
    now = env.clock()
    exchange.admitted(agent, agent.session_line(now)[1].decode())
    if agent.recorded:
        env.agents.touch(agent, now, ctx)
    _let_pass(agent, env, now, exchange)
    return agent


def _let_pass(agent: Agent, env: Env, now: float, exchange: Exchange) -> None:
    """:class:`Refused` for an agent that is contained, always, or whose account is used up, where that is enforced."""
    if env.billing_enforcement_enabled:
        decision = quota.decide(agent.quota, now)
        exchange.quota = quota.lines(decision)
        if (refusal := quota.refusal(decision)) is not None:
            raise Refused(refusal)
    if agent.containment != containment.ACTIVE:
        raise Refused(containment.refused(agent.containment))


async def _known(digest: str, name: str | None, env: Env, ctx: ExecutionContext) -> Agent:
    """The agent, from memory as long as nothing of it has changed."""
    agents = env.agents
    agent = agents.known(digest)
    closed = env.db_failure_mode == "closed"
    if agent is None or (closed and not agents.available):
        agent = await agents.find(digest, name, ctx)
        if closed and (agent is None or not agents.available):
            raise _refused(503, "Agent records unavailable", "storage_unavailable", (b"Retry-After", b"2"))
    return agent or Agent.derived(digest, name)


async def forward(
    request: Request,
    env: Env,
    ctx: ExecutionContext,
    route: Route,
    lines: Lines,
    notes: dict[bytes, bytes],
    agent: Agent,
    exchange: Exchange,
) -> Response:
    """Send the request on, byte for byte but for what is on the ledger; :class:`Refused` when no answer comes."""
    body = request.body
    inform = request.informational
    try:
        if exchange.generation and _looked_at(env, agent):
            exchange.checks = env.aip_enabled and agent.aip_enabled and agent.recorded and env.state.started
            if body is not None:
                body, lines = await _prepared(body, lines, notes, env, agent, exchange)
        onward = Request.outgoing(
            env.upstream(route.provider.name) + route.target,
            exchange.method,
            lines,
            body,
            # A 1xx is an answer too: what only the gateway may say does not pass in it either.
            inform and (lambda status, text, raw: inform(status, text, RESPONSE.split(raw)[0])),
        )
        response = await fetch(onward)
        exchange.answered(response.status)
        return response
    except BodyTooLarge:
        raise _too_large(env) from None
    except FetchError as error:
        raise _upstream_failed(env, exchange, error) from None
    finally:
        if exchange.nudges:
            delivered = 200 <= exchange.status <= 299
            ctx.wait_until(nudges.settle(env, exchange.request_id, delivered, exchange.session_id, agent.id))


async def _prepared(
    body: ReadableStream, lines: Lines, notes: dict[bytes, bytes], env: Env, agent: Agent, exchange: Exchange
) -> tuple[ReadableStream, Lines]:
    """A generation request on its way: bounded, copied for the check, changed where the agent's mode asks for it."""
    source = body.detach()
    if source.length is not None and source.length > env.max_body_bytes:
        raise _too_large(env)
    if not exchange.checks and source.length is not None:
        return ReadableStream(source), lines
    capture = Capture(env.max_capture_bytes if exchange.checks else 0)
    body = ReadableStream(Copied(source, capture, env.max_body_bytes))
    if not exchange.checks:
        return body, lines
    exchange.request = capture
    exchange.request_encoding = notes.get(b"content-encoding", b"").decode("latin-1")
    if agent.mode == "observe":
        return body, lines
    if agent.mode == "enforce":
        lines = mutations.narrow_encodings(lines, exchange, env.decoders)
    if agent.pending_nudges and not exchange.request_encoding:
        return await mutations.deliver_nudges(body, lines, env, agent, exchange)
    return body, lines


def _agent_name(route: Route, notes: dict[bytes, bytes]) -> str | None:
    """The name in the path, else in the header; the path wins."""
    name = route.agent_name
    if name is None:
        header = notes.get(b"x-smoltbot-agent") or notes.get(b"x-mnemom-agent")
        if not header:
            return None
        name = header.decode("latin-1")
    if not valid_name(name):
        raise _refused(400, "Invalid agent name", "invalid_request", message=_NAME_RULE)
    return name


def _provider_key(provider: Provider, notes: dict[bytes, bytes], query: str) -> bytes:
    """The key that decides who it is; :class:`Refused` without one, or with two where one side may read the other."""
    repeated = notes.get(REPEATED, b"")
    if b"api-key" in repeated or b"authorization" in repeated:
        raise _two_keys()
    key = notes.get(provider.key_header) if provider.key_header else None
    if not key and provider.bearer:
        key = bearer(notes.get(b"authorization"))
    if provider.query_key:
        found = query_keys(query) | ({key} if key else set())
        if len(found) > 1:
            raise _two_keys()
        key = next(iter(found), None)
    if not key:
        raise _refused(401, provider.missing_key, "authentication_error")
    return key


def _two_keys() -> Refused:
    message = "A request carries one key, or it is not clear whose it is; send each key header once"
    return _refused(400, "More than one key", "invalid_request", message=message)


def _looked_at(env: Env, agent: Agent) -> bool:
    return (env.aip_enabled and agent.aip_enabled) or agent.aap_enabled


def _too_large(env: Env) -> Refused:
    return _refused(
        413,
        "Request body too large",
        "invalid_request",
        message=f"A generation request may have {env.max_body_bytes} bytes; raise MAX_BODY_BYTES to allow more",
    )


def _upstream_failed(env: Env, exchange: Exchange, error: FetchError) -> Refused:
    """502 or 504; what went wrong goes to the operator, not to the client."""
    status, kind = 502, "upstream_error"
    if isinstance(error, FetchTimeout):
        status, kind = 504, "upstream_timeout"
    cause = (
        "connect" if isinstance(error, ConnectFailed)
        else "timeout" if isinstance(error, FetchTimeout)
        else "protocol" if isinstance(error, ProtocolError)
        else "lost"
    )  # fmt: skip
    env.telemetry.emit(UpstreamFailed(exchange.provider.name, cause, str(error), exchange.request_id))
    return _refused(status, "Upstream provider unavailable", kind)


def _refused(status: int, error: str, kind: str, *lines: tuple[bytes, bytes], **more: str) -> Refused:
    return Refused(answers.error_answer(status, error, kind, lines, **more))


def _refuse(response: Response, env: Env, exchange: Exchange, notes: dict[bytes, bytes]) -> Response:
    exchange.status = response.status
    if exchange.agent is not None:  # before that no provider was meant to see it: there is nothing to judge
        judge(env, exchange)
        if response.status == 413 and exchange.reason == "upstream-status":
            exchange.reason = "too-large"  # our own limit, not the provider's
    return finished(response, env, exchange, notes, "refused")
