"""What a host gives the gateway beyond the Workers API: records, cryptography, telemetry, licenses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """The gateway's keys: one signs, one seals. The keys themselves never leave the host."""

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

    async def seal(self, data: bytes) -> bytes:
        """``data`` so that only a holder of the key can read or change it (AES-256-GCM, a new nonce each time)."""
        ...

    async def open(self, data: bytes) -> bytes:
        """What was sealed; ``ValueError``, which says nothing of it, for anything else."""
        ...


class LicenseInvalid(Exception):
    """A license that must not count; ``code`` is one of those of ``/health/ready``."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class LicenseClaims:
    """What a license says of itself. Times in seconds since the epoch.

    ``verified``: a pinned key has signed it. Without one (managed licenses) only its issuer can say whether it counts.
    """

    license_id: str
    expires_at: float
    is_offline: bool
    verified: bool
    account_id: str | None = None
    plan_id: str | None = None
    features: Sequence[str] = ()


class LicenseReader(Protocol):
    """Reads license tokens with keys that are pinned in the configuration."""

    def read(self, token: str) -> LicenseClaims:
        """The claims of a token, expired or not; raises :class:`LicenseInvalid` when they cannot be believed."""
        ...


@runtime_checkable
class Telemetry(Protocol):
    """Receives the gateway's typed events; the host turns them into metrics and logs. Must never raise."""

    def emit(self, event: Event) -> None:
        """Take note of ``event``; returns at once."""
        ...
