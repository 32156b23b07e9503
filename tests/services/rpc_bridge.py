"""What stands in for Supabase in tests: ``POST /rest/v1/rpc/<function>`` onto the functions of a PostgreSQL database.

It speaks as PostgREST does: the body is the function's one argument, errors are JSON with PostgreSQL's code.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from aiohttp import web

KEY = "sb_secret_key_of_the_bridge"
SCHEMA = "smoltbot"

_STATUS = {
    "08": 503, "23503": 409, "23505": 409, "25": 500, "25006": 405, "28": 403, "40": 500, "42501": 403,
    "42883": 404, "42P01": 404, "53": 503, "53400": 500, "54": 500, "55": 500, "57": 500, "58": 500,
    "P0": 500, "P0001": 400, "XX": 500,
}  # fmt: skip
"""The status of an error by PostgreSQL's code, or by the class of it; 400 for all others."""


class Bridge:
    """A running bridge; ``url`` is what SUPABASE_URL would be."""

    def __init__(self, dsn: str) -> None:
        self._pool = asyncpg.create_pool(dsn, min_size=0, max_size=10)
        self.url = ""
        self.calls = 0
        self.refusing: int | None = None
        """A status with which every call is answered, without a body of PostgREST's."""

    async def answer(self, request: web.Request) -> web.Response:
        """One call."""
        self.calls += 1
        if self.refusing is not None:
            return web.Response(status=self.refusing, text="<html>refused</html>")
        if request.headers.get("apikey") != KEY:
            return web.json_response({"message": "Invalid API key"}, status=401)
        if "Authorization" in request.headers:
            return _failed(401, "PGRST301", "Expected 3 parts in JWT; got 1")
        if request.headers.get("Content-Type") != "application/json":
            return _failed(404, "PGRST202", "Could not find the function")
        if request.headers.get("Content-Profile") != SCHEMA:
            return _failed(406, "PGRST106", "The schema must be one of the following: smoltbot")
        name = request.match_info["name"]
        if not re.fullmatch(r"[a-z_]+", name):
            return _failed(404, "PGRST202", "Could not find the function")
        body = await request.text()
        try:
            found = await self._pool.fetchval(f"SELECT {SCHEMA}.{name}($1::jsonb)", body)
        except asyncpg.UndefinedFunctionError:
            return _failed(404, "PGRST202", "Could not find the function")
        except asyncpg.PostgresError as error:
            code = error.sqlstate or ""
            status = next((_STATUS[code[:length]] for length in (5, 2) if code[:length] in _STATUS), 400)
            return _failed(status, code, str(error))
        return web.Response(text="null" if found is None else found, content_type="application/json")

    async def open(self) -> None:
        """Connect."""
        await self._pool

    async def close(self) -> None:
        """Disconnect."""
        await asyncio.wait_for(self._pool.close(), 10)


def _failed(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message, "details": None, "hint": None}, status=status)


@asynccontextmanager
async def rpc_bridge(dsn: str) -> AsyncIterator[Bridge]:
    """A bridge on a free port of the loopback, onto the database ``dsn``."""
    bridge = Bridge(dsn)
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/rest/v1/rpc/{name}", bridge.answer)
    runner = web.AppRunner(app)
    await bridge.open()
    try:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        bridge.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield bridge
    finally:
        await runner.cleanup()
        await bridge.close()
