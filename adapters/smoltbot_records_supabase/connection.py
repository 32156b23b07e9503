"""What the Supabase store stands on: its URL and its key, requests through the fetcher port, PostgREST's errors."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from smoltbot_worker.ports import RecordsUnavailable
from smoltbot_worker.records.locations import PROJECT, checked_project
from smoltbot_worker.records.refusals import UNAVAILABLE, refusal
from worker_compat.errors import ConfigError, FetchError
from worker_compat.ports import Fetcher
from worker_compat.request import Request

SCHEMA = "smoltbot"
CALL_LIMIT_S = 10.0

_BAD_KEY = "Supabase refuses SUPABASE_KEY: set it to the project's secret (service_role) key"
_NO_RIGHT = (
    "the role of SUPABASE_KEY may not call the database functions: set it to the project's secret (service_role) key,"
    " or GRANT smoltbot_gateway TO its role"
)
_NOT_EXPOSED = "Supabase does not show the schema smoltbot: add it to the exposed schemas in the project's API settings"
_ANOTHER_SERVICE = "what answers at SUPABASE_URL is not Supabase's REST API: check the URL"
_OUT_OF_REACH = "Supabase does not answer: check SUPABASE_URL, and that this machine reaches it"
_BUSY = (408, 429)

_HOST = re.compile(r"https?://[a-z0-9._:\[\]-]+", re.ASCII | re.IGNORECASE)
_CODE = re.compile(r"[0-9A-Z]{5}|PGRST[0-9A-Z]{3}", re.ASCII)


def api_root(url: str) -> str:
    """The address below which the functions are, for SUPABASE_URL; ``ConfigError`` says what is wrong with it."""
    try:
        project = checked_project(url)
    except ValueError as error:
        raise ConfigError(f"SUPABASE_URL {error}") from None
    if not _HOST.fullmatch(project):
        raise ConfigError(f"SUPABASE_URL is not {PROJECT}: no host has such a name")
    return f"{project}/rest/v1/rpc"


def checked_key(key: str) -> str:
    """The key; ``ConfigError`` when it is missing or cannot be one."""
    if not re.fullmatch(r"[!-~]+", key):
        raise ConfigError("SUPABASE_URL needs SUPABASE_KEY: the project's secret (service_role) key")
    return key


class RestApi:
    """The functions of one project. No error text, and no repr, has an argument, an answer or the key in it."""

    __slots__ = ("_fetcher", "_headers", "_limit_s", "_root")

    def __init__(self, fetcher: Fetcher, root: str, key: str, *, limit_s: float = CALL_LIMIT_S) -> None:
        self._fetcher = fetcher
        self._root = root
        self._limit_s = limit_s
        self._headers = {
            "apikey": key,
            # Taken whole as the argument of a function that has one, unnamed, of the type jsonb.
            "Content-Type": "application/json",
            "Content-Profile": SCHEMA,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        if not key.startswith("sb_"):  # those are not the tokens that PostgREST expects there, and refuses otherwise
            self._headers["Authorization"] = f"Bearer {key}"

    async def call(self, function: str, body: str) -> Any:
        """The answer of one function; raises what :meth:`smoltbot_worker.ports.RecordStore.call` does."""
        request = Request(
            f"{self._root}/{function}", method="POST", headers=self._headers, body=body, redirect="manual"
        )
        try:
            async with asyncio.timeout(self._limit_s):
                response = await self._fetcher.fetch(request)
                content = await response.bytes()
        except (TimeoutError, FetchError) as error:
            raise RecordsUnavailable(_OUT_OF_REACH) from error
        if not response.ok:
            raise _failure(function, response.status, content)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise RecordsUnavailable(_ANOTHER_SERVICE) from None


def _failure(function: str, status: int, content: bytes) -> Exception:
    """What a refusal means: by its code, which is PostgreSQL's or PostgREST's, else by its status.

    https://docs.postgrest.org/en/stable/references/errors.html
    """
    code, reason = _told(content)
    if code == "PGRST106":
        return RecordsUnavailable(_NOT_EXPOSED)
    if code == "42501":
        return RecordsUnavailable(_NO_RIGHT)
    if code.startswith("PGRST3"):
        return RecordsUnavailable(_BAD_KEY)
    return refusal(function, code, reason) if code else _refused_before(function, status)


def _refused_before(function: str, status: int) -> Exception:
    """A refusal of whatever stands before PostgREST, or in its place: a gateway, a proxy, some web server."""
    if status in (401, 403):
        return RecordsUnavailable(_BAD_KEY)
    if status == 413:
        return ValueError(f"{function}: the arguments are larger than what SUPABASE_URL takes")
    if status >= 500 or status in _BUSY:
        return RecordsUnavailable(UNAVAILABLE)
    return RecordsUnavailable(f"{_ANOTHER_SERVICE} (it answers {status})")


def _told(content: bytes) -> tuple[str, str]:
    """PostgREST's code, which is PostgreSQL's where that refused, and its text, which may hold data."""
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        return "", ""
    code = told.get("code") if isinstance(told, dict) else None
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        return "", ""
    return code, str(told.get("message") or "")
