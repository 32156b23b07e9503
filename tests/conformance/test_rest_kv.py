"""The KV kit over the REST store, on the API that Miniflare's local explorer serves over workerd's KV."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.services.explorer import Explorer, explorer
from worker_compat import KVNamespace
from worker_compat.errors import StoreUnavailable
from worker_compat.ports import KVEntry, KVStore
from worker_compat.registry import open_kv
from worker_compat.testing import FakeClock
from worker_compat.testing.kv import KVStoreConformance

_NO_METADATA = "the explorer has no /metadata/{key}"
_NO_EXPIRATION = "the explorer ignores expiration and expiration_ttl"
SHORTFALLS = {
    "test_metadata_is_exact": _NO_METADATA,
    "test_parallel_puts_of_one_key": _NO_METADATA,
    "test_a_cancelled_put_is_whole_or_nothing": _NO_METADATA,
    "test_expiration_is_exact": _NO_EXPIRATION,
    "test_put_replaces_expiration": _NO_EXPIRATION,
    "test_get_ends_at_expiration": _NO_EXPIRATION,
    "test_list_ends_at_expiration": _NO_EXPIRATION,
    "test_list_rows_are_complete": _NO_EXPIRATION,
    "test_expired_names_between_live_ones": _NO_EXPIRATION,
    "test_pages_end_after_mass_expiry": _NO_EXPIRATION,
    "test_prefix_is_literal": "Miniflare lists nothing for a prefix with NUL",
}
"""What this API cannot do, by the name of the case. tests/unit/test_cloudflare_kv.py plays the whole API."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explorer]:
    with explorer(tmp_path_factory.mktemp("explorer")) as running:
        yield running


@pytest.fixture
async def store(api: Explorer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KVStore]:
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", api.token)
    async with open_kv(api.url, clock=clock) as opened:
        yield opened


class TestRestKV(KVStoreConformance):
    """Every rule of the port; a shortfall that is none any more fails."""

    @pytest.fixture(autouse=True)
    def _declared(self, request: pytest.FixtureRequest) -> None:
        reason = SHORTFALLS.get(request.node.originalname)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(strict=True, reason=reason))


async def test_namespaces_over_it(store: KVStore, api: Explorer) -> None:
    async with open_kv(f"{api.url}&namespace=app") as own:
        kv = KVNamespace(own)
        await kv.put("bytes", bytes(range(256)))
        assert await kv.get("bytes", "arrayBuffer") == bytes(range(256))
        # With metadata the value travels in a form.
        await kv.put("form", bytes(range(256)), metadata={"m": [1, "é"]})
        assert await kv.get("form", "arrayBuffer") == bytes(range(256))
        assert (await kv.list(limit=2))["keys"] == [{"name": "bytes"}, {"name": "form", "metadata": {"m": [1, "é"]}}]
        assert await store.get("bytes") is None
        assert [key.name for key in (await store.list("app/", 10, None)).keys] == ["app/bytes", "app/form"]


async def test_a_wrong_token_is_named_without_being_shown(api: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "wrong-token")
    async with open_kv(api.url) as store:
        with pytest.raises(StoreUnavailable, match="CLOUDFLARE_API_TOKEN needs the permission") as caught:
            await store.get("k")
    assert "wrong-token" not in str(caught.value)


async def test_an_unknown_namespace_is_named(api: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", api.token)
    async with open_kv(api.url.replace("/namespace?", "/another?")) as store:
        for call in (store.get("k"), store.put("k", KVEntry(b"")), store.list("", 10, None)):
            with pytest.raises(StoreUnavailable, match=r"no such account or KV namespace .*10013"):
                await call
