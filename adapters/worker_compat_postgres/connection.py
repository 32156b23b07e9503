"""How a PostgreSQL server is named, reached and asked, and how its failures are told apart."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

import asyncpg

from worker_compat.errors import ConfigError, StoreUnavailable

from .tables import make_tables

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

MOST_CONNECTIONS = 10
CONNECT_TIMEOUT_S = 1.0
COMMAND_TIMEOUT_S = 2.0

_OWN = ("prepared", "connect_timeout", "command_timeout", "pool_min", "pool_max")
_PASSED_ON = (
    "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation",
    "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib",
    "passfile", "service", "host", "port", "dbname", "user", "password", "application_name",
)  # fmt: skip
_SHAPE = "postgresql://user:password@host:port/database"
# More than one @, or one of the characters that end this part, belongs to a password that was not encoded.
_ADDRESS = re.compile(r"postgres(ql)?://([^@/#]*@)?(?P<hosts>[^@/#]*)(/[^/#]*)?", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[^:\[\]]*)(:[0-9]{1,5})?", re.IGNORECASE)

# Every statement of these adapters is a walk along an index; without statistics, as after a bulk load, the
# planner may think otherwise.
_PLANNER = {"enable_seqscan": "off", "enable_bitmapscan": "off", "enable_sort": "off", "jit": "off"}

_POOLER = "a pooler in transaction mode is in between: add prepared=off to the URL"
_PROBLEMS = {
    "28": "it refuses this user or its secret: check both in the URL",
    "3D": "it has no such database: create it, or name another in the URL",
    "22": "it refuses a value that its column cannot hold: name a database with the encoding UTF8",
    "25006": "it is read-only: name the primary server in the URL",
    "42501": "this role lacks rights: GRANT it SELECT, INSERT, UPDATE, DELETE on the worker_compat tables",
    "42P01": "its tables were removed: the next call makes them again",
    "53100": "its disk is full: make room",
    "53": "it is out of resources: raise max_connections, or give it memory or disk",
    "54": "a name is longer than its index can hold: keep names below 2,600 bytes",
    "57P": "it is starting or stopping: try again",
    "26": _POOLER,
    "42P05": _POOLER,
    "08P01": _POOLER,
    "08": "the connection to it broke: try again",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a URL says; times in seconds. Without ``prepared`` no statement outlives its transaction.

    ``pool_min`` connections are opened together with the pool, and there are never more than ``pool_max``.
    """

    dsn: str = field(repr=False)
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    command_timeout_s: float = COMMAND_TIMEOUT_S
    prepared: bool = True
    pool_min: int = 0
    pool_max: int = MOST_CONNECTIONS


def store_settings(url: str, option: str) -> tuple[Settings, str]:
    """How ``url`` is reached, and the name that it has for a store: ``option`` is ``namespace`` or ``queue``.

    Raises :class:`ConfigError`, which quotes nothing of the URL but the names of options.
    """
    settings, own = _settings(url, (option,))
    name = own.get(option, "default")
    if not name or "\0" in name:
        raise ConfigError(f"the PostgreSQL URL names no {option}: write {option}=NAME")
    return settings, name


def database_settings(url: str) -> Settings:
    """How ``url`` is reached when it names a database and no store in it; errors as for :func:`store_settings`."""
    return _settings(url, ())[0]


def _settings(url: str, names: Sequence[str]) -> tuple[Settings, dict[str, str]]:
    """What ``url`` says of the connection, and its options called ``names``."""
    address, _, query = url.partition("?")
    found = _ADDRESS.fullmatch(address)
    if found is None or not all(_HOST.fullmatch(host) for host in found["hosts"].split(",")):
        raise ConfigError(f"this is not the URL of a PostgreSQL server: write {_SHAPE}, its parts percent-encoded")
    options = _options(query, (*names, *_OWN, *_PASSED_ON))
    own = {name: options.pop(name) for name in names if name in options}
    prepared = options.pop("prepared", "on")
    if prepared not in ("on", "off"):
        raise ConfigError("the option prepared of a PostgreSQL URL is on or off")
    connect_timeout_s = _seconds(options, "connect_timeout", CONNECT_TIMEOUT_S)
    command_timeout_s = _seconds(options, "command_timeout", COMMAND_TIMEOUT_S)
    pool_min, pool_max = _pool_sizes(options)
    dsn = f"{address}?{urlencode(options)}" if options else address
    return Settings(dsn, connect_timeout_s, command_timeout_s, prepared == "on", pool_min, pool_max), own


