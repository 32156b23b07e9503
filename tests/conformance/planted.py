"""KV stores with one planted defect each, to show that the kit finds it, and by which case."""

from __future__ import annotations

import asyncio
import fnmatch
import json
from collections import deque
from dataclasses import replace

from worker_compat.memory import MemoryKVStore
from worker_compat.ports import KVEntry, KVKey, KVPage

Rows = list[KVKey]  # inside the classes, list is the method

_EVERYTHING = 10_000
_MIB = 1024 * 1024


class _Sorted(MemoryKVStore):
    """Lists all live rows, in an order and by pages that a subclass can get wrong."""

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        rows = self.ordered(list((await super().list(prefix, _EVERYTHING, None)).keys))
        start = self.start(rows, cursor)
        found = rows[start : start + limit]
        return KVPage(found, self.cursor(rows, start + limit, found))

    def ordered(self, rows: Rows) -> Rows:
        return rows

    def start(self, rows: Rows, cursor: str | None) -> int:
        if cursor is None:
            return 0
        return next((index for index, row in enumerate(rows) if row.name > cursor), len(rows))

    def cursor(self, rows: Rows, end: int, found: Rows) -> str | None:
        return found[-1].name if end < len(rows) else None


class MissingIsEmpty(MemoryKVStore):
    async def get(self, key: str) -> KVEntry | None:
        return await super().get(key) or KVEntry(b"")


class TextForBytes(MemoryKVStore):
    async def put(self, key: str, entry: KVEntry) -> None:
        await super().put(key, replace(entry, value=entry.value.decode("utf-8", "replace").encode()))


class StripsBytes(MemoryKVStore):
    async def put(self, key: str, entry: KVEntry) -> None:
        await super().put(key, replace(entry, value=entry.value.rstrip(b"\0 ")))


class EmptyIsMissing(MemoryKVStore):
    async def get(self, key: str) -> KVEntry | None:
        entry = await super().get(key)
        return entry if entry and entry.value else None


class CutsAt16MiB(MemoryKVStore):
    async def put(self, key: str, entry: KVEntry) -> None:
        await super().put(key, replace(entry, value=entry.value[: 16 * _MIB]))


class RewritesMetadata(MemoryKVStore):
    async def put(self, key: str, entry: KVEntry) -> None:
        metadata = None if entry.metadata is None else json.dumps(json.loads(entry.metadata))
        await super().put(key, replace(entry, metadata=metadata))


class ExpirationIn32BitMilliseconds(MemoryKVStore):
    async def get(self, key: str) -> KVEntry | None:
        entry = await super().get(key)
        if entry is None or entry.expiration is None:
            return entry
        return replace(entry, expiration=entry.expiration * 1000 % 2**32)


class WritesInPlace(MemoryKVStore):
    async def put(self, key: str, entry: KVEntry) -> None:
        old = await self.get(key)
        rest = old.value[len(entry.value) :] if old else b""
        await super().put(key, replace(entry, value=entry.value + rest))


class KeepsMetadata(MemoryKVStore):
    async def put(self, key: str, entry: KVEntry) -> None:
        old = await self.get(key)
        await super().put(key, replace(entry, metadata=entry.metadata or (old.metadata if old else None)))


class KeepsExpiration(MemoryKVStore):
    async def put(self, key: str, entry: KVEntry) -> None:
        old = await self.get(key)
        await super().put(key, replace(entry, expiration=entry.expiration or (old.expiration if old else None)))


class SoonestExpirationWins(MemoryKVStore):
    async def put(self, key: str, entry: KVEntry) -> None:
        old = await self.get(key)
        if old and old.expiration and entry.expiration:
            entry = replace(entry, expiration=min(old.expiration, entry.expiration))
        await super().put(key, entry)


class DeleteEmpties(MemoryKVStore):
    async def delete(self, key: str) -> None:
        if await self.get(key) is not None:
            await self.put(key, KVEntry(b""))


class DeleteRaises(MemoryKVStore):
    async def delete(self, key: str) -> None:
        del self._entries[key]
        self._names.remove(key)


class LateByOne(MemoryKVStore):
    async def get(self, key: str) -> KVEntry | None:
        entry = self._entries.get(key)
        late = entry is not None and entry.expiration == self._clock()
        return entry if late else await super().get(key)


class EarlyByOne(MemoryKVStore):
    async def get(self, key: str) -> KVEntry | None:
        entry = await super().get(key)
        early = entry is not None and entry.expiration is not None and entry.expiration - 1 <= self._clock()
        return None if early else entry


class ExpiredMetadataComesBack(MemoryKVStore):
    async def put(self, key: str, entry: KVEntry) -> None:
        old = self._entries.get(key)
        if old and old.expiration and old.expiration <= self._clock():
            entry = replace(entry, metadata=entry.metadata or old.metadata)
        await super().put(key, entry)


