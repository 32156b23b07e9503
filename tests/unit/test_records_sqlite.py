"""The gateway's records in a SQLite file: agents, their cards, and what readiness asks."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from smoltbot_records_sqlite import SqliteRecordStore, migrate, open_records
from smoltbot_worker.ports import Json, RecordStore, RecordsUnavailable
from smoltbot_worker.records.functions import FUNCTIONS
from worker_compat.errors import ConfigError, StoreUnavailable
from worker_compat_sqlite import open_writer

SCHEMA = Path(__file__).parents[2] / "schema"
LAST = max(path.name for path in (SCHEMA / "sqlite").glob("*.sql"))
NOON = 1_778_414_400.25
NOON_TEXT = "2026-05-10T12:00:00.250Z"
SEEN = "2026-05-10T08:00:00.000Z"
LATER = "2026-05-10T08:00:00.001Z"
TEMPLATE: dict[str, Json] = {
    "aap_version": "0.1.0",
    "principal": {"type": "human", "relationship": "delegated_authority"},
    "values": {"declared": ["transparency", "accuracy"]},
    "autonomy_envelope": {
        "bounded_actions": ["inference"],
        "escalation_triggers": [],
        "forbidden_actions": [],
    },
    "audit_commitment": {"retention_days": 365, "queryable": True},
}


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    path = tmp_path / "smoltbot.db"
    await migrate(f"sqlite:///{path}", SCHEMA / "sqlite")
    return path


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteRecordStore]:
    async with open_records(f"sqlite:///{path}", clock=lambda: NOON) as store:
        yield store


def arguments(digits: str = "9d08aa51eb89d283", **changes: Json) -> dict[str, Json]:
    given = {"agent_hash": digits, "key_hash": digits * 4, "name": None, "card": TEMPLATE, "seen_at": SEEN}
    return {**given, **changes}


async def get_or_create(store: RecordStore, digits: str = "9d08aa51eb89d283", **changes: Json) -> Any:
    return await store.call("get_or_create_agent", arguments(digits, **changes))


def rows(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def change(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)


def nested(levels: int) -> Json:
    """A list in a list in a list."""
    value: Json = []
    for _ in range(levels - 1):
        value = [value]
    return value


class TestGetOrCreateAgent:
    async def test_a_new_agent(self, store: SqliteRecordStore, path: Path) -> None:
        assert await get_or_create(store, name="scout") == {
            "is_new": True,
            "agent": {
                "id": "smolt-9d08aa51",
                "agent_hash": "9d08aa51eb89d283",
                "name": "scout",
                "created_at": NOON_TEXT,
                "last_seen": SEEN,
                "claimed_at": None,
                "public": False,
                "linked_agent_id": None,
                "billing_account_id": None,
                "aip_enforcement_mode": "observe",
                "aap_enabled": True,
                "aip_enabled": True,
                "gate_streams": "off",
                "failure_policy": None,
                "thinking_injection": None,
                "proof_enabled": False,
                "proof_rate": 10,
                "nudge_strategy": "always",
                "nudge_rate": None,
                "nudge_threshold": None,
                "ddr_mode": "flag",
                "thinking_budget": None,
                "org_card_exempt": False,
                "auto_containment_threshold": None,
                "containment_status": "active",
                "contained_at": None,
                "containment_reason": None,
            },
        }
        assert rows(path, "SELECT key_hash FROM agents") == [("9d08aa51eb89d283" * 4,)]

    async def test_its_card(self, store: SqliteRecordStore, path: Path) -> None:
        await get_or_create(store)

        ((card, *columns),) = rows(
            path,
            "SELECT card_json, id, version, agent_id, issued_at, is_active, created_at, updated_at,"
            " conscience_values FROM alignment_cards",
        )
        assert json.loads(card) == {
            **TEMPLATE,
            "card_id": "ac-9d08aa51",
            "agent_id": "smolt-9d08aa51",
            "issued_at": NOON_TEXT,
        }
        assert columns == ["ac-9d08aa51", 1, "smolt-9d08aa51", NOON_TEXT, 1, NOON_TEXT, NOON_TEXT, None]

    async def test_one_template_serves_many_agents(self, store: SqliteRecordStore, path: Path) -> None:
        template = {
            **TEMPLATE,
            "card_id": "ac-mine",
            "agent_id": "smolt-mine",
            "issued_at": "2026-01-01T01:00:00+01:00",
        }
        await get_or_create(store, "a" * 16, card=template)
        await get_or_create(store, "b" * 16, card={**template, "issued_at": None})

        first, second = (
            json.loads(card) for (card,) in rows(path, "SELECT card_json FROM alignment_cards ORDER BY id")
        )
        assert (first["card_id"], first["agent_id"]) == ("ac-aaaaaaaa", "smolt-aaaaaaaa")
        assert (second["card_id"], second["agent_id"]) == ("ac-bbbbbbbb", "smolt-bbbbbbbb")
        assert first["issued_at"] == "2026-01-01T01:00:00+01:00"
        assert second["issued_at"] == NOON_TEXT
        assert rows(path, "SELECT issued_at FROM alignment_cards WHERE id = 'ac-aaaaaaaa'") == [
            ("2026-01-01T00:00:00.000Z",)
        ]

    async def test_a_known_agent(self, store: SqliteRecordStore) -> None:
        first = await get_or_create(store)
        second = await get_or_create(store, seen_at=LATER)
        third = await get_or_create(store, seen_at="2020-01-01T00:00:00Z")

        assert second == {"is_new": False, "agent": {**first["agent"], "last_seen": LATER}}
        assert third == second

    async def test_settings_of_a_known_agent_are_returned(self, store: SqliteRecordStore, path: Path) -> None:
        await get_or_create(store)
        change(path, "UPDATE agents SET aip_enforcement_mode = 'enforce', aip_enabled = 0, nudge_rate = 25")
        agent = (await get_or_create(store))["agent"]
        assert (agent["aip_enforcement_mode"], agent["aip_enabled"], agent["nudge_rate"]) == (
            "enforce",
            False,
            25,
        )

    async def test_what_is_null_is_filled_and_what_is_there_is_kept(self, store: SqliteRecordStore, path: Path) -> None:
        await get_or_create(store)
        change(path, "UPDATE agents SET key_hash = NULL, last_seen = NULL")
        filled = await get_or_create(store, name="scout", key_hash="1" * 64)
        kept = await get_or_create(store, name="other", key_hash="2" * 64)

        assert (filled["agent"]["name"], filled["agent"]["last_seen"]) == ("scout", SEEN)
        assert kept["agent"]["name"] == "scout"
        assert rows(path, "SELECT name, key_hash FROM agents") == [("scout", "1" * 64)]

    async def test_no_card_when_none_is_given(self, store: SqliteRecordStore, path: Path) -> None:
        await get_or_create(store, card=None)
        assert rows(path, "SELECT * FROM alignment_cards") == []

    async def test_a_missing_card_is_made_for_a_known_agent(self, store: SqliteRecordStore, path: Path) -> None:
        await get_or_create(store, card=None)
        assert (await get_or_create(store))["is_new"] is False
        assert rows(path, "SELECT id, is_active FROM alignment_cards") == [("ac-9d08aa51", 1)]

    @pytest.mark.parametrize("edit", ["card_json = '{\"mine\":1}'", "is_active = 0", "id = 'ac-mine'"])
    async def test_a_card_is_never_overwritten(self, store: SqliteRecordStore, path: Path, edit: str) -> None:
        await get_or_create(store)
        change(path, f"UPDATE alignment_cards SET {edit}")
        before = rows(path, "SELECT * FROM alignment_cards")
        await get_or_create(store, card={"another": True})
        assert rows(path, "SELECT * FROM alignment_cards") == before

    async def test_unusual_text_is_kept_exactly(self, store: SqliteRecordStore, path: Path) -> None:
        values: list[Json] = ["Grüße", "\N{SNOWMAN}\U0001f600", "a'b\"c\\d\n", "\\u0000", 1.0, 10**30, -0.5]
        name = 'Robert\'); DROP TABLE agents;-- "ü" \U0001f600'
        assert (await get_or_create(store, name=name, card={"values": values}))["agent"]["name"] == name
        ((card,),) = rows(path, "SELECT card_json FROM alignment_cards")
        assert json.loads(card)["values"] == values

    async def test_a_hundred_first_requests_at_once(self, path: Path) -> None:
        async with AsyncExitStack() as stack:
            stores = [
                await stack.enter_async_context(open_records(f"sqlite:///{path}", clock=lambda: NOON)) for _ in range(2)
            ]
            answers = await asyncio.gather(*(get_or_create(stores[number % 2]) for number in range(100)))

        assert sum(answer["is_new"] for answer in answers) == 1
        assert {answer["agent"]["id"] for answer in answers} == {"smolt-9d08aa51"}
        assert rows(path, "SELECT count(*) FROM agents") == [(1,)]
        assert rows(path, "SELECT count(*) FROM alignment_cards") == [(1,)]

    async def test_colliding_ids_grow(self, store: SqliteRecordStore, path: Path) -> None:
        hashes = ["abcdef0123450000", "abcdef0199990000", "abcdef0199991111", "abcdef0199992222"]
        ids = [(await get_or_create(store, digits))["agent"]["id"] for digits in hashes]
        again = [(await get_or_create(store, digits))["agent"]["id"] for digits in reversed(hashes)]

        assert ids == [
            "smolt-abcdef01",
            "smolt-abcdef019999",
            "smolt-abcdef0199991111",
            "smolt-abcdef0199992222",
        ]
        assert again == ids[::-1]
        cards = dict(rows(path, "SELECT agent_id, id FROM alignment_cards"))
        assert cards == {agent_id: agent_id.replace("smolt-", "ac-") for agent_id in ids}

    async def test_two_hashes_never_share_an_id(self, store: SqliteRecordStore, path: Path) -> None:
        hashes = [
            f"{first}{second:04x}{third:04x}"
            for first in ("0" * 8, "f" * 8)
            for second in range(3)
            for third in range(20)
        ]
        calls = [get_or_create(store, digits) for digits in hashes for _ in range(2)]
        answers = await asyncio.gather(*calls)

        by_hash = {(answer["agent"]["agent_hash"], answer["agent"]["id"]) for answer in answers}
        assert len(by_hash) == len({agent_id for _, agent_id in by_hash}) == len(hashes)
        assert set(rows(path, "SELECT agent_hash, id FROM agents")) == by_hash

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("agent_hash", "9d08aa51"),
            ("agent_hash", "9D08AA51EB89D283"),
            ("agent_hash", "9d08aa51eb89d283\n"),
            ("agent_hash", None),
            ("agent_hash", 9),
            ("key_hash", "9d08aa51eb89d283"),
            ("key_hash", None),
            ("name", 7),
            ("name", "\ud800"),
            ("card", []),
            ("card", "{}"),
            ("card", {"issued_at": "yesterday"}),
            ("card", {"issued_at": 5}),
            ("card", {"weight": float("nan")}),
            ("card", {"values": ["\0"]}),
            ("card", {"values": ["\ud800"]}),
            ("seen_at", None),
            ("seen_at", "yesterday"),
            ("seen_at", "2026-05-10T08:00:00"),
            ("seen_at", "0001-01-01T00:00:00+14:00"),
            ("seen_at", 1_778_414_400),
            ("colour", "blue"),
        ],
    )
    async def test_bad_arguments_are_named(
        self, store: SqliteRecordStore, path: Path, argument: str, value: Json
    ) -> None:
        with pytest.raises(ValueError, match=f"^{argument}: "):
            await store.call("get_or_create_agent", {**arguments(), argument: value})
        assert rows(path, "SELECT * FROM agents") == []

    @pytest.mark.parametrize("levels", [500, 900, 3000, 100_000])
    async def test_a_card_that_is_too_deep(self, store: SqliteRecordStore, path: Path, levels: int) -> None:
        with pytest.raises(ValueError, match=r"^card: "):
            await get_or_create(store, card={"deep": nested(levels)})
        assert rows(path, "SELECT * FROM agents") == []

    async def test_a_card_that_is_deep(self, store: SqliteRecordStore) -> None:
        await get_or_create(store, card={"deep": nested(499), "flat": [1, {"a": []}]})

    async def test_what_the_database_refuses(self, store: SqliteRecordStore, path: Path) -> None:
        change(
            path,
            "CREATE TRIGGER t BEFORE INSERT ON alignment_cards BEGIN SELECT RAISE(ABORT, 'canary'); END",
        )
        with pytest.raises(ValueError, match="refuses these values") as caught:
            await get_or_create(store)
        assert "canary" not in str(caught.value)
        assert rows(path, "SELECT * FROM agents") == []


class TestTouchAgents:
    async def test_only_forwards(self, store: SqliteRecordStore, path: Path) -> None:
        for digits in ("a" * 16, "b" * 16, "c" * 16):
            await get_or_create(store, digits)
        seen: list[Json] = [
            ["smolt-aaaaaaaa", "2026-05-10T10:00:00.001+02:00"],
            ["smolt-bbbbbbbb", "2026-05-10T07:59:59.999Z"],
            ["smolt-unknown", LATER],
        ]
        assert await store.call("touch_agents", {"seen": seen}) == 1
        assert dict(rows(path, "SELECT id, last_seen FROM agents")) == {
            "smolt-aaaaaaaa": LATER,
            "smolt-bbbbbbbb": SEEN,
            "smolt-cccccccc": SEEN,
        }

    async def test_an_agent_seen_twice_counts_once(self, store: SqliteRecordStore, path: Path) -> None:
        await get_or_create(store)
        seen: list[Json] = [["smolt-9d08aa51", "2026-05-10T09:00:00Z"], ["smolt-9d08aa51", LATER]]
        assert await store.call("touch_agents", {"seen": seen}) == 1
        assert rows(path, "SELECT last_seen FROM agents") == [("2026-05-10T09:00:00.000Z",)]

    async def test_an_agent_never_seen(self, store: SqliteRecordStore, path: Path) -> None:
        await get_or_create(store)
        change(path, "UPDATE agents SET last_seen = NULL")
        assert await store.call("touch_agents", {"seen": [["smolt-9d08aa51", SEEN]]}) == 1

    async def test_nobody(self, store: SqliteRecordStore) -> None:
        assert await store.call("touch_agents", {"seen": []}) == 0

    @pytest.mark.parametrize("seen", [None, {}, "x", ["x"], [["x"]], [["x", "now"]], [[1, SEEN]], [["x", SEEN, 1]]])
    async def test_bad_arguments(self, store: SqliteRecordStore, seen: Json) -> None:
        with pytest.raises(ValueError, match=r"^seen: "):
            await store.call("touch_agents", {"seen": seen})


class TestUpkeep:
    async def test_ping(self, store: SqliteRecordStore) -> None:
        assert await store.call("ping", {}) == {"ok": True, "schema": LAST}

    async def test_ping_writes_nothing(self, store: SqliteRecordStore, path: Path) -> None:
        await store.call("ping", {})
        wal = path.with_name(path.name + "-wal")
        size = wal.stat().st_size if wal.exists() else 0
        await store.call("ping", {})
        assert (wal.stat().st_size if wal.exists() else 0) == size

    async def test_ping_notices_that_nothing_can_be_recorded(self, path: Path) -> None:
        async with open_writer(path, busy_timeout_s=0.1) as writer:
            store = SqliteRecordStore(writer)
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(RecordsUnavailable):
                    await store.call("ping", {})
                other.execute("ROLLBACK")
            assert await store.call("ping", {}) == {"ok": True, "schema": LAST}

    @pytest.mark.parametrize("table", ["agents", "alignment_cards", "_schema_migrations"])
    async def test_ping_notices_a_missing_table(self, store: SqliteRecordStore, path: Path, table: str) -> None:
        change(path, f"ALTER TABLE {table} RENAME TO gone")
        with pytest.raises(RecordsUnavailable, match="smoltbot migrate"):
            await store.call("ping", {})

    async def test_ping_notices_that_no_migration_was_recorded(self, store: SqliteRecordStore, path: Path) -> None:
        change(path, "DELETE FROM _schema_migrations")
        with pytest.raises(RecordsUnavailable, match="smoltbot migrate"):
            await store.call("ping", {})

    async def test_ping_takes_no_arguments(self, store: SqliteRecordStore) -> None:
        with pytest.raises(ValueError, match=r"^loud: "):
            await store.call("ping", {"loud": True})

    async def test_housekeeping_moves_the_log_into_the_file(self, store: SqliteRecordStore) -> None:
        await get_or_create(store)
        answer: Any = await store.call("housekeeping", {})
        assert answer["busy"] is False
        assert answer["wal_pages"] == answer["checkpointed_pages"] > 0


class TestPort:
    async def test_it_is_a_record_store(self, store: SqliteRecordStore) -> None:
        assert isinstance(store, RecordStore)

    @pytest.mark.parametrize("name", ["", "alignment_cards", "drop", "_ping", "get_or_create_agent "])
    async def test_an_unknown_function(self, store: SqliteRecordStore, name: str) -> None:
        with pytest.raises(LookupError, match="no database function"):
            await store.call(name, {})

    def test_the_readme_lists_every_function(self) -> None:
        text = (SCHEMA / "README.md").read_text()
        table = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, flags=re.MULTILINE))
        code = {name: list(parameters) for name, parameters in FUNCTIONS.items()}
        assert {name: re.findall(r"`(\w+)`:", cell) for name, cell in table.items()} == code

    async def test_an_unusable_database_says_nothing_of_the_data(self, tmp_path: Path) -> None:
        async with open_records(f"sqlite:///{tmp_path}/canary.db") as store:
            for function, values in (
                ("get_or_create_agent", arguments()),
                ("ping", {}),
                ("housekeeping", {}),
            ):
                with pytest.raises(RecordsUnavailable) as caught:
                    await store.call(function, values)
                assert str(caught.value) == "the database cannot be used at the moment"
                assert isinstance(caught.value.__cause__, StoreUnavailable)

    async def test_a_database_that_comes_later_is_used_at_once(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/late.db"
        async with open_records(url) as store:
            with pytest.raises(RecordsUnavailable):
                await get_or_create(store)
            await migrate(url, SCHEMA / "sqlite")
            assert (await get_or_create(store))["is_new"] is True
            assert (await store.call("ping", {})) is not None

    async def test_a_database_that_was_not_migrated(self, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "empty.db")) as connection:
            connection.execute("PRAGMA user_version=1")
        async with open_records(f"sqlite:///{tmp_path}/empty.db") as store:
            with pytest.raises(RecordsUnavailable, match="smoltbot migrate"):
                await get_or_create(store)

    async def test_a_store_on_a_shared_writer_leaves_it_open(self, path: Path) -> None:
        async with open_writer(path) as writer:
            first, second = SqliteRecordStore(writer), SqliteRecordStore(writer)
            await get_or_create(first)
            assert (await get_or_create(second))["is_new"] is False
            assert await writer.read(lambda connection: connection.execute("SELECT 1").fetchall()) == [(1,)]


class TestUrl:
    async def test_relative_and_absolute(self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for url in ("sqlite:///smoltbot.db", f"sqlite:///{path}"):
            async with open_records(url) as store:
                monkeypatch.chdir("/")
                assert await store.call("ping", {})
                monkeypatch.chdir(tmp_path)

    async def test_odd_characters(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/a b%20ü&=.db"
        await migrate(url, SCHEMA / "sqlite")
        async with open_records(url) as store:
            assert await store.call("ping", {})
        assert (tmp_path / "a b%20ü&=.db").exists()

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "smoltbot.db",
            "/data/smoltbot.db",
            "sqlite:",
            "sqlite://",
            "sqlite:///",
            "sqlite:////",
            "sqlite:///data/",
            "sqlite://data/smoltbot.db",
            "sqlite:///:memory:",
            "sqlite:///a.db?mode=ro",
            "sqlite:///a.db#x",
            "postgres://user:canary@host/db",
            "SQLITE3:///a.db",
        ],
    )
    async def test_bad_urls_name_the_remedy(self, url: str) -> None:
        with pytest.raises(ConfigError, match=r"write sqlite:///relative/path.db or sqlite:////absolute") as caught:
            async with open_records(url):
                pass
        assert "canary" not in str(caught.value)
