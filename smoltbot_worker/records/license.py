"""Typed callers of the database functions that keep what the issuer of a license said last."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from smoltbot_worker.answers import iso
from smoltbot_worker.ports import Json, RecordStore


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a license from its issuer. Times in seconds since the epoch.

    ``status`` is ``valid``, ``invalid`` (``error`` says why), ``unreachable``, or empty while nobody has asked.
    """

    status: str = ""
    error: str = ""
    checked_at: float = 0.0
    last_valid_at: float | None = None


async def license_state(store: RecordStore, license_id: str) -> Standing | None:
    """What the last check of a license found, or None when there was none."""
    row: Any = await store.call("license_state", {"license_id": license_id})
    return None if row is None else _standing(row)


async def put_license_state(store: RecordStore, license_id: str, standing: Standing) -> None:
    """Store what a check found; the last valid time that is stored never moves backwards."""
    await store.call(
        "put_license_state",
        {
            "license_id": license_id,
            "status": standing.status,
            "last_valid_at": None if standing.last_valid_at is None else iso(standing.last_valid_at),
            "last_checked_at": iso(standing.checked_at),
            "last_error": standing.error or None,
        },
    )


def _standing(row: dict[str, Json]) -> Standing:
    last_valid = row["last_valid_at"]
    return Standing(
        status=str(row["status"]),
        error=str(row["last_error"] or ""),
        checked_at=_seconds(row["last_checked_at"]),
        last_valid_at=None if last_valid is None else _seconds(last_valid),
    )


def _seconds(time: Json) -> float:
    return datetime.fromisoformat(str(time)).timestamp()
