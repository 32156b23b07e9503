"""The KV cases on every backend, and the same cases on Cloudflare's own runtime with the same results."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.architecture.tree import ROOT, none_of
from tests.conformance.backends import BACKENDS, Backend
from tests.conformance.cases import FOLDER, Case, Player, cases, differences
from tests.services.node import node
from worker_compat.kv import KVNamespace
from worker_compat.testing import FakeClock

CASES = cases()
ROWS = json.loads(FOLDER.with_name("kv_rows.json").read_text("utf-8"))
REPLAY = ROOT / "tests" / "workerd" / "kv_replay.mjs"
TITLES_OF_MINIFLARE = 50


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 120
    assert len({case.id for case in CASES}) == len(CASES)


def test_every_row_and_every_title_has_its_case() -> None:
    assert len(set(ROWS["miniflare"])) == TITLES_OF_MINIFLARE
    known = set(ROWS["rows"]) | {f"miniflare {title}" for title in ROWS["miniflare"]}
    covered = {row for case in CASES for row in case.covers}
    none_of(f"no case for {row}" for row in known - covered)
    none_of(f"{row} is no data after all" for row in ROWS["elsewhere"].keys() & known)
    none_of(f"{case.id} covers {row}, which is no row" for case in CASES for row in set(case.covers) - known)


def test_the_binding_has_the_methods_of_workers_and_no_others() -> None:
    assert {name for name in dir(KVNamespace) if not name.startswith("_")} == {
        *("get", "getWithMetadata", "put", "delete", "list")
    }


def test_where_workerd_is_not_followed_is_documented() -> None:
    page = (ROOT / "docs" / "parity.md").read_text("utf-8")
    section = page.partition("\n## KV\n")[2].partition("\n## ")[0]
    stated = set(re.findall(r"^\| (.+?) \|", section, re.MULTILINE))
    none_of(f"{case.id}: {case.oracle}" for case in CASES if case.oracle and case.oracle not in stated)


@pytest.mark.parametrize(
    ("backend", "case"),
    [
        pytest.param(backend, case, id=f"{backend.id}-{case.id}")
        for backend in BACKENDS
        for case in CASES
        if backend.lasting or not case.lasting
    ],
)
async def test_a_backend_gives_what_the_case_expects(
    backend: Backend, case: Case, request: pytest.FixtureRequest, clock: FakeClock
) -> None:
    now = int(clock())
    given = await Player(backend.kv_url(request), clock).play(case)
    none_of(differences(case, now, given))


def test_workerd_gives_what_the_cases_expect() -> None:
    asked = json.dumps([{"id": case.id, "steps": case.steps, "time": case.time} for case in CASES])
    answers: dict[str, dict[str, Any]] = json.loads(node(REPLAY, given=asked))
    assert set(answers) == {case.id for case in CASES}
    found = {case.id: differences(case, answers[case.id]["now"], answers[case.id]["results"]) for case in CASES}
    none_of(f"{case.id}: {line}" for case in CASES if not case.oracle for line in found[case.id])
    certain = [case for case in CASES if case.oracle and not case.varies]
    none_of(f"{case.id}: workerd agrees by now" for case in certain if not found[case.id])
