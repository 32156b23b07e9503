"""Exports: whole, cut at one head, in bounded memory, ended by a client that leaves and by a database that fails."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Mapping
from typing import Any

import pytest

from smoltbot_worker.attestation.heads import SignedHead
from smoltbot_worker.attestation.verify import verify_bundle
from smoltbot_worker.events import RequestAnswered
from smoltbot_worker.ports import Json, RecordsUnavailable
from tests.scale import figure, scaled
from tests.unit.attestation_support import (
    AGENT,
    CRYPTO,
    PINNED,
    TIMESTAMP,
    LogReader,
    MemoryLog,
    draft,
    filled,
    two_sessions,
)

from .evidence_support import BEARER, EXPORT, TOKEN, Watched, over
from .support import Gateway


@pytest.fixture(scope="module")
def thousand() -> MemoryLog:
    return asyncio.run(filled([draft(number, f"session-{number % 9}") for number in range(1000)], batch=50))


@pytest.mark.parametrize("pruned", [range(0), range(250)], ids=["whole", "pruned"])
async def test_an_export_of_a_thousand_entries_verifies_offline(thousand: MemoryLog, pruned: range) -> None:
    gateway = over(thousand, pruned)
    got = await gateway.ask("GET", EXPORT, BEARER)
    assert got.status == 200
    assert got.body.endswith(b"}\n")
    assert got.body.count(b"\n") == 1
    document = got.json()
    assert [len(document[name]) for name in ("entries", "pruned", "heads", "keys")] == [
        1000 - len(pruned), len(pruned), 20, 1,
    ]  # fmt: skip
    report = await verify_bundle(document, PINNED, CRYPTO, thousand.heads[AGENT][4])
    assert (report.status, report.defects) == (0, ())
    assert [event.path for event in gateway.telemetry.of(RequestAnswered)] == [EXPORT]


class Moving:
    """The log as it was when its heads were read, then longer; retention deletes more when entry 150 was read."""

    def __init__(self, log: MemoryLog, longer: MemoryLog, later: int) -> None:
        self.log = log
        self.longer = longer
        self.later = later
        self.pruned = 30

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        if int(str(arguments.get("after_index") or 0)) > 150:
            self.pruned = self.later
        reader = LogReader(self.log, range(self.pruned))
        self.log = self.longer
        return await reader.call(function, arguments)


async def moving(later: int) -> Gateway:
    gateway = Gateway(READ_TOKEN=TOKEN)
    drafts = two_sessions(400)
    gateway.env.records = Moving(await filled(drafts[:350], batch=50), await filled(drafts, batch=50), later)
    return gateway


async def test_an_export_is_cut_at_the_head_although_the_log_grows_and_is_pruned_meanwhile() -> None:
    gateway = await moving(160)
    gateway.env.records = Moving(
        await filled(two_sessions(350), batch=50), await filled(two_sessions(400), batch=50), 160
    )
    document = (await gateway.ask("GET", EXPORT, BEARER)).json()
    report = await verify_bundle(document, PINNED, CRYPTO)
    assert (report.status, report.defects) == (0, ())
    assert report.what == "bundle with 320 entries and 30 pruned"


async def test_an_export_breaks_off_when_retention_deletes_what_is_to_come() -> None:
    gateway = await moving(330)
    gateway.env.records = Moving(
        await filled(two_sessions(350), batch=50), await filled(two_sessions(400), batch=50), 330
    )
    response = await gateway.begin("GET", EXPORT, BEARER)
    assert response.body is not None
    with pytest.raises(RecordsUnavailable, match="export it again"):
        await response.body.read_all()


class LongLog:
    """A log of any length, all of whose rows are the same but for their place: what it takes to export it."""

    def __init__(self, log: MemoryLog, size: int) -> None:
        self._row = log.rows[AGENT][0]
        self._head = SignedHead(AGENT, size, "0" * 64, TIMESTAMP, "key-001", "").to_json()
        self._size = size

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        given: Any = arguments
        match function:
            case "signed_heads":
                return [self._head]
            case "checkpoints":
                start = -1 if given["after_index"] is None else given["after_index"]
                end = min(start + 1 + given["limit"], self._size)
                return [{**self._row, "merkle_leaf_index": index} for index in range(start + 1, end)]
            case "retention_statement":
                return None
        return []


async def exported(log: MemoryLog, size: int) -> tuple[int, int]:
    """The bytes of an export, and the most memory it took."""
    gateway = Gateway(READ_TOKEN=TOKEN)
    gateway.env.records = LongLog(log, size)
    tracemalloc.start()
    try:
        response = await gateway.begin("GET", EXPORT, BEARER)
        assert response.body is not None
        total = 0
        async for piece in response.body:
            total += len(piece)
        return total, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.proof
@pytest.mark.alone
async def test_an_export_of_any_length_takes_the_memory_of_a_page() -> None:
    log = await filled(two_sessions(1))
    few, many = 300, scaled(1_200, 20_000)
    short, long = await exported(log, few), await exported(log, many)
    assert long[0] > short[0] * many / few * 0.9
    assert long[1] < short[1] * 1.2 + 500_000
    figure(f"memory of an export of {many:,}", f"{long[1] / 2**20:.1f} MiB for {long[0] / 2**20:.0f} MiB")


async def test_a_client_that_leaves_stops_the_export() -> None:
    gateway = over(await filled(two_sessions(600), batch=100))
    watched = gateway.env.records
    assert isinstance(watched, Watched)
    response = await gateway.begin("GET", EXPORT, BEARER)
    assert response.body is not None
    reader = response.body.get_reader()
    for _ in range(3):
        assert await reader.read()
    before = list(watched.calls)
    await reader.cancel()
    assert await reader.read() == b""
    for _ in range(50):
        await asyncio.sleep(0)
    assert watched.calls == before
    assert before.count("checkpoints") == 1


async def test_an_export_breaks_off_when_the_database_fails() -> None:
    log = await filled(two_sessions(250), batch=50)
    whole = over(log)
    watched = whole.env.records
    assert isinstance(watched, Watched)
    await whole.ask("GET", EXPORT, BEARER)
    for calls in range(1, len(watched.calls)):
        response = await over(log, failing=calls).begin("GET", EXPORT, BEARER)
        assert response.body is not None
        body = b""
        reader = response.body.get_reader()
        try:
            while piece := await reader.read():
                body += piece
        except RecordsUnavailable:
            pass
        else:
            pytest.fail("it ended as if it were whole")
        with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
            json.loads(body)
    assert calls > 6


async def test_what_is_damaged_is_exported_and_found() -> None:
    log = await filled(two_sessions(9))
    log.rows[AGENT][4]["concerns"] = [1]
    log.rows[AGENT][6]["window_position"] = {"index": 2**60}
    del log.nodes[AGENT][1, 3]
    document = (await over(log).ask("GET", EXPORT, BEARER)).json()
    assert [index for index, entry in enumerate(document["entries"]) if not entry["certificate"]] == [4, 6]
    (defect,) = (await verify_bundle(document, PINNED, CRYPTO)).defects
    assert (defect.entry.split(" (")[0], defect.check) == ("leaf 4", "shape")
    document["entries"][4]["checkpoint"]["concerns"] = []
    report = await verify_bundle(document, PINNED, CRYPTO)
    assert report.status == 1
    assert {"leaf 4", "leaf 6"} <= {defect.entry.split(" (")[0] for defect in report.defects}
