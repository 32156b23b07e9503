"""The rules of a KV store about single entries: exact bytes, replacement, deletion, expiry, names."""

from __future__ import annotations

from worker_compat.ports import KVEntry, KVKey, KVStore

from .fakes import FakeClock
from .kv_area import LATER_S, LIFE_S, Area, area_of, for_each, same

_MIB = 1024 * 1024
_PLAIN = "K|k|k/|/k|k//|.|..|a/../k|./k|%6b|%00|k?a=b|k#f|k\\|k'|k\"|k;--|{k}|k*|k_|k%|[k]|0|00|1|-1".split("|")
_SPACES = ["k ", " k", "\x00", "k\x00", "k\x00k", "k\n", "k\r\n", "k\t", "\x7f", "\u2028"]
_LETTERS = ["\u00e9", "e\u0301", "\u212a", "\ufeffk", "\ufffd", "\U0001f600"]


class KVValueRules:
    """What get, put and delete must do."""

    async def test_missing_is_none(self, store: KVStore) -> None:
        """A key that was never put is None."""
        async with area_of(store) as area:
            same(await area.get("missing"), None, "a key that was never put")

    async def test_bytes_are_exact(self, store: KVStore) -> None:
        """Values come back byte for byte, whatever bytes they are."""
        everything = bytes(range(256))
        marks = [b"\x00", b"\r\n", b" \t ", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1f\x8b", b"null", b"0"]
        async with area_of(store) as area:
            for value in [everything, everything[::-1] * 300, *marks]:
                await area.put("k", value)
                entry = await area.get("k")
                same(entry, KVEntry(value), "the entry that was put")
                assert entry is not None
                assert isinstance(entry.value, bytes), f"a value is bytes, not {type(entry.value).__name__}"

    async def test_an_empty_value_is_a_value(self, store: KVStore) -> None:
        """An empty value is there: it is not a missing key."""
        async with area_of(store) as area:
            await area.put("k")
            same(await area.get("k"), KVEntry(b""), "an empty value")
            same(await area.names(), ["k"], "names with an empty value")

    async def test_25_mib_fit(self, store: KVStore) -> None:
        """A value may have 25 MiB, the most that Workers allow."""
        value = bytes(range(256)) * (25 * _MIB // 256)
        async with area_of(store) as area:
            await area.put("k", value)
            entry = await area.get("k")
            assert entry is not None, "a value of 25 MiB is missing"
            assert entry.value == value, f"a value of 25 MiB came back as {len(entry.value)} other bytes"

    async def test_metadata_is_exact(self, store: KVStore) -> None:
        """Metadata is the exact text that was put, from get and from list."""
        longest = '"' + "\u20ac" * 340 + '"'
        texts = ['{"b":1,"a":[ ]}', '"\u00e9\U0001f600"', r'"\u0000"', "0", "false", "null", '""', "{}", longest]
        async with area_of(store) as area:
            for text in texts:
                await area.put("k", b"v", text)
                same(await area.get("k"), KVEntry(b"v", text), "the entry with its metadata")
                same((await area.list()).keys, [KVKey("k", text)], "the row with its metadata")

    async def test_expiration_is_exact(self, store: KVStore, clock: FakeClock) -> None:
        """The expiration is the second that was put, from get and from list."""
        async with area_of(store) as area:
            for expiration in (int(clock()) + LIFE_S, int(clock()) + 10 * 365 * 86_400, 2**31 - 1, None):
                await area.put("k", b"v", "1", expiration)
                same(await area.get("k"), KVEntry(b"v", "1", expiration), "the entry with its expiration")
                same((await area.list()).keys, [KVKey("k", "1", expiration)], "the row with its expiration")

    async def test_put_replaces_the_value(self, store: KVStore) -> None:
        """A put replaces the whole value, also a longer one."""
        async with area_of(store) as area:
            for value in (b"a long value", b"short", b""):
                await area.put("k", value)
                same(await area.get("k"), KVEntry(value), "the entry that was put last")
            same(await area.names(), ["k"], "names after three puts of one key")

    async def test_put_drops_metadata(self, store: KVStore) -> None:
        """A put without metadata drops what the key had."""
        async with area_of(store) as area:
            await area.put("k", b"1", '{"old":true}')
            await area.put("k", b"2")
            same(await area.get("k"), KVEntry(b"2"), "the entry after a put without metadata")
            same((await area.list()).keys, [KVKey("k")], "the row after a put without metadata")

    async def test_put_drops_expiration(self, store: KVStore, clock: FakeClock) -> None:
        """A put without expiration makes a key last that would have expired."""
        async with area_of(store) as area:
            await area.put("k", b"1", None, int(clock()) + LIFE_S)
            await area.put("k", b"2")
            same(await area.get("k"), KVEntry(b"2"), "the entry after a put without expiration")
            clock.advance(LATER_S)
            same(await area.get("k"), KVEntry(b"2"), "the entry after the time at which the old one expired")
            same((await area.list()).keys, [KVKey("k")], "the rows after the time at which the old one expired")

    async def test_put_replaces_expiration(self, store: KVStore, clock: FakeClock) -> None:
        """Of two expirations the last one put counts, be it sooner or later."""
        now = int(clock())
        async with area_of(store) as area:
            for name, first, last in (("sooner", 4 * LIFE_S, LIFE_S), ("later", LIFE_S, 4 * LIFE_S)):
                await area.put(name, b"1", None, now + first)
                await area.put(name, b"2", None, now + last)
            clock.advance(2 * LIFE_S)
            same(await area.get("sooner"), None, "a key that was put again to expire sooner")
            same(await area.get("later"), KVEntry(b"2", None, now + 4 * LIFE_S), "a key put again to expire later")
            same(await area.names(), ["later"], "names between the two expirations")

    async def test_delete_removes(self, store: KVStore) -> None:
        """A deleted key is gone from get and list, and can be put again."""
        async with area_of(store) as area:
            await area.put_all(["a", "b", "c"])
            await area.delete("b")
            same(await area.get("b"), None, "a deleted key")
            same(await area.names(), ["a", "c"], "names after a delete")
            await area.put("b", b"again")
            same(await area.get("b"), KVEntry(b"again"), "a deleted key that was put again")
            same(await area.names(), ["a", "b", "c"], "names after the key was put again")

    async def test_delete_is_idempotent(self, store: KVStore, clock: FakeClock) -> None:
        """Deleting a key that is missing, deleted or expired is no error."""
        async with area_of(store) as area:
            await area.delete("missing")
            await area.put("k", b"v", None, int(clock()) + LIFE_S)
            clock.advance(LIFE_S)
            await area.delete("k")
            await area.delete("k")
            same(await area.get("k"), None, "a deleted key")

    async def test_get_ends_at_expiration(self, store: KVStore, clock: FakeClock) -> None:
        """An entry is there until its expiration and gone exactly at it, by the store's clock."""
        expiration = int(clock()) + LIFE_S
        async with area_of(store) as area:
            await area.put("k", b"v", "1", expiration)
            clock.now = expiration - 0.25
            same(await area.get("k"), KVEntry(b"v", "1", expiration), "an entry just before its expiration")
            clock.now = float(expiration)
            same(await area.get("k"), None, "an entry at its expiration")

    async def test_an_expired_key_can_be_put_again(self, store: KVStore, clock: FakeClock) -> None:
        """After its expiration a key can be put again, and nothing of the old entry is left."""
        async with area_of(store) as area:
            await area.put("k", b"old", '"old"', int(clock()) + LIFE_S)
            clock.advance(LATER_S)
            await area.put("k", b"new")
            clock.advance(LATER_S)
            same(await area.get("k"), KVEntry(b"new"), "a key that was put again after it expired")
            same((await area.list()).keys, [KVKey("k")], "the row of a key that was put again after it expired")

    async def test_names_are_told_apart(self, store: KVStore) -> None:
        """Names are exact: case, spaces, slashes, dots, control characters, accents, 512 bytes."""
        async with area_of(store) as area:
            names = [*_PLAIN, *_SPACES, *_LETTERS, _longest(area)]
            await for_each(names, lambda name: area.put(name, f"value of {name}".encode()))
            for name in names:
                same(await area.get(name), KVEntry(f"value of {name}".encode()), f"the entry of {name!r}")
            same(await area.names(), sorted(names), "names in order")


def _longest(area: Area) -> str:
    """A name of three-byte characters that has, with the area's prefix, 512 bytes of UTF-8."""
    characters, rest = divmod(512 - len(area.prefix), 3)
    return "\u20ac" * characters + "x" * rest
