"""The records kit on every database: the same calls, the same answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

import smoltbot_records_sqlite.records
from smoltbot_worker.ports import RecordStore
from smoltbot_worker.records.functions import FUNCTIONS
from smoltbot_worker.testing import RecordStoreConformance
from tests.conformance.records_backends import BACKENDS, SCHEMA, Opening
from worker_compat.testing import FakeClock, kit

CREATED = re.compile(r"^CREATE FUNCTION ([a-z]\w*)\(jsonb\) RETURNS jsonb", re.MULTILINE)


@pytest.fixture(params=BACKENDS.values(), ids=list(BACKENDS))
def opening(request: pytest.FixtureRequest) -> Opening:
    """Every database in turn."""
    found: Opening = request.param
    return found


class TestRecords(RecordStoreConformance):
    """Every rule of the functions."""

    @pytest.fixture
    async def store(
        self, opening: Opening, request: pytest.FixtureRequest, clock: FakeClock
    ) -> AsyncIterator[RecordStore]:
        """The records, in a database that other cases use too."""
        async with opening(request, clock) as opened:
            yield opened


def test_every_rule_has_its_words() -> None:
    found = list(kit.cases(RecordStoreConformance))
    assert len(found) >= 25
    assert [case.name for case in found if not case.rule] == []


def test_every_database_has_every_function() -> None:
    scripts = "".join(path.read_text() for path in sorted((SCHEMA / "postgres").glob("*.sql")))
    assert sorted(CREATED.findall(scripts)) == sorted(FUNCTIONS)
    records = smoltbot_records_sqlite.records
    assert sorted({*records._READS, *records._WRITES, "ping", "housekeeping"}) == sorted(FUNCTIONS)


def test_both_schemas_have_the_same_files() -> None:
    names = [sorted(path.name for path in (SCHEMA / folder).glob("*.sql")) for folder in ("sqlite", "postgres")]
    assert names[0] == names[1]
