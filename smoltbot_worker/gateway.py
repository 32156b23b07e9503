"""The gateway's entrypoint: a switchboard from path to function."""

from __future__ import annotations

import json
import logging
from functools import cache
from importlib import resources

from worker_compat.entrypoint import WorkerEntrypoint
from worker_compat.request import Request
from worker_compat.response import Response

from . import answers, health
from .api import routes
from .env import Env
from .events import RequestAnswered
from .relay import proxy
from .relay.providers import PROVIDERS
from .relay.proxy import Route

log = logging.getLogger("smoltbot")

_ROUTES = "This gateway handles /health, /anthropic/*, /openai/*, and /gemini/* endpoints"
_NO_PROXY = "This process has SMOLTBOT_ROLE=scheduler and serves /health/*, /metrics and /v1/* only"


class Default(WorkerEntrypoint):
    """Answers every HTTP request of the deployment."""

    env: Env

    async def fetch(self, request: Request) -> Response:
        """Relay provider routes; answer everything else here."""
        request_id = answers.request_id(self.env.clock())
        try:
            return await self._route(request, request_id)
        except Exception:
            log.exception("a request failed inside the gateway (%s)", request_id)
            message = f"Something went wrong inside the gateway; its log says what under {request_id}"
            relayed = self.env.relays and find_route(request.target) is not None
            error = "Internal gateway error" if relayed else "Internal server error"
            answer = answers.error_answer(500, error, "gateway_error", message=message)
            return self._finish(request, request_id, answer, counted=relayed)

    async def _route(self, request: Request, request_id: str) -> Response:
        env = self.env
        target = request.target
        if request.method == "OPTIONS":
            origin = request.headers.get("origin")
            return self._finish(request, request_id, answers.preflight(self._origins(target), origin))
        route = find_route(target)
        if route is not None and env.relays:
            if not env.license.allows:
                return self._finish(request, request_id, _unlicensed())
            return await proxy.handle(request, env, self.ctx, route, request_id)
        response = await self._own(request, target.partition("?")[0])
        return self._finish(request, request_id, response)

    def _origins(self, target: str) -> tuple[str, ...]:
        """The origins that browsers may call a target from: below /v1 never all, only those that are configured."""
        allowed = self.env.cors_allow_origins
        return () if allowed == ("*",) and routes.is_below(target.partition("?")[0]) else allowed

    async def _own(self, request: Request, path: str) -> Response:
        env = self.env
        if routes.is_below(path):
            return await routes.answer(env, request, path)
        if path in ("/health", "/health/"):
            return health.summary(env)
        if request.method in ("GET", "HEAD"):
            if path == "/health/live":
                return health.live(env)
            if path == "/health/ready":
                return await health.ready(env)
            if path == "/health/startup":
                return health.startup(env)
            if path == "/metrics" and env.metrics_page is not None:
                content_type, page = env.metrics_page()
                return Response.from_raw(200, None, [(b"Content-Type", content_type.encode())], page)
            if path == "/models.json" and env.relays:
                return _models(env.models_file) if env.license.allows else _unlicensed()
        return answers.error_answer(404, "Not found", "not_found", message=_ROUTES if env.relays else _NO_PROXY)

    def _finish(self, request: Request, request_id: str, response: Response, *, counted: bool = False) -> Response:
        """Add what every answer has, and say that it was given, unless it was ``counted`` as an exchange."""
        env = self.env
        lines = list(response.headers.raw)
        if not answers.has_cors(lines):
            lines += answers.cors(self._origins(request.target), request.headers.get("origin"))
        lines.append((b"x-smoltbot-request-id", request_id.encode()))
        if not counted:
            path = request.target.partition("?")[0]
            env.telemetry.emit(RequestAnswered(request.method, path, response.status, request_id))
        return Response.from_raw(response.status, response.reason, lines, response._release())


def find_route(target: str) -> Route | None:
    """The provider that a target names: ``/{provider}/...`` or ``/agent/{name}/{provider}/...``; exact segments."""
    segment, rest = _first_segment(target)
    provider = PROVIDERS.get(segment)
    if provider is not None:
        return Route(provider, rest)
    if segment != "agent":
        return None
    name, rest = _first_segment(rest)
    segment, rest = _first_segment(rest)
    provider = PROVIDERS.get(segment)
    return None if provider is None else Route(provider, rest, name)


def _first_segment(target: str) -> tuple[str, str]:
    """Split ``/first/rest?query`` into ``first`` and ``/rest?query``, every byte of the rest as it was."""
    slash = target.find("/", 1)
    query = target.find("?", 1)
    if query != -1 and (slash == -1 or query < slash):
        return target[1:query], f"/{target[query:]}"
    if slash == -1:
        return target[1:], "/"
    return target[1:slash], target[slash:]


def _unlicensed() -> Response:
    return answers.error_answer(403, "License invalid or expired", "license_error")


@cache
def _models_text(path: str) -> bytes:
    if path:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib costs an import at start
            text = file.read()
    else:
        text = resources.files(__package__).joinpath("models.json").read_bytes()
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")).encode()


def _models(path: str) -> Response:
    lines = [(b"Content-Type", b"application/json"), (b"Cache-Control", b"public, max-age=3600")]
    return Response.from_raw(200, None, lines, _models_text(path))
