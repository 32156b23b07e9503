"""DATA_DIR: the embedded state's folder, and the keys that are made in it on first start."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from worker_compat.errors import ConfigError

from . import key_file

ADMIN_TOKEN = "admin.token"
QUEUE_KEY = "queue.key"

GENERATED: dict[str, Callable[[], str]] = {
    key_file.NAME: lambda: key_file.text_of(key_file.StoredKey(key_file.new_seed())),
    QUEUE_KEY: lambda: secrets.token_hex(32),
    ADMIN_TOKEN: lambda: secrets.token_urlsafe(32),
}
"""Files made on first start, mode 0600: Ed25519 seed and AES-256 key as 64 hex, and the admin's bearer token."""

_SHAPES = {QUEUE_KEY: r"[0-9a-fA-F]{64}", ADMIN_TOKEN: r"[!-~]{16,}"}


def prepare(path: str) -> list[str]:
    """Make the folder and its keys; the names of the files that were made now.

    A file that exists is never touched. ``ConfigError`` says what cannot be written, and which key is damaged: better
    now than when it is first needed.
    """
    folder = Path(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = [name for name, make in GENERATED.items() if key_file.create(folder / name, make())]
        key_file.read(folder / key_file.NAME)
        for name in _SHAPES:
            _content(folder / name)
        return made
    except OSError as error:
        raise ConfigError(
            f"DATA_DIR {path!r} cannot be used ({error.strerror}); point DATA_DIR at a folder that this user may write"
        ) from error


def check(path: str) -> None:
    """Look at the files that are there, but for the signing key; ``ConfigError`` names one that cannot be used."""
    for name in _SHAPES:
        with suppress(FileNotFoundError, NotADirectoryError):
            _content(Path(path) / name)


def admin_token(path: str) -> str:
    """The token in the folder, which :func:`prepare` has made."""
    return _content(Path(path) / ADMIN_TOKEN)


def queue_key(path: str) -> bytes:
    """The 32 bytes of the key that seals, which :func:`prepare` has made."""
    return bytes.fromhex(_content(Path(path) / QUEUE_KEY))


def _content(file: Path) -> str:
    try:
        text = file.read_text(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read ({error.strerror}): let this user read it, or restore it from a backup"
        ) from error
    if not re.fullmatch(_SHAPES[file.name], text):
        raise ConfigError(
            f"{file} is damaged; restore it from a backup, or move it away to have a new one made "
            "(what the old key sealed needs the old key)"
        )
    return text
