"""The records over Supabase's REST API: its URL and its key, and what its errors become."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import smoltbot_records_postgres
from smoltbot_records_supabase import SupabaseRecordStore, migrate, open_records
from smoltbot_records_supabase.connection import RestApi
from smoltbot_worker.ports import RecordStore, RecordsUnavailable
from tests.services.postgres import PostgresServer
from worker_compat import Request, Response
from worker_compat.errors import ConfigError, ConnectFailed, ConnectionLost, FetchTimeout
from worker_compat.streams import ReadableStream
from worker_compat.testing import ScriptedBody

URL = "https://project.supabase.co"
KEY = "secret-canary"
SCHEMA = Path(__file__).parents[2] / "schema" / "postgres"


class Project:
    """A fetcher that answers every request in the same way, and remembers the last one."""

    def __init__(self, status: int = 200, body: str = "null") -> None:
        self._status = status
        self._body = body
        self.seen: Request | None = None

    async def fetch(self, request: Request) -> Response:
        """The answer."""
        self.seen = request
        return Response(self._body, status=self._status, headers={"Content-Type": "application/json"})


class Failing:
    """A fetcher that raises ``error``, or never comes back without one."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def fetch(self, request: Request) -> Response:
        """Fails."""
        if self._error is None:
            await asyncio.get_running_loop().create_future()
        assert self._error is not None
        raise self._error


class Streaming:
    """A fetcher whose answer has this body."""

    def __init__(self, body: ScriptedBody) -> None:
        self._body = body

    async def fetch(self, request: Request) -> Response:
        """The head of the answer."""
        return Response.from_raw(200, "OK", (), ReadableStream(self._body))


def told(code: str, message: str = "canary") -> str:
    return json.dumps({"code": code, "message": message, "details": "canary", "hint": None})


async def test_what_is_sent() -> None:
    project = Project(body='{"ok": true}')
    store = SupabaseRecordStore(project, f"{URL}/", KEY, clock=lambda: 1_778_414_400.25)
    assert isinstance(store, RecordStore)
    assert await store.call("checkpoint", {"checkpoint_id": "ic-1"}) == {"ok": True}
    assert project.seen
    assert (project.seen.method, project.seen.url) == ("POST", f"{URL}/rest/v1/rpc/checkpoint")
    headers = project.seen.headers
    assert (headers.get("apikey"), headers.get("authorization")) == (KEY, f"Bearer {KEY}")
    assert (headers.get("content-type"), headers.get("content-profile")) == ("application/json", "smoltbot")
    assert (headers.get("accept-encoding"), headers.get("prefer")) == ("identity", None)
    sent = json.loads(await project.seen.text())
    assert sent == {"checkpoint_id": "ic-1", "now": "2026-05-10T12:00:00.250Z"}


async def test_a_key_that_is_no_token_is_not_sent_as_one() -> None:
    project = Project()
    await SupabaseRecordStore(project, URL, "sb_secret_canary").call("ping", {})
    assert project.seen
    assert project.seen.headers.get("apikey") == "sb_secret_canary"
    assert not project.seen.headers.has("authorization")


@pytest.mark.parametrize("value", [None, True, 0, -1.5, "text", "", [], {}, [None], "x" * 10_000_000])
async def test_any_json_may_be_a_result(value: Any) -> None:
    project = Project(body=json.dumps(value))
    assert await SupabaseRecordStore(project, URL, KEY).call("ping", {}) == value


