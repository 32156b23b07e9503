"""``smoltbot verify``: certificates and bundles, offline and without a gateway."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

import click

T = TypeVar("T")
Keyring: TypeAlias = Any
SignedHead: TypeAlias = Any
Report: TypeAlias = Any
"""Classes of ``smoltbot_worker.attestation``, which only the functions import: help must be quick."""

_HEX = frozenset("0123456789abcdefABCDEF")
_SHOWN = 50
_MOST, _PIECE = 1 << 30, 1 << 20
"""The largest file in bytes: its values take several times as much memory."""
_BY_STATUS = {
    0: "valid",
    1: "NOT VALID",
    2: "consistent as far as that can be said without a key; give --key or --keys",
    3: "consistent, key not pinned",
}
_WORST_FIRST = (1, 2, 3, 0)


class _Ed25519:
    """Signatures, checked with the library ``cryptography``."""

    async def verify(self, public_key: bytes, payload: bytes, signature: bytes) -> bool:
        """Whether the signature is that of the payload by this key."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, payload)
        except (InvalidSignature, ValueError):
            return False
        return True


@click.command()
@click.option("--keys", "keys_file", metavar="FILE", help="Public keys to trust, as GET /v1/keys gives them.")
@click.option("--key", "key_hex", metavar="HEX", help="The one public key to trust: 64 hex digits.")
@click.option("--head", "head_file", metavar="FILE", help="A signed head saved earlier: finds a log that was cut.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def verify(keys_file: str | None, key_hex: str | None, head_file: str | None, files: tuple[str, ...]) -> None:
    """Verify certificates and bundles without trusting whoever sent them.

    Exit code 0: all is valid, by a key that you gave. 1: something is not, and the output says which entry and check.
    2: there was no key to verify with. 3: consistent, but only by the keys in the file itself.
    """
    if keys_file is not None and key_hex is not None:
        _fail(2, "give --keys or --key, not both")
    keys = _given(2, "--keys" if keys_file is not None else "--key", lambda: _keyring(keys_file, key_hex))
    head = None if head_file is None else _given(1, head_file, lambda: _head(head_file))
    statuses = [_verify_file(file, keys, head) for file in files]
    sys.exit(next(status for status in _WORST_FIRST if status in statuses))


def _verify_file(file: str, keys: Keyring, head: SignedHead | None) -> int:
    from smoltbot_worker.attestation.verify import Unreadable, verify_document

    try:
        report = asyncio.run(verify_document(_document(file), keys, _Ed25519(), head))
    except Unreadable as error:
        click.echo(f"{file}: NOT VALID: {error}")
        return 1
    _print(file, report)
    return report.status


def _print(file: str, report: Report) -> None:
    click.echo(f"{file}: {report.what}: {_BY_STATUS[report.status]}")
    for defect in report.defects[:_SHOWN]:
        click.echo(f"  {defect}")
    if len(report.defects) > _SHOWN:
        click.echo(f"  and {len(report.defects) - _SHOWN} more")


def _keyring(keys_file: str | None, key_hex: str | None) -> Keyring:
    from smoltbot_worker.attestation import checks

    if key_hex is not None:
        return checks.Keyring(only=_key(key_hex))
    if keys_file is None:
        return checks.Keyring()
    document = _document(keys_file)
    listed = document.get("keys") if isinstance(document, dict) else document
    if not isinstance(listed, list) or not listed:
        raise ValueError('it should be {"keys": [{"key_id", "public_key"}, ...]}')
    pinned = dict(_listed(key) for key in listed)
    if len(pinned) < len(listed):
        raise ValueError("the same key_id is there twice: which of the two is meant?")
    return checks.Keyring(pinned=pinned)


def _listed(key: Any) -> tuple[str, str]:
    if not isinstance(key, dict) or not isinstance(key.get("key_id"), str):
        raise ValueError("a key has no key_id")
    return key["key_id"], _key(key.get("public_key"))


def _key(text: Any) -> str:
    if not isinstance(text, str) or len(text) != 64 or not _HEX.issuperset(text):
        raise ValueError("a public key must be 64 hex digits")
    return text.lower()


def _head(file: str) -> SignedHead:
    from smoltbot_worker.attestation.verify import read_head

    return read_head(_document(file))


def _document(file: str) -> Any:
    """The JSON in a file; ``Unreadable``, a ValueError, when there is none."""
    from smoltbot_worker.attestation.verify import Unreadable, read_document

    try:
        return read_document(_content(file).decode())
    except OSError as error:
        raise Unreadable(f"it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise Unreadable("it is not UTF-8") from None
    except MemoryError:
        raise Unreadable("there is not enough memory to read it") from None


def _content(file: str) -> bytes:
    """The bytes of a file or a pipe; ``Unreadable`` beyond the limit, before they fill the memory."""
    from smoltbot_worker.attestation.verify import Unreadable

    data = bytearray()
    with Path(file).open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        while size <= _MOST and (piece := stream.read(_PIECE)):
            data += piece
            size = max(size, len(data))
    if size > _MOST:
        raise Unreadable(f"it is larger than {_MOST >> 20} MiB")
    return bytes(data)


def _given(status: int, what: str, read: Callable[[], T]) -> T:
    """What an option names; a mistake in it ends the command."""
    try:
        return read()
    except ValueError as error:
        _fail(status, f"{what}: {error}")


def _fail(status: int, message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(status)
