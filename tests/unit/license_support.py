"""Licenses for tests: an issuer that signs whatever it is told, honest or not, without a JWT library."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import smoltbot_records_sqlite
from smoltbot_host.license import load_reader
from smoltbot_worker.admission.license import LicenseGate
from smoltbot_worker.env import read_variables
from smoltbot_worker.events import Event, LicenseChanged
from smoltbot_worker.ports import RecordStore
from worker_compat.testing import FakeClock

NOW = 1_700_000_000.0
DAY = 86_400.0
GRACE = 7 * DAY
SCHEMA = Path(__file__).parents[2] / "schema" / "sqlite"
VALIDATE = "https://api.mnemom.ai/v1/license/validate"


def b64(data: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Somebody who issues licenses with an Ed25519 key."""

    def __init__(self, number: int = 1) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        self.public = self._key.public_key().public_bytes_raw()
        self.hex = self.public.hex()

    def signed(self, header: Any, payload: Any) -> str:
        """Header and payload, JSON or bytes, with a good signature, whatever the header says."""
        text = f"{b64(_bytes(header))}.{b64(_bytes(payload))}"
        return f"{text}.{b64(self._key.sign(text.encode()))}"

    def license(self, *, header: dict[str, Any] | None = None, without: str = "", **claims: Any) -> str:
        """A good license, valid for a year, but for what is given."""
        payload = {"license_id": "lic-1", "exp": NOW + 365 * DAY, "iat": NOW - DAY, **claims}
        payload.pop(without, None)
        return self.signed({"alg": "EdDSA", "typ": "JWT", **(header or {})}, payload)


def hs256(secret: bytes, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A license as the managed service issues them."""
    payload = {"license_id": "lic-1", "exp": NOW + 365 * DAY, **claims}
    text = f"{b64(_bytes({'alg': 'HS256', 'typ': 'JWT', **(header or {})}))}.{b64(_bytes(payload))}"
    return f"{text}.{b64(hmac.new(secret, text.encode(), sha256).digest())}"


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


class Noted:
    """A Telemetry that keeps what was told of the license."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def emit(self, event: Event) -> None:
        assert isinstance(event, LicenseChanged)
        self.told.append((event.state, event.code))


@asynccontextmanager
async def database(folder: Path, clock: FakeClock) -> AsyncIterator[RecordStore]:
    """A real database with this version's schema."""
    url = f"sqlite:///{folder / 'smoltbot.db'}"
    await smoltbot_records_sqlite.migrate(url, SCHEMA)
    async with smoltbot_records_sqlite.open_records(url, clock=clock) as store:
        yield store


def gate_for(
    token: str, store: RecordStore, clock: FakeClock, telemetry: Noted | None = None, *, key: str = "", **variables: str
) -> LicenseGate:
    """The gate of a deployment with these variables, ``LICENSE_MODE=required`` unless told otherwise."""
    given = {"LICENSE_MODE": "required", "MNEMOM_LICENSE_JWT": token, "MNEMOM_API_KEY": "mnm_x", **variables}
    values, _ = read_variables(given)
    reader = load_reader(key, clock)
    return LicenseGate.from_values(values, reader, store, telemetry or Noted(), public_key="ab" * 32, clock=clock)
