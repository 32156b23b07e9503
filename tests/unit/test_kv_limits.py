"""KVNamespace: every limit of Workers KV, with the texts that workerd and miniflare gave to the same calls."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.kv_support import (
    EURO,
    MIB,
    NOW,
    OUT_OF_RANGE,
    TTL_NOT_POSITIVE,
    UNSUPPORTED,
    Call,
    clock_of_kv,
    kv_at,
    listed,
    refused,
)
from worker_compat.kv import KVNamespace
from worker_compat.streams import ReadableStream
from worker_compat.testing import FakeClock

PAST = (
    "KV PUT failed: 400 Invalid expiration of {}. Please specify integer greater than the current number of"
    " seconds since the UNIX epoch."
)
ZEROES: list[Any] = [0, None, "abc", "", -0.5, float("nan"), float("inf"), "Infinity", "60n", "1_0", {}]


@pytest.fixture
def clock() -> FakeClock:
    return clock_of_kv()


@pytest.fixture
def kv(clock: FakeClock) -> KVNamespace:
    return kv_at(clock)


@pytest.mark.parametrize("operation", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("", "TypeError", "Key name cannot be empty."),
        (".", "TypeError", '"." is not allowed as a key name.'),
        ("..", "TypeError", '".." is not allowed as a key name.'),
        ("x" * 513, "Error", "414 UTF-8 encoded length of 513 exceeds key length limit of 512."),
        (EURO * 171, "Error", "414 UTF-8 encoded length of 513 exceeds key length limit of 512."),
        ("\ud800" * 171, "Error", "414 UTF-8 encoded length of 513 exceeds key length limit of 512."),
        ("a\ud800", "Error", "400 Could not URL-decode key name"),
    ],
)
async def test_key_rules(kv: KVNamespace, operation: str, key: str, name: str, message: str) -> None:
    calls: dict[str, Call] = {
        "GET": lambda kv: kv.get(key),
        "PUT": lambda kv: kv.put(key, "x"),
        "DELETE": lambda kv: kv.delete(key),
    }
    text = message if name == "TypeError" else f"KV {operation} failed: {message}"
    await refused(calls[operation](kv), name, text)
    if operation == "GET":
        await refused(kv.getWithMetadata(key), name, text)


@pytest.mark.parametrize(
    "key",
    [
        *("x" * 512, EURO * 170 + "xx", "/", "a/../b", "./a", "...", "?#%+\\ \n", "a\x00b", "bulk/get", "10"),
        *("__proto__", "ключ", "\U0001f600", " ", "a%2Fb"),
    ],
)
async def test_any_other_key_round_trips(kv: KVNamespace, key: str) -> None:
    await kv.put(key, "value")
    assert await kv.get(key) == "value"
    assert [entry["name"] for entry in (await kv.list())["keys"]] == [key]
    assert await kv.get([key]) == {key: "value"}
    await kv.delete(key)
    assert await kv.get(key) is None


@pytest.mark.parametrize("operation", ["GET", "GET_BULK"])
@pytest.mark.parametrize(
    ("ttl", "shown"),
    [(10, 10), (29.9, 29), (None, 0), ("abc", 0), (-1, -1), (True, 1), (float("inf"), 0), (float("nan"), 0)],
)
async def test_cache_ttl_has_a_floor(kv: KVNamespace, operation: str, ttl: Any, shown: int) -> None:
    message = f"KV {operation} failed: 400 Invalid cache_ttl of {shown}. Cache TTL must be at least 30."
    key: Any = "missing" if operation == "GET" else ["missing"]
    await refused(kv.get(key, cacheTtl=ttl), "Error", message)
    assert await kv.get("missing", cacheTtl=30) is None
    assert await kv.get("missing", cacheTtl="30.9") is None


@pytest.mark.parametrize(
    ("ttl", "message"),
    [
        *((value, TTL_NOT_POSITIVE.format(0)) for value in ZEROES),
        (-5, TTL_NOT_POSITIVE.format(-5)),
        (True, "KV PUT failed: 400 Invalid expiration_ttl of 1. Expiration TTL must be at least 60."),
        (59, "KV PUT failed: 400 Invalid expiration_ttl of 59. Expiration TTL must be at least 60."),
        (59.9, "KV PUT failed: 400 Invalid expiration_ttl of 59. Expiration TTL must be at least 60."),
    ],
)
async def test_expiration_ttl_floor(kv: KVNamespace, ttl: Any, message: str) -> None:
    await refused(kv.put("k", "v", expirationTtl=ttl), "Error", message)
    assert await kv.get("k") is None


@pytest.mark.parametrize("ttl", [60, 60.9, "60", " 60 ", "0x3c", "6e1", "+60", ".6e2"])
async def test_expiration_ttl_is_truncated_and_may_be_a_numeric_string(kv: KVNamespace, ttl: Any) -> None:
    await kv.put("k", "v", expirationTtl=ttl)
    assert (await listed(kv, "k"))["expiration"] == NOW + 60


@pytest.mark.parametrize(
    ("expiration", "message"),
    [
        *((value, PAST.format(0)) for value in (0, None, "abc")),
        (-1, PAST.format(-1)),
        (NOW, PAST.format(NOW)),
        *(
            (
                value,
                f"KV PUT failed: 400 Invalid expiration of {int(value)}."
                " Expiration times must be at least 60 seconds in the future.",
            )
            for value in (NOW + 1, NOW + 59, NOW + 59.9)
        ),
    ],
)
async def test_expiration_floor(kv: KVNamespace, expiration: Any, message: str) -> None:
    await refused(kv.put("k", "v", {"expiration": expiration}), "Error", message)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**31 - 0.5, "2147483648", NOW * 1000, 10**400])
async def test_integers_are_int32(kv: KVNamespace, value: Any) -> None:
    for call in (
        kv.put("k", "v", expirationTtl=value),
        kv.put("k", "v", expiration=value),
        kv.put("k", "v", expirationTtl=60, expiration=value),
        kv.get("", cacheTtl=value),
        kv.get(["k"], cacheTtl=value),
        kv.list(limit=value),
    ):
        await refused(call, "TypeError", OUT_OF_RANGE)
    await kv.put("k", "v", expirationTtl=2**31 - 1)


async def test_metadata_limit_counts_bytes_of_compact_json(kv: KVNamespace) -> None:
    await kv.put("k", "v", metadata="x" * 1022)
    await kv.put("k", "v", metadata=EURO * 340 + "xx")
    await kv.put("k", "v", metadata={"a": ["x" * 1010, 1.0]})
    for metadata in ("x" * 1023, EURO * 341):
        await refused(
            kv.put("k", "v", metadata=metadata),
            "Error",
            "KV PUT failed: 413 Metadata length of 1025 exceeds limit of 1024.",
        )


async def test_value_limit_is_inclusive(kv: KVNamespace) -> None:
    largest = b"x" * (25 * MIB)
    await kv.put("k", largest)
    message = "KV PUT failed: 413 Value length of 26214401 exceeds limit of 26214400."
    for value in (largest + b"x", "x" * (25 * MIB + 1), ReadableStream.from_iterable([largest, b"x"])):
        await refused(kv.put("k", value), "Error", message)
    assert len(await kv.get("k", "arrayBuffer")) == 25 * MIB


async def test_order_of_checks(kv: KVNamespace) -> None:
    await refused(kv.get("", cacheTtl=2**31), "TypeError", OUT_OF_RANGE)
    await refused(kv.put("", {}), "TypeError", "Key name cannot be empty.")
    await refused(kv.put("k", {}, expirationTtl=1), "TypeError", UNSUPPORTED)
    await refused(kv.put("k", "v", expirationTtl=0, metadata="x" * 2000), "Error", TTL_NOT_POSITIVE.format(0))


@pytest.mark.parametrize(
    ("keys", "options", "message"),
    [
        ([], None, "400 You must request a minimum of 1 key"),
        (["k"] * 101, None, "400 You can request a maximum of 100 keys"),
        ([], "blob", '400 "blob" is not a valid type. Use "json" or "text"'),
        (["k"], "arrayBuffer", '400 "arrayBuffer" is not a valid type. Use "json" or "text"'),
        (["k"], {"type": "stream"}, '400 "stream" is not a valid type. Use "json" or "text"'),
        (["k"], {"type": None}, '400 "null" is not a valid type. Use "json" or "text"'),
        (["k", ""], None, "400 Key names must not be empty"),
        (["."], None, '400 Illegal key name ".". Please use a different name.'),
        ([".."], None, '400 Illegal key name "..". Please use a different name.'),
        (["x" * 513], None, "414 UTF-8 encoded length of 513 exceeds key length limit of 512."),
    ],
)
async def test_bulk_rules(kv: KVNamespace, keys: list[str], options: Any, message: str) -> None:
    await refused(kv.get(keys, options), "Error", f"KV GET_BULK failed: {message}")
    await refused(kv.getWithMetadata(keys, options), "Error", f"KV GET_BULK failed: {message}")


async def test_a_hundred_keys_and_twenty_five_mib_are_allowed(kv: KVNamespace) -> None:
    await kv.put("half", b"x" * (25 * MIB // 2))
    await kv.put("other", b"x" * (25 * MIB // 2))
    assert len(await kv.get(["half", "other"] * 50)) == 2
    await kv.put("one", "x")
    message = "KV GET_BULK failed: 413 Total size of request exceeds the limit of 25MB"
    await refused(kv.get(["half", "other", "one"]), "Error", message)


@pytest.mark.parametrize("limit", [0, -1, None, 0.9, float("nan"), "abc", 1000, 1000.9])
async def test_a_limit_that_is_no_limit_means_a_thousand(kv: KVNamespace, limit: Any) -> None:
    for number in range(1001):
        await kv.put(f"k{number:04}", "")
    page = await kv.list(limit=limit)
    assert len(page["keys"]) == 1000
    assert page["list_complete"] is False


async def test_list_rules(kv: KVNamespace) -> None:
    await kv.put("k", "v")
    text = "KV GET failed: 400 Invalid key_count_limit of {}. Please specify an integer less than 1000."
    await refused(kv.list(limit=1001), "Error", text.format(1001))
    await refused(kv.list(limit=5000.5), "Error", text.format(5000))
    prefix: Any
    for prefix in ("x" * 513, EURO * 171):
        message = "KV GET failed: 414 UTF-8 encoded length of 513 exceeds key length limit of 512."
        await refused(kv.list(prefix=prefix), "Error", message)
    for prefix in ("", None):
        assert len((await kv.list(prefix=prefix))["keys"]) == 1
    for prefix in (".", "x" * 512, "\ud800", 5):
        assert (await kv.list(prefix=prefix))["keys"] == []
