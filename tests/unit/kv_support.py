"""What the tests of KVNamespace share: the time, the texts of workerd and miniflare, and two short checks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from worker_compat.errors import KVError
from worker_compat.kv import KVNamespace
from worker_compat.memory import MemoryKVStore
from worker_compat.testing import FakeClock

NOW = 1_700_000_000
MIB = 1024 * 1024
EURO = "\u20ac"  # three bytes of UTF-8
OUT_OF_RANGE = "Value out of range. Must be between -2147483648 and 2147483647 (inclusive)."
UNSUPPORTED = "KV put() accepts only strings, ArrayBuffers, ArrayBufferViews, and ReadableStreams as values."
UNKNOWN_TYPE = 'Unknown response type. Possible types are "text", "arrayBuffer", "json", and "stream".'
TTL_NOT_POSITIVE = "KV PUT failed: 400 Invalid expiration_ttl of {}. Please specify integer greater than 0."

Call = Callable[[KVNamespace], Awaitable[Any]]


def clock_of_kv() -> FakeClock:
    """A clock in the middle of a second: Workers count whole ones."""
    return FakeClock(NOW + 0.75)


def kv_at(clock: FakeClock) -> KVNamespace:
    """A binding over an empty memory store, both on ``clock``."""
    return KVNamespace(MemoryKVStore(clock=clock), clock=clock)


async def refused(call: Awaitable[Any], name: str, message: str) -> None:
    """The call raises a KVError that looks as it does in a Python Worker."""
    with pytest.raises(KVError) as caught:
        await call
    assert (caught.value.name, caught.value.message) == (name, message)
    assert str(caught.value) == f"{name}: {message}"


async def listed(kv: KVNamespace, key: str) -> Any:
    """The one listing entry of ``key``."""
    (entry,) = (await kv.list(prefix=key))["keys"]
    return entry
