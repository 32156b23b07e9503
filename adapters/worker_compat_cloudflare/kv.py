"""Cloudflare's KV from outside of Cloudflare: a KV store over the REST API.

Connection URL: ``kv+cloudflare://ACCOUNT_ID/NAMESPACE_ID``. The API token comes from ``CLOUDFLARE_API_TOKEN``.
Options: ``namespace=NAME`` puts ``NAME/`` before every key, so that several can share one namespace of Cloudflare;
``base=`` is the address of the API; ``fetcher=`` the name of an installed fetcher (``aiohttp``).

Semantics: those of the service. Eventually consistent, up to 60 s or more; the last write wins; there is no
compare-and-put. An entry is value and metadata from two requests: a write in between may be seen half.

Limits: about 1200 requests per 5 minutes and user; one write per second and key. The service keeps nothing for less
than 60 s, so an expiration nearer than that is moved there, and one that is over deletes. Keys have 512 bytes, the
prefix included.

https://developers.cloudflare.com/api/resources/kv/
"""

from __future__ import annotations

import asyncio
import base64
import math
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode

from worker_compat import jsjson, registry
from worker_compat.ports import Clock, KVEntry, KVKey, KVPage

from .connection import Answer, RestApi, parse, token, unexpected

_MIN_PAGE = 10  # the binding lists by one name, the REST API by no fewer than ten
_MIN_TTL_S = 60
_ON_THE_WAY_S = 5


class CloudflareKVStore:
    """A :class:`worker_compat.ports.KVStore` over ``api``, for the keys that begin with ``prefix``."""

    def __init__(self, api: RestApi, *, prefix: str = "", clock: Clock = time.time) -> None:
        self._api = api
        self._prefix = prefix
        self._clock = clock

    async def get(self, key: str) -> KVEntry | None:
        """The live entry, or None; two requests, side by side."""
        name = self._path(key)
        tasks = (
            asyncio.ensure_future(self._api.call("GET", f"/values/{name}")),
            asyncio.ensure_future(self._api.call("GET", f"/metadata/{name}", optional=True)),
        )
        try:
            value, metadata = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        if value is None:
            return None
        entry = KVEntry(value.body, _metadata_of(metadata), _expiration_of(value))
        return None if self._is_gone(entry.expiration) else entry

    async def put(self, key: str, entry: KVEntry) -> None:
        """Replace everything stored under ``key``."""
        if self._is_gone(entry.expiration):
            await self.delete(key)
            return
        body, content_type = entry.value, "application/octet-stream"
        if entry.metadata is not None:
            body, content_type = _multipart(entry.value, entry.metadata)
        path = f"/values/{self._path(key)}{self._lifetime(entry.expiration)}"
        await self._api.call("PUT", path, body=body, content_type=content_type)

    async def delete(self, key: str) -> None:
        """Remove ``key``; a missing key is no error."""
        await self._api.call("DELETE", f"/values/{self._path(key)}")

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        """Up to ``limit`` live names with ``prefix``, ascending by UTF-8 bytes, after ``cursor``.

        A page of Cloudflare's that was cut is asked for again by the next call, and what was given out is
        skipped by name: names that come or go between the calls do no harm.
        """
        start, last = ("", None) if cursor is None else _position(cursor)
        keys: list[KVKey] = []
        # The second round fills up a page that began with the rest of a cut one.
        for _ in range(2):
            rows, following = await self._page(prefix, max(limit, _MIN_PAGE), start)
            for row in rows:
                if last is not None and row.name <= last:
                    continue
                if len(keys) == limit:
                    return KVPage(keys, _cursor(start, last))
                last = row.name
                if not self._is_gone(row.expiration):
                    keys.append(row)
            if not following:
                return KVPage(keys)
            start, last = following, None
            if len(keys) == limit:
                break
        return KVPage(keys, _cursor(start, last))

    async def _page(self, prefix: str, limit: int, cursor: str) -> tuple[Sequence[KVKey], str]:
        query = {"limit": str(limit)}
        if full := self._prefix + prefix:
            query["prefix"] = full
        if cursor:
            query["cursor"] = cursor
        answer = await self._api.call("GET", f"/keys?{urlencode(query, quote_via=quote, errors='surrogatepass')}")
        if answer is None:
            raise unexpected()
        document = answer.json()
        try:
            rows = [self._row(item) for item in document["result"]]
            return rows, str((document.get("result_info") or {}).get("cursor") or "")
        except (LookupError, TypeError, AttributeError):
            raise unexpected() from None

    def _row(self, item: dict[str, Any]) -> KVKey:
        metadata, expiration = item.get("metadata"), item.get("expiration")
        return KVKey(
            item["name"][len(self._prefix) :],
            None if metadata is None else jsjson.stringify(metadata),
            None if expiration is None else int(expiration),
        )

    def _path(self, key: str) -> str:
        return quote(self._prefix + key, safe="", errors="surrogatepass")

    def _is_gone(self, expiration: int | None) -> bool:
        return expiration is not None and expiration <= self._clock()

    def _lifetime(self, expiration: int | None) -> str:
        if expiration is None:
            return ""
        left = expiration - math.floor(self._clock())
        # A time that was 60 s ahead here is less by the time it is judged there.
        if left < _MIN_TTL_S + _ON_THE_WAY_S:
            return f"?expiration_ttl={max(left, _MIN_TTL_S)}"
        return f"?expiration={expiration}"


