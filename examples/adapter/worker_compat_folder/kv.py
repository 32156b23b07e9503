"""A key-value store in a folder: one file per entry.

Connection URL: ``folder:///absolute/path?namespace=NAME``; the folder is made when it is missing.
Semantics: an entry is replaced whole, by renaming a finished file over the old one. Shared by processes of one machine.
Limits: a listing opens every file of the namespace, so this is for thousands of entries, not for millions.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from worker_compat.errors import ConfigError, StoreUnavailable
from worker_compat.names import cursor_after, name_before, to_bytes, to_text
from worker_compat.ports import Clock, KVEntry, KVKey, KVPage


@asynccontextmanager
async def open_kv(url: str, *, clock: Clock = time.time) -> AsyncIterator[FolderKVStore]:
    """The store that ``url`` names; ``ConfigError`` when it names none."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    namespace = options.pop("namespace", "default")
    if parts.netloc or len(parts.path) < 2 or options:
        raise ConfigError("write folder:///absolute/path?namespace=NAME, without any other option")
    folder = Path(unquote(parts.path)) / _digest(namespace)
    with _available():
        folder.mkdir(parents=True, exist_ok=True)
    yield FolderKVStore(folder, clock)


class FolderKVStore:
    """A :class:`worker_compat.ports.KVStore`; every call works on files, so it runs on a thread."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    async def get(self, key: str) -> KVEntry | None:
        """The live entry, or None."""
        return await asyncio.to_thread(self._get, key)

    async def put(self, key: str, entry: KVEntry) -> None:
        """Replace everything stored under ``key``."""
        await asyncio.to_thread(self._put, key, entry)

    async def delete(self, key: str) -> None:
        """Remove ``key``."""
        await asyncio.to_thread(self._delete, key)

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        """One page of live names."""
        after = None if cursor is None else to_text(name_before(cursor))
        return await asyncio.to_thread(self._list, prefix, limit, after)

    def _get(self, key: str) -> KVEntry | None:
        with _available():
            try:
                head, _, value = self._file(key).read_bytes().partition(b"\n")
            except FileNotFoundError:
                return None
        row = _row(head)
        return KVEntry(value, row.metadata, row.expiration) if self._is_live(row) else None

    def _put(self, key: str, entry: KVEntry) -> None:
        row = {"name": cursor_after(to_bytes(key)), "metadata": entry.metadata, "expiration": entry.expiration}
        with _available(), tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            try:
                file.write(json.dumps(row).encode() + b"\n" + entry.value)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, self._file(key))  # noqa: PTH105 - one call, atomic
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise

    def _delete(self, key: str) -> None:
        with _available():
            self._file(key).unlink(missing_ok=True)

    def _list(self, prefix: str, limit: int, after: str | None) -> KVPage:
        rows = sorted(
            (
                row
                for row in self._rows()
                if row.name.startswith(prefix) and (after is None or row.name > after) and self._is_live(row)
            ),
            key=lambda row: row.name,  # Python orders str by code points, which is the order of their UTF-8 bytes
        )
        page = rows[:limit]
        return KVPage(page, cursor_after(to_bytes(page[-1].name)) if len(rows) > limit else None)

    def _rows(self) -> Iterator[KVKey]:
        with _available():
            for path in self._folder.glob("*.entry"):
                try:
                    with path.open("rb") as file:
                        yield _row(file.readline())
                except FileNotFoundError:
                    continue  # deleted since the folder was read

    def _is_live(self, row: KVKey) -> bool:
        return row.expiration is None or row.expiration > self._clock()

    def _file(self, key: str) -> Path:
        # A name may be longer than a file's name, and may hold any character.
        return self._folder / f"{_digest(key)}.entry"


@contextmanager
def _available() -> Iterator[None]:
    """Errors of the file system as the one error that callers know."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"the folder of the store cannot be used: {error.strerror}") from error


def _row(head: bytes) -> KVKey:
    row = json.loads(head)
    return KVKey(to_text(name_before(row["name"])), row["metadata"], row["expiration"])


def _digest(text: str) -> str:
    return hashlib.sha256(to_bytes(text)).hexdigest()
