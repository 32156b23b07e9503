"""Random sequences of KV operations on every backend against a plain dict."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.backends import Backend
from tests.scale import figure, scaled
from worker_compat.errors import KVError
from worker_compat.kv import KVNamespace
from worker_compat.ports import KVEntry
from worker_compat.testing import FakeClock
from worker_compat.testing.kv import ComparingKVStore

NO_JSON = "SyntaxError"

RARE_NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3)
POOLS = st.sampled_from(
    [
        ["a", "a/", "a/b", "a0"],
        ["a", "a\x00", "a ", "a\x00b"],
        ["a", "A", "b", "10"],
        ["a%", "a_", "ab", "a*"],
        ["\uff01", "\U0001f600", "\U0010ffff", "\u00e9"],
    ]
) | st.lists(RARE_NAMES.filter(lambda name: name not in (".", "..")), min_size=2, max_size=4)
KEYS = st.integers(0, 3)
PREFIXES = st.sampled_from(["", "a", "a/", "a%", "a_", "a*", "\uff01", "\U0001f600", "\U0010ffff", "none"])
VALUES = st.sampled_from(
    [b"", b"null", b"[1,2]", b'{"a":"\xc3\xa9"}', b"a long text", b"\xff\x00\xfe \x00"]
) | st.binary(max_size=8)
METADATA: st.SearchStrategy[Any]
METADATA = st.sampled_from([None, None, 0, "", False, [], {}, {"a": [1, None]}, "\u20ac" * 300, -1.5, True])
TYPES = st.sampled_from(["text", "json", "arrayBuffer", "stream"])
LIMITS = st.sampled_from([1, 2, 3, 1000])
LIVES = st.sampled_from([None, None, 60, 61, 1000])
SECONDS = st.sampled_from([0.25, 0.5, 1, 59, 60, 500])


@dataclass
class Model:
    """What the namespace should hold, and the namespace."""

    store: ComparingKVStore
    clock: FakeClock
    pool: list[str]
    kv: KVNamespace = field(init=False)
    held: dict[str, tuple[bytes, Any, int | None]] = field(default_factory=dict)
    page: tuple[str, str, str] | None = None

    def __post_init__(self) -> None:
        self.kv = KVNamespace(self.store, clock=self.clock)
        self.clock.now = math.floor(self.clock.now) + 1.5

    def key(self, number: int) -> str:
        """One of the few names of the sequence."""
        return self.pool[number % len(self.pool)]

    def live(self, key: str) -> tuple[bytes, Any, int | None] | None:
        """What is there by now."""
        found = self.held.get(key)
        return None if found is None or (found[2] is not None and found[2] <= self.clock.now) else found

    def rows(self, prefix: str, after: str | None = None) -> list[dict[str, Any]]:
        """The rows of a listing."""
        names = sorted((name for name in self.held if self.live(name)), key=str.encode)
        found = []
        for name in names:
            if name.startswith(prefix) and (after is None or name.encode() > after.encode()):
                _, metadata, expiration = self.held[name]
                row = {"name": name, "expiration": expiration, "metadata": metadata}
                found.append({member: value for member, value in row.items() if value is not None})
        return found

    async def put(self, number: int, value: bytes, metadata: Any, life: int | None, absolute: bool) -> None:
        """Put with relative or absolute expiration, or without."""
        key = self.key(number)
        expiration = None if life is None else int(self.clock.now) + life
        options = {"metadata": metadata} if metadata is not None else {}
        if expiration is not None:
            options |= {"expiration": expiration} if absolute else {"expirationTtl": life}
        await self.kv.put(key, value, options)
        self.held[key] = (value, metadata, expiration)

    async def refused_put(self, number: int, value: bytes) -> None:
        """A put that is refused changes nothing."""
        key = self.key(number)
        with pytest.raises(KVError):
            await self.kv.put(key, value, {"expirationTtl": 59})

    async def delete(self, number: int) -> None:
        """Delete, there or not."""
        key = self.key(number)
        await self.kv.delete(key)
        self.held.pop(key, None)

    async def get(self, number: int, kind: str, with_metadata: bool) -> None:
        """Get as ``kind``."""
        key = self.key(number)
        live = self.live(key)
        expected = None if live is None else shaped(live[0], kind)
        try:
            result = await (self.kv.getWithMetadata if with_metadata else self.kv.get)(key, kind)
        except KVError as error:
            same(error.name, expected)
            return
        value = result["value"] if with_metadata else result
        if value is not None and kind in ("arrayBuffer", "stream"):
            value = (await value.read_all() if kind == "stream" else bytes(value)).hex()
        same(value, expected)
        if with_metadata:
            same(result["metadata"], None if live is None else live[1])

    async def get_bulk(self, numbers: list[int]) -> None:
        """Get several at once with metadata."""
        keys = list(map(self.key, numbers))
        result = await self.kv.getWithMetadata(keys)
        lives = {key: self.live(key) for key in keys}
        same(
            result,
            {key: live and {"value": shaped(live[0], "text"), "metadata": live[1]} for key, live in lives.items()},
        )

    async def list_all(self, prefix: str, limit: int) -> None:
        """All pages."""
        await self.list_page(prefix, limit)
        while self.page is not None:
            await self.next_page(limit)

    async def list_page(self, prefix: str, limit: int) -> None:
        """The first page."""
        self.compare_page(await self.kv.list(prefix=prefix, limit=limit), prefix, limit, None)

    async def next_page(self, limit: int) -> None:
        """The page after the last one, whatever has happened since."""
        if self.page is not None:
            prefix, after, cursor = self.page
            result = await self.kv.list(prefix=prefix, limit=limit, cursor=cursor)
            self.compare_page(result, prefix, limit, after)

    def compare_page(self, result: dict[str, Any], prefix: str, limit: int, after: str | None) -> None:
        """A page is full, or the last one."""
        rows = self.rows(prefix, after)
        same(result["keys"], rows[:limit])
        same(result["list_complete"], len(rows) <= limit)
        same("cursor" in result, len(rows) > limit)
        self.page = (prefix, rows[limit - 1]["name"], result["cursor"]) if len(rows) > limit else None

    async def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    async def compare_and_put(self, number: int, seen: str, value: bytes, life: int | None) -> None:
        """The store's capability, having seen nothing, what is there, or something else."""
        key = self.key(number)
        live = self.live(key)
        present = None if live is None else live[0]
        expiration = None if life is None else int(self.clock.now) + life
        guess = {"none": None, "present": present, "other": b"other\x00"}[seen]
        same(await self.store.compare_and_put(key, guess, KVEntry(value, None, expiration)), guess == present)
        if guess == present:
            self.held[key] = (value, None, expiration)

    async def finish(self) -> None:
        """Everything is as it should be."""
        for number in range(len(self.pool)):
            await self.get(number, "arrayBuffer", True)
        await self.list_all("", 2)

    async def clean(self) -> None:
        """Leave the namespace empty for the next sequence."""
        await asyncio.gather(*map(self.kv.delete, set(self.pool)))


