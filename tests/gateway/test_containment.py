"""What the requests of a contained agent get, and those of an account that is used up: no provider is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from smoltbot_worker.admission.agents import AgentDirectory
from smoltbot_worker.events import ExchangeEnded
from smoltbot_worker.ports import RecordStore
from tests.conformance.records_backends import BACKENDS
from tests.unit.agent_support import Between, act, key, outage
from worker_compat.response import Response

from .support import ANTHROPIC, GEMINI, OPENAI, Gateway, Got

ADMIN = "admin-token-of-a-test"
BEARER = f"Authorization: Bearer {ADMIN}"
ACCOUNT: dict[str, Any] = {
    "plan_id": "plan-team", "billing_model": "subscription", "subscription_status": "active", "included_checks": 100,
    "check_count_this_period": 83, "overage_threshold": None, "per_check_price": 0.01, "per_proof_price": 1,
    "feature_flags": {}, "limits": {}, "current_period_end": None, "past_due_since": None, "is_suspended": False,
}  # fmt: skip
WAYS = [
    ("POST", "/anthropic/v1/messages", "x-api-key"),
    ("GET", "/anthropic/v1/models", "x-api-key"),
    ("POST", "/openai/v1/chat/completions", "authorization: Bearer"),
    ("POST", "/gemini/v1beta/models/m:streamGenerateContent", "x-goog-api-key"),
]


class Deployment:
    """A gateway on a real database, and a key of its own."""

    def __init__(self, store: RecordStore, **variables: str) -> None:
        self.store = Between(store)
        self.key = f"key-{key()}"
        asked = {
            f"GET {ANTHROPIC}/v1/models": Response(b"passed"),
            f"POST {ANTHROPIC}/v1/messages": Response(b"passed"),
            f"POST {OPENAI}/v1/chat/completions": Response(b"passed"),
            f"POST {GEMINI}/v1beta/models/m:streamGenerateContent": Response(b"passed"),
        }
        self.gateway = Gateway(asked, ADMIN_TOKEN=ADMIN, **variables)
        env = self.gateway.env
        env.records = self.store
        env.agents = AgentDirectory(self.store, self.gateway.telemetry, card=None, clock=self.gateway.clock)

    async def send(self, method: str = "GET", target: str = "/anthropic/v1/models", header: str = "x-api-key") -> Got:
        """A request of the agent."""
        line = f"{header} {self.key}" if ":" in header else f"{header}: {self.key}"
        return await self.gateway.ask(method, target, line, body=None if method == "GET" else b"{}")

    async def agent(self) -> str:
        """The agent's id, after its first request."""
        return str((await self.send()).get("x-smoltbot-agent"))


@pytest.fixture
async def store(request: pytest.FixtureRequest) -> AsyncIterator[RecordStore]:
    async with BACKENDS["sqlite"](request, Gateway().clock) as store:
        yield store


@pytest.mark.parametrize(("action", "reason"), [("pause", "agent_paused"), ("kill", "agent_killed")])
@pytest.mark.parametrize(("method", "target", "header"), WAYS)
async def test_a_contained_agent_reaches_no_provider(
    store: RecordStore, action: str, reason: str, method: str, target: str, header: str
) -> None:
    deployment = Deployment(store)
    gateway = deployment.gateway
    agent_id = await deployment.agent()
    answer = await gateway.ask("POST", f"/v1/agents/{agent_id}/{action}", BEARER)
    assert answer.status == 200
    asked = len(gateway.fetcher.requests)
    got = await deployment.send(method, target, header)
    assert (got.status, got.json()) == (
        403, {"error": "Agent contained", "type": "containment_error", "reason": reason},
    )  # fmt: skip
    assert got.get("x-smoltbot-agent") == agent_id
    assert got.get("x-aip-verdict") != "clear"
    assert len(gateway.fetcher.requests) == asked
    assert gateway.telemetry.of(ExchangeEnded)[-1].outcome == "refused"

    deployment.store.error = outage()
    assert (await deployment.send(method, target, header)).status == 403
    deployment.store.error = None
    gateway.env.agents.mark(True)
    for back in ("resume",) if action == "pause" else ("reactivate",):
        assert (await gateway.ask("POST", f"/v1/agents/{agent_id}/{back}", BEARER)).status == 200
    assert (await deployment.send()).status == 200
    await gateway.runtime.background.drain(0)


async def test_a_kill_outlives_an_outage_in_both_failure_modes(store: RecordStore) -> None:
    for mode in ("open", "closed"):
        deployment = Deployment(store, DB_FAILURE_MODE=mode)
        agent_id = await deployment.agent()
        await act(store, agent_id, "kill")
        deployment.gateway.env.agents.changed(agent_id)
        assert (await deployment.send()).status == 403
        deployment.store.error = outage()
        deployment.gateway.env.agents.changed(agent_id)
        statuses = [(await deployment.send()).status for _ in range(3)]
        assert statuses == [403] * 3 if mode == "open" else set(statuses) <= {403, 503}
        assert len(deployment.gateway.fetcher.requests) == 1
        await deployment.gateway.runtime.background.drain(0)


class TestBilling:
    async def paying(self, store: RecordStore, enforced: bool, **changes: Any) -> Deployment:
        deployment = Deployment(store, BILLING_ENFORCEMENT_ENABLED="true" if enforced else "false")
        agent_id = await deployment.agent()
        account_id = f"acct-{key()[:16]}"
        await store.call("put_account", {**ACCOUNT, "account_id": account_id, **changes})
        await store.call("update_agent", {"agent_id": agent_id, "settings": {"billing_account_id": account_id}})
        deployment.gateway.env.agents.changed(agent_id)
        return deployment

    async def test_it_is_off_unless_it_is_asked_for(self, store: RecordStore) -> None:
        deployment = await self.paying(store, False, is_suspended=True)
        got = await deployment.send()
        assert (got.status, got.get("x-mnemom-usage-percent")) == (200, None)
        await deployment.gateway.runtime.background.drain(0)

    async def test_a_warning(self, store: RecordStore) -> None:
        deployment = await self.paying(store, True)
        got = await deployment.send()
        told = (got.get("x-mnemom-usage-percent"), got.get("x-mnemom-usage-warning"))
        assert (got.status, told) == (200, ("83", "approaching_quota"))
        await deployment.gateway.runtime.background.drain(0)

    async def test_a_refusal(self, store: RecordStore) -> None:
        deployment = await self.paying(store, True, overage_threshold=80)
        got = await deployment.send()
        assert (got.status, got.all("x-mnemom-usage-percent")) == (402, ["83"])
        assert got.json() == {
            "error": "Request blocked by billing policy", "type": "billing_error",
            "reason": "overage_threshold_exceeded", "usage_percent": 83,
        }  # fmt: skip
        assert len(deployment.gateway.fetcher.requests) == 1
        await deployment.gateway.runtime.background.drain(0)