def _options(query: str, known: Sequence[str]) -> dict[str, str]:
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:  # its text quotes the option, which may be a password
        raise ConfigError("the PostgreSQL URL has a malformed option: write name=value&name=value") from None
    names = [name for name, _ in given]
    wrong = sorted({name for name in names if name not in known or names.count(name) > 1})
    if wrong and "@" in query:  # these names may be what follows a ? in a password
        raise ConfigError("the PostgreSQL URL has a wrong option: write ? in a password as %3F, @ in an option as %40")
    if wrong:
        raise ConfigError(
            f"the PostgreSQL URL has an option that is unknown or given twice: {', '.join(wrong)};"
            f" the options are {', '.join(known)}"
        )
    return dict(given)


def _seconds(options: dict[str, str], name: str, default: float) -> float:
    text = options.pop(name, None)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or float(text) == 0:
        raise ConfigError(f"the option {name} of a PostgreSQL URL is a number of seconds, like 1 or 0.5")
    return float(text)


def _pool_sizes(options: dict[str, str]) -> tuple[int, int]:
    least, most = options.pop("pool_min", "0"), options.pop("pool_max", str(MOST_CONNECTIONS))
    if not all(re.fullmatch("[0-9]{1,4}", text) for text in (least, most)) or not int(least) <= int(most) != 0:
        raise ConfigError(
            "the options pool_min and pool_max of a PostgreSQL URL are whole numbers up to 9999, the first at most the"
            f" second, which is not 0; unless given they are 0 and {MOST_CONNECTIONS}"
        )
    return int(least), int(most)


