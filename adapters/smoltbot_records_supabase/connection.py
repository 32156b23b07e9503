"""What the Supabase store stands on: its URL and its key, requests through the fetcher port, PostgREST's errors."""

from __future__ import annotations

import asyncio
import json
import os
import re
from typing import Any
from urllib.parse import urlsplit

from smoltbot_worker.ports import RecordsUnavailable
from smoltbot_worker.records.refusals import UNAVAILABLE, refusal
from worker_compat.errors import ConfigError, FetchError
from worker_compat.ports import Fetcher
from worker_compat.request import Request

KEY_VARIABLE = "SUPABASE_KEY"
SCHEMA = "smoltbot"
CALL_LIMIT_S = 10.0

_WIRE_PORTS = (5432, 6543)
_BAD_KEY = "Supabase refuses SUPABASE_KEY: set it to the project's secret (service_role) key"
_NOT_EXPOSED = "Supabase does not show the schema smoltbot: add it to the exposed schemas in the project's API settings"
_ANOTHER_SERVICE = "what answers at SUPABASE_URL is not Supabase's REST API: check the URL"
_BUSY = (408, 429)


def api_root(url: str) -> str:
    """The address below which the functions are, for SUPABASE_URL; ``ConfigError`` says what is wrong with it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text quotes the URL
        raise ConfigError("SUPABASE_URL is https://PROJECT.supabase.co") from None
    if parts.scheme in ("postgres", "postgresql") or port in _WIRE_PORTS:
        raise ConfigError(
            "SUPABASE_URL names a PostgreSQL server and not Supabase's REST API: set"
            " DATABASE_URL=postgresql://user:password@host:port/database instead, and unset SUPABASE_URL"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ConfigError("SUPABASE_URL is https://PROJECT.supabase.co, without user and password")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError("SUPABASE_URL ends with the host: https://PROJECT.supabase.co")
    return f"{parts.scheme}://{parts.netloc}/rest/v1/rpc"


def api_key() -> str:
    """The key from the environment; ``ConfigError`` when it is missing or cannot be one."""
    text = os.environ.get(KEY_VARIABLE, "").strip()
    if not re.fullmatch(r"[!-~]+", text):
        raise ConfigError(f"SUPABASE_URL needs {KEY_VARIABLE}: the project's secret (service_role) key")
    return text


class RestApi:
    """The functions of one project. No error text, and no repr, has an argument, an answer or the key in it."""

    __slots__ = ("_fetcher", "_headers", "_limit_s", "_root")

    def __init__(self, fetcher: Fetcher, root: str, key: str, *, limit_s: float = CALL_LIMIT_S) -> None:
        self._fetcher = fetcher
        self._root = root
        self._limit_s = limit_s
        self._headers = {
            "apikey": key,
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "Content-Profile": SCHEMA,
            "Accept": "application/json",
        }

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
            raise RecordsUnavailable(UNAVAILABLE) from error
        if not response.ok:
            raise _failure(function, response.status, content)
        try:
            return json.loads(content)
        except ValueError:
            raise RecordsUnavailable(_ANOTHER_SERVICE) from None


def _failure(function: str, status: int, content: bytes) -> Exception:
    code, reason = _told(content)
    if code == "PGRST106":
        return RecordsUnavailable(_NOT_EXPOSED)
    if status == 401 or code.startswith("PGRST3"):
        return RecordsUnavailable(_BAD_KEY)
    if status >= 500 or status in _BUSY:
        return RecordsUnavailable(UNAVAILABLE)
    return refusal(function, code, reason)


def _told(content: bytes) -> tuple[str, str]:
    """PostgREST's code, which is PostgreSQL's where that refused, and its text, which may hold data."""
    try:
        told = json.loads(content)
    except ValueError:  # a proxy in between
        return "", ""
    if not isinstance(told, dict):
        return "", ""
    return str(told.get("code") or ""), str(told.get("message") or "")
