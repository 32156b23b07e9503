"""DATA_DIR: the embedded state's folder, and the keys that are made in it on first start."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from worker_compat.errors import ConfigError

GENERATED: dict[str, Callable[[], str]] = {
    "signing.key": lambda: secrets.token_hex(32),
    "queue.key": lambda: secrets.token_hex(32),
    "admin.token": lambda: secrets.token_urlsafe(32),
}
"""Files made on first start, mode 0600: Ed25519 seed and AES-256 key as 64 hex, and the admin's bearer token."""


def prepare(path: str) -> list[str]:
    """Make the folder and its keys; the names of the files that were made now.

    A file that exists is never touched. ``ConfigError`` says what cannot be written, and which key is damaged: better
    now than when it is first needed.
    """
    folder = Path(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = [name for name, make in GENERATED.items() if _create(folder / name, make())]
        for name in GENERATED:
            _check(folder / name)
        return made
    except OSError as error:
        raise ConfigError(
            f"DATA_DIR {path!r} cannot be used ({error.strerror}); point DATA_DIR at a folder that this user may write"
        ) from error


def _check(file: Path) -> None:
    shape = r"[0-9a-fA-F]{64}" if file.suffix == ".key" else r"\S{16,}"
    if not re.fullmatch(shape, file.read_text(errors="replace").strip()):
        raise ConfigError(
            f"{file} is damaged; restore it from a backup, or move it away to have a new one made "
            "(what the old key signed or sealed needs the old key)"
        )


def _create(file: Path, text: str) -> bool:
    """Write a new file that only its owner can read; False when it exists. Whole or not at all."""
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
    return True
