"""The keys of this deployment: one signs (Ed25519), one seals (AES-256-GCM), with the library ``cryptography``."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from worker_compat.errors import ConfigError

from . import key_file

DEFAULT_KEY_ID = "key-001"

_SEED = re.compile(r"[0-9a-fA-F]{64}")
_VERSION = b"\x01"
"""The first byte of what is sealed: then the nonce, the ciphertext and the tag of 16 bytes."""
_NONCE_BYTES = 12


class HostCrypto:
    """The Crypto port over a seed (RFC 8032) and a sealing key, 32 bytes each.

    Without the latter it seals with a key that nobody else has: only the same object opens what it sealed.
    """

    def __init__(self, seed: bytes, key_id: str = DEFAULT_KEY_ID, *, sealing_key: bytes | None = None) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._key_id = key_id
        self._sealing = AESGCM(os.urandom(32) if sealing_key is None else sealing_key)

    @property
    def key_id(self) -> str:
        """The name of the key."""
        return self._key_id

    @property
    def public_key(self) -> str:
        """The public key as 64 lower-case hex digits, as it is published."""
        return self._key.public_key().public_bytes_raw().hex()

    async def sign(self, payload: bytes) -> bytes:
        """The signature of ``payload``: 64 bytes."""
        return self._key.sign(payload)

    async def verify(self, public_key: bytes, payload: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is that of ``payload`` by the key of 32 bytes; False for anything malformed too."""
        try:
            _public(public_key).verify(signature, payload)
        except (InvalidSignature, ValueError):
            return False
        return True

    async def seal(self, data: bytes) -> bytes:
        """``data``, readable and changeable with the sealing key only; 29 bytes longer, and different each time."""
        nonce = os.urandom(_NONCE_BYTES)
        return b"".join((_VERSION, nonce, self._sealing.encrypt(nonce, data, _VERSION)))

    async def open(self, data: bytes) -> bytes:
        """What was sealed with this key; ``ValueError``, which says nothing of it, for anything else."""
        version, nonce, sealed = data[:1], data[1 : 1 + _NONCE_BYTES], data[1 + _NONCE_BYTES :]
        try:
            if version == _VERSION:
                return self._sealing.decrypt(nonce, sealed, _VERSION)
        except (InvalidTag, ValueError):
            pass
        raise ValueError("these bytes were not sealed with this key")


def load_crypto(signing_key: str, key_id: str, data_dir: str, sealing_key: bytes | None = None) -> HostCrypto:
    """The key of ``ED25519_SIGNING_KEY`` (64 hex), or that of the file ``signing.key`` where it is empty.

    ``key_id`` is ``ED25519_KEY_ID``, or empty. ``ConfigError`` says what is wrong with the key, without a digit of it.
    """
    if signing_key:
        if not _SEED.fullmatch(signing_key):
            raise ConfigError("ED25519_SIGNING_KEY must be 64 hex digits, the 32 bytes of an Ed25519 seed")
        return HostCrypto(bytes.fromhex(signing_key), key_id or DEFAULT_KEY_ID, sealing_key=sealing_key)
    file = Path(data_dir) / key_file.NAME
    stored = key_file.read(file)
    if key_id and stored.key_id and key_id != stored.key_id:
        raise ConfigError(f"ED25519_KEY_ID is {key_id}, but the key in {file} is {stored.key_id}: unset ED25519_KEY_ID")
    return HostCrypto(stored.seed, stored.key_id or key_id or DEFAULT_KEY_ID, sealing_key=sealing_key)


@lru_cache(maxsize=256)
def _public(key: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(key)
