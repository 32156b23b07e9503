"""The records over Supabase's REST API: its URL and its key, and what its errors become."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smoltbot_records_supabase import SupabaseRecordStore, migrate, open_records
from smoltbot_worker.ports import RecordStore, RecordsUnavailable
from worker_compat import Request, Response
from worker_compat.errors import ConfigError, ConnectFailed

URL = "https://project.supabase.co"
KEY = "secret-canary"


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


class Nobody:
    """A fetcher that reaches nobody."""

    async def fetch(self, request: Request) -> Response:
        """Fails."""
        raise ConnectFailed("canary")


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
    sent = json.loads(await project.seen.text())
    assert sent == {"checkpoint_id": "ic-1", "now": "2026-05-10T12:00:00.250Z"}


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
        (404, told("PGRST202"), RecordsUnavailable, "smoltbot migrate"),
        (404, told("42883"), RecordsUnavailable, "smoltbot migrate"),
        (406, told("PGRST106"), RecordsUnavailable, "exposed schemas"),
        (401, '{"message": "canary"}', RecordsUnavailable, "SUPABASE_KEY"),
        (401, told("PGRST301"), RecordsUnavailable, "SUPABASE_KEY"),
        (403, told("42501"), RecordsUnavailable, "GRANT smoltbot_gateway"),
        (503, told("PGRST001"), RecordsUnavailable, "at the moment"),
        (500, told("40P01"), RecordsUnavailable, "at the moment"),
        (429, "slow down, canary", RecordsUnavailable, "at the moment"),
        (502, "<html>canary</html>", RecordsUnavailable, "at the moment"),
        (302, "", RecordsUnavailable, "at the moment"),
        (400, "[1]", RecordsUnavailable, "at the moment"),
        (200, "<html>canary</html>", RecordsUnavailable, "check the URL"),
        (200, "", RecordsUnavailable, "check the URL"),
    ],
)
async def test_errors(status: int, body: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        await SupabaseRecordStore(Project(status, body), URL, KEY).call("ping", {})
    assert "canary" not in str(caught.value)


async def test_nobody_there() -> None:
    with pytest.raises(RecordsUnavailable, match="at the moment"):
        await SupabaseRecordStore(Nobody(), URL, KEY).call("ping", {})


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://user:canary@db.project.supabase.co:5432/postgres", "set DATABASE_URL=postgresql://"),
        ("postgres://user:canary@host/db", "set DATABASE_URL=postgresql://"),
        ("https://db.project.supabase.co:5432", "set DATABASE_URL=postgresql://"),
        ("http://127.0.0.1:6543", "set DATABASE_URL=postgresql://"),
        ("https://user:canary@project.supabase.co", "without user and password"),
        ("https://project.supabase.co/rest/v1", "ends with the host"),
        ("https://project.supabase.co?canary", "ends with the host"),
        ("ftp://project.supabase.co", "https://PROJECT"),
        ("https://project.supabase.co:canary", "https://PROJECT"),
        ("project", "https://PROJECT"),
        ("", "https://PROJECT"),
    ],
)
async def test_bad_urls(url: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_KEY", KEY)
    with pytest.raises(ConfigError, match=words) as caught:
        async with open_records(url):
            pass
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "  ", "two words", "line\nbreak", "é"])
async def test_bad_keys(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_KEY", key)
    with pytest.raises(ConfigError, match="SUPABASE_URL needs SUPABASE_KEY"):
        async with open_records(URL):
            pass


async def test_migrate_says_what_to_do_instead(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run `smoltbot migrate` with DATABASE_URL"):
        await migrate(URL, tmp_path)
