"""The switchboard of ``/v1``: from method and path to the function that answers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial

from smoltbot_worker.answers import error_answer
from smoltbot_worker.env import Env
from smoltbot_worker.ports import RecordsUnavailable
from worker_compat.request import Request
from worker_compat.response import Response

from . import agents, bodies, checkpoints, containment, evidence, tokens, webhooks

Answer = Callable[..., Awaitable[Response]]
"""``answer(env, request, *ids)``: the ids of the path in their order."""

Refuse = Callable[[Request, Env], Response | None]
"""The answer to a request that may not pass, else None."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def public(request: Request, env: Env) -> None:
    """Let everybody pass."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path below ``/v1``, in which ``{}`` stands for an id."""

    method: str
    path: str
    answer: Answer
    refuse: Refuse = public

    def ids(self, path: str) -> list[str] | None:
        """The ids in a path; None when the path is another."""
        own, given = self.path.split("/"), path.split("/")
        if len(own) != len(given) or any(mine not in ("{}", theirs) for mine, theirs in zip(own, given, strict=True)):
            return None
        return [theirs for mine, theirs in zip(own, given, strict=True) if mine == "{}"]


def _control() -> Iterator[Route]:
    """The operator's routes of an agent, in both forms: there is one organisation, whatever a client calls it."""
    for agent in ("/v1/agents/{}", "/v1/orgs/{}/agents/{}"):
        yield Route("GET", f"{agent}/enforcement", agents.enforcement, tokens.refuse_reading)
        yield Route("PUT", f"{agent}/enforcement", agents.put_enforcement, tokens.refuse_writing)
        yield Route("PUT", f"{agent}/settings", agents.put_settings, tokens.refuse_writing)
        yield Route("GET", f"{agent}/containment", containment.show, tokens.refuse_reading)
        yield Route("PUT", f"{agent}/containment-policy", containment.put_policy, tokens.refuse_writing)
        for action in containment.ACTIONS:
            yield Route("POST", f"{agent}/{action}", partial(containment.act, action), tokens.refuse_writing)


ROUTES = (
    Route("GET", "/v1/keys", evidence.keys),
    Route("GET", "/v1/agents/{}/head", evidence.head),
    Route("GET", "/v1/agents/{}/merkle-root", evidence.merkle_root),
    Route("GET", "/v1/agents/{}/export", evidence.export, tokens.refuse_reading),
    Route("GET", "/v1/agents/{}/checkpoints", checkpoints.listing, tokens.refuse_reading),
    Route("GET", "/v1/agents/{}/checkpoints/{}", checkpoints.one, tokens.refuse_reading),
    Route("GET", "/v1/checkpoints/{}/certificate", evidence.certificate),
    Route("GET", "/v1/checkpoints/{}/inclusion-proof", evidence.inclusion_proof),
    Route("POST", "/v1/verify", evidence.verify),
    Route("POST", "/v1/aip/webhooks", webhooks.register, tokens.refuse_writing),
    Route("POST", "/v1/aip/register", webhooks.register, tokens.refuse_writing),
    Route("GET", "/v1/aip/webhooks", webhooks.listing, tokens.refuse_reading),
    Route("DELETE", "/v1/aip/webhooks/{}", webhooks.delete, tokens.refuse_writing),
    *_control(),
)


def is_below(path: str) -> bool:
    """Whether a path is answered here."""
    return path == "/v1" or path.startswith("/v1/")


async def answer(env: Env, request: Request, path: str) -> Response:
    """Answer a request below ``/v1``; HEAD like GET, as far as it is answered at all."""
    if request.overload is not None:
        line = (b"Retry-After", b"1")
        return error_answer(503, "Gateway overloaded", "overloaded", (line,), reason=request.overload)
    found = [(route, ids) for route in ROUTES if (ids := route.ids(path)) is not None]
    if not found:
        return error_answer(404, "Not found", "not_found", message="There is no such route below /v1")
    method = "GET" if request.method == "HEAD" else request.method
    for route, ids in found:
        if route.method == method:
            return await _answer(env, request, route, ids)
    allowed = ", ".join(sorted({"GET, HEAD" if route.method == "GET" else route.method for route, _ in found}))
    return error_answer(405, "Method not allowed", "invalid_request", ((b"Allow", allowed.encode()),))


async def _answer(env: Env, request: Request, route: Route, ids: list[str]) -> Response:
    refusal = route.refuse(request, env)
    if refusal is not None:
        return refusal
    if not all(map(_ID.fullmatch, ids)):
        message = "An id has 1 to 200 letters, digits, '.', '_' or '-' and begins with a letter or digit"
        return error_answer(400, "Invalid id", "invalid_request", message=message)
    try:
        return await route.answer(env, request, *ids)
    except bodies.Unacceptable as body:
        return body.response
    except RecordsUnavailable:
        message = "The database does not answer; try again"
        return error_answer(
            503, "Records unavailable", "storage_unavailable", ((b"Retry-After", b"2"),), message=message
        )
