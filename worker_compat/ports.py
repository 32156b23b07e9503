"""What an adapter implements: the ports of the runtime, each a Protocol of at most five methods.

The Workers rules (limits, error texts, options) live above the ports, once. An adapter moves bytes,
raises :class:`worker_compat.errors.StoreUnavailable` when its service is gone, and never hides an error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .request import Request
    from .response import Response

Clock = Callable[[], float]
"""Seconds since the Unix epoch, as ``time.time``. Every adapter takes one, so that tests need not wait."""


@dataclass(frozen=True, slots=True)
class KVEntry:
    """One stored value.

    ``value`` is the exact bytes; ``metadata`` its JSON text or None; ``expiration`` absolute whole seconds
    since the epoch or None. An entry is gone as soon as ``expiration <= now``.
    """

    value: bytes
    metadata: str | None = None
    expiration: int | None = None


@dataclass(frozen=True, slots=True)
class KVKey:
    """One row of a listing: a name with its metadata (JSON text) and expiration (absolute seconds)."""

    name: str
    metadata: str | None = None
    expiration: int | None = None


@dataclass(frozen=True, slots=True)
class KVPage:
    """One page of a listing; ``cursor`` is None on the last page."""

    keys: Sequence[KVKey]
    cursor: str | None = None


@runtime_checkable
class KVStore(Protocol):
    """A namespace of byte values. Relative TTLs never reach a store; names are unlimited text here."""

    async def get(self, key: str) -> KVEntry | None:
        """The live entry, or None when missing or expired."""
        ...

    async def put(self, key: str, entry: KVEntry) -> None:
        """Replace everything stored under ``key``: value, metadata and expiration."""
        ...

    async def delete(self, key: str) -> None:
        """Remove ``key``; a missing key is no error."""
        ...

    async def list(self, prefix: str, limit: int, cursor: str | None) -> KVPage:
        """Up to ``limit`` live names with ``prefix``, ascending by UTF-8 bytes, after ``cursor``.

        ``cursor`` is None or one that an earlier page gave; ``ValueError`` for any other text. A page may be
        short, even empty, and still have a cursor; the last one has none, also when it is exactly full.
        """
        ...


@runtime_checkable
class KVCompareAndPut(Protocol):
    """A capability that a KV store may have beside its four methods: the base of leases among processes."""

    async def compare_and_put(self, key: str, seen: bytes | None, entry: KVEntry) -> bool:
        """Put ``entry`` if the live value is still ``seen`` (None: missing or expired); whether it was put.

        One atomic step for every process that shares the store.
        """
        ...


@dataclass(frozen=True, slots=True)
class Claimed:
    """A leased message: acknowledge or release it before ``lease_s`` runs out, or it returns.

    ``id`` stays the same over all deliveries; ``timestamp`` is when it was pushed, in seconds since the epoch;
    ``attempts`` counts this delivery, so it is 1 the first time.
    """

    id: str
    body: bytes
    timestamp: float
    attempts: int


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many messages wait and how many are leased; ``oldest_s`` is the age of the oldest waiting one."""

    waiting: int
    leased: int
    oldest_s: float


@runtime_checkable
class QueueStore(Protocol):
    """An at-least-once queue. Bodies are any bytes; the sizes and numbers that Workers allow are checked above."""

    async def push(self, bodies: Sequence[bytes], delay_s: int) -> None:
        """Append messages, due after ``delay_s`` seconds; returns once they are durable as the adapter declares.

        All of them or none. Pushing nothing does nothing.
        """
        ...

    async def claim(self, limit: int, lease_s: int) -> Sequence[Claimed]:
        """Lease up to ``limit`` due messages, oldest first as far as is known; at once, and empty when none is due.

        A message whose lease ran out is due again. No two leases of one message overlap.
        """
        ...

    async def ack(self, ids: Sequence[str]) -> None:
        """Delete processed messages, also after their lease ran out; an unknown id is no error."""
        ...

    async def release(self, ids: Sequence[str], delay_s: int) -> None:
        """Give leased messages back, due again after ``delay_s`` seconds; an unknown id is no error.

        Only for a lease that still runs: a message that somebody else has leased since would be delivered twice.
        """
        ...

    async def depth(self) -> QueueDepth:
        """The backlog."""
        ...


@runtime_checkable
class Fetcher(Protocol):
    """Sends one request to the network."""

    async def fetch(self, request: Request) -> Response:
        """The response as soon as its head is here; its body streams.

        Raises a subclass of :class:`worker_compat.errors.FetchError` (an ``OSError``). Cancelling the call,
        or closing the body's stream, closes the connection.
        """
        ...


@runtime_checkable
class Decoder(Protocol):
    """Undoes one content coding for one body."""

    def decode(self, data: bytes, limit: int) -> bytes:
        """The next decoded bytes, about ``limit`` at most; ``b""`` once more input is needed.

        ``data`` is empty until an earlier call gave ``b""``, so that a small body cannot fill the memory.
        ``TypeError`` with Workers' text when the input is broken.
        """
        ...

    def finish(self) -> None:
        """The input has ended. ``TypeError`` with Workers' text when it ended too early."""
        ...


DecoderFactory = Callable[[], Decoder]
"""Makes the decoder of one body; the runtime has one factory for each content coding."""


Send = Callable[["Response"], Awaitable[None]]
"""Given by a host: writes the whole response; returns once its last byte was handed to the transport."""

Handle = Callable[["Request", Send], Awaitable[None]]
"""Given to a host: answers one request by calling ``send`` once. The host cancels it when the client is gone."""


@runtime_checkable
class Host(Protocol):
    """Accepts requests from the network."""

    async def serve(self, handle: Handle) -> None:
        """Serve until :meth:`stop`; returns once every accepted request was answered or cut off."""
        ...

    def stop(self, grace_s: float) -> None:
        """Begin to end: requests go on for at most ``grace_s`` seconds, then the listener is closed.

        With nothing in flight the listener closes at once. May be called again with less time.
        """
        ...
