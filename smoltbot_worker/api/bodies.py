"""The bodies of the operator's routes: requests are small JSON objects, answers are never kept by a cache."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from smoltbot_worker.answers import error_answer, json_answer
from smoltbot_worker.attestation.verify import Unreadable, read_document
from smoltbot_worker.ports import Json
from worker_compat.request import Request
from worker_compat.response import Response

LIMIT = 64 * 1024
"""The most bytes of a request's body."""

_FRESH = ((b"Cache-Control", b"no-store"),)
_SHOWN = 60


class Unacceptable(Exception):
    """A request that is answered with ``response``, because of its body."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


async def read_object(request: Request, known: Collection[str], *, optional: bool = False) -> dict[str, Json]:
    """The JSON object in a body, with none but ``known`` members; no body is ``{}`` where one is ``optional``.

    Raises :class:`Unacceptable`: 413 beyond :data:`LIMIT`, 400 for anything else.
    """
    data = await _read(request)
    if optional and not data:
        return {}
    try:
        given = read_document(data.decode())
    except UnicodeDecodeError:
        raise invalid("The body is not UTF-8") from None
    except Unreadable as error:
        raise invalid(f"The body must be a JSON object, and {error}") from None
    if not isinstance(given, dict):
        raise invalid("The body must be a JSON object")
    for name in given:
        if name not in known:
            shown = name[:_SHOWN].encode("ascii", "backslashreplace").decode()
            raise invalid(f"{shown} is not one of {', '.join(known)}")
    return given


def invalid(sentence: str) -> Unacceptable:
    """400: what is wrong with a body."""
    return Unacceptable(error_answer(400, "Invalid request body", "invalid_request", message=sentence))


def refused(error: ValueError) -> Unacceptable:
    """400: what a database function says of an argument, ``settings: proof_rate: must be ...``; it quotes nothing."""
    name, _, rule = str(error).removeprefix("settings: ").partition(": ")
    return invalid(f"{name} {rule}")


def found(body: Any) -> Response:
    """200 with a JSON body."""
    return json_answer(200, body, _FRESH)


def no_agent() -> Response:
    """404: the path names an agent that is not there."""
    return error_answer(404, "Agent not found", "not_found", message="There is no agent with this id")


async def _read(request: Request) -> bytes:
    data = bytearray()
    if request.body is not None:
        async for chunk in request.body:
            data += chunk
            if len(data) > LIMIT:
                message = f"A request to this route has at most {LIMIT} bytes"
                raise Unacceptable(error_answer(413, "Request body too large", "invalid_request", message=message))
    return bytes(data)
