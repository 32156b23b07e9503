"""The composition root: which keys, which tokens, which database and which queue the settings make."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import smoltbot_records_sqlite
from smoltbot_host import data_dir, queue, records
from smoltbot_host.crypto import HostCrypto
from smoltbot_host.wiring import wire
from smoltbot_worker.env import read_variables
from worker_compat.errors import ConfigError
from worker_compat.registry import open_queue

SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
KEYS = {"ED25519_SIGNING_KEY": SEED, "QUEUE_ENCRYPTION_KEY": "7a" * 32}
REMOTE = {"DATABASE_URL": "postgresql://127.0.0.1:1/d", **KEYS, "DB_POOL_MIN": "0"}
HERE = {"HOST": "127.0.0.1", "PORT": "0"}


async def test_an_embedded_gateway_has_what_its_folder_holds(tmp_path: Path) -> None:
    data_dir.prepare(str(tmp_path))
    (tmp_path / "signing.key").write_text(f"{SEED} key-004\n")
    values, _ = read_variables({**HERE, "DATA_DIR": str(tmp_path)})
    async with wire(values, None) as wiring:
        assert wiring.env.admin_token == ((tmp_path / "admin.token").read_text().strip(),)
        assert (wiring.env.crypto.key_id, wiring.env.ed25519_key_id) == ("key-004", "key-004")
        assert wiring.crypto.public_key == PUBLIC
        assert wiring.env.crypto is wiring.crypto
        sealing_key = bytes.fromhex((tmp_path / "queue.key").read_text())
        assert await HostCrypto(bytes(32), sealing_key=sealing_key).open(await wiring.crypto.seal(b"x")) == b"x"
    values, _ = read_variables({**HERE, "DATA_DIR": str(tmp_path), "ADMIN_TOKEN": "one,two"})
    async with wire(values, None) as wiring:
        assert wiring.env.admin_token == ("one", "two")


async def test_a_gateway_on_a_server_has_what_it_was_given(tmp_path: Path) -> None:
    values, _ = read_variables({**HERE, **REMOTE, "DATA_DIR": str(tmp_path / "none"), "READ_TOKEN": "r"})
    async with wire(values, None) as wiring:
        assert (wiring.env.admin_token, wiring.env.read_token) == ((), "r")
        assert wiring.env.public_base_url == "http://localhost:8787"
        assert (wiring.crypto.key_id, wiring.crypto.public_key) == ("key-001", PUBLIC)
        assert (wiring.env.ed25519_signing_key, wiring.env.queue_encryption_key) == ("", "")
        assert await HostCrypto(bytes(32), sealing_key=b"z" * 32).open(await wiring.crypto.seal(b"x")) == b"x"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, "sqlite:////d/smoltbot.db"),
        ({"DATABASE_URL": "sqlite:////a/b.db", "DB_POOL_MAX": "3"}, "sqlite:////a/b.db"),
        ({"DATABASE_URL": "postgres://h/d"}, "postgres://h/d?pool_min=1&pool_max=10"),
        (
            {"DATABASE_URL": "postgresql://h/d?pool_max=4&sslmode=require", "DB_POOL_MIN": "2", "DB_POOL_MAX": "9"},
            "postgresql://h/d?pool_max=4&sslmode=require&pool_min=2",
        ),
        (
            {"SUPABASE_URL": "https://x.supabase.co/", "SUPABASE_KEY": "k", "QUEUE_URL": "redis://h"},
            "https://x.supabase.co",
        ),
        ({"SUPABASE_URL": "postgresql://h/d", "SUPABASE_KEY": "k"}, "postgresql://h/d?pool_min=1&pool_max=10"),
    ],
)
def test_the_database(given: dict[str, str], url: str) -> None:
    values, _ = read_variables({"DATA_DIR": "/d", **KEYS, **given})
    assert records.database_url(values) == url
    kind = "sqlite" if url.startswith("sqlite") else "postgres"
    assert records.is_embedded(url) == (kind == "sqlite")
    assert records.schema_dir(url).name == kind
    name = "supabase" if url.startswith("https") else kind
    assert records.adapter(url).__name__ == f"smoltbot_records_{name}"


async def test_an_option_of_the_url_that_contradicts_the_pool() -> None:
    values, _ = read_variables({**REMOTE, "DB_POOL_MIN": "5", "DATABASE_URL": "postgresql://h/d?pool_max=4"})
    with pytest.raises(ConfigError, match="pool_min and pool_max"):
        async with records.opened(values):
            pass


class TestTheQueue:
    async def test_in_one_sqlite_file_it_shares_the_writer_of_the_records(self, tmp_path: Path) -> None:
        values, _ = read_variables({"DATA_DIR": str(tmp_path)})
        await smoltbot_records_sqlite.migrate(records.database_url(values), records.schema_dir("sqlite:"))
        before = threading.active_count()
        async with queue.opened(values) as stores:
            assert threading.active_count() == before + 2, "one thread that writes, one that reads"
            assert (await stores.records.call("ping", {}) or {}) != {}
            await stores.exchanges.push([b"x"], 0)
            await stores.dead_letters.push([b"y", b"z"], 0)
            assert (await stores.exchanges.depth()).waiting == 1
        async with open_queue(f"sqlite:///{tmp_path}/smoltbot.db?queue=exchanges-dead") as dead:
            assert [claimed.body for claimed in await dead.claim(10, 10)] == [b"y", b"z"]

    async def test_a_push_is_told_to_the_consumer_of_this_process(self, tmp_path: Path) -> None:
        told: list[int] = []
        values, _ = read_variables({"DATA_DIR": str(tmp_path), "QUEUE_URL": f"sqlite:///{tmp_path}/queue.db"})
        async with queue.opened(values) as stores:
            stores.exchanges.on_push.append(lambda: told.append(1))
            await stores.exchanges.push([b"x"], 0)
        assert told == [1]

    @pytest.mark.parametrize("given", [{}, {"name": "mine"}])
    async def test_queue_url_wins(self, tmp_path: Path, given: dict[str, str]) -> None:
        name = given.get("name", "exchanges")
        option = f"?queue={name}" if given else ""
        url = f"sqlite:///{tmp_path}/other.db"
        values, _ = read_variables({"DATA_DIR": str(tmp_path), "QUEUE_URL": url + option})
        async with queue.opened(values) as stores:
            await stores.exchanges.push([b"x"], 0)
            await stores.dead_letters.push([b"y"], 0)
        for each, body in ((name, b"x"), (f"{name}-dead", b"y")):
            async with open_queue(f"{url}?queue={each}") as store:
                assert [claimed.body for claimed in await store.claim(10, 10)] == [body]

    @pytest.mark.parametrize(
        ("given", "url"),
        [
            ({"DATABASE_URL": "postgresql://h/d"}, "postgresql://h/d?pool_max=10&queue=exchanges"),
            (
                {"DATABASE_URL": "postgresql://h/d?sslmode=require", "DB_POOL_MIN": "3", "DB_POOL_MAX": "7"},
                "postgresql://h/d?sslmode=require&pool_max=7&queue=exchanges",
            ),
            (
                {"DATABASE_URL": "postgresql://h/d", "QUEUE_URL": "redis://h:1/2?queue=mine"},
                "redis://h:1/2?queue=mine",
            ),
            ({"QUEUE_URL": "memory://"}, "memory://?queue=exchanges"),
        ],
    )
    def test_where_it_is(self, given: dict[str, str], url: str) -> None:
        values, _ = read_variables({**KEYS, **given})
        assert queue.queue_url(values) == url

    @pytest.mark.parametrize("role", ["gateway", "scheduler"])
    async def test_one_in_memory_is_in_nobody_elses_reach(self, tmp_path: Path, role: str) -> None:
        values, _ = read_variables({"DATA_DIR": str(tmp_path), "QUEUE_URL": "memory://", "SMOLTBOT_ROLE": role})
        with pytest.raises(ConfigError, match="QUEUE_URL is in memory, which no process shares"):
            async with queue.opened(values):
                pass
