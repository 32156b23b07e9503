"""The signing keys of a deployment: making one, listing what is registered, using one, going over to another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smoltbot_worker.env import read_variables
from smoltbot_worker.ports import RecordStore, RecordsUnavailable
from worker_compat.errors import ConfigError, StoreUnavailable

from . import key_file, records, settings
from .crypto import DEFAULT_KEY_ID, HostCrypto, load_crypto

_ROTATE = "`smoltbot signing-keys rotate`"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was made and is registered nowhere yet; both as 64 hex digits."""

    seed: str = field(repr=False)
    public_key: str


def generate() -> NewKey:
    """A new key."""
    seed = key_file.new_seed()
    return NewKey(seed.hex(), HostCrypto(seed).public_key)


def generate_into(file: Path) -> NewKey:
    """A new key whose seed is in ``file``, mode 0600; ``ConfigError`` when the file exists or cannot be written."""
    key = generate()
    try:
        created = key_file.create(file, key.seed)
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written ({error.strerror}): name a file in a folder of this user"
        ) from error
    if not created:
        raise ConfigError(f"{file} exists already and is left as it is: name a new file")
    return key


async def use(store: RecordStore, crypto: HostCrypto, values: dict[str, Any]) -> None:
    """Register the first key of a deployment; later make sure that this process signs with the active one.

    Raises ``ConfigError`` for any other key, and ``RecordsUnavailable``; neither changes what is registered.
    """
    try:
        await store.call("use_signing_key", _arguments(crypto))
    except ValueError as error:
        raise ConfigError(f"the signing key {crypto.key_id}: {_said(error)}; {remedy(values)}") from None


def remedy(values: dict[str, Any]) -> str:
    """What to do about a key that is not the active one."""
    if values["ed25519_signing_key"]:
        return (
            "set ED25519_SIGNING_KEY and ED25519_KEY_ID to the key that is active, or set a new key under a new id and"
            f" run {_ROTATE}"
        )
    if (Path(values["data_dir"]) / key_file.NEXT).exists():
        return f"a rotation was cut short: run {_ROTATE} again, which ends it"
    given = "unset ED25519_KEY_ID, " if values["ed25519_key_id"] else ""
    return f"{given}restore signing.key from a backup, or run {_ROTATE} to go on with a new key"


def listed(environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """The registered keys, the oldest first; ``in_use`` says whether it is the one of these settings.

    Raises ``EnvValidationError``, ``ConfigError`` or ``StoreUnavailable``; their texts are for the operator.
    """
    values, _ = read_variables(settings.load(environ, signs=False), signs=False)
    return asyncio.run(registered(values))


def rotate(environ: Mapping[str, str]) -> dict[str, Any]:
    """Make another key the active one, and retire the others; its row in the register.

    That is the key of ``ED25519_SIGNING_KEY``; without the variable a new one, which then is in
    ``DATA_DIR/signing.key``. May be run again after a kill, and then ends what it began. Errors are as for
    :func:`listed`; after one the old key is still in its place.
    """
    values, _ = read_variables(settings.load(environ))
    return asyncio.run(_rotate(values))


async def registered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """What :func:`listed` gives, for settings that are read already."""
    key = own(values)
    async with _open(values) as store:
        rows = await _keys(store)
    mine = None if key is None else (key.key_id, key.public_key)
    return [{**row, "in_use": (row["key_id"], row["public_key"]) == mine} for row in rows]


async def _rotate(values: dict[str, Any]) -> dict[str, Any]:
    async with _open(values) as store:
        if values["ed25519_signing_key"]:
            crypto = load_crypto(values["ed25519_signing_key"], values["ed25519_key_id"], "")
            return await _go_over(store, crypto, "set a new ED25519_SIGNING_KEY under a new ED25519_KEY_ID")
        if values["ed25519_key_id"]:
            raise ConfigError(
                "ED25519_KEY_ID: unset it; a new key in DATA_DIR gets an id of its own, and keeps it there"
            )
        folder = Path(values["data_dir"])
        try:
            with key_file.held(folder):
                return await _rotate_file(store, folder)
        except BlockingIOError:
            raise ConfigError(f"another rotation is at work in {folder}: wait until it has ended") from None
        except OSError as error:
            raise ConfigError(
                f"the key in {folder} cannot be replaced ({error.strerror}): let this user write there"
            ) from error


async def _rotate_file(store: RecordStore, folder: Path) -> dict[str, Any]:
    """Go over to a new key: first it is on the disk, then in the register, then in the place of the old one."""
    file, coming = folder / key_file.NAME, folder / key_file.NEXT
    old = key_file.read(file) if file.exists() else None
    if not coming.exists():
        key_id = _next_id(old, await _keys(store))
        key_file.create(coming, key_file.text_of(key_file.StoredKey(key_file.new_seed(), key_id)))
    new = key_file.read(coming)
    row = await _go_over(store, HostCrypto(new.seed, new.key_id), f"remove {coming}")
    coming.replace(file)
    key_file.sync_folder(folder)
    return row


async def _go_over(store: RecordStore, crypto: HostCrypto, remedy: str) -> dict[str, Any]:
    try:
        row = await store.call("rotate_signing_key", _arguments(crypto))
    except ValueError as error:
        raise ConfigError(f"cannot go over to the key {crypto.key_id}, {_said(error)}: {remedy}") from None
    assert isinstance(row, dict)
    return row


def _next_id(old: key_file.StoredKey | None, rows: Sequence[dict[str, Any]]) -> str:
    """The id after that of the old key, or of the newest one; nobody has had it."""
    known = {row["public_key"]: row["key_id"] for row in rows}
    own = "" if old is None else known.get(HostCrypto(old.seed).public_key) or old.key_id
    key_id = own or (rows[-1]["key_id"] if rows else DEFAULT_KEY_ID)
    while key_id in (DEFAULT_KEY_ID, own, *known.values()):
        key_id = _after(key_id)
    return str(key_id)


def _after(key_id: str) -> str:
    """``key-001`` leads to ``key-002``, and ``mine`` to ``mine-002``."""
    stem = key_id.rstrip("0123456789")
    digits = key_id[len(stem) :]
    return f"{stem}{int(digits) + 1:0{len(digits)}d}" if digits else f"{key_id}-002"


def own(values: dict[str, Any]) -> HostCrypto | None:
    """The key of the settings, if there is one by now; ``ConfigError`` for one that cannot be used."""
    file = Path(values["data_dir"]) / key_file.NAME
    here = records.is_embedded(records.database_url(values)) and key_file.is_there(file)
    if not values["ed25519_signing_key"] and not here:
        return None
    return load_crypto(values["ed25519_signing_key"], values["ed25519_key_id"], values["data_dir"])


@asynccontextmanager
async def _open(values: dict[str, Any]) -> AsyncIterator[RecordStore]:
    """The records, in a database of this version's schema."""
    try:
        async with records.opened(values) as store:
            await records.check_schema(store, records.database_url(values))
            yield store
    except RecordsUnavailable as error:
        raise StoreUnavailable(records.reason(error)) from error


async def _keys(store: RecordStore) -> list[dict[str, Any]]:
    rows = await store.call("signing_keys", {})
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _arguments(crypto: HostCrypto) -> dict[str, Any]:
    return {"key_id": crypto.key_id, "public_key": crypto.public_key}


def _said(error: ValueError) -> str:
    """The database's words without the name of the argument."""
    return str(error).partition(": ")[2] or str(error)
