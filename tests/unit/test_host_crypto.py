"""The host's signing key: from the variable, from the file, and what is wrong with either."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoltbot_host.crypto import load_crypto
from smoltbot_host.data_dir import prepare
from smoltbot_worker.ports import Crypto
from tests.unit.attestation_support import CRYPTO, SEED
from worker_compat.errors import ConfigError


async def test_the_key_of_the_variable(tmp_path: Path) -> None:
    crypto: Crypto = load_crypto(SEED.hex().upper(), "key-2026", str(tmp_path))
    assert crypto.key_id == "key-2026"
    assert await crypto.sign(b"x") == await CRYPTO.sign(b"x")
    assert load_crypto(SEED.hex(), "", str(tmp_path)).key_id == "key-001"


async def test_the_key_of_the_file(tmp_path: Path) -> None:
    prepare(str(tmp_path))
    first, second = (load_crypto("", "key-001", str(tmp_path)) for _ in range(2))
    assert first.public_key == second.public_key != CRYPTO.public_key
    assert await first.verify(bytes.fromhex(first.public_key), b"x", await second.sign(b"x"))


@pytest.mark.parametrize("text", ["short", "0" * 63, "0" * 65, "g" * 64, "\u0660" * 64])
def test_a_key_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="64 hex digits") as caught:
        load_crypto(text, "key-001", str(tmp_path))
    assert text not in str(caught.value)
    (tmp_path / "signing.key").write_text(text)
    with pytest.raises(ConfigError, match="64 hex digits"):
        load_crypto("", "key-001", str(tmp_path))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ED25519_SIGNING_KEY"):
        load_crypto("", "key-001", str(tmp_path))
    (tmp_path / "signing.key").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_crypto("", "", str(tmp_path))


async def test_a_file_may_name_its_key(tmp_path: Path) -> None:
    (tmp_path / "signing.key").write_text(f"{SEED.hex()} key-007\n")
    for key_id in ("", "key-007"):
        crypto = load_crypto("", key_id, str(tmp_path))
        assert (crypto.key_id, crypto.public_key) == ("key-007", CRYPTO.public_key)
    with pytest.raises(ConfigError, match=r"ED25519_KEY_ID is key-001, but the key in .* is key-007"):
        load_crypto("", "key-001", str(tmp_path))
    (tmp_path / "signing.key").write_text(f"{SEED.hex()}\n")
    assert load_crypto("", "mine", str(tmp_path)).key_id == "mine"


@pytest.mark.parametrize("key_id", ['a"b', "two words", "\u00e9", "x" * 201])
def test_a_file_that_names_no_key_id(tmp_path: Path, key_id: str) -> None:
    (tmp_path / "signing.key").write_text(f"{SEED.hex()} {key_id}")
    with pytest.raises(ConfigError, match=r"signing\.key is damaged") as caught:
        load_crypto("", "", str(tmp_path))
    assert SEED.hex()[:8] not in str(caught.value)
