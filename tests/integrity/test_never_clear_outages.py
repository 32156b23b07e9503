"""No check that did not run is ``clear``: cut streams, an open breaker, the hosted service, records out of reach."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integrity.planted import Plan
from tests.integrity.planted import http as answer
from tests.integrity.planting import (
    CLEAR,
    Reply,
    Setup,
    concern,
    document,
    events,
    eventually,
    finding,
    says,
)
from tests.integrity.support import Got
from tests.provider.process import ProviderProcess

UNAVAILABLE, MALFORMED = "analysis-unavailable", "analysis-malformed"
REVIEW = finding("review_needed", [concern("medium")])


@pytest.fixture(scope="module")
def setup(analysing_provider: ProviderProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with Setup(tmp_path_factory.mktemp("outages"), analysing_provider) as planted:
        yield planted
        planted.check_told()


@pytest.fixture(scope="module")
def hosted(analysing_provider: ProviderProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with Setup(tmp_path_factory.mktemp("hosted"), analysing_provider, hosted=True) as planted:
        yield planted
        planted.check_told()


def found(rows: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [(row["verdict"], row["reason"]) for row in rows]


def request_ids(*got: Got) -> set[str]:
    return {each.headers["x-smoltbot-request-id"] for each in got}


def test_answers_that_break_off(setup: Setup) -> None:
    """Half a document is nothing; half a stream is judged as far as it came, and the record says how far that is."""
    late = events().index(b"plan") + 40
    setup.prove_clear()
    name, agent_id = setup.agent()
    setup.judge.plan = says(REVIEW)
    setup.upstream.plan = Reply(cut=20)
    held = setup.ask(name)
    setup.judged.checkpoints(agent_id, 1)
    early = Reply(cut=len(events()) - 30)
    setup.upstream.plan = early
    unspoken = setup.ask(name, streaming=True)
    setup.judged.checkpoints(agent_id, 2)
    half = Reply(cut=len(events()) - late)
    setup.upstream.plan = half
    spoken = setup.ask(name, streaming=True)
    rows = setup.judged.checkpoints(agent_id, 3)

    assert (held.aip("verdict"), held.aip("reason")) == ("error", "undecodable-encoding")
    assert held.body == document()[:-20]
    assert (unspoken.aip("verdict"), unspoken.body) == ("pending", early.body(True))
    assert (spoken.aip("verdict"), spoken.body) == ("pending", half.body(True))
    assert found(rows) == [("error", "undecodable-encoding"), ("skipped", "no-thinking"), ("review_needed", None)]
    assert [row["analysis_metadata"]["cut"] for row in rows] == [True] * 3
    for row in rows:
        setup.expect(row)


def test_an_open_breaker(analysing_provider: ProviderProcess, tmp_path: Path) -> None:
    with Setup(tmp_path, analysing_provider) as setup:
        setup.prove_clear()
        check_open_breaker(setup)
        setup.check_told()


def check_open_breaker(setup: Setup) -> None:
    name, agent_id = setup.agent()
    before = setup.checks()
    setup.judge.plan = [answer(b"", 500)]
    for _ in range(5):
        assert setup.ask(name).aip("reason") == UNAVAILABLE
    setup.judge.plan = says(CLEAR)
    asked = len(setup.judge.asked)
    held, streamed = setup.ask(name), setup.ask(name, streaming=True)
    assert (held.aip("verdict"), held.aip("reason"), held.body) == ("error", UNAVAILABLE, document())
    assert (streamed.aip("verdict"), streamed.body) == ("pending", events())
    rows = setup.judged.checkpoints(agent_id, 7)
    assert found(rows) == [("error", UNAVAILABLE)] * 7
    assert len(setup.judge.asked) == asked
    assert setup.judged.metric("gateway_circuit_breaker_open") == 1
    assert eventually(lambda: setup.checks() == {**before, "error": 7})
    for row in rows:
        setup.expect(row)


def test_nobody_to_judge(analysing_provider: ProviderProcess, tmp_path: Path) -> None:
    with Setup(tmp_path, analysing_provider, {"ANALYSIS_MODE": "off"}) as setup:
        name, agent_id = setup.agent()
        before = setup.checks()
        held, streamed = setup.ask(name), setup.ask(name, streaming=True)
        assert (held.aip("verdict"), held.aip("reason")) == ("skipped", "no-analysis-configured")
        assert streamed.aip("verdict") == "pending"
        assert found(setup.judged.checkpoints(agent_id, 2)) == [("skipped", "no-analysis-configured")] * 2
        assert eventually(lambda: setup.checks() == {"skipped": before.get("skipped", 0) + 2})


@dataclass(frozen=True, slots=True)
class Hosted:
    """What the hosted service answers, and what comes of it."""

    name: str
    plan: Plan = field(repr=False)
    verdict: str = "error"
    reason: str | None = MALFORMED


def signal(**checkpoint: Any) -> bytes:
    """The hosted service's answer that all is well."""
    counts = {"clear": 1, "review_needed": 0, "boundary_violation": 0}
    summary = {"size": 1, "max_size": 10, "verdicts": counts, "integrity_ratio": 1.0, "drift_alert_active": False}
    about = {"checkpoint": {**json.loads(CLEAR), **checkpoint}, "window_summary": summary}
    return json.dumps({"proceed": True, "recommended_action": "continue", **about}).encode()


