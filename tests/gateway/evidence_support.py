"""What the tests of the evidence share: a gateway over a log in memory, and a store that counts its calls and fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smoltbot_worker.ports import Json, RecordStore, RecordsUnavailable
from tests.unit.attestation_support import AGENT, LogReader, MemoryLog, draft

from .support import Gateway

TOKEN = "read-token-of-a-test"
BEARER = f"Authorization: Bearer {TOKEN}"
EXPORT = f"/v1/agents/{AGENT}/export"


class Watched:
    """A store that counts its calls, of which number ``failing`` fails, counted from 0."""

    def __init__(self, store: RecordStore, failing: int | None = None) -> None:
        self.store = store
        self.failing = failing
        self.calls: list[str] = []

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        self.calls.append(function)
        if len(self.calls) - 1 == self.failing:
            raise RecordsUnavailable("the secret address does not answer")
        return await self.store.call(function, arguments)


def over(log: MemoryLog, pruned: range = range(0), failing: int | None = None, role: str = "all") -> Gateway:
    """A gateway over a log."""
    gateway = Gateway(READ_TOKEN=TOKEN, PUBLIC_BASE_URL="https://gateway.example", SMOLTBOT_ROLE=role)
    gateway.env.records = Watched(LogReader(log, pruned), failing)
    return gateway


def calls_of(gateway: Gateway) -> list[str]:
    """The functions that a gateway of :func:`over` has called."""
    assert isinstance(gateway.env.records, Watched)
    return gateway.env.records.calls


async def certificate(gateway: Gateway, number: int) -> dict[str, Any]:
    got = await gateway.ask("GET", f"/v1/checkpoints/{draft(number).checkpoint_id}/certificate")
    assert got.status == 200, got.body
    document: dict[str, Any] = got.json()
    return document
