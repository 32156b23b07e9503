"""The host's keys: where the signing key is from and what is wrong with it; what is sealed can be opened unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from smoltbot_host.crypto import HostCrypto, load_crypto
from smoltbot_host.data_dir import prepare, queue_key
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


SEALING = bytes(range(32))
SEALER = HostCrypto(SEED, sealing_key=SEALING)


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
async def test_what_was_sealed_is_opened(data: bytes) -> None:
    other: Crypto = load_crypto(SEED.hex(), "", "", SEALING)
    sealed = await SEALER.seal(data)
    assert await other.open(sealed) == data
    assert len(sealed) == len(data) + 29
    assert len(data) < 16 or data[:16] not in sealed


async def test_the_form_is_a_version_a_nonce_and_aes_256_gcm() -> None:
    # NIST's test case 14 (256-bit key of zeros, nonce of zeros) has the same ciphertext; the tag covers the version.
    sealed = bytes([1]) + bytes(12) + AESGCM(bytes(32)).encrypt(bytes(12), bytes(16), bytes([1]))
    assert sealed[13:29].hex() == "cea7403d4d606b6e074ec5d3baf39d18"
    assert await HostCrypto(SEED, sealing_key=bytes(32)).open(sealed) == bytes(16)


async def test_no_two_are_alike() -> None:
    nonces = {(await SEALER.seal(b"the same"))[1:13] for _ in range(1000)}
    assert len(nonces) == 1000


async def test_every_changed_byte_is_noticed() -> None:
    sealed = await SEALER.seal(b"what a user said")
    wrong = [
        sealed[:at] + bytes([sealed[at] ^ bit]) + sealed[at + 1 :] for at in range(len(sealed)) for bit in (1, 128)
    ]
    wrong += [sealed[:length] for length in range(len(sealed))]
    wrong += [sealed + b"\0", b"what a user said", bytes([0]) + sealed[1:], bytes([2]) + sealed[1:]]
    for data in wrong:
        with pytest.raises(ValueError, match="not sealed with this key") as caught:
            await SEALER.open(data)
        assert str(caught.value) == "these bytes were not sealed with this key"
        assert caught.value.__cause__ is None


async def test_another_key_opens_nothing() -> None:
    with pytest.raises(ValueError, match="not sealed with this key"):
        await HostCrypto(SEED, sealing_key=bytes(32)).open(await SEALER.seal(b"x"))


async def test_without_a_sealing_key_it_has_its_own() -> None:
    one, two = HostCrypto(SEED), HostCrypto(SEED)
    sealed = await one.seal(b"x")
    assert await one.open(sealed) == b"x"
    with pytest.raises(ValueError, match="not sealed with this key"):
        await two.open(sealed)


def test_the_sealing_key_of_the_folder(tmp_path: Path) -> None:
    prepare(str(tmp_path))
    key = queue_key(str(tmp_path))
    assert key.hex() == (tmp_path / "queue.key").read_text().strip()
    (tmp_path / "queue.key").write_text("short")
    with pytest.raises(ConfigError, match=r"queue\.key is damaged"):
        queue_key(str(tmp_path))
