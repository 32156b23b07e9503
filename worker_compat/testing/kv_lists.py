"""The rules of a KV store about listing: order, prefixes, pages, cursors, what has expired."""

from __future__ import annotations

from worker_compat.ports import KVKey, KVStore

from .fakes import FakeClock
from .kv_area import LATER_S, LIFE_S, area_of, names_of, same


class KVListRules:
    """What list must do."""

    async def test_list_ends_at_expiration(self, store: KVStore, clock: FakeClock) -> None:
        """A name is listed until its expiration and gone exactly at it, by the store's clock."""
        expiration = int(clock()) + LIFE_S
        async with area_of(store) as area:
            await area.put("k", b"v", "1", expiration)
            await area.put("lasting")
            clock.now = expiration - 0.25
            same(await area.names(), ["k", "lasting"], "names just before an expiration")
            clock.now = float(expiration)
            same(await area.names(), ["lasting"], "names at an expiration")

    async def test_list_is_in_order_of_utf8_bytes(self, store: KVStore) -> None:
        """Names are listed by their UTF-8 bytes: not by locale, UTF-16 units or time of writing."""
        ascii_only = ["", "A", "B", "Z", "a", "a\x00", "a ", "a-", "a/", "a0", "aa", "b"]
        ordered = [*ascii_only, "\u00e9", "\uff01", "\U0001f600", "\U0010ffff"]
        async with area_of(store) as area:
            for name in [*ordered[1::2], *reversed(ordered[0::2])]:
                await area.put(name)
            same(await area.names(), ordered, "names in order")
            same(await area.names(limit=2), ordered, "names in order, by pages of two")

    async def test_prefix_is_literal(self, store: KVStore) -> None:
        """A prefix is plain text, never a pattern, and case counts."""
        marks = ["%", "_", "*", "[", "]", "\\", "?", "'", '"', "\n", "^", "$", ".", "-", "{", "\x00", ":", "\u00e9"]
        async with area_of(store) as area:
            await area.put_all(["p", "P", "pa", "pz9", "p/"])
            await area.put_all(f"p{mark}{end}" for mark in marks for end in ("", "x"))
            for mark in marks:
                same(await area.names(f"p{mark}"), [f"p{mark}", f"p{mark}x"], f"names with the prefix {mark!r}")
            same(await area.names("P"), ["P"], "names with the prefix 'P'")
            same(await area.names("none"), [], "names with a prefix that none has")

    async def test_prefix_at_the_top_of_the_code_space(self, store: KVStore) -> None:
        """A prefix of the last characters of Unicode finds its names and no more."""
        top = "\U0010ffff"
        inside = [f"p{top}", f"p{top}\x00", f"p{top}z", f"p{top}{top}", f"p{top}{top}a"]
        async with area_of(store) as area:
            await area.put_all([*inside, "p", "p\U0010fffe", "p\uffff", "p\ud7ff", "p\ue000", "q", "q\x00"])
            same(await area.names(f"p{top}"), inside, "names with the last character of Unicode as prefix")
            same(await area.names(f"p{top}", 1), inside, "the same names, one by one")
            same(await area.names(f"p{top}{top}"), inside[3:], "names with the last character twice")
            same(await area.names("p\ud7ff"), ["p\ud7ff"], "names with the last character before the surrogates")

    async def test_pages_hold_at_most_limit(self, store: KVStore) -> None:
        """A page has at most ``limit`` names, and the pages together have every name once, in order."""
        names = [f"{number:03}" for number in range(23)]
        async with area_of(store) as area:
            await area.put_all(names)
            for limit in (1, 2, 7, 22, 23, 24, 1000):
                pages = await area.pages("", limit)
                longest = max(len(page.keys) for page in pages)
                assert longest <= limit, f"a page with limit {limit} has {longest} names"
                same([name for page in pages for name in names_of(page)], names, f"names by pages of {limit}")

    async def test_no_cursor_on_the_last_page(self, store: KVStore) -> None:
        """The page with the last name has no cursor, also when it is exactly full."""
        async with area_of(store) as area:
            same((await area.list()).cursor, None, "the cursor where there are no names")
            await area.put_all(["a", "b", "c", "d"])
            for limit in (2, 4, 5):
                last = next(page for page in await area.pages("", limit) if "d" in names_of(page))
                same(last.cursor, None, f"the cursor of the page with the last of 4 names, by pages of {limit}")
            await area.put("e")
            same((await area.list("a", 1)).cursor, None, "the cursor of a full page when only other prefixes follow")

    async def test_a_cursor_goes_on_after_its_page(self, store: KVStore) -> None:
        """A cursor leads strictly behind the last name of its page, with any limit, as often as it is used."""
        async with area_of(store) as area:
            await area.put_all(["a", "a\x00", "a/", "b", "c"])
            cursor = (await area.list("", 1)).cursor
            assert isinstance(cursor, str), "the first page of five names, one by one, needs a cursor"
            for limit in (1, 3, 1000):
                page = await area.list("", limit, cursor)
                same(names_of(page), ["a\x00", "a/", "b", "c"][:limit], f"the names after 'a' with limit {limit}")
            same(names_of(await area.list("a", 1000, cursor)), ["a\x00", "a/"], "the names after 'a' with prefix 'a'")

    async def test_a_cursor_outlives_its_key(self, store: KVStore, clock: FakeClock) -> None:
        """A cursor still works after the last name of its page was deleted or expired."""
        async with area_of(store) as area:
            await area.put_all(["a", "c", "d"])
            await area.put("b", b"", None, int(clock()) + LIFE_S)
            cursor = (await area.list("", 2)).cursor
            clock.advance(LIFE_S)
            same(names_of(await area.list("", 9, cursor)), ["c", "d"], "the names after one that expired")
            await area.delete("b")
            same(names_of(await area.list("", 9, cursor)), ["c", "d"], "the names after one that was deleted")
            await area.delete("c")
            await area.delete("d")
            rest = await area.list("", 9, cursor)
            same((names_of(rest), rest.cursor), ([], None), "the page after all its names were deleted")

    async def test_names_put_while_paging(self, store: KVStore) -> None:
        """Names put between two pages are seen behind the cursor and not before it."""
        async with area_of(store) as area:
            await area.put_all(["1", "3", "5"])
            first = await area.list("", 2)
            same(names_of(first), ["1", "3"], "the first page")
            await area.put_all(["2", "4"])
            same(names_of(await area.list("", 9, first.cursor)), ["4", "5"], "the second page")

    async def test_list_rows_are_complete(self, store: KVStore, clock: FakeClock) -> None:
        """Each row has its own metadata and expiration, or None."""
        later = int(clock()) + LATER_S
        rows = [KVKey("a", '{"a":1}', later), KVKey("b"), KVKey("c", '"c"'), KVKey("d", None, later + 1)]
        async with area_of(store) as area:
            for row in rows:
                await area.put(row.name, row.name.encode(), row.metadata, row.expiration)
            found = [key for page in await area.pages("", 3) for key in page.keys]
            same(found, rows, "rows with metadata and expiration")

    async def test_expired_names_between_live_ones(self, store: KVStore, clock: FakeClock) -> None:
        """Expired names are left out of every page, and hide no live one behind them."""
        async with area_of(store) as area:
            live = [f"{number:03}" for number in range(0, 40, 8)]
            await area.put_all([f"{number:03}" for number in range(40)], int(clock()) + LIFE_S)
            await area.put_all(live)
            clock.advance(LIFE_S)
            for limit in (1, 2, 5, 1000):
                same(await area.names("", limit), live, f"live names by pages of {limit}")

    async def test_pages_end_after_mass_expiry(self, store: KVStore, clock: FakeClock) -> None:
        """After a thousand names expired at once the pages still come to an end, with every live name."""
        async with area_of(store) as area:
            await area.put_all([f"{number:04}" for number in range(1200)], int(clock()) + LIFE_S)
            await area.put_all(["0000a", "0600a", "1199a"])
            clock.advance(LIFE_S)
            pages = await area.pages("", 10, at_most=1300)
            found = [name for page in pages for name in names_of(page)]
            same(found, ["0000a", "0600a", "1199a"], "live names among 1200 that expired at once")

    async def test_a_foreign_cursor_is_a_value_error(self, store: KVStore) -> None:
        """A text that is no cursor is a ValueError, not a page."""
        async with area_of(store) as area:
            await area.put_all(["a", "b"])
            for text in ("%%%", "not a cursor", "\u00e9", "\x00", "\U0001f600"):
                try:
                    page = await area.list("", 10, text)
                except ValueError:
                    continue
                raise AssertionError(f"the cursor {text!r} gave {names_of(page)!r}: expected a ValueError")
