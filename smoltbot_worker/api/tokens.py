"""The bearer tokens of ``/v1``: who may call a route that is not public."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from smoltbot_worker.answers import error_answer
from smoltbot_worker.env import Env
from worker_compat.request import Request
from worker_compat.response import Response

_CHALLENGE = (b"WWW-Authenticate", b'Bearer realm="smoltbot"')


def refuse_reading(request: Request, env: Env) -> Response | None:
    """The refusal of a request that may not read; None for one with the read token or an admin token.

    403 while no token is set: then nobody may. 401 for a wrong token, or none.
    """
    tokens = [token for token in (*env.admin_token, env.read_token) if token]
    if not tokens:
        message = "No token is set, so nobody may: set READ_TOKEN or ADMIN_TOKEN and restart the gateway"
        return error_answer(403, "Forbidden", "permission_error", message=message)
    given = _bearer(request)
    if given is not None and _matches(given, tokens):
        return None
    return _unauthorized(given, "READ_TOKEN or ADMIN_TOKEN")


def refuse_writing(request: Request, env: Env) -> Response | None:
    """The refusal of a request that may not write; None for one with an admin token.

    403 while no admin token is set, and for the read token. 401 for a wrong token, or none.
    """
    tokens = [token for token in env.admin_token if token]
    if not tokens:
        message = "No admin token is set, so nobody may: set ADMIN_TOKEN and restart the gateway"
        return error_answer(403, "Forbidden", "permission_error", message=message)
    given = _bearer(request)
    if given is not None and _matches(given, tokens):
        return None
    if given is not None and env.read_token and _matches(given, [env.read_token]):
        message = "READ_TOKEN may read only: this route wants the value of ADMIN_TOKEN"
        return error_answer(403, "Forbidden", "permission_error", message=message)
    return _unauthorized(given, "ADMIN_TOKEN")


def _unauthorized(given: str | None, wanted: str) -> Response:
    message = f"This route wants Authorization: Bearer and the value of {wanted}"
    if given is not None:
        message = "The token is not the one that is set"
    return error_answer(401, "Unauthorized", "authentication_error", (_CHALLENGE,), message=message)


def _bearer(request: Request) -> str | None:
    scheme, _, token = (request.headers.get("authorization") or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _matches(given: str, tokens: Sequence[str]) -> bool:
    """Whether it is one of them; all are compared, so that time tells neither which nor how much of it is right."""
    data = given.encode("utf-8", "surrogateescape")
    found = False
    for token in tokens:
        found |= hmac.compare_digest(data, token.encode())
    return found