class _Renames(MemoryKVStore):
    """Names are not what they were: see ``stored``."""

    def stored(self, key: str) -> str:
        return key

    async def get(self, key: str) -> KVEntry | None:
        return await super().get(self.stored(key))

    async def put(self, key: str, entry: KVEntry) -> None:
        await super().put(self.stored(key), entry)


class FoldsCase(_Renames):
    def stored(self, key: str) -> str:
        return key.casefold()


class TrimsNames(_Renames):
    def stored(self, key: str) -> str:
        return key.strip(" \t\r\n")


class EndsNamesAtNul(_Renames):
    def stored(self, key: str) -> str:
        return key.partition("\0")[0]


class ListsExpired(MemoryKVStore):
    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        clock, self._clock = self._clock, lambda: 0.0
        try:
            return await super().list(prefix, limit, cursor)
        finally:
            self._clock = clock


class Utf16Order(_Sorted):
    def ordered(self, rows: Rows) -> Rows:
        return sorted(rows, key=lambda row: row.name.encode("utf-16-be"))


class InsertionOrder(_Sorted):
    def ordered(self, rows: Rows) -> Rows:
        order = list(self._entries)
        return sorted(rows, key=lambda row: order.index(row.name))


class PrefixAsPattern(MemoryKVStore):
    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        page = await super().list("", _EVERYTHING, None)
        return KVPage([row for row in page.keys if fnmatch.fnmatchcase(row.name, f"{prefix}*")])


class PrefixEndsAtFFFF(_Sorted):
    def ordered(self, rows: Rows) -> Rows:
        return [row for row in rows if not row.name.endswith("\U0010ffff")]


class LimitPlusOne(MemoryKVStore):
    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        return await super().list(prefix, limit + 1, cursor)


class CursorOnAFullPage(_Sorted):
    def cursor(self, rows: Rows, end: int, found: Rows) -> str | None:
        return found[-1].name if found and end <= len(rows) else None


class CursorSkipsOne(_Sorted):
    def cursor(self, rows: Rows, end: int, found: Rows) -> str | None:
        return rows[end].name if end < len(rows) else None


class CursorStaysAtItsKey(_Sorted):
    def start(self, rows: Rows, cursor: str | None) -> int:
        names = [row.name for row in rows]
        return names.index(cursor) + 1 if cursor in names else 0


class CursorIsAnOffset(_Sorted):
    def start(self, rows: Rows, cursor: str | None) -> int:
        return int(cursor or 0)

    def cursor(self, rows: Rows, end: int, found: Rows) -> str | None:
        return str(end) if end < len(rows) else None


class ListsWithoutMetadata(_Sorted):
    def ordered(self, rows: Rows) -> Rows:
        return [replace(row, metadata=None) for row in rows]


class _Filters(MemoryKVStore):
    """Takes a page of all rows and then drops the expired ones."""

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        now = self._clock()
        self._clock, clock = (lambda: 0.0), self._clock
        try:
            page = await super().list(prefix, limit, cursor)
        finally:
            self._clock = clock
        live = [row for row in page.keys if row.expiration is None or row.expiration > now]
        return KVPage(live, self.next(live, cursor, page.cursor))

    def next(self, live: Rows, cursor: str | None, following: str | None) -> str | None:
        return following


class EndsAtAnEmptyPage(_Filters):
    def next(self, live: Rows, cursor: str | None, following: str | None) -> str | None:
        return following if live else None


class StaysAtAnEmptyPage(_Filters):
    def next(self, live: Rows, cursor: str | None, following: str | None) -> str | None:
        return following if live else cursor


class StartsOverAtAForeignCursor(MemoryKVStore):
    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        try:
            return await super().list(prefix, limit, cursor)
        except ValueError:
            return await super().list(prefix, limit, None)


class OnePutAtATime(MemoryKVStore):
    """Drops a put while another one is on its way."""

    _busy = False

    async def put(self, key: str, entry: KVEntry) -> None:
        if self._busy:
            return
        self._busy = True
        await asyncio.sleep(0)
        await super().put(key, entry)
        self._busy = False


class PutsInTwoSteps(MemoryKVStore):
    """The value first, then the rest."""

    async def put(self, key: str, entry: KVEntry) -> None:
        old = self._entries.get(key) or entry
        await super().put(key, replace(old, value=entry.value))
        await asyncio.sleep(0)
        await super().put(key, entry)


class DeletesBeforeItPuts(MemoryKVStore):
    async def put(self, key: str, entry: KVEntry) -> None:
        await self.delete(key)
        await asyncio.sleep(0)
        await super().put(key, entry)


class CrossesReplies(MemoryKVStore):
    """One connection, whose replies are taken in the order of the requests; a cancelled reader takes none."""

    def __init__(self, *, clock: object) -> None:
        super().__init__(clock=clock)  # type: ignore[arg-type]
        self._replies: deque[KVEntry | None] = deque()

    async def get(self, key: str) -> KVEntry | None:
        self._replies.append(await super().get(key))
        await asyncio.sleep(0)
        return self._replies.popleft()


