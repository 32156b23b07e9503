"""The registrations of webhooks: who is told of an agent's verdicts, its drift and its containment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

from smoltbot_worker.answers import error_answer, json_answer
from smoltbot_worker.control.webhooks import seal_secret
from smoltbot_worker.env import Env
from smoltbot_worker.records import webhooks as records
from smoltbot_worker.records.arguments import identifier
from worker_compat.addresses import is_public, parse_address
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.url import parse

from .bodies import found, invalid, no_agent, read_object

EVENTS = (
    "*", "verdict", "verdict.*", "verdict.clear", "verdict.review_needed", "verdict.boundary_violation",
    "verdict.error", "drift_alert", "agent.paused", "agent.resumed", "agent.killed", "agent.reactivated",
)  # fmt: skip
"""What a registration may name: ``*`` is everything, ``verdict`` and ``verdict.*`` are every verdict."""

LONGEST_URL = 2048
SHORTEST_SECRET, LONGEST_SECRET = 32, 1024

_FRESH = ((b"Cache-Control", b"no-store"),)
_GIVEN = ("agent_id", "callback_url", "secret", "events")
_REGISTERED = ("registration_id", "agent_id", "callback_url", "events", "created_at")


async def register(env: Env, request: Request) -> Response:
    """POST /v1/aip/webhooks, and /v1/aip/register: from now on the agent's events go there too."""
    given: dict[str, Any] = await read_object(request, _GIVEN)
    problems = _problems(given, allow_private=env.webhook_allow_private)
    if problems:
        raise invalid("; ".join(problems))
    sealed = await seal_secret(env.crypto, given["secret"])
    events = list(dict.fromkeys(given["events"]))
    registration_id = f"awh-{uuid4().hex}"
    try:
        row = await records.register(
            env.records, registration_id, given["agent_id"], given["callback_url"], sealed, events
        )
    except ValueError:  # everything else was looked at already
        return no_agent()
    return json_answer(201, {name: row[name] for name in _REGISTERED}, _FRESH)


async def listing(env: Env, request: Request) -> Response:
    """GET /v1/aip/webhooks?agent_id=: an agent's registrations without their secrets, the newest first."""
    wanted = parse_qs(request.target.partition("?")[2]).get("agent_id", [])
    if len(wanted) != 1 or not _is_identifier(wanted[0]):
        message = "The query must name one agent: ?agent_id="
        return error_answer(400, "Invalid query", "invalid_request", message=message)
    return found({"webhooks": await records.registrations(env.records, wanted[0])})


async def delete(env: Env, request: Request, registration_id: str) -> Response:
    """DELETE /v1/aip/webhooks/{id}: nothing goes there any more, not even what waits."""
    del request
    row = await records.registration(env.records, registration_id)
    if row is None or not await records.delete(env.records, row["agent_id"], registration_id):
        message = "There is no registration with this id"
        return error_answer(404, "Registration not found", "not_found", message=message)
    return Response.from_raw(204, None, list(_FRESH), None)


def _problems(given: Mapping[str, Any], *, allow_private: bool) -> list[str]:
    """What is wrong with a registration, all at once; neither the secret nor the URL is quoted."""
    problems = [f"{name} is missing" for name in _GIVEN if given.get(name) is None]
    if problems:
        return problems
    if not _is_identifier(given["agent_id"]):
        problems.append("agent_id is not an id")
    url_problem = _url_problem(given["callback_url"], allow_private=allow_private)
    if url_problem:
        problems.append(f"callback_url {url_problem}")
    if not _is_secret(given["secret"]):
        problems.append(f"secret is not a text of {SHORTEST_SECRET} to {LONGEST_SECRET} characters")
    events = given["events"]
    if not isinstance(events, list) or not 1 <= len(events) <= 100 or any(event not in EVENTS for event in events):
        problems.append(f"events is not a list of some of {', '.join(EVENTS)}")
    return problems


def _url_problem(text: object, *, allow_private: bool) -> str:
    """Why a callback may not be asked there, as far as its text tells; a name is looked up when there is an event."""
    if not isinstance(text, str) or len(text) > LONGEST_URL or any(not " " < char < "\x7f" for char in text):
        return f"is not a URL of at most {LONGEST_URL} visible ASCII characters"
    try:
        url = parse(text)
    except TypeError:
        return "is not a URL"
    if url.scheme != "https" and not (url.scheme == "http" and allow_private):
        return "does not begin with https://; WEBHOOK_ALLOW_PRIVATE=true allows http"
    if url.username or url.password or url.fragment is not None:
        return "has a user, a password or a fragment"
    host = (url.hostname or "").strip("[]")
    address = parse_address(host)
    local = host.rstrip(".") == "localhost" if address is None else not is_public(address)
    if local and not allow_private:
        return "is an address that is not public; WEBHOOK_ALLOW_PRIVATE=true allows it"
    return ""


def _is_identifier(value: object) -> bool:
    try:
        return bool(identifier(value))  # type: ignore[arg-type] # it judges anything
    except ValueError:
        return False


def _is_secret(value: object) -> bool:
    """Text of the right length that UTF-8 can hold."""
    if not isinstance(value, str) or not SHORTEST_SECRET <= len(value) <= LONGEST_SECRET:
        return False
    return not any("\ud800" <= char <= "\udfff" for char in value)
