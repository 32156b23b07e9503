"""The composition root: which key, which tokens and which database the settings make."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoltbot_host import data_dir, records
from smoltbot_host.wiring import wire
from smoltbot_worker.env import read_variables
from worker_compat.errors import ConfigError

SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
REMOTE = {"DATABASE_URL": "postgresql://127.0.0.1:1/d", "ED25519_SIGNING_KEY": SEED, "DB_POOL_MIN": "0"}
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
    values, _ = read_variables({**HERE, "DATA_DIR": str(tmp_path), "ADMIN_TOKEN": "one,two"})
    async with wire(values, None) as wiring:
        assert wiring.env.admin_token == ("one", "two")


async def test_a_gateway_on_a_server_has_what_it_was_given(tmp_path: Path) -> None:
    values, _ = read_variables({**HERE, **REMOTE, "DATA_DIR": str(tmp_path / "none"), "READ_TOKEN": "r"})
    async with wire(values, None) as wiring:
        assert (wiring.env.admin_token, wiring.env.read_token) == ((), "r")
        assert wiring.env.public_base_url == "http://localhost:8787"
        assert (wiring.crypto.key_id, wiring.crypto.public_key) == ("key-001", PUBLIC)
        assert wiring.env.ed25519_signing_key == ""
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
        ({"SUPABASE_URL": "https://x.supabase.co/", "SUPABASE_KEY": "k"}, "https://x.supabase.co"),
        ({"SUPABASE_URL": "postgresql://h/d", "SUPABASE_KEY": "k"}, "postgresql://h/d?pool_min=1&pool_max=10"),
    ],
)
def test_the_database(given: dict[str, str], url: str) -> None:
    values, _ = read_variables({"DATA_DIR": "/d", "ED25519_SIGNING_KEY": SEED, **given})
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