class NoneNeverMatches(MemoryKVStore):
    async def compare_and_put(self, key: str, seen: bytes | None, entry: KVEntry) -> bool:
        return seen is not None and await super().compare_and_put(key, seen, entry)


class EmptyMatchesNone(MemoryKVStore):
    async def compare_and_put(self, key: str, seen: bytes | None, entry: KVEntry) -> bool:
        held = await self.get(key)
        if ((held.value if held else None) or None) != (seen or None):
            return False
        await self.put(key, entry)
        return True


class ComparesAndKeepsTheRest(MemoryKVStore):
    async def compare_and_put(self, key: str, seen: bytes | None, entry: KVEntry) -> bool:
        old = await self.get(key)
        if old is not None:
            entry = replace(old, value=entry.value)
        return await super().compare_and_put(key, seen, entry)


class ComparesTheStart(MemoryKVStore):
    async def compare_and_put(self, key: str, seen: bytes | None, entry: KVEntry) -> bool:
        held = await self.get(key)
        if held is not None and seen and held.value.startswith(seen):
            seen = held.value
        return await super().compare_and_put(key, seen, entry)


class ComparesWithTheExpired(MemoryKVStore):
    async def compare_and_put(self, key: str, seen: bytes | None, entry: KVEntry) -> bool:
        held = self._entries.get(key)
        if (held.value if held else None) != seen:
            return False
        await self.put(key, entry)
        return True


class ComparesThenPuts(MemoryKVStore):
    async def compare_and_put(self, key: str, seen: bytes | None, entry: KVEntry) -> bool:
        held = await self.get(key)
        await asyncio.sleep(0)
        if (held.value if held else None) != seen:
            return False
        await self.put(key, entry)
        return True


PLANTED: list[tuple[type[MemoryKVStore], str]] = [
    (MissingIsEmpty, "missing_is_none"),
    (TextForBytes, "bytes_are_exact"),
    (StripsBytes, "bytes_are_exact"),
    (EmptyIsMissing, "an_empty_value_is_a_value"),
    (CutsAt16MiB, "25_mib_fit"),
    (RewritesMetadata, "metadata_is_exact"),
    (ExpirationIn32BitMilliseconds, "expiration_is_exact"),
    (WritesInPlace, "put_replaces_the_value"),
    (KeepsMetadata, "put_drops_metadata"),
    (KeepsExpiration, "put_drops_expiration"),
    (SoonestExpirationWins, "put_replaces_expiration"),
    (DeleteEmpties, "delete_removes"),
    (DeleteRaises, "delete_is_idempotent"),
    (LateByOne, "get_ends_at_expiration"),
    (EarlyByOne, "get_ends_at_expiration"),
    (ExpiredMetadataComesBack, "an_expired_key_can_be_put_again"),
    (FoldsCase, "names_are_told_apart"),
    (TrimsNames, "names_are_told_apart"),
    (EndsNamesAtNul, "names_are_told_apart"),
    (ListsExpired, "list_ends_at_expiration"),
    (Utf16Order, "list_is_in_order_of_utf8_bytes"),
    (InsertionOrder, "list_is_in_order_of_utf8_bytes"),
    (PrefixAsPattern, "prefix_is_literal"),
    (PrefixEndsAtFFFF, "prefix_at_the_top_of_the_code_space"),
    (LimitPlusOne, "pages_hold_at_most_limit"),
    (CursorOnAFullPage, "no_cursor_on_the_last_page"),
    (CursorSkipsOne, "a_cursor_goes_on_after_its_page"),
    (CursorStaysAtItsKey, "a_cursor_outlives_its_key"),
    (CursorIsAnOffset, "names_put_while_paging"),
    (ListsWithoutMetadata, "list_rows_are_complete"),
    (EndsAtAnEmptyPage, "expired_names_between_live_ones"),
    (StaysAtAnEmptyPage, "pages_end_after_mass_expiry"),
    (StartsOverAtAForeignCursor, "a_foreign_cursor_is_a_value_error"),
    (OnePutAtATime, "parallel_puts_of_many_keys"),
    (PutsInTwoSteps, "parallel_puts_of_one_key"),
    (CrossesReplies, "a_cancelled_call_leaves_the_store_usable"),
    (DeletesBeforeItPuts, "a_cancelled_put_is_whole_or_nothing"),
    (NoneNeverMatches, "none_puts_where_nothing_is"),
    (EmptyMatchesNone, "none_leaves_a_live_entry"),
    (ComparesAndKeepsTheRest, "the_seen_value_is_replaced"),
    (ComparesTheStart, "another_value_is_left"),
    (ComparesWithTheExpired, "expired_counts_as_none"),
    (ComparesThenPuts, "one_winner"),
    (ComparesThenPuts, "no_step_is_lost"),
]
"""Each defect, and the case of the kit that must find it."""
