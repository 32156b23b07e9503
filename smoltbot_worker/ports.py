"""What a host gives the gateway beyond the Workers API: records, cryptography, telemetry, licenses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .events import Event

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A JSON value."""


class RecordsUnavailable(Exception):
    """The database cannot be reached, is locked, or does not answer in time. Carries no data of a record."""


@runtime_checkable
class RecordStore(Protocol):
    """The database, as a list of named functions (``schema/README.md``), each one atomic."""

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        """Run one database function and return its JSON result.

        Raises :class:`RecordsUnavailable` when the database cannot be used, ``LookupError`` for an unknown
        function, ``ValueError`` for arguments that the function refuses.
        """
        ...


class Crypto(Protocol):
    """The gateway's signing key. The key itself never leaves the host."""

    @property
    def key_id(self) -> str:
        """The name of the key that :meth:`sign` uses."""
        ...

    async def sign(self, payload: bytes) -> bytes:
        """The Ed25519 signature (RFC 8032) of ``payload``: 64 bytes."""
        ...

    async def verify(self, public_key: bytes, payload: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is that of ``payload`` by the key of 32 bytes; False for anything malformed too."""
        ...


@runtime_checkable
class Telemetry(Protocol):
    """Receives the gateway's typed events; the host turns them into metrics and logs. Must never raise."""

    def emit(self, event: Event) -> None:
        """Take note of ``event``; returns at once."""
        ...
