"""The gateway as the commands reach it: one GET over HTTP, with a token, and the errors in words.

Redirects are not followed: the token is for the gateway that was named, and for nobody else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, urlsplit

import click

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.client import HTTPConnection, HTTPResponse

F = TypeVar("F", bound="Callable[..., object]")

_TIMEOUT_S = 60.0
"""The longest wait for a connection and between any two bytes."""
_CHUNK = 1 << 16
_SHOWN = 1 << 16


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where the gateway is, and the token that it wants."""

    url: str
    token: str = field(default="", repr=False)


def gateway_options(command: F) -> F:
    """The options of every command that talks to a gateway: ``gateway`` and ``token``."""
    url = click.option(
        "--gateway", envvar="SMOLTBOT_GATEWAY", default="http://127.0.0.1:8787", metavar="URL", show_default=True,
        help="The gateway; else SMOLTBOT_GATEWAY.",
    )  # fmt: skip
    token = click.option(
        "--token", envvar="SMOLTBOT_TOKEN", default="", metavar="TOKEN",
        help="Its ADMIN_TOKEN or READ_TOKEN; better given as SMOLTBOT_TOKEN, which other users do not see.",
    )  # fmt: skip
    return url(token(command))


def pieces(gateway: Gateway, path: str) -> Iterator[bytes]:
    """The body of ``GET path``, piece by piece.

    ``click.ClickException`` says in one sentence why there is none, or that it was cut short.
    """
    with _answer(gateway, path) as response:
        missing = response.length
        while piece := response.read(_CHUNK):
            missing = None if missing is None else missing - len(piece)
            yield piece
        if missing:
            raise cut_short(gateway)


def cut_short(gateway: Gateway) -> click.ClickException:
    """The error of an answer that broke off."""
    return click.ClickException(f"the answer of {gateway.url} was cut short; the gateway's log says why. Try again")


@contextmanager
def _answer(gateway: Gateway, path: str) -> Iterator[HTTPResponse]:
    """The answer 200 to a GET; every failure until its end, in words."""
    from http.client import HTTPException, IncompleteRead

    parts = _parts(gateway)
    connection = _connection(parts)
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if gateway.token:
        headers["Authorization"] = f"Bearer {gateway.token}"
    answered = False
    try:
        connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
        response = connection.getresponse()
        answered = True
        if response.status != 200:
            raise _refused(gateway, response.status, response.read(_SHOWN))
        if response.headers.get_content_type() != "application/json":
            raise _stranger(gateway, response.status)
        yield response
    except IncompleteRead:
        raise cut_short(gateway) from None
    except (OSError, HTTPException, UnicodeError) as error:
        raise (cut_short(gateway) if answered else _unreachable(gateway, error)) from None
    finally:
        connection.close()


def _parts(gateway: Gateway) -> SplitResult:
    try:
        parts = urlsplit(gateway.url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or parts.username or parts.query or parts.fragment or any(char <= " " for char in gateway.url):
        raise click.ClickException("SMOLTBOT_GATEWAY (or --gateway) must be like http://127.0.0.1:8787")
    if not all("!" <= char <= "~" for char in gateway.token):
        raise click.ClickException("SMOLTBOT_TOKEN (or --token) has a character that no header can carry")
    return parts


def _connection(parts: SplitResult) -> HTTPConnection:
    from http.client import HTTPConnection, HTTPSConnection

    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)


def _refused(gateway: Gateway, status: int, body: bytes) -> click.ClickException:
    said = _said(body)
    if status == 401 and gateway.token:
        text = "the gateway refuses the token: set SMOLTBOT_TOKEN to its ADMIN_TOKEN or READ_TOKEN"
    elif status == 401:
        text = "the gateway wants a token: set SMOLTBOT_TOKEN to its ADMIN_TOKEN or READ_TOKEN"
    elif status == 403:
        text = f"the gateway lets nobody read this: {said}"
    elif 300 <= status < 400:
        text = f"{gateway.url} answers with a redirect ({status}): set SMOLTBOT_GATEWAY to where it leads"
    elif said:
        text = f"the gateway answers {status}: {said}"
    else:
        return _stranger(gateway, status)
    return click.ClickException(text)


def _stranger(gateway: Gateway, status: int) -> click.ClickException:
    return click.ClickException(
        f"what answers at {gateway.url} ({status}) is no smoltbot gateway; set SMOLTBOT_GATEWAY to the address of one"
    )


def _said(body: bytes) -> str:
    """The words of an error in the gateway's shape, else nothing."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(answer, dict) or not isinstance(answer.get("error"), str):
        return ""
    return ". ".join(str(answer[name])[:500] for name in ("error", "message") if name in answer)


def _unreachable(gateway: Gateway, error: Exception) -> click.ClickException:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return click.ClickException(
        f"the gateway at {gateway.url} does not answer ({reason}); start it, or set SMOLTBOT_GATEWAY"
    )