class Refused(StoreUnavailable):
    """The server answered a statement with an error; ``reason`` is the server's own text and may hold data."""

    def __init__(self, text: str, sqlstate: str, reason: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.reason = reason


@asynccontextmanager
async def open_pool(settings: Settings, *, tables: bool = True, sorts: bool = False) -> AsyncIterator[PostgresPool]:
    """A pool that connects when it is first used, closed at exit; with ``tables`` it makes those of stores.

    ``sorts`` is for statements that order rows by what no index has: the planner would walk a whole table otherwise.
    With ``pool_min`` it connects before, if the server is there: one that is not fails calls, not the opening. Raises
    :class:`ConfigError` then for a URL that asyncpg does not accept.
    """
    planner = {**_PLANNER, "enable_sort": "on"} if sorts else _PLANNER
    pool = asyncpg.create_pool(
        settings.dsn,
        min_size=0,
        max_size=settings.pool_max,
        timeout=settings.connect_timeout_s,
        statement_cache_size=100 if settings.prepared else 0,
        # A pooler in between refuses settings that it does not know.
        server_settings=planner if settings.prepared else None,
        reset=_leave_as_it_is,
    )
    async with _closing(pool, settings.command_timeout_s):
        await _connect_ahead(pool, settings)
        yield PostgresPool(pool, settings, planner, tables=tables)


async def _leave_as_it_is(_connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Nothing here changes a session, and to reset it would cost each call another round trip."""


async def _connect_ahead(pool: asyncpg.Pool[asyncpg.Record], settings: Settings) -> None:
    """Open ``pool_min`` connections, as far as the server takes them now."""
    held: list[PoolConnectionProxy[asyncpg.Record]] = []
    try:
        with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError), _url_refused():
            async with asyncio.timeout(settings.connect_timeout_s):
                while len(held) < settings.pool_min:
                    held.append(await pool.acquire())
    finally:
        for connection in held:
            await pool.release(connection)


@asynccontextmanager
async def _closing(pool: asyncpg.Pool[asyncpg.Record], limit_s: float) -> AsyncIterator[None]:
    await pool
    try:
        yield
    finally:
        # A server that does not answer a good-bye is left without one.
        with suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await asyncio.wait_for(pool.close(), limit_s)


class PostgresPool:
    """A few connections to one database, and its tables, which need not be there; made by :func:`open_pool`."""

    def __init__(
        self, pool: asyncpg.Pool[asyncpg.Record], settings: Settings, planner: Mapping[str, str], *, tables: bool = True
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._set_planner = "".join(f"SET LOCAL {name} = {value};" for name, value in planner.items())
        self._needs_tables = tables
        self._has_tables = not tables

    async def fetch(self, statement: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """The rows of one statement, committed on return; in one round trip unless ``prepared=off``.

        Raises :class:`StoreUnavailable` when the server is gone, refuses (:class:`Refused`), or has not answered within
        ``command_timeout_s``, the wait for a connection included; :class:`ConfigError` for a URL that asyncpg
        does not accept and for tables that cannot be made. A statement that was given up, cancelled or out of
        time, may have been done; its connection is closed and never reused.
        """
        with _errors_told_apart(self._settings):
            async with asyncio.timeout(self._settings.command_timeout_s), self._connection() as connection:
                try:
                    return await self._run(connection, statement, arguments)
                except asyncpg.UndefinedTableError:
                    self._has_tables = not self._needs_tables
                    raise

    async def _run(
        self, connection: PoolConnectionProxy[asyncpg.Record], statement: str, arguments: Sequence[object]
    ) -> Sequence[asyncpg.Record]:
        if not self._has_tables:
            await make_tables(connection)
            self._has_tables = True
        if self._settings.prepared:
            return await connection.fetch(statement, *arguments)
        # Between parsing and executing, a pooler may change servers, except inside a transaction.
        async with connection.transaction():
            await connection.execute(self._set_planner)
            return await connection.fetch(statement, *arguments)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[PoolConnectionProxy[asyncpg.Record]]:
        with _url_refused():
            connection = await self._pool.acquire()
        try:
            yield connection
        except (asyncpg.PostgresError, ConfigError):
            raise
        except BaseException:
            # What was asked may still be answered: nobody else may read that.
            connection.terminate()
            raise
        finally:
            await self._pool.release(connection)


@contextmanager
def _url_refused() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError):  # the text may quote a part of the URL
        raise ConfigError("asyncpg does not accept the options of this PostgreSQL URL: see its manual") from None


@contextmanager
def _errors_told_apart(settings: Settings) -> Iterator[None]:
    """Whatever goes wrong between here and the server is a :class:`StoreUnavailable` without data."""
    try:
        yield
    except TimeoutError:
        limits = f"{settings.connect_timeout_s:g} s to connect, {settings.command_timeout_s:g} s in all"
        raise StoreUnavailable(f"PostgreSQL did not answer in time ({limits}): check that it runs") from None
    except OSError as error:
        kind = type(error).__name__
        raise StoreUnavailable(f"PostgreSQL cannot be reached ({kind}): check that it runs, host and port") from error
    except asyncpg.PostgresError as error:  # its text and its details may quote names and values
        code, kind = error.sqlstate or "", type(error).__name__
        words = _described(code, _PROBLEMS) or "try again"
        raise Refused(f"PostgreSQL cannot be used ({kind}, {code}): {words}", code, str(error)) from None
    except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise StoreUnavailable(f"the connection to PostgreSQL broke ({type(error).__name__}): try again") from None


def _described(code: str, texts: Mapping[str, str]) -> str | None:
    return next((texts[code[:length]] for length in (5, 3, 2) if code[:length] in texts), None)
