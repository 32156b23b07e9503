"""What the cases of the KV kits share: a part of the store that is theirs alone, and how they say what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import uuid4

from worker_compat.ports import KVEntry, KVKey, KVPage, KVStore

T = TypeVar("T")

LIFE_S = 60
LATER_S = 3600
_AT_ONCE = 50  # calls in flight while a case makes or removes its names


class Area:
    """The part of ``store`` that one case may touch; names are shown without the prefix that they all have."""

    def __init__(self, store: KVStore) -> None:
        self.store = store
        self.prefix = f"kit-{uuid4().hex}/"
        self.used: set[str] = set()

    def full(self, name: str) -> str:
        """``name`` as the store has it; it will be deleted at the end."""
        self.used.add(name)
        return self.prefix + name

    async def put(
        self, name: str, value: bytes = b"", metadata: str | None = None, expiration: int | None = None
    ) -> None:
        """Put an entry; without more it is empty."""
        await self.store.put(self.full(name), KVEntry(value, metadata, expiration))

    async def put_all(self, names: Iterable[str], expiration: int | None = None) -> None:
        """Put an empty entry under each of ``names``."""
        await for_each(names, lambda name: self.put(name, b"", None, expiration))

    async def get(self, name: str) -> KVEntry | None:
        """What the store has under ``name``."""
        return await self.store.get(self.full(name))

    async def delete(self, name: str) -> None:
        """Delete ``name``."""
        await self.store.delete(self.full(name))

    async def list(self, prefix: str = "", limit: int = 1000, cursor: str | None = None) -> KVPage:
        """One page of the names of this area."""
        page = await self.store.list(self.prefix + prefix, limit, cursor)
        for key in page.keys:
            assert key.name.startswith(self.prefix + prefix), f"list of {prefix!r} gave {key.name!r}"
        keys = [KVKey(key.name.removeprefix(self.prefix), key.metadata, key.expiration) for key in page.keys]
        return KVPage(keys, page.cursor)

    async def pages(self, prefix: str = "", limit: int = 1000, *, at_most: int = 100) -> Sequence[KVPage]:
        """All pages; they must end."""
        found = [await self.list(prefix, limit)]
        while (cursor := found[-1].cursor) is not None:
            assert len(found) < at_most, f"{len(found)} pages of {limit} names did not come to an end"
            found.append(await self.list(prefix, limit, cursor))
        return found

    async def names(self, prefix: str = "", limit: int = 1000) -> Sequence[str]:
        """All names, page by page."""
        return [name for page in await self.pages(prefix, limit) for name in names_of(page)]


@asynccontextmanager
async def area_of(store: KVStore) -> AsyncIterator[Area]:
    """An area of ``store`` whose names are deleted at the end."""
    area = Area(store)
    try:
        yield area
    finally:
        await for_each(sorted(area.used), area.delete)


async def for_each(items: Iterable[T], call: Callable[[T], Awaitable[None]]) -> None:
    """Await ``call`` for each of ``items``, a limited number at a time."""
    rest = list(items)
    while rest:
        await asyncio.gather(*map(call, rest[:_AT_ONCE]))
        del rest[:_AT_ONCE]


def names_of(page: KVPage) -> Sequence[str]:
    """The names of a page."""
    return [key.name for key in page.keys]


def same(found: object, expected: object, what: str) -> None:
    """``found`` is ``expected``; ``what`` says what was looked at."""
    assert found == expected, f"{what}: expected {shown(expected)}, got {shown(found)}"


def shown(value: object) -> str:
    """``value`` for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text)} characters)"


async def some_way(tasks: Sequence[asyncio.Future[Any]], steps: int | None) -> None:
    """Let ``tasks`` run for ``steps`` rounds of the loop, or until the first of them is done."""
    if steps is None:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return
    for _ in range(steps):
        await asyncio.sleep(0)
