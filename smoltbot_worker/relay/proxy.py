"""The relay: admit a request, forward it to its provider, inspect what comes back."""

from __future__ import annotations

from dataclasses import dataclass

from smoltbot_worker import answers
from smoltbot_worker.admission.agents import Agent
from smoltbot_worker.admission.identity import bearer, digest_of, query_keys, valid_name
from smoltbot_worker.env import Env
from smoltbot_worker.events import UpstreamFailed
from worker_compat.context import ExecutionContext
from worker_compat.errors import ConnectFailed, FetchError, FetchTimeout, ProtocolError
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import fetch
from worker_compat.streams import ReadableStream

from .exchange import BodyTooLarge, Exchange, Limited, Tap
from .headers import REPEATED, REQUEST, RESPONSE, Lines
from .providers import Provider, is_generation, streams

_VERDICT = b"X-AIP-Verdict"
_REASON = b"X-AIP-Reason"
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
    exchange = Exchange(env.telemetry, route.provider, method, path, request_id)
    exchange.generation = is_generation(route.provider, method, path)
    lines, notes = REQUEST.split(request.headers.raw)
    try:
        agent = await admit(request, env, ctx, route, query, notes, exchange)
        upstream = await forward(request, env, route, lines, agent, exchange)
        return inspect(upstream, env, exchange, notes)
    except Refused as refusal:
        return _refuse(refusal.response, env, exchange, notes)
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
    digest = digest_of(key, name)
    agent = env.agents.known(digest)
    if agent is None or (env.db_failure_mode == "closed" and not env.agents.available):
        agent = await env.agents.find(digest, name, ctx)
        if agent is None:
            if env.db_failure_mode == "closed":
                raise _refused(503, "Agent records unavailable", "storage_unavailable", (b"Retry-After", b"2"))
            agent = Agent.derived(digest, name)
    now = env.clock()
    exchange.admitted(agent, agent.session_line(now)[1].decode())
    if agent.recorded:
        env.agents.touch(agent, now, ctx)
    return agent


async def forward(request: Request, env: Env, route: Route, lines: Lines, agent: Agent, exchange: Exchange) -> Response:
    """Send the request on, byte for byte; :class:`Refused` when no answer comes."""
    body = request.body
    if body is not None and exchange.generation and _looked_at(env, agent):
        body = _limited(body, env)
    inform = request.informational
    onward = Request.outgoing(
        env.upstream(route.provider.name) + route.target,
        exchange.method,
        lines,
        body,
        # A 1xx is an answer too: what only the gateway may say does not pass in it either.
        inform and (lambda status, text, raw: inform(status, text, RESPONSE.split(raw)[0])),
    )
    try:
        response = await fetch(onward)
    except BodyTooLarge:
        raise _too_large(env) from None
    except FetchError as error:
        raise _upstream_failed(env, exchange, error) from None
    exchange.answered(response.status)
    return response


def inspect(upstream: Response, env: Env, exchange: Exchange, notes: dict[bytes, bytes]) -> Response:
    """The answer for the client: the provider's bytes, and the lines that say what became of it."""
    lines, seen = RESPONSE.split(upstream.headers.raw)
    exchange.streaming = streams(exchange.provider, exchange.path, seen.get(b"content-type"))
    upstream_id = seen.get(b"request-id") or seen.get(b"x-request-id")
    if upstream_id:
        exchange.upstream_request_id = upstream_id.decode("latin-1")
    _judge(env, exchange)
    origin = notes.get(b"origin")
    if origin is not None and not answers.has_cors(lines):
        lines += answers.cors(env.cors_allow_origins, origin.decode("latin-1"))
    lines += _own_lines(env, exchange)
    body = upstream.body
    if body is None:
        exchange.end("complete")
    else:
        body = ReadableStream(Tap(body.detach(), exchange))
    return Response.from_raw(upstream.status, upstream.reason, lines, body)


def _judge(env: Env, exchange: Exchange) -> None:
    """The verdict while no check exists yet: never one that looks as if a check had passed."""
    agent = exchange.agent
    if not env.aip_enabled or (agent is not None and not agent.aip_enabled):
        exchange.verdict = "disabled"
        return
    exchange.verdict = "skipped"
    if not env.agents.available or (agent is not None and not agent.recorded):
        exchange.reason = "storage-unavailable"
    elif not 200 <= exchange.status <= 299:
        exchange.reason = "upstream-status"
    elif not exchange.generation:
        exchange.reason = "not-generation"
    else:
        exchange.reason = "no-analysis-configured"


def _own_lines(env: Env, exchange: Exchange) -> Lines:
    lines: Lines = [(b"x-smoltbot-request-id", exchange.request_id.encode())]
    agent = exchange.agent
    if agent is not None:
        lines += (agent.id_line, (b"x-smoltbot-session", exchange.session_id.encode()))
        lines.append((_VERDICT, exchange.verdict.encode()))
        if exchange.reason:
            lines.append((_REASON, exchange.reason.encode()))
    return lines


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


def _limited(body: ReadableStream, env: Env) -> ReadableStream:
    source = body.detach()
    if source.length is not None and source.length > env.max_body_bytes:
        raise _too_large(env)
    return ReadableStream(Limited(source, env.max_body_bytes) if source.length is None else source)


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
        _judge(env, exchange)
        if response.status == 413 and exchange.reason == "upstream-status":
            exchange.reason = "too-large"  # our own limit, not the provider's
    lines = list(response.headers.raw)
    origin = notes.get(b"origin")
    lines += answers.cors(env.cors_allow_origins, None if origin is None else origin.decode("latin-1"))
    lines += _own_lines(env, exchange)
    exchange.refused(response.status)
    return Response.from_raw(response.status, None, lines, response._release())
