"""How a SQLite file is named, opened, and how its errors are told apart."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from urllib.parse import parse_qsl

from worker_compat.errors import ConfigError, StoreUnavailable

OLDEST_SQLITE = (3, 38, 0)
"""STRICT tables, RETURNING and JSON functions that are always there."""

_REMEDY = "write sqlite:///relative/path.db or sqlite:////absolute/path.db"

_PROBLEMS = {
    sqlite3.SQLITE_BUSY: "it is locked by another process: try again, or end that one's transaction",
    sqlite3.SQLITE_LOCKED: "it is locked by another connection: try again",
    sqlite3.SQLITE_PROTOCOL: "its lock could not be had: try again",
    sqlite3.SQLITE_CANTOPEN: "its file is missing or may not be opened: put it back, or correct its rights",
    sqlite3.SQLITE_FULL: "the disk is full: make room",
    sqlite3.SQLITE_CORRUPT: "its file is damaged: end all processes and restore a backup",
    sqlite3.SQLITE_NOTADB: "its file is damaged or not a SQLite database: restore a backup, or name another file",
    sqlite3.SQLITE_READONLY: "it is read-only: let this process write the file and its folder",
    sqlite3.SQLITE_PERM: "its file may not be used: correct its rights",
    sqlite3.SQLITE_IOERR: "reading or writing its file failed: check the disk",
    sqlite3.SQLITE_NOMEM: "memory ran out: give this process more",
    sqlite3.SQLITE_INTERRUPT: "it was interrupted: try again",
}
_PASSING = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL})

_LOOK_AGAIN_S = 0.003


def database_path(url: str) -> Path:
    """The absolute path of the file that ``url`` names, by SQLAlchemy's convention.

    Three slashes begin a path relative to the working directory, four an absolute one; nothing is decoded.
    Raises :class:`ConfigError`, which does not quote the URL, because a URL may hold a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme != "sqlite":
        raise ConfigError(f"this is not the URL of a SQLite database: {_REMEDY}")
    if not rest.startswith("/"):
        raise ConfigError(f"a SQLite URL has no host: {_REMEDY}")
    name = rest[1:]
    if not name or name.endswith("/"):
        raise ConfigError(f"the SQLite URL names no file: {_REMEDY}")
    if name.startswith(":memory:"):
        raise ConfigError(f"a SQLite database in memory cannot be shared or kept: {_REMEDY}")
    if "?" in name or "#" in name or "\0" in name:
        raise ConfigError(f"a SQLite URL takes no options: {_REMEDY}")
    return Path(name).absolute()


def store_path(url: str, option: str) -> tuple[Path, str]:
    """The file and the name that ``url`` has for a store: ``option`` is ``namespace`` or ``queue``.

    As :func:`database_path`, with one option that may be given once, percent-encoded; ``default`` without it.
    Raises :class:`ConfigError` too when the file's folder is not there.
    """
    address, _, query = url.partition("?")
    path = database_path(address)
    remedy = f"the one option of this SQLite URL is {option}=NAME"
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:
        raise ConfigError(f"the SQLite URL has a malformed option: {remedy}") from None
    names = [name for _, name in given]
    if any(known != option for known, _ in given) or len(names) > 1 or "" in names:
        raise ConfigError(remedy)
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} of the SQLite file is not there: make it, or name another file")
    return path, names[0] if names else "default"


def require_sqlite() -> None:
    """Raise :class:`ConfigError` when Python's SQLite library is too old."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old: use a Python that has {oldest} or later")


def connect(path: Path, *, busy_timeout_s: float, create: bool = False, query_only: bool = False) -> sqlite3.Connection:
    """Open ``path`` in autocommit mode with WAL, synchronous=FULL and foreign keys.

    A missing file is made only with ``create``. A lock is waited for ``busy_timeout_s`` seconds. Raises
    ``sqlite3.Error``; nothing stays open then. The connection belongs to the calling thread.
    """
    mode = "rwc" if create else "rw"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, isolation_level=None, cached_statements=256)
    try:
        # Switching the mode also reads the file's header, which is how a damaged file is noticed here.
        (journal,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if journal != "wal":
            raise sqlite3.OperationalError("write-ahead logging is not possible here")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        # Sorts and undo of long statements go to a temporary file otherwise: a read-only root has no place for it.
        connection.execute("PRAGMA temp_store=MEMORY")
        # Bounds what PRAGMA optimize may read, and what a burst leaves behind as the size of the log.
        connection.execute("PRAGMA analysis_limit=400")
        connection.execute("PRAGMA journal_size_limit=67108864")
        if query_only:
            connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def begin_immediate(connection: sqlite3.Connection, wait_s: float) -> None:
    """Begin a transaction that holds the write lock, waiting up to ``wait_s`` seconds for other processes.

    SQLite's own waiting looks only every 100 ms, and then finds the lock taken again and again while another
    process commits without pause; this looks every few milliseconds. Raises ``sqlite3.Error``.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.Error as error:
            if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_LOOK_AGAIN_S)


def problem(error: sqlite3.Error) -> str | None:
    """What is wrong with the database, in words without data; None when the statement itself was wrong."""
    return _PROBLEMS.get(_primary_code(error))


def is_passing(error: sqlite3.Error) -> bool:
    """Whether the same connection can go on later: a lock or a full disk, not a file that has gone bad."""
    return _primary_code(error) in _PASSING


def unavailable(error: BaseException) -> StoreUnavailable:
    """A new :class:`StoreUnavailable` that names the kind of problem and has ``error`` as its cause."""
    words = "its file may not be used: correct its rights" if isinstance(error, OSError) else None
    if isinstance(error, sqlite3.Error):
        words = problem(error)
    result = StoreUnavailable(f"the SQLite database cannot be used: {words or 'its transaction was lost: try again'}")
    result.__cause__ = error
    return result


def _primary_code(error: sqlite3.Error) -> int:
    # Errors that Python's own module raises carry no code.
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
