"""Cloudflare's REST API for KV as a fetcher: the documented requests, answered from memory."""

from __future__ import annotations

import email
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from worker_compat.ports import Clock
from worker_compat.request import Request
from worker_compat.response import Response

TOKEN = "a-token"
ROOT = "https://api.example/client/v4/accounts/acc/storage/kv/namespaces/ns"


@dataclass(frozen=True)
class Stored:
    """One value; ``metadata`` is parsed JSON or None."""

    value: bytes
    metadata: Any
    expiration: int | None


class Refused(Exception):
    """An error of the API: HTTP status and Cloudflare's code."""

    def __init__(self, status: int, code: int) -> None:
        super().__init__(status, code)
        self.status = status
        self.code = code


class RestService:
    """Remembers each request as ``"METHOD path?query"`` below the namespace."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.stored: dict[str, Stored] = {}
        self.seen: list[str] = []
        self._cursors: list[str] = []

    async def fetch(self, request: Request) -> Response:
        """Answer one request as the API does."""
        path = request.url.removeprefix(ROOT)
        self.seen.append(f"{request.method} {path}")
        try:
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                raise Refused(403, 10000)
            return await self._answer(request, urlsplit(path).path, dict(parse_qsl(urlsplit(path).query)))
        except Refused as refused:
            errors = [{"code": refused.code, "message": "quotes the key"}]
            return Response.from_json({"success": False, "errors": errors, "result": None}, refused.status)

    async def _answer(self, request: Request, path: str, query: dict[str, str]) -> Response:
        if path == "/keys":
            return self._listing(int(query.get("limit", "1000")), query.get("prefix", ""), query.get("cursor", ""))
        found = re.fullmatch(r"/(values|metadata)/([^/]+)", path)
        if found is None:
            raise Refused(404, 7000)
        name = unquote(found[2])
        if request.method == "PUT":
            await self._put(name, request, query)
            return self._result({})
        entry = self._live(name)
        if request.method == "DELETE":
            self.stored.pop(name, None)
            return self._result({})
        if entry is None:
            raise Refused(404, 10009)
        if found[1] == "metadata":
            return self._result(entry.metadata)
        headers = {} if entry.expiration is None else {"expiration": str(entry.expiration)}
        return Response(entry.value, headers=headers)

    async def _put(self, name: str, request: Request, query: dict[str, str]) -> None:
        body, metadata = await request.bytes(), None
        kind = request.headers.get("content-type") or ""
        if kind.startswith("multipart/form-data"):
            form = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
            parts: dict[Any, Any] = {
                part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
                for part in form.walk()
                if not part.is_multipart()
            }
            metadata = json.loads(parts["metadata"])
            # The parser of mail knows text; the value is cut out by its delimiters.
            body = body[body.index(b"octet-stream\r\n\r\n") + 16 : body.rindex(b"\r\n--")]
        now = int(self._clock())
        expiration = now + int(query["expiration_ttl"]) if "expiration_ttl" in query else None
        if "expiration" in query:
            expiration = int(query["expiration"])
        if expiration is not None and expiration < now + 60:
            raise Refused(400, 10021)
        self.stored[name] = Stored(body, metadata, expiration)

    def _listing(self, limit: int, prefix: str, cursor: str) -> Response:
        if not 10 <= limit <= 1000:
            raise Refused(400, 10029)
        after = self._cursors[int(cursor.removeprefix("cursor"))] if cursor else ""
        names = [name for name in sorted(self.stored) if name.startswith(prefix) and name > after and self._live(name)]
        rows = []
        for name in names[:limit]:
            entry = self.stored[name]
            row = {"name": name, "expiration": entry.expiration, "metadata": entry.metadata}
            rows.append({key: value for key, value in row.items() if value is not None})
        following = ""
        if len(names) > limit:
            following = f"cursor{len(self._cursors)}"
            self._cursors.append(names[limit - 1])
        return self._result(rows, {"count": len(rows), "cursor": following})

    def _live(self, name: str) -> Stored | None:
        entry = self.stored.get(name)
        gone = entry is not None and entry.expiration is not None and entry.expiration <= self._clock()
        return None if gone else entry

    def _result(self, result: Any, info: dict[str, Any] | None = None) -> Response:
        return Response.from_json(
            {"success": True, "errors": [], "messages": [], "result": result, "result_info": info}
        )