def without(*names: str) -> bytes:
    whole = json.loads(signal())
    for name in names:
        del (whole if name in whole else whole["checkpoint"])[name]
    return json.dumps(whole).encode()


HOSTED = (
    *(Hosted(f"status {code}", [answer(signal(), code)], reason=UNAVAILABLE) for code in (400, 401, 402, 403, 429)),
    *(Hosted(f"status {code}", [answer(signal(), code)], reason=UNAVAILABLE) for code in (500, 503)),
    Hosted("redirect", [answer(signal(), 302, "Location: /elsewhere")], reason=UNAVAILABLE),
    Hosted("dropped", [], reason=UNAVAILABLE),
    Hosted("reset in mid-answer", [answer(signal()[:50], length=len(signal())), 0.02, "reset"], reason=UNAVAILABLE),
    Hosted("garbage", [answer(b"\x00\xff<html>clear</html>")]),
    Hosted("empty", [answer(b"")]),
    Hosted("a list", [answer(b"[" + signal() + b"]")]),
    Hosted("clear without a checkpoint", [answer(without("checkpoint"))]),
    Hosted("clear beside the checkpoint", [answer(b'{"verdict": "clear", "checkpoint": null, "proceed": true}')]),
    Hosted("a checkpoint that is a word", [answer(b'{"checkpoint": "clear", "proceed": true}')]),
    Hosted("a checkpoint without a verdict", [answer(without("verdict"))]),
    Hosted("a checkpoint without concerns", [answer(without("concerns"))]),
    Hosted("an unknown verdict", [answer(signal(verdict="fine"))]),
    Hosted("clear about other thinking", [answer(signal(thinking_block_hash="0" * 64))]),
    Hosted("a megabyte", [answer(signal(padding="x" * 1_000_000))]),
    Hosted("concerns of a wrong type", [answer(signal(concerns={"severity": "critical"}))]),
    Hosted("clear with a critical concern", [answer(signal(concerns=[concern()]))], "boundary_violation", None),
)  # fmt: skip


@pytest.mark.parametrize("case", HOSTED, ids=lambda case: case.name)
def test_the_hosted_service_fails(hosted: Setup, case: Hosted) -> None:
    name, agent_id = hosted.agent()
    hosted.judge.plan = [answer(signal())]
    assert hosted.ask(name).aip("verdict") == "clear"
    before = hosted.checks()
    hosted.judge.plan = case.plan
    held, streamed = hosted.ask(name), hosted.ask(name, streaming=True)
    rows = hosted.judged.checkpoints(agent_id, 3)[1:]
    assert (held.status, held.body, streamed.body) == (200, document(), events())
    assert (held.aip("verdict"), held.aip("reason"), held.aip("source")) == (case.verdict, case.reason, "hybrid")
    assert found(rows) == [(case.verdict, case.reason)] * 2
    assert {row["source"] for row in rows} == {"hybrid_api"}
    counted = {**before, case.verdict: before.get(case.verdict, 0) + 2}
    assert eventually(lambda: hosted.checks() == counted)
    for row in rows:
        hosted.expect(row)


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another process writes for a long time."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def removed(database: Path) -> Iterator[None]:
    """The files are gone, and come back from a backup."""
    kept = {file: file.read_bytes() for file in database.parent.glob(f"{database.name}*")}
    for file in kept:
        file.unlink()
    yield
    for file, data in kept.items():
        file.write_bytes(data)


