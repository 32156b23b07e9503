"""Where a namespace or a queue is: the one server that holds it, which Sentinel or the Cluster may change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from redis import exceptions as redis
from redis.crc import key_slot

from .problems import MasterUnknown
from .settings import Address

T = TypeVar("T")

Ask = Callable[..., Awaitable[Any]]
"""``ask(address, *words)``: the answer to one command on a connection of its own."""

_NODES_ASKED = 5


class Finder(Protocol):
    """Finds the server. What it raises is of redis-py or an ``OSError``."""

    async def find(self) -> Address:
        """The address of the server as far as is known now."""
        ...


class FixedServer:
    """One server that never moves."""

    def __init__(self, address: Address) -> None:
        self._address = address

    async def find(self) -> Address:
        """The address of the URL."""
        return self._address


class SentinelMaster:
    """The master of a service that sentinels watch; the first sentinel that knows one is believed."""

    def __init__(self, sentinels: Sequence[Address], service: str, ask_sentinel: Ask, ask_server: Ask) -> None:
        self._sentinels = sentinels
        self._service = service
        self._ask_sentinel = ask_sentinel
        self._ask_server = ask_server

    async def find(self) -> Address:
        """The present master."""
        return await _first(self._master_by(sentinel) for sentinel in self._sentinels)

    async def _master_by(self, sentinel: Address) -> Address:
        found = await self._ask_sentinel(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        if not found:
            raise MasterUnknown("no master of this name")
        address = found[0].decode(), int(found[1])
        # A replica would answer reads with what it has, so a sentinel that is behind must not lead to one.
        require_master(await self._ask_server(address, "ROLE"))
        return address


class ClusterNode:
    """The node that serves the hash slot of ``key``; the first node that answers is believed."""

    def __init__(self, nodes: Sequence[Address], key: bytes, ask: Ask) -> None:
        self._seeds = list(nodes)
        self._nodes: list[Address] = []
        self._slot = key_slot(key)
        self._ask = ask

    async def find(self) -> Address:
        """The present master of the slot."""
        nodes = dict.fromkeys((*self._seeds, *self._nodes))
        # Not the same few again and again: some of them may be those that are down.
        self._nodes = self._nodes[_NODES_ASKED:] + self._nodes[:_NODES_ASKED]
        return await _first(self._owner_by(node) for node in list(nodes)[: len(self._seeds) + _NODES_ASKED])

    async def _owner_by(self, node: Address) -> Address:
        ranges = await self._ask(node, "CLUSTER", "SLOTS")
        self._nodes = list(dict.fromkeys(_address(known, node) for row in ranges for known in row[2:]))
        for row in ranges:
            if row[0] <= self._slot <= row[1]:
                return _address(row[2], node)
        raise redis.ClusterDownError("no node serves the slot")


def require_master(role: Sequence[Any]) -> None:
    """Raise ``ReadOnlyError`` unless this answer to ``ROLE`` is that of a master."""
    if role[0] != b"master":
        raise redis.ReadOnlyError("the server that the sentinel names is not a master")


def _address(known: Sequence[Any], asked: Address) -> Address:
    # A node that does not know its own host means the one that it was asked by.
    return (known[0] or b"").decode() or asked[0], int(known[1])


async def _first(answers: Iterable[Coroutine[Any, Any, T]]) -> T:
    """The first result; the last error when all fail."""
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    problem: BaseException | None = None
    try:
        for done in asyncio.as_completed(tasks):
            try:
                return await done
            except (redis.RedisError, OSError) as error:
                problem = error
        assert problem is not None
        raise problem
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