def shaped(value: bytes, kind: str) -> Any:
    """What get gives for ``value``; bytes as hexadecimal text."""
    text = value.decode("utf-8", "replace")
    if kind == "text":
        return text
    if kind != "json":
        return value.hex()
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return NO_JSON


def _no_constant(name: str) -> None:
    raise ValueError(name)


def same(found: object, expected: object) -> None:
    """Equal as JSON: to Python True and 1 are the same."""
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


def calls(method: Callable[..., Any], *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, Any]]:
    """A step that calls ``method`` of the model."""
    return st.tuples(st.just(method.__name__), st.tuples(*arguments))


PUTS = calls(Model.put, KEYS, VALUES, METADATA, LIVES, st.booleans())
STEPS = st.one_of(
    PUTS,
    PUTS,
    PUTS,
    calls(Model.refused_put, KEYS, VALUES),
    calls(Model.delete, KEYS),
    calls(Model.get, KEYS, TYPES, st.booleans()),
    calls(Model.get_bulk, st.lists(KEYS, min_size=1, max_size=4)),
    calls(Model.list_all, PREFIXES, LIMITS),
    calls(Model.list_page, PREFIXES, LIMITS),
    calls(Model.next_page, LIMITS),
    calls(Model.advance, SECONDS),
    calls(Model.compare_and_put, KEYS, st.sampled_from(["none", "present", "other"]), VALUES, LIVES),
)


async def play(store: ComparingKVStore, clock: FakeClock, pool: list[str], steps: list[tuple[str, Any]]) -> None:
    """Perform ``steps`` on an empty namespace, which is empty again afterwards."""
    model = Model(store, clock, pool)
    try:
        for name, arguments in steps:
            await getattr(model, name)(*arguments)
        await model.finish()
    finally:
        await model.clean()


@pytest.mark.proof
async def test_random_sequences_agree_with_a_dict(store: ComparingKVStore, clock: FakeClock, backend: Backend) -> None:
    loop = asyncio.get_running_loop()
    sequences, steps_done = scaled(60, 10_000), 0

    @settings(max_examples=sequences, deadline=None, database=None)
    @given(POOLS, st.lists(STEPS, min_size=12, max_size=30))
    def sequence(pool: list[str], steps: list[tuple[str, Any]]) -> None:
        nonlocal steps_done
        asyncio.run_coroutine_threadsafe(play(store, clock, pool, steps), loop).result(60)
        steps_done += len(steps)

    # Hypothesis is synchronous: it has a thread of its own while the store lives on this loop.
    await asyncio.to_thread(sequence)
    figure(f"KV against a dict, {backend.id}", f"{sequences} sequences, {steps_done} steps, 0 mismatches")
