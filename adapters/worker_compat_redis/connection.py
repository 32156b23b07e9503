"""The way to the one Redis server that holds a namespace or a queue: connections, time limits, errors.

Whatever goes wrong becomes :class:`worker_compat.errors.StoreUnavailable`, within the time limits of the URL; nothing
is retried. Only what the server did not execute is sent again: a script that it does not know yet, and a command for a
slot that another node of a Cluster serves.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from worker_compat.errors import ConfigError

from .breaker import Breaker
from .limits import TimeLimit
from .pool import Pool
from .problems import problem_of, unavailable
from .servers import ClusterNode, Finder, FixedServer, SentinelMaster, require_master
from .settings import Address, Settings

Word = bytes | str | int

_BYTES_PER_S = 10 * 1024 * 1024
"""How slow a network may be before large values run into the time limit."""

_REDIRECTS = 5


class Script:
    """A Lua script, sent by its hash once the server knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class _NotConnected(RedisConnectionError):
    """No connection could be made, so nothing was sent; the cause says why."""


class Link:
    """Sends commands to the server that holds ``key``, over at most ``max_connections`` connections at once.

    A call ends within ``connect_timeout_s + timeout_s``, the wait for a free connection included; a call that moves
    ``size`` bytes gets a tenth of a second more for each MiB. Cancelling a call costs its connection, so that its
    answer can never be taken for another's.
    """

    def __init__(self, settings: Settings, key: bytes) -> None:
        self._settings = settings
        self._tls = _tls_context(settings) if settings.tls else None
        self._finder = self._finder_of(key)
        self._breaker = Breaker()
        self._slots = asyncio.Semaphore(settings.max_connections)
        self._finding = asyncio.Lock()
        self._address: Address | None = None
        self._pools: dict[Address, Pool] = {}
        self._closed = False

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Word], *, size: int = 0) -> Any:
        """The answer of ``script``; errors as for :meth:`call`."""
        rest = (len(keys), *keys, *arguments)
        return await self.call("EVALSHA", script.sha, *rest, size=size, unless_known=("EVAL", script.text, *rest))

    async def call(self, *words: Word, size: int = 0, unless_known: tuple[Word, ...] = ()) -> Any:
        """The answer to a command; ``unless_known`` is sent in its place when it is the hash of an unknown script.

        ``StoreUnavailable`` says what is wrong and what to do.
        """
        self._check()
        limit_s = self._settings.timeout_s + size / _BYTES_PER_S
        begun = False
        try:
            async with TimeLimit(self._settings.connect_timeout_s + limit_s), self._slots:
                # Those who waited for a connection need not find out one after the other that there is an outage.
                self._check()
                self._breaker.begin()
                begun = True
                answer = await self._answer(words, unless_known, limit_s)
        except (RedisError, OSError) as error:
            if not begun:
                raise unavailable("all connections stayed in use: raise max_connections, or call less often") from error
            raise self._told(error) from error
        except BaseException:
            if begun:
                self._breaker.abandoned()
            raise
        self._breaker.succeeded()
        return answer

    def _check(self) -> None:
        if self._closed:
            raise unavailable("this process has closed it: use it inside its async with")
        if (words := self._breaker.refusal) is not None:
            raise unavailable(words)

    async def close(self) -> None:
        """Close all connections, those that are in use as soon as they are free."""
        self._closed = True
        pools, self._pools = list(self._pools.values()), {}
        await asyncio.gather(*(pool.close() for pool in pools), return_exceptions=True)

    def _told(self, error: RedisError | OSError) -> Exception:
        problem = problem_of(error)
        if problem.outage:
            self._breaker.failed(problem.words)
        else:
            self._breaker.succeeded()
        return unavailable(problem.words)

    async def _answer(self, words: tuple[Word, ...], unless_known: tuple[Word, ...], limit_s: float) -> Any:
        for _ in range(_REDIRECTS):
            known = self._address
            address = known or await self._found()
            try:
                return await self._exchange(address, words, unless_known, limit_s)
            except _NotConnected:
                # Nothing was sent, and it may have moved since it was found.
                if known is None:
                    raise
            except MovedError as moved:
                if self._settings.topology != "cluster":
                    raise
                await self._forget(address)
                self._address = (moved.host or address[0], moved.port)
            except AskError as ask:
                # The slot is on its way there and belongs here until it has arrived.
                there = (ask.host or address[0], ask.port)
                return await self._exchange(there, words, unless_known, limit_s, asking=True)
        raise ClusterDownError("the nodes name each other as the owner of the slot")

    async def _found(self) -> Address:
        async with self._finding:
            address = self._address or await self._finder.find()
            if self._settings.topology:
                self._address = address
            return address

    async def _exchange(
        self,
        address: Address,
        words: tuple[Word, ...],
        unless_known: tuple[Word, ...],
        limit_s: float,
        *,
        asking: bool = False,
    ) -> Any:
        try:
            async with self._connection(address) as connection, TimeLimit(limit_s):
                try:
                    return await _send(connection, words, asking)
                except NoScriptError:
                    return await _send(connection, unless_known, asking)
        except (RedisError, OSError) as error:
            if problem_of(error).outage and not isinstance(error, MovedError):
                await self._forget(address)
            raise

    @asynccontextmanager
    async def _connection(self, address: Address) -> AsyncIterator[Connection]:
        pool = self._pools.get(address)
        if pool is None:
            make = partial(self._made, address)
            pool = self._pools[address] = Pool(make, self._settings.connect_timeout_s, self._check_role)
        try:
            connection = await pool.take()
        except (RedisError, OSError) as error:
            raise _NotConnected from error
        try:
            yield connection
        except ResponseError:
            raise
        except BaseException:
            # Its answer may still come.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.give_back(connection)

    async def _check_role(self, connection: Connection) -> None:
        # A fail-over closes the connections to the old master, which answers reads as a replica from then on.
        if self._settings.topology == "sentinel":
            require_master(await _send(connection, ("ROLE",)))

    async def _forget(self, address: Address) -> None:
        """Look for the server anew next time, over new connections: the idle ones may be as dead as this one."""
        if self._address == address:
            self._address = None
        pool = self._pools.pop(address, None)
        if pool is not None:
            await pool.close(nowait=True)

    def _finder_of(self, key: bytes) -> Finder:
        settings = self._settings
        if settings.topology == "sentinel":
            return SentinelMaster(settings.addresses, settings.service, self._ask_sentinel, self._ask)
        if settings.topology == "cluster":
            return ClusterNode(settings.addresses, key, self._ask)
        return FixedServer(settings.addresses[0])

    async def _ask(self, address: Address, *words: Word) -> Any:
        return await _ask(self._made(address), words)

    async def _ask_sentinel(self, address: Address, *words: Word) -> Any:
        return await _ask(self._made(address, sentinel=True), words)

    def _made(self, address: Address, *, sentinel: bool = False) -> Connection:
        settings = self._settings
        host, port = address
        options: dict[str, Any] = {
            "host": host,
            "port": port,
            "db": 0 if sentinel else settings.db,
            "username": None if sentinel else settings.user,
            "password": settings.sentinel_password if sentinel else settings.password,
            # Limits are set here and in Pool, not by redis-py: this one is for closing.
            "socket_connect_timeout": 1.0,
            "socket_timeout": None,
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
            "protocol": 2,
            # Costs a millisecond and a round trip for each connection.
            "driver_info": None,
        }
        if self._tls is None:
            return Connection(**options)
        connection = SSLConnection(**options)
        # Made once for all connections, as it reads files.
        connection.ssl_context.context = self._tls
        return connection


@asynccontextmanager
async def open_link(settings: Settings, key: bytes) -> AsyncIterator[Link]:
    """The way to the server that holds ``key``, closed at exit. Nothing is connected before the first call."""
    link = Link(settings, key)
    try:
        yield link
    finally:
        await link.close()


async def _ask(connection: Connection, words: tuple[Word, ...]) -> Any:
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        return await _send(connection, words)
    finally:
        await connection.disconnect(nowait=True)


async def _send(connection: Connection, words: tuple[Word, ...], asking: bool = False) -> Any:
    if asking:
        await connection.send_command("ASKING")
        await connection.read_response()
    await connection.send_command(*words)
    return await connection.read_response()


def _tls_context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("a file of the options ca, cert or key of the Redis URL is no readable PEM file") from error
    return context
