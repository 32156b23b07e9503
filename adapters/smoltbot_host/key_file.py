"""The file of the embedded signing key: the seed as 64 hex digits, then the key's id once it has one."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from smoltbot_worker.records.arguments import identifier
from worker_compat.errors import ConfigError

NAME = "signing.key"
NEXT = "signing.key.next"
"""The key that a rotation is about to go over to."""

_CONTENT = re.compile(r"(?P<seed>[0-9a-fA-F]{64})( (?P<key_id>[!-~]+))?")


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A seed of 32 bytes (RFC 8032) and the id of its key; a file as it is made at the first start has no id."""

    seed: bytes = field(repr=False)
    key_id: str = ""


def is_there(file: Path) -> bool:
    """Whether there is such a file; ``ConfigError`` where that cannot be seen."""
    try:
        return file.exists()
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be looked for ({error.strerror}): let this user enter its folder, or name another"
        ) from error


def read(file: Path) -> StoredKey:
    """The key in ``file``; ``ConfigError`` says what is wrong with it, without a digit of it."""
    try:
        text = file.read_text("ascii", errors="replace").strip()
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read ({error.strerror}): let this user read it, restore it from a backup, or set"
            " ED25519_SIGNING_KEY"
        ) from error
    found = _CONTENT.fullmatch(text)
    try:
        key_id = identifier(found["key_id"]) if found and found["key_id"] else ""
    except ValueError:
        found = None
    if found is None:
        raise ConfigError(
            f"{file} is damaged: it holds no 64 hex digits, the 32 bytes of an Ed25519 seed, and perhaps an id; restore"
            " it from a backup, or move it away to have a new one made"
        )
    return StoredKey(bytes.fromhex(found["seed"]), key_id)


def text_of(key: StoredKey) -> str:
    """What :func:`read` reads."""
    return f"{key.seed.hex()} {key.key_id}".rstrip()


def new_seed() -> bytes:
    """The seed of a new key."""
    return secrets.token_bytes(32)


def create(file: Path, text: str) -> bool:
    """Write a new file that only its owner can read; False when it exists. Whole or not at all, and on the disk."""
    if file.exists():
        return False
    # Not named by the process: in a container that is always the same, and what a crash left would be in the way.
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text.encode() + b"\n")
            stream.flush()
            os.fsync(descriptor)
        os.link(draft, file)  # fails where another process was faster, and then its file counts
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    sync_folder(file.parent)
    return True


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Alone with the folder's keys; ``BlockingIOError`` while another process is. A kill lets go of it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Put the names of the folder's files on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
