"""The REST store's URL, token and errors: each names the remedy and shows no secret and no data."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.cloudflare_support import ROOT, TOKEN
from worker_compat.errors import AdapterNotFound, ConfigError, ConnectFailed, ConnectionLost, StoreUnavailable
from worker_compat.ports import KVEntry
from worker_compat.registry import open_kv
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.testing import ScriptedFetcher
from worker_compat.testing.fakes import Answer
from worker_compat_cloudflare import CloudflareKVStore
from worker_compat_cloudflare.connection import RestApi, parse

URL = "kv+cloudflare://acc/ns"


def test_the_url_leads_to_the_namespace() -> None:
    options = parse("kv+cloudflare://Acc0/Name_space-1?namespace=app&fetcher=other")
    assert options.root == "https://api.cloudflare.com/client/v4/accounts/Acc0/storage/kv/namespaces/Name_space-1"
    assert (options.prefix, options.fetcher) == ("app/", "other")
    assert parse("kv+cloudflare://a/b?base=http://127.0.0.1:1/v4/").root == (
        "http://127.0.0.1:1/v4/accounts/a/storage/kv/namespaces/b"
    )
    assert (parse(URL).prefix, parse(URL).fetcher) == ("", "aiohttp")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("kv+cloudflare://acc", "ACCOUNT_ID/NAMESPACE_ID"),
        ("kv+cloudflare:///ns", "ACCOUNT_ID/NAMESPACE_ID"),
        ("kv+cloudflare://acc/ns/more", "ACCOUNT_ID/NAMESPACE_ID"),
        ("kv+cloudflare://acc/n%73", "ACCOUNT_ID/NAMESPACE_ID"),
        ("kv+cloudflare://acc/ns#part", "ACCOUNT_ID/NAMESPACE_ID"),
        ("kv+cloudflare://s3cret@acc/ns", "CLOUDFLARE_API_TOKEN"),
        ("kv+cloudflare://acc/ns?tokn=s3cret", "no option tokn; options: base, fetcher, namespace"),
        ("kv+cloudflare://acc/ns?namespace=", "namespace="),
        ("kv+cloudflare://acc/ns?namespace=a/b", "namespace="),
        ("kv+cloudflare://acc/ns?namespace=a&namespace=b", "once"),
        ("kv+cloudflare://acc/ns?base=api.example", "base="),
        ("kv+cloudflare://acc/ns?base=ftp://api.example", "base="),
        ("kv+cloudflare://acc/ns?base=http://u:s3cret@api.example", "base="),
        ("kv+cloudflare://acc/ns?base=http://api.example:port", "base="),
        ("kv+cloudflare://acc/ns?base=http://[api", "base="),
        ("kv+cloudflare://acc/ns?base=http://api.example?s3cret", "base="),
    ],
)
async def test_a_wrong_url_is_explained(url: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", TOKEN)
    with pytest.raises(ConfigError, match=text) as caught:
        async with open_kv(url):
            pass
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("token", [None, "", "  "])
async def test_a_missing_token_is_named(token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUDFLARE_API_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("CLOUDFLARE_API_TOKEN", token)
    with pytest.raises(ConfigError, match=r"needs CLOUDFLARE_API_TOKEN .* Workers KV Storage: Edit"):
        async with open_kv(URL):
            pass


@pytest.mark.parametrize("token", ["s3cret\nmore", "s3cret more", "s3crét"])
async def test_a_token_that_no_header_carries(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", token)
    with pytest.raises(ConfigError, match="CLOUDFLARE_API_TOKEN") as caught:
        async with open_kv(URL):
            pass
    assert "s3cr" not in str(caught.value)


async def test_an_unknown_fetcher_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", TOKEN)
    with pytest.raises(AdapterNotFound, match=r"no worker_compat\.fetcher adapter for carrier-pigeon"):
        async with open_kv(f"{URL}?fetcher=carrier-pigeon"):
            pass


def _store(answer: Answer, *, limit_s: float = 30.0) -> CloudflareKVStore:
    methods = ("GET", "PUT", "DELETE")
    routes = {
        f"{method} {ROOT}/{path}": answer for method in methods for path in ("values/key", "metadata/key", "keys")
    }
    return CloudflareKVStore(RestApi(ScriptedFetcher(routes), ROOT, TOKEN, limit_s=limit_s))


def _error(status: int, *codes: int) -> Response:
    errors = [{"code": code, "message": "key not found: 'key'"} for code in codes]
    return Response.from_json({"success": False, "errors": errors, "messages": [], "result": None}, status)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (_error(401, 10000), "token .*Workers KV Storage: Edit"),
        (_error(403, 10000), "token .*Workers KV Storage: Edit"),
        (_error(400, 6003), "token .*Workers KV Storage: Edit"),
        (_error(404, 10013), "no such account or KV namespace"),
        (_error(400, 7003, 7000), r"no such account or KV namespace \(status 400, code 7000, 7003\)"),
        (_error(429, 10048), "no more requests for now"),
        (_error(500, 10001), r"API failed \(status 500, code 10001\)"),
        (Response("<html>", 503), r"API failed \(status 503\)"),
        (Response("[]", 418), r"refused the request \(status 418\)"),
        (Response('{"errors":[{}]}', 400), r"refused the request \(status 400\)"),
        (Response("<html>", 404), r"refused the request \(status 404\)"),
        (Response(None, 302, headers={"location": "/login"}), r"refused the request \(status 302\)"),
        (ConnectFailed("could not connect: ClientConnectorError"), "cannot be reached: could not connect"),
        (ConnectionLost("cut"), "cannot be reached: cut"),
    ],
)
async def test_failures_are_unavailability(answer: Answer, text: str) -> None:
    store = _store(answer)
    for call in (store.get("key"), store.put("key", KVEntry(b"v")), store.delete("key"), store.list("", 10, None)):
        with pytest.raises(StoreUnavailable, match=text) as caught:
            await call
        assert TOKEN not in str(caught.value)
        assert "'key'" not in str(caught.value)


async def test_a_missing_key_is_none() -> None:
    store = _store(_error(404, 10009))
    assert await store.get("key") is None
    await store.delete("key")


async def test_silence_ends() -> None:
    async def never(request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.01 s"):
        await _store(never, limit_s=0.01).get("key")


async def test_an_entry_in_another_shape() -> None:
    values = f"GET {ROOT}/values/key"
    metadata = f"GET {ROOT}/metadata/key"
    for routes in (
        {values: Response("v"), metadata: Response("[]")},
        {values: Response("v"), metadata: Response("<html>")},
        {values: Response("v", headers={"expiration": "soon"}), metadata: _error(404, 10009)},
    ):
        store = CloudflareKVStore(RestApi(ScriptedFetcher(routes), ROOT, TOKEN))
        with pytest.raises(StoreUnavailable, match="look at base="):
            await store.get("key")


def test_the_api_shows_no_token() -> None:
    assert TOKEN not in repr(RestApi(ScriptedFetcher({}), ROOT, TOKEN))
