"""Cases of the records kit: the public keys of signatures."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from smoltbot_worker.ports import RecordStore

from .records_area import AdvancingClock, call, iso, refused
from .samples import digest


class KeyRules:
    """``signing_keys``, ``put_``, ``use_``, ``rotate_`` and ``retire_signing_key``.

    Other cases register keys in the same database: here all but one are retired first.
    """

    async def test_a_key_is_registered_once(self, store: RecordStore, clock: AdvancingClock) -> None:
        """The same key again changes nothing; another key under its id is refused."""
        key_id, public_key = f"key-{uuid4()}", digest(uuid4())
        row = {
            "key_id": key_id, "public_key": public_key, "algorithm": "Ed25519", "is_active": True,
            "created_at": iso(clock()), "retired_at": None,
        }  # fmt: skip
        assert await call(store, "put_signing_key", key_id=key_id, public_key=public_key) == row, "the row"
        clock.advance(60)
        assert await call(store, "put_signing_key", key_id=key_id, public_key=public_key) == row, "unchanged"
        with refused("public_key: another key is registered under this key_id"):
            await call(store, "put_signing_key", key_id=key_id, public_key=digest("another"))
        assert row in await call(store, "signing_keys"), "it is listed as it was"

    async def test_many_register_at_once(self, store: RecordStore) -> None:
        """Of two keys under one id exactly one stays."""
        key_id, keys = f"key-{uuid4()}", [digest("one"), digest("two")]
        answers = await asyncio.gather(
            *(call(store, "put_signing_key", key_id=key_id, public_key=keys[number % 2]) for number in range(20)),
            return_exceptions=True,
        )
        rows = [answer["public_key"] for answer in answers if isinstance(answer, dict)]
        assert len(set(rows)) == 1, "one key is registered"
        assert len(rows) == sum(isinstance(answer, ValueError) for answer in answers) == 10, "the other is refused"

    async def test_a_retired_key(self, store: RecordStore, clock: AdvancingClock) -> None:
        """A retired key stays in the list, with the time of the first retirement."""
        key_id, public_key = f"key-{uuid4()}", digest(uuid4())
        row = await call(store, "put_signing_key", key_id=key_id, public_key=public_key)
        clock.advance(60)
        retired = {**row, "is_active": False, "retired_at": iso(clock())}
        assert await call(store, "retire_signing_key", key_id=key_id) == retired, "it is retired now"
        clock.advance(60)
        assert await call(store, "retire_signing_key", key_id=key_id) == retired, "and was then"
        assert await call(store, "put_signing_key", key_id=key_id, public_key=public_key) == retired, "it stays retired"
        with refused("key_id: there is no such key"):
            await call(store, "retire_signing_key", key_id=f"key-{uuid4()}")

    async def test_the_list(self, store: RecordStore, clock: AdvancingClock) -> None:
        """Keys are listed by age, then by id."""
        prefix = f"key-{uuid4()}"
        for name in ("b", "a"):
            await call(store, "put_signing_key", key_id=f"{prefix}-{name}", public_key=digest(name))
        clock.advance(1)
        for name in ("A", "_"):
            await call(store, "put_signing_key", key_id=f"{prefix}-{name}", public_key=digest(name))
        ids = [row["key_id"].removeprefix(f"{prefix}-") for row in await call(store, "signing_keys")
               if row["key_id"].startswith(prefix)]  # fmt: skip
        assert ids == ["a", "b", "A", "_"], "the oldest first"

    async def test_the_key_that_is_in_use(self, store: RecordStore, clock: AdvancingClock) -> None:
        """The active key may be used, again and again; no other key, and not under its id."""
        key_id, public_key = f"key-{uuid4()}", digest(uuid4())
        row = await call(store, "rotate_signing_key", key_id=key_id, public_key=public_key)
        clock.advance(60)
        assert await call(store, "use_signing_key", key_id=key_id, public_key=public_key) == row, "as it is"
        before = await call(store, "signing_keys")
        with refused("public_key: another key is registered under this key_id"):
            await call(store, "use_signing_key", key_id=key_id, public_key=digest("another"))
        with refused("key_id: another key is active"):
            await call(store, "use_signing_key", key_id=f"key-{uuid4()}", public_key=digest(uuid4()))
        await call(store, "retire_signing_key", key_id=key_id)
        with refused("key_id: this key was retired"):
            await call(store, "use_signing_key", key_id=key_id, public_key=public_key)
        with refused("key_id: every key was retired"):
            await call(store, "use_signing_key", key_id=f"key-{uuid4()}", public_key=digest(uuid4()))
        after = await call(store, "signing_keys")
        assert [key["key_id"] for key in after] == [key["key_id"] for key in before], "none was registered"

    async def test_a_rotation(self, store: RecordStore, clock: AdvancingClock) -> None:
        """The new key is the only active one; the others keep the time at which they were retired."""
        old, new = f"key-{uuid4()}", f"key-{uuid4()}"
        await call(store, "rotate_signing_key", key_id=old, public_key=digest(old))
        clock.advance(60)
        row = await call(store, "rotate_signing_key", key_id=new, public_key=digest(new))
        assert row == {
            "key_id": new, "public_key": digest(new), "algorithm": "Ed25519", "is_active": True,
            "created_at": iso(clock()), "retired_at": None,
        }, "the row"  # fmt: skip
        rows = await call(store, "signing_keys")
        assert [key["key_id"] for key in rows if key["is_active"]] == [new], "one key is active"
        assert [key["retired_at"] for key in rows if key["key_id"] == old] == [iso(clock())], "retired by it"
        clock.advance(60)
        assert await call(store, "rotate_signing_key", key_id=new, public_key=digest(new)) == row, "again is harmless"
        assert await call(store, "signing_keys") == rows, "nothing else changes"

    async def test_a_rotation_that_is_refused(self, store: RecordStore) -> None:
        """Nobody goes back to a retired key, gives its id or its new name to another, and nothing is retired then."""
        old, new = f"key-{uuid4()}", f"key-{uuid4()}"
        for key_id in (old, new):
            await call(store, "rotate_signing_key", key_id=key_id, public_key=digest(key_id))
        rows = await call(store, "signing_keys")
        for key_id, public_key, says in (
            (old, digest(old), "key_id: this key was retired"),
            (old, digest("x"), "public_key: another key is registered under this key_id"),
            (new, digest("x"), "public_key: another key is registered under this key_id"),
            (f"{new}-again", digest(new), "public_key: this key is registered under another key_id"),
            (f"{new}-again", digest(old), "public_key: this key is registered under another key_id"),
        ):
            with refused(says):
                await call(store, "rotate_signing_key", key_id=key_id, public_key=public_key)
        assert await call(store, "signing_keys") == rows, "nothing changed"

    async def test_many_rotate_at_once(self, store: RecordStore) -> None:
        """However many rotate at once, one key is active in the end."""
        keys = [f"key-{uuid4()}" for _ in range(8)]
        await asyncio.gather(
            *(call(store, "rotate_signing_key", key_id=key_id, public_key=digest(key_id)) for key_id in keys)
        )
        active = [key["key_id"] for key in await call(store, "signing_keys") if key["is_active"]]
        assert len(active) == 1, "one key is active"
        assert active[0] in keys, "one of these"

    async def test_bad_keys(self, store: RecordStore) -> None:
        """A key has 64 lower-case hex digits, and an id."""
        for key_id, public_key, name in (("k", "ab", "public_key"), ("k", "AB" * 32, "public_key"),
                                         ("", "ab" * 32, "key_id"), ('"', "ab" * 32, "key_id")):  # fmt: skip
            for function in ("put_signing_key", "use_signing_key", "rotate_signing_key"):
                with refused(f"{name}: "):
                    await call(store, function, key_id=key_id, public_key=public_key)