@pytest.mark.parametrize("name", ["rpc/x", "../agents", "ping?x", "pg_sleep", ""])
async def test_no_other_path_is_asked(name: str) -> None:
    project = Project()
    with pytest.raises(LookupError):
        await SupabaseRecordStore(project, URL, KEY).call(name, {})
    assert project.seen is None


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (400, told("SB001", "key_id: there is no such key"), ValueError, "^key_id: there is no such key$"),
        (409, told("23505"), ValueError, "^ping: the database refuses these values$"),
        (400, told("22P02"), ValueError, "refuses these values"),
        (500, told("54000"), ValueError, "refuses these values"),
        (404, told("PGRST202"), RecordsUnavailable, "smoltbot migrate"),
        (404, told("42883"), RecordsUnavailable, "smoltbot migrate"),
        (404, told("42P01"), RecordsUnavailable, "smoltbot migrate"),
        (406, told("PGRST106"), RecordsUnavailable, "exposed schemas"),
        (401, '{"message": "canary"}', RecordsUnavailable, "refuses SUPABASE_KEY"),
        (401, "", RecordsUnavailable, "refuses SUPABASE_KEY"),
        (403, "<html>canary</html>", RecordsUnavailable, "refuses SUPABASE_KEY"),
        (401, told("PGRST301"), RecordsUnavailable, "refuses SUPABASE_KEY"),
        (401, told("PGRST302"), RecordsUnavailable, "refuses SUPABASE_KEY"),
        (403, told("42501"), RecordsUnavailable, r"secret \(service_role\) key, or GRANT smoltbot_gateway"),
        (401, told("42501"), RecordsUnavailable, r"secret \(service_role\) key, or GRANT smoltbot_gateway"),
        (405, told("25006"), RecordsUnavailable, "at the moment"),
        (503, told("PGRST001"), RecordsUnavailable, "at the moment"),
        (504, told("PGRST003"), RecordsUnavailable, "at the moment"),
        (500, told("40P01"), RecordsUnavailable, "at the moment"),
        (500, told("57014"), RecordsUnavailable, "at the moment"),
        (429, "slow down, canary", RecordsUnavailable, "at the moment"),
        (502, "<html>canary</html>", RecordsUnavailable, "at the moment"),
        (540, '{"message": "canary"}', RecordsUnavailable, "at the moment"),
        (413, "<html>canary</html>", ValueError, "^ping: the arguments are larger"),
        (302, "", RecordsUnavailable, r"check the URL \(it answers 302\)"),
        (308, "", RecordsUnavailable, r"check the URL \(it answers 308\)"),
        (404, "<html>canary</html>", RecordsUnavailable, r"check the URL \(it answers 404\)"),
        (404, '{"message": "no Route matched with those values"}', RecordsUnavailable, "check the URL"),
        (400, "[1]", RecordsUnavailable, "check the URL"),
        (400, '{"code": 400, "message": "canary"}', RecordsUnavailable, "check the URL"),
        (400, '{"code": "canary"}', RecordsUnavailable, "check the URL"),
        (400, "[" * 100_000, RecordsUnavailable, "check the URL"),
        (200, "<html>canary</html>", RecordsUnavailable, "check the URL"),
        (200, "", RecordsUnavailable, "check the URL"),
        (200, "[" * 100_000, RecordsUnavailable, "check the URL"),
        (204, "", RecordsUnavailable, "check the URL"),
    ],
)
async def test_errors(status: int, body: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        await SupabaseRecordStore(Project(status, body), URL, KEY).call("ping", {})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("error", [ConnectFailed("canary"), ConnectionLost("canary"), FetchTimeout("idle", 1)])
async def test_nobody_there(error: Exception) -> None:
    with pytest.raises(RecordsUnavailable, match=r"check SUPABASE_URL, and that this machine reaches it$"):
        await SupabaseRecordStore(Failing(error), URL, KEY).call("ping", {})


async def test_an_answer_that_breaks_off() -> None:
    body = ScriptedBody([b'{"ok": tr'], error=ConnectionLost("canary"))
    with pytest.raises(RecordsUnavailable, match=r"check SUPABASE_URL, and that this machine reaches it$"):
        await SupabaseRecordStore(Streaming(body), URL, KEY).call("ping", {})


@pytest.mark.parametrize("fetcher", [Failing(None), Streaming(ScriptedBody([b"{", b"}"], gate=asyncio.Event()))])
async def test_an_answer_that_does_not_come(fetcher: Failing | Streaming) -> None:
    with pytest.raises(RecordsUnavailable, match=r"check SUPABASE_URL, and that this machine reaches it$"):
        await RestApi(fetcher, f"{URL}/rest/v1/rpc", KEY, limit_s=0.05).call("ping", "{}")


async def test_every_function_takes_the_body_as_its_argument(postgres_service: PostgresServer) -> None:
    """PostgREST does so for one unnamed argument of the type jsonb, where no other function has the same name."""
    await smoltbot_records_postgres.migrate(postgres_service.url, SCHEMA)
    connection = await asyncpg.connect(postgres_service.url)
    try:
        others = await connection.fetch("""
            SELECT proname FROM pg_proc
            WHERE pronamespace = 'smoltbot'::regnamespace AND prokind = 'f' AND NOT starts_with(proname, '_')
            GROUP BY proname HAVING count(*) > 1 OR NOT bool_and(pg_get_function_identity_arguments(oid) = 'jsonb'
                AND proargnames IS NULL AND prorettype = 'jsonb'::regtype AND NOT proretset)
        """)
    finally:
        await connection.close()
    assert [row["proname"] for row in others] == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://user:canary@db.project.supabase.co:5432/postgres", "set DATABASE_URL=postgresql://"),
        ("postgres://user:canary@host/db", "set DATABASE_URL=postgresql://"),
        ("https://db.project.supabase.co:5432", "set DATABASE_URL=postgresql://"),
        ("http://127.0.0.1:6543", "set DATABASE_URL=postgresql://"),
        ("https://user:canary@project.supabase.co", "without user and password"),
        ("https://project.supabase.co/rest/v1", "end with the host"),
        ("https://project.supabase.co?canary", "end with the host"),
        ("ftp://project.supabase.co", "https://PROJECT"),
        ("https://project.supabase.co:canary", "https://PROJECT"),
        ("https://project.supabase.co?", "no host has such a name"),
        ("https://%zz", "no host has such a name"),
        ("https://can\u2028ary", "no host has such a name"),
        ("project", "https://PROJECT"),
        ("", "https://PROJECT"),
    ],
)
async def test_bad_urls(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        async with open_records(url, key=KEY):
            pass
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "  ", "two words", "line\nbreak", "é"])
async def test_bad_keys(key: str) -> None:
    with pytest.raises(ConfigError, match="SUPABASE_URL needs SUPABASE_KEY"):
        async with open_records(URL, key=key):
            pass


async def test_the_key_of_the_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_KEY", KEY)
    with pytest.raises(ConfigError, match="SUPABASE_URL needs SUPABASE_KEY"):
        async with open_records(URL):
            pass


async def test_migrate_says_what_to_do_instead(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run `smoltbot migrate` with DATABASE_URL"):
        await migrate(URL, tmp_path)