@asynccontextmanager
async def open_kv(url: str, *, clock: Clock = time.time) -> AsyncIterator[CloudflareKVStore]:
    """The store at ``url``, with connections of its own that are closed at exit. Nothing is sent before it is used."""
    options, secret = parse(url), token()
    open_fetcher = registry.find(registry.FETCHER, options.fetcher)
    async with open_fetcher() as fetcher:
        yield CloudflareKVStore(RestApi(fetcher, options.root, secret), prefix=options.prefix, clock=clock)


def _metadata_of(answer: Answer | None) -> str | None:
    if answer is None:
        return None
    document = answer.json()
    if not isinstance(document, dict):
        raise unexpected()
    metadata = document.get("result")
    return None if metadata is None else jsjson.stringify(metadata)


def _expiration_of(answer: Answer) -> int | None:
    text = answer.headers.get("expiration")
    if text is None:
        return None
    if not text.isdecimal():
        raise unexpected()
    return int(text)


def _multipart(value: bytes, metadata: str) -> tuple[bytes, str]:
    """Value and metadata as a form. The value is a file: text fields are decoded, which would spoil bytes."""
    boundary = secrets.token_hex(16)
    disposition = "Content-Disposition: form-data; name"
    head = f'--{boundary}\r\n{disposition}="metadata"\r\n\r\n{metadata}\r\n--{boundary}\r\n{disposition}="value"; '
    kind = 'filename="value"\r\nContent-Type: application/octet-stream\r\n\r\n'
    body = b"".join((jsjson.to_utf8(head + kind), value, f"\r\n--{boundary}--\r\n".encode()))
    return body, f"multipart/form-data; boundary={boundary}"


def _cursor(start: str, last: str | None) -> str:
    text = jsjson.stringify([start, last])
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode()


def _position(cursor: str) -> tuple[str, str | None]:
    """Cloudflare's cursor and the last name given out since; ``ValueError`` for a text that is no cursor of ours."""
    text = base64.b64decode(cursor, altchars=b"-_", validate=True).decode("utf-8", "surrogatepass")
    position = jsjson.parse(text)
    if not isinstance(position, list) or len(position) != 2:
        raise ValueError("not a cursor of this store")
    start, last = position
    if not isinstance(start, str) or not isinstance(last, str | None):
        raise ValueError("not a cursor of this store")
    return start, last
