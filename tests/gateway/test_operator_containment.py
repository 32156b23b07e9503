"""How an operator contains an agent: the state machine, what is on record, and what the process does at once."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from smoltbot_worker.events import ContainmentChanged
from tests.conformance.records_backends import BACKENDS
from tests.unit.agent_support import outage
from worker_compat.testing import FakeClock

from .operator_support import READER, Operator
from .support import Got

NOW = "2023-11-14T22:13:20.000Z"
LEADS = {
    ("active", "pause"): "paused", ("paused", "resume"): "active", ("active", "kill"): "killed",
    ("paused", "kill"): "killed", ("killed", "reactivate"): "active",
}  # fmt: skip
WAYS: dict[str, list[str]] = {"active": [], "paused": ["pause"], "killed": ["kill"]}


@pytest.fixture
async def operator(request: pytest.FixtureRequest) -> AsyncIterator[Operator]:
    clock = FakeClock()
    async with BACKENDS["sqlite"](request, clock) as store:
        yield Operator(store, clock)


async def do(operator: Operator, agent_id: str, action: str, body: Any = None) -> Got:
    return await operator.ask("POST", f"/v1/agents/{agent_id}/{action}", body)


class TestTheStateMachine:
    @pytest.mark.parametrize("action", ["pause", "resume", "kill", "reactivate"])
    @pytest.mark.parametrize("state", WAYS)
    async def test_every_action_in_every_state(self, operator: Operator, state: str, action: str) -> None:
        agent_id = await operator.agent()
        for step in WAYS[state]:
            assert (await do(operator, agent_id, step)).status == 200
        operator.process.events.clear()
        got = await do(operator, agent_id, action, {"reason": "why"})
        expected = LEADS.get((state, action))
        agent = await operator.process.agents.by_id(agent_id)
        assert agent is not None
        assert agent.containment == (expected or state)
        if expected is None:
            body = got.json()
            assert (got.status, body["error"], body["containment_status"]) == (400, "Wrong state", state)
            assert body["message"].endswith(f"; this one is {state}")
            assert operator.process.events == []
            return
        told: dict[str, Any] = {"agent_id": agent_id, "containment_status": expected}
        if expected != "active":
            told |= {"contained_at": NOW, "contained_by": "admin", "containment_reason": "why"}
        assert (got.status, got.json()) == (200, told)
        assert operator.process.events == [ContainmentChanged(agent_id, action, expected)]

    async def test_what_is_on_record(self, operator: Operator) -> None:
        agent_id = await operator.agent()
        await operator.ask("PUT", f"/v1/agents/{agent_id}/settings", {"auto_containment_threshold": 5})
        steps = [("pause", "a \u2620 reason"), ("resume", None), ("kill", None)]
        for action, reason in steps:
            body = None if reason is None else {"reason": reason}
            assert (await do(operator, agent_id, action, body)).status == 200
        for path in (f"/v1/agents/{agent_id}/containment", f"/v1/orgs/org-local/agents/{agent_id}/containment"):
            got = (await operator.ask("GET", path, token=READER)).json()
            log = got.pop("log")
            assert got == {
                "agent_id": agent_id, "status": "killed", "contained_at": NOW, "contained_by": "admin",
                "containment_reason": None, "auto_containment_threshold": 5,
            }  # fmt: skip
            assert all(re.fullmatch("ctl-[0-9a-f]{32}", entry.pop("id")) for entry in log)
            assert log == [
                entry("kill", None, "active", "killed"),
                entry("resume", None, "paused", "active"),
                entry("pause", "a \u2620 reason", "active", "paused"),
            ]

    @pytest.mark.parametrize("reason", ["x" * 501, 1, True, [], {"a": 1}, "\ud800", "a\0b"])
    async def test_what_is_no_reason(self, operator: Operator, reason: Any) -> None:
        agent_id = await operator.agent()
        got = await do(operator, agent_id, "pause", {"reason": reason})
        assert got.status == 400
        assert got.json()["message"].startswith("reason must be text ")
        assert (await operator.ask("GET", f"/v1/agents/{agent_id}/containment")).json()["status"] == "active"

    @pytest.mark.parametrize("body", [None, b"", {}, {"reason": None}, {"reason": ""}, {"reason": "x" * 500}])
    async def test_a_reason_is_optional(self, operator: Operator, body: Any) -> None:
        agent_id = await operator.agent()
        got = await do(operator, agent_id, "pause", body)
        given = body.get("reason") if isinstance(body, dict) else None
        assert (got.status, got.json()["containment_reason"]) == (200, given)

    async def test_what_is_written_counts_at_once(self, operator: Operator) -> None:
        agent_id = await operator.agent()
        agent = await operator.process.agents.by_id(agent_id)
        assert agent is not None
        await do(operator, agent_id, "kill")
        operator.process.line.error = outage()
        assert await operator.process.agents.find(agent.hash * 4, None, operator.process.ctx) is agent
        assert (agent.containment, agent.quota["containment_status"]) == ("killed", "killed")


class TestThePolicy:
    @pytest.mark.parametrize("threshold", [2, 100, None])
    @pytest.mark.parametrize("form", ["/v1/agents/{}", "/v1/orgs/org-local/agents/{}"])
    async def test_a_threshold(self, operator: Operator, form: str, threshold: int | None) -> None:
        agent_id = await operator.agent()
        path = f"{form.format(agent_id)}/containment-policy"
        body = {"auto_containment_threshold": threshold}
        got = await operator.ask("PUT", path, body)
        assert (got.status, got.json()) == (200, {"agent_id": agent_id, **body})
        agent = await operator.process.agents.by_id(agent_id)
        assert agent is not None
        assert agent.auto_containment_threshold == threshold

    @pytest.mark.parametrize("value", [1, 0, -2, 2.5, "2", True, [], 2**31, ...])
    async def test_what_is_no_threshold(self, operator: Operator, value: Any) -> None:
        agent_id = await operator.agent()
        body = {} if value is ... else {"auto_containment_threshold": value}
        got = await operator.ask("PUT", f"/v1/agents/{agent_id}/containment-policy", body)
        assert got.status == 400
        assert got.json()["message"].startswith("auto_containment_threshold ")


def entry(action: str, reason: str | None, previous: str, new: str) -> dict[str, Any]:
    """An action on record, but for its id."""
    return {
        "action": action, "actor": "admin", "reason": reason, "previous_status": previous, "new_status": new,
        "created_at": NOW,
    }  # fmt: skip