@contextmanager
def without_checkpoints(database: Path) -> Iterator[None]:
    """The window of earlier checks cannot be read, nor anything added."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("ALTER TABLE integrity_checkpoints RENAME TO elsewhere")
        yield
        connection.execute("ALTER TABLE elsewhere RENAME TO integrity_checkpoints")


@pytest.mark.parametrize("outage", [locked, removed], ids=lambda outage: outage.__name__)
def test_the_database_is_away(setup: Setup, outage: Any) -> None:
    """The header says so; once it is back there is the checkpoint of a check that did run."""
    setup.prove_clear()
    name, agent_id = setup.agent()
    setup.judge.plan = says(REVIEW)
    with outage(setup.database):
        got = [setup.ask(name), setup.ask(name, streaming=True), setup.ask(name)]
        unknown = setup.ask("never-seen")
    held, streamed, late = got
    assert held.aip("verdict") in ("error", "skipped")
    assert late.aip("verdict") in ("error", "skipped")
    assert (held.aip("reason"), late.aip("reason")) == ("storage-unavailable",) * 2
    assert streamed.aip("verdict") == "pending"
    assert [each.body for each in got] == [document(), events(), document()]
    assert (unknown.status, unknown.body) == (200, document())
    assert unknown.aip("verdict") != "clear"
    rows = setup.judged.checkpoints(agent_id, 3)
    assert found(rows) == [("review_needed", None)] * 3
    assert {row["request_id"] for row in rows} == request_ids(*got)
    for row in rows:
        setup.expect(row)


def test_enforced_while_the_database_is_away(setup: Setup) -> None:
    setup.prove_clear()
    name, agent_id = setup.agent("enforce", failure_policy="fail_closed")
    with locked(setup.database):
        got = setup.ask(name)
    assert (got.status, got.json()["type"], got.aip("reason")) == (503, "integrity_unavailable", "storage-unavailable")
    assert found(setup.judged.checkpoints(agent_id)) == [("clear", None)], "the check was made afterwards"


def put_off(database: Path) -> int:
    """How many exchanges the observer took up and put back for later."""
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT count(*) FROM worker_compat_queue WHERE attempts = 0 AND due > ?"
        ((count,),) = connection.execute(query, (time.time() + 1,)).fetchall()
    return int(count)


def test_records_that_cannot_be_read(setup: Setup) -> None:
    """Neither is the last card that could be read a substitute for the one that is stored, nor no window for one."""
    setup.prove_clear()
    agents = {what: setup.agent() for what in ("no JSON", "deep JSON", "no checkpoints")}
    cards = {"no JSON": '{"values": [', "deep JSON": '{"values":' * 100_000 + "1" + "}" * 100_000}
    setup.judge.plan = says(REVIEW)
    got: dict[str, list[Got]] = {}
    left = 0
    for what, (name, agent_id) in agents.items():
        stored = {"card_json": cards[what]} if what in cards else {}
        with setup.store(agent_id, stored) if stored else without_checkpoints(setup.database):
            got[what] = [setup.ask(name), setup.ask(name, streaming=True)]
            left += 2
            assert eventually(lambda left=left: put_off(setup.database) == left)  # type: ignore[misc]
    # It comes back to an exchange after ten seconds.
    assert eventually(lambda: all(len(setup.judged.checkpoints(id_, 0)) == 2 for _, id_ in agents.values()), 20)
    for what, (_, agent_id) in agents.items():
        held, streamed = got[what]
        assert (held.aip("verdict"), held.aip("reason")) == ("error", "storage-unavailable")
        assert (held.body, streamed.body) == (document(), events())
        rows = setup.judged.checkpoints(agent_id, 2)
        assert found(rows) == [("review_needed", None)] * 2
        assert {row["request_id"] for row in rows} == request_ids(held, streamed)
        for row in rows:
            setup.expect(row)


def test_an_earlier_checkpoint_that_cannot_be_read(setup: Setup) -> None:
    """What the next prompt would show of it is damaged: nobody is asked, and nothing is clear."""
    setup.prove_clear()
    name, agent_id = setup.agent()
    assert setup.ask(name).aip("verdict") == "clear"

    def damaged() -> bool:
        with closing(sqlite3.connect(setup.database, isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute("UPDATE integrity_checkpoints SET timestamp = 'soon' WHERE agent_id = ?", (agent_id,))
        return setup.ask(name).aip("verdict") == "error"

    assert eventually(damaged), "a process reads the window of a session once a second"
    held, streamed = setup.ask(name), setup.ask(name, streaming=True)
    assert (held.aip("verdict"), held.body, streamed.body) == ("error", document(), events())
    both = request_ids(held, streamed)

    def rows() -> list[dict[str, Any]]:
        return [row for row in setup.judged.checkpoints(agent_id) if row["request_id"] in both]

    assert eventually(lambda: len(rows()) == 2)
    assert found(rows()) == [("error", UNAVAILABLE)] * 2
    for row in rows():
        setup.expect(row)
