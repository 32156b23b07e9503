"""KVNamespace: values, metadata, expiry and options, as workerd and miniflare gave them to the same calls."""

from __future__ import annotations

import array
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit.kv_support import NOW, UNKNOWN_TYPE, UNSUPPORTED, Call, clock_of_kv, kv_at, listed, refused
from worker_compat.errors import KVError
from worker_compat.jsjson import JsDict as JsDictOfJson
from worker_compat.kv import JsDict, KVNamespace
from worker_compat.streams import ReadableStream
from worker_compat.testing import FakeClock

LOCKED = "The ReadableStream has been locked to a reader."


@pytest.fixture
def clock() -> FakeClock:
    return clock_of_kv()


@pytest.fixture
def kv(clock: FakeClock) -> KVNamespace:
    return kv_at(clock)


async def test_keys_are_case_sensitive_and_primitives_become_strings(kv: KVNamespace) -> None:
    await kv.put("Key", "a")
    assert await kv.get("key") is None
    for key, text in [(None, "null"), (1.0, "1"), (True, "true"), ("\ud83d\ude00", "\U0001f600")]:
        await kv.put(key, text)  # type: ignore[arg-type] # what JavaScript takes
        assert await kv.get(text) == text
    with pytest.raises(TypeError, match="expected str, not dict"):
        await kv.get({})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"<class 'tuple'> cannot be sent over RPC\."):
        await kv.get(("a", "b"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected str, not list"):
        await kv.delete(["a"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *(("", ""), ("é\U0001f600", "é\U0001f600"), (42, "42"), (1.0, "1"), (1e21, "1e+21"), (-0.0, "0")),
        *((True, "true"), (False, "false"), (None, "null"), (10**30, str(10**30)), (float("nan"), "NaN")),
        *((float("-inf"), "-Infinity"), (b"bytes", "bytes"), (memoryview(b"abcdef")[1:5:2], "bd")),
        (array.array("H", [0x4241, 0x4443]), "ABCD"),
        ("\ufeffbom", "\ufeffbom"),
        ("\ud83d\ude00", "\U0001f600"),
        ("a\ud800b", "a\ufffd\ufffd\ufffdb"),
    ],
)
async def test_values_are_stored_as_javascript_would(kv: KVNamespace, value: object, text: str) -> None:
    await kv.put("k", value)
    assert await kv.get("k") == text


@pytest.mark.parametrize("value", [{}, {"a": 1}, [], [1], {1}, object(), 1j, len, range(3)])
async def test_other_values_are_a_type_error(kv: KVNamespace, value: object) -> None:
    await refused(kv.put("k", value), "TypeError", UNSUPPORTED)


async def test_a_circular_value_is_just_another_object(kv: KVNamespace) -> None:
    circle: list[Any] = []
    circle.append(circle)
    await refused(kv.put("k", circle), "TypeError", UNSUPPORTED)


async def test_what_the_sdk_cannot_send_is_its_type_error(kv: KVNamespace) -> None:
    unsendable: Any
    for unsendable in (bytearray(b"x"), (1, 2)):
        for call in (kv.put("k", unsendable), kv.put("k", "v", unsendable), kv.put(unsendable, "v")):
            with pytest.raises(TypeError, match=r"^<class '(tuple|bytearray)'> cannot be sent over RPC\.$"):
                await call
    with pytest.raises(TypeError, match=r"^<class 'tuple'> cannot be sent over RPC\.$"):
        await kv.put("k", "v", metadata={"a": [(1, 2)]})


async def test_a_forgotten_await_is_noticed(kv: KVNamespace) -> None:
    forgotten = kv.get("other")
    with pytest.raises(TypeError, match=r"^Awaitable <class 'coroutine'> cannot be sent over RPC\.$"):
        await kv.put("k", forgotten)
    await forgotten


async def test_value_shapes(kv: KVNamespace) -> None:
    await kv.put("k", b'{"a": {"b": [1.0, null]}}')
    parsed = await kv.get("k", "json")
    assert parsed == {"a": {"b": [1, None]}}
    assert parsed.a.b == [1, None]
    assert isinstance(parsed.a, JsDict)
    raw = await kv.get("k", type="arrayBuffer")
    assert isinstance(raw, memoryview)
    assert bytes(raw) == b'{"a": {"b": [1.0, null]}}'
    stream = await kv.get("k", {"type": "stream"})
    assert isinstance(stream, ReadableStream)
    assert await stream.read_all() == bytes(raw)
    for same in (
        await kv.get("k", "json"),
        await kv.get("k", type="json"),
        await kv.get("k", {"type": "json"}),
        await kv.get("k", {"type": "json", "cacheTtl": 60}),
        (await kv.getWithMetadata("k", "json")).value,
    ):
        assert same == parsed
    assert await kv.get("k", None) == await kv.get("k", {}) == await kv.get("k", "text") == bytes(raw).decode()


async def test_invalid_utf8_is_replaced_in_text(kv: KVNamespace) -> None:
    await kv.put("k", bytes([0xFF, 0x41, 0xE2, 0x82, 0x42, 0xF0, 0x9F, 0x98]))
    assert await kv.get("k") == "\ufffdA\ufffdB\ufffd"


async def test_empty_and_falsy_values_are_not_missing(kv: KVNamespace) -> None:
    await kv.put("k", "")
    assert await kv.get("k") == ""
    assert len(await kv.get("k", "arrayBuffer")) == 0
    assert await kv.get(["k"]) == {"k": ""}
    for text in ("0", "false", '""', "{}", "null"):
        await kv.put("k", text)
        assert (await kv.get("k", "json")) == {"0": 0, "false": False, '""': "", "{}": {}, "null": None}[text]


@pytest.mark.parametrize("text", ["", "not json", "{", "\ufeff{}", "NaN", "[1,]"])
async def test_bad_json_is_a_syntax_error(kv: KVNamespace, text: str) -> None:
    await kv.put("k", text)
    with pytest.raises(KVError, match=r"^SyntaxError: ") as caught:
        await kv.get("k", "json")
    assert caught.value.name == "SyntaxError"
    await refused(
        kv.get(["k"], "json"),
        "Error",
        "KV GET_BULK failed: 400 At least one of the requested keys corresponds to a non-json value",
    )


@pytest.mark.parametrize("kind", ["TEXT", "blob", "", None, 5, True])
async def test_an_unknown_type_matters_only_for_a_key_that_exists(kv: KVNamespace, kind: Any) -> None:
    assert await kv.get("missing", type=kind) is None
    await kv.put("k", "v")
    await refused(kv.get("k", type=kind), "TypeError", UNKNOWN_TYPE)
    if kind is not None:
        await refused(kv.getWithMetadata("k", kind), "TypeError", UNKNOWN_TYPE)


async def test_missing_keys(kv: KVNamespace) -> None:
    assert await kv.get("k") is None
    missing = await kv.getWithMetadata("k")
    assert missing == {"value": None, "metadata": None, "cacheStatus": None}
    assert missing.value is None
    await kv.delete("k")


async def test_expiration_is_kept_as_given(kv: KVNamespace) -> None:
    await kv.put("k", "v", expiration=NOW + 60.9)
    assert (await listed(kv, "k")).expiration == NOW + 60


async def test_expiration_ttl_wins_and_expiration_is_then_not_validated(kv: KVNamespace) -> None:
    await kv.put("k", "v", expirationTtl=100, expiration=1)
    assert (await listed(kv, "k")).expiration == NOW + 100


async def test_metadata_round_trips(kv: KVNamespace) -> None:
    metadata: Any
    for metadata in (0, "", False, [], {}, {"a": [1, None, "é\u2028"]}, "\x00\n", "\ud800", 1.5):
        await kv.put("k", "v", metadata=metadata)
        found = await kv.getWithMetadata("k")
        assert (found.value, found["metadata"], found.cacheStatus) == ("v", metadata, None)
        assert await listed(kv, "k") == {"name": "k", "metadata": metadata}
    assert (await kv.getWithMetadata(["k"])).k.metadata == 1.5


async def test_metadata_nan_is_null_but_present(kv: KVNamespace) -> None:
    await kv.put("k", "v", metadata=float("nan"))
    assert (await kv.getWithMetadata("k")).metadata is None
    assert await listed(kv, "k") == {"name": "k", "metadata": None}


async def test_no_metadata_is_none_in_get_and_absent_in_list(kv: KVNamespace) -> None:
    options: dict[str, Any]
    for options in ({}, {"metadata": None}):
        await kv.put("k", "v", options)
        assert (await kv.getWithMetadata("k")).metadata is None
        assert await listed(kv, "k") == {"name": "k"}


async def test_metadata_that_json_cannot_write(kv: KVNamespace) -> None:
    circle: dict[str, Any] = {}
    circle["a"] = circle
    await refused(kv.put("k", "v", metadata=circle), "TypeError", "Converting circular structure to JSON")
    await refused(kv.put("k", "v", metadata=object()), "TypeError", "object cannot be written as JSON")
    deep: list[Any] = []
    for _ in range(20_000):
        deep = [deep]
    await refused(kv.put("k", "v", metadata=deep), "RangeError", "Maximum call stack size exceeded")


async def test_a_put_replaces_everything(kv: KVNamespace, clock: FakeClock) -> None:
    await kv.put("k", "first", expirationTtl=60, metadata={"a": 1})
    await kv.put("k", "second")
    assert await listed(kv, "k") == {"name": "k"}
    clock.now += 3600
    found = await kv.getWithMetadata("k")
    assert (found.value, found.metadata) == ("second", None)


async def test_an_entry_is_gone_at_its_expiration(kv: KVNamespace, clock: FakeClock) -> None:
    await kv.put("k", "v", expirationTtl=60)
    assert (await listed(kv, "k")).expiration == NOW + 60
    clock.now = NOW + 59.999
    assert await kv.get("k") == "v"
    clock.now = NOW + 60
    assert await kv.get("k", cacheTtl=3600) is None
    assert await kv.get(["k"]) == {"k": None}
    assert (await kv.getWithMetadata("k")).value is None
    assert (await kv.list())["keys"] == []
    await kv.delete("k")


async def test_streams_are_drained(kv: KVNamespace) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one "
        yield b""
        yield b"two"

    await kv.put("k", ReadableStream.from_iterable(chunks()))
    assert await kv.get("k") == "one two"
    await kv.put("k", ReadableStream.from_bytes(b""), expirationTtl=60)
    assert await kv.get("k") == ""


async def test_a_used_stream_is_refused(kv: KVNamespace) -> None:
    locked = ReadableStream.from_bytes(b"x")
    locked.get_reader()
    read = ReadableStream.from_bytes(b"x")
    assert [chunk async for chunk in read] == [b"x"]
    released = ReadableStream.from_bytes(b"x")
    reader = released.get_reader()
    await reader.read()
    reader.release_lock()
    for stream in (locked, read, released):
        await refused(kv.put("k", stream), "TypeError", LOCKED)


async def test_a_stream_that_breaks_leaves_the_old_value(kv: KVNamespace) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"half"
        raise OSError("cut off")

    await kv.put("k", "old", metadata=1)
    with pytest.raises(OSError, match="cut off"):
        await kv.put("k", ReadableStream.from_iterable(chunks()))
    found = await kv.getWithMetadata("k")
    assert (found.value, found.metadata) == ("old", 1)


async def test_a_refused_option_leaves_the_stream_unread(kv: KVNamespace) -> None:
    stream = ReadableStream.from_bytes(b"x")
    with pytest.raises(KVError):
        await kv.put("k", stream, expirationTtl=1)
    assert not stream.disturbed


@pytest.mark.parametrize(
    ("call", "right", "wrong"),
    [
        (lambda kv: kv.put("k", "v", expiration_ttl=60), "expirationTtl", "expiration_ttl"),
        (lambda kv: kv.put("k", "v", {"expiration_ttl": 60}), "expirationTtl", "expiration_ttl"),
        (lambda kv: kv.put("k", "v", expirationTTL=60), "expirationTtl", "expirationTTL"),
        (lambda kv: kv.get("k", cache_ttl=60), "cacheTtl", "cache_ttl"),
        (lambda kv: kv.getWithMetadata(["k"], cache_ttl=60), "cacheTtl", "cache_ttl"),
        (lambda kv: kv.list(Limit=1), "limit", "Limit"),
    ],
)
async def test_a_misspelt_option_is_refused_with_a_hint(kv: KVNamespace, call: Call, right: str, wrong: str) -> None:
    with pytest.raises(TypeError, match=f"takes '{right}'; Cloudflare silently ignores '{wrong}'"):
        await call(kv)
    assert await kv.get("k") is None


async def test_options_may_be_null_and_unknown_ones_are_ignored(kv: KVNamespace) -> None:
    await kv.put("k", "v", None)
    await kv.put("k", "v", {"foo": 1, "type": "x"})
    await kv.put("k", "v", foo=1)
    assert await kv.get("k", foo=1) == "v"
    assert (await kv.list(None))["list_complete"] is True
    assert (await kv.list({"foo": None}))["list_complete"] is True


@pytest.mark.parametrize("wrong", ["60", 60, True, 1.5])
async def test_options_must_be_an_object(kv: KVNamespace, wrong: Any) -> None:
    where = "Failed to execute '{}' on 'KvNamespace': parameter {} is not of type '{}'."
    await refused(kv.put("k", "v", wrong), "TypeError", where.format("put", 3, "PutOptions"))
    await refused(kv.list(wrong), "TypeError", where.format("list", 1, "ListOptions"))


async def test_options_come_as_an_object_or_as_keywords(kv: KVNamespace) -> None:
    for call in (kv.get("k", "json", cacheTtl=60), kv.put("k", "v", {"metadata": 1}, expirationTtl=60)):
        with pytest.raises(TypeError, match="not both"):
            await call


def test_a_binding_is_neither_iterable_nor_sized_but_true(kv: KVNamespace) -> None:
    with pytest.raises(TypeError, match=r"^'KvNamespace' object is not iterable$"):
        iter(kv)
    with pytest.raises(TypeError, match=r"^'KvNamespace' object has no len\(\)$"):
        len(kv)
    assert kv
    assert JsDict is JsDictOfJson


def test_the_methods_are_those_of_cloudflare() -> None:
    public = {name for name in vars(KVNamespace) if not name.startswith("_")}
    assert public == {"get", "getWithMetadata", "put", "delete", "list"}
