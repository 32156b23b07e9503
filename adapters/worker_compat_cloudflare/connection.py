"""What the REST store stands on: the options of its URL, requests through the fetcher port, Cloudflare's errors."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from worker_compat import jsjson
from worker_compat.errors import ConfigError, FetchError, StoreUnavailable
from worker_compat.headers import Headers
from worker_compat.ports import Fetcher
from worker_compat.request import Request

TOKEN_VARIABLE = "CLOUDFLARE_API_TOKEN"
PUBLIC_API = "https://api.cloudflare.com/client/v4"
CALL_LIMIT_S = 30.0

_KNOWN = ("base", "fetcher", "namespace")
_IDENTIFIER = re.compile(r"[0-9A-Za-z_-]+")
_KEY_NOT_FOUND = 10009
_NO_SUCH_PLACE = frozenset((7000, 7003, 10013))
_BAD_TOKEN = frozenset((6003, 9106, 9109))


@dataclass(frozen=True, slots=True)
class Options:
    """What the URL of a store says; ``root`` is the address of the namespace in the REST API."""

    root: str
    prefix: str
    fetcher: str


def parse(url: str) -> Options:
    """The options of ``kv+cloudflare://ACCOUNT/NAMESPACE?...``; ``ConfigError`` says what is wrong with it."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigError(f"kv+cloudflare:// takes no token in its URL; set {TOKEN_VARIABLE} instead")
    namespace = parts.path.removeprefix("/")
    if not _IDENTIFIER.fullmatch(parts.netloc) or not _IDENTIFIER.fullmatch(namespace) or parts.fragment:
        raise ConfigError("a Cloudflare KV URL is kv+cloudflare://ACCOUNT_ID/NAMESPACE_ID")
    given = _given(parts.query)
    prefix = given.get("namespace")
    if prefix is not None and (not prefix or "/" in prefix):
        raise ConfigError("namespace= of kv+cloudflare:// begins every key: give it some text without a slash")
    return Options(
        root=f"{_base(given)}/accounts/{parts.netloc}/storage/kv/namespaces/{namespace}",
        prefix="" if prefix is None else f"{prefix}/",
        fetcher=given.get("fetcher", "aiohttp"),
    )


def _given(query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    given = dict(pairs)
    unknown = sorted(set(given) - set(_KNOWN))
    if unknown:
        raise ConfigError(f"kv+cloudflare:// has no option {', '.join(unknown)}; options: {', '.join(_KNOWN)}")
    if len(given) < len(pairs):
        raise ConfigError("kv+cloudflare:// takes each option once")
    return given


def _base(given: Mapping[str, str]) -> str:
    base = given.get("base", PUBLIC_API)
    try:
        parts = urlsplit(base)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text quotes the URL
        usable = False
    if not usable or "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError("base= of kv+cloudflare:// is http[s]://host[:port][/path], without user, query and fragment")
    return base.rstrip("/")


def token() -> str:
    """The API token, from the environment; ``ConfigError`` when it is missing or cannot be one."""
    text = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not text:
        raise ConfigError(
            f"kv+cloudflare:// needs {TOKEN_VARIABLE} in the environment: "
            "an API token with the permission Workers KV Storage: Edit"
        )
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(f"{TOKEN_VARIABLE} holds characters that no API token has")
    return text


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer, read to its end."""

    headers: Headers
    body: bytes

    def json(self) -> Any:
        """The body as JSON; ``StoreUnavailable`` when it is something else."""
        try:
            return jsjson.parse(self.body.decode())
        except ValueError:
            raise unexpected() from None


class RestApi:
    """The REST API of one namespace. No error text, and no repr, has a key, a value or the token in it."""

    __slots__ = ("_fetcher", "_headers", "_limit_s", "_root")

    def __init__(self, fetcher: Fetcher, root: str, token: str, *, limit_s: float = CALL_LIMIT_S) -> None:
        self._fetcher = fetcher
        self._root = root
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": "worker_compat"}
        self._limit_s = limit_s

    async def call(
        self, method: str, path: str, *, body: bytes | None = None, content_type: str = "", optional: bool = False
    ) -> Answer | None:
        """The answer to one request; None when Cloudflare says that there is no such key.

        With ``optional`` every 404 is None. Anything else but success is ``StoreUnavailable``.
        """
        headers = self._headers | ({"Content-Type": content_type} if content_type else {})
        request = Request(f"{self._root}{path}", method=method, headers=headers, body=body, redirect="manual")
        try:
            async with asyncio.timeout(self._limit_s):
                response = await self._fetcher.fetch(request)
                answer = Answer(response.headers, await response.bytes())
        except TimeoutError:
            raise StoreUnavailable(f"Cloudflare's API did not answer within {self._limit_s:g} s: try again") from None
        except FetchError as error:
            raise StoreUnavailable(f"Cloudflare's API cannot be reached: {error}") from error
        if response.ok:
            return answer
        codes = _codes(answer)
        if response.status == 404 and (optional or _KEY_NOT_FOUND in codes):
            return None
        raise StoreUnavailable(_refusal(response.status, codes))


def unexpected() -> StoreUnavailable:
    """The error for an answer that is not in the shape of Cloudflare's API."""
    return StoreUnavailable("the answer is not one of Cloudflare's KV API; look at base= in the URL")


def _codes(answer: Answer) -> frozenset[int]:
    try:
        return frozenset(error["code"] for error in answer.json()["errors"])
    except (StoreUnavailable, LookupError, TypeError):
        return frozenset()


def _refusal(status: int, codes: frozenset[int]) -> str:
    """What went wrong, in words without data: Cloudflare's own messages may quote keys."""
    numbers = ", ".join(map(str, sorted(codes)))
    seen = f"(status {status}, code {numbers})" if numbers else f"(status {status})"
    if status >= 500:
        return f"Cloudflare's API failed {seen}: try again, or look at cloudflarestatus.com"
    if status == 429:
        return f"Cloudflare's API allows no more requests for now {seen}: wait up to five minutes"
    if status in (401, 403) or codes & _BAD_TOKEN:
        return (
            f"Cloudflare refused the token {seen}; {TOKEN_VARIABLE} needs the permission "
            "Workers KV Storage: Edit (Read for reading only) on this account"
        )
    if codes & _NO_SUCH_PLACE:
        return f"no such account or KV namespace {seen}; look at the two identifiers in the URL"
    return f"Cloudflare's API refused the request {seen}"
