"""What an operator sets: the mode of enforcement, the settings, and what is refused before it is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from smoltbot_worker.api import agents, bodies
from smoltbot_worker.api.routes import ROUTES
from tests.conformance.records_backends import BACKENDS
from tests.unit.agent_support import outage
from worker_compat.testing import FakeClock

from .operator_support import ADMIN, READER, Operator

WRITES: list[tuple[str, str, Any]] = [
    ("PUT", "enforcement", {"mode": "nudge"}),
    ("PUT", "settings", {"proof_rate": 5}),
    ("PUT", "containment-policy", {"auto_containment_threshold": 2}),
    ("POST", "pause", None),
    ("POST", "resume", None),
    ("POST", "kill", None),
    ("POST", "reactivate", None),
]
READS: list[tuple[str, str, Any]] = [("GET", "enforcement", None), ("GET", "containment", None)]
NEW = {
    "nudge_strategy": "always", "nudge_rate": None, "nudge_threshold": None, "aap_enabled": True, "aip_enabled": True,
    "proof_enabled": False, "proof_rate": 10, "ddr_mode": "flag", "public": False, "auto_containment_threshold": None,
    "gate_streams": "off", "failure_policy": None, "thinking_injection": None,
}  # fmt: skip
OTHER = {
    "nudge_strategy": "threshold", "nudge_rate": 50, "nudge_threshold": 2, "aap_enabled": False, "aip_enabled": False,
    "proof_enabled": True, "proof_rate": 100, "ddr_mode": "off", "public": True, "auto_containment_threshold": 4,
    "gate_streams": "all", "failure_policy": "fail_closed", "thinking_injection": "auto",
}  # fmt: skip


@pytest.fixture
async def operator(request: pytest.FixtureRequest) -> AsyncIterator[Operator]:
    clock = FakeClock()
    async with BACKENDS["sqlite"](request, clock) as store:
        yield Operator(store, clock)


class TestWhoMay:
    @pytest.mark.parametrize(("method", "suffix", "body"), WRITES + READS)
    @pytest.mark.parametrize("form", ["/v1/agents/{}", "/v1/orgs/org-local/agents/{}", "/v1/orgs/other/agents/{}"])
    async def test_the_token_is_asked_first(
        self, operator: Operator, form: str, method: str, suffix: str, body: Any
    ) -> None:
        agent_id = await operator.agent()
        path = f"{form.format(agent_id)}/{suffix}"
        assert (await operator.ask(method, path, body, token=None)).status == 401
        wrong = await operator.ask(method, path, b"not JSON", token="wrong")
        assert (wrong.status, wrong.get("www-authenticate")) == (401, 'Bearer realm="smoltbot"')
        reading = await operator.ask(method, path, body, token=READER)
        assert reading.status == (200 if method == "GET" else 403)
        assert method == "GET" or "ADMIN_TOKEN" in reading.json()["message"]
        got = await operator.ask(method, path, body)
        assert got.status == (400 if suffix in ("resume", "reactivate") else 200), got.body
        assert got.status == 400 or got.get("cache-control") == "no-store"
        assert READER not in reading.body.decode() + wrong.body.decode()

    @pytest.mark.parametrize(("method", "suffix", "body"), WRITES)
    async def test_nobody_writes_without_an_admin_token(
        self, operator: Operator, method: str, suffix: str, body: Any
    ) -> None:
        agent_id = await operator.agent()
        without = Operator(operator.process.line.store, FakeClock(), READ_TOKEN=READER)
        for token in (None, READER, "", ADMIN):
            got = await without.ask(method, f"/v1/agents/{agent_id}/{suffix}", body, token=token)
            assert got.status == 403
            assert "set ADMIN_TOKEN" in got.json()["message"]
        assert without.process.line.calls == []

    async def test_two_admin_tokens(self, operator: Operator) -> None:
        agent_id = await operator.agent()
        both = Operator(operator.process.line.store, FakeClock(), ADMIN_TOKEN="first-token-1,second-token-2")
        for token, status in (("first-token-1", 200), ("second-token-2", 200), ("first-token-1,second-token-2", 401)):
            body = {"mode": "nudge"}
            assert (await both.ask("PUT", f"/v1/agents/{agent_id}/enforcement", body, token=token)).status == status

    def test_every_route_that_writes_wants_the_admin_token(self) -> None:
        writing = {route.path for route in ROUTES if route.method != "GET" and "agents/{}" in route.path}
        refusing = {route.path for route in ROUTES if route.refuse.__name__ == "refuse_writing"}
        assert writing <= refusing


class TestEnforcement:
    async def test_the_mode(self, operator: Operator) -> None:
        agent_id = await operator.agent()
        path = f"/v1/agents/{agent_id}/enforcement"
        read = {"agent_id": agent_id, "enforcement_mode": "observe"}
        assert (await operator.ask("GET", path, token=READER)).json() == read
        for mode in ("enforce", "nudge", "observe", "enforce"):
            for _ in range(2):
                got = await operator.ask("PUT", path, {"mode": mode})
                assert (got.status, got.json()) == (200, {**read, "enforcement_mode": mode, "updated": True})
        agent = await operator.process.agents.by_id(agent_id)
        assert agent is not None
        assert agent.mode == "enforce"

    @pytest.mark.parametrize("mode", ["strict", "", None, 1, ["nudge"], {"mode": "nudge"}, "Enforce", True])
    async def test_what_is_no_mode(self, operator: Operator, mode: Any) -> None:
        agent_id = await operator.agent()
        for body in ({"mode": mode}, {}):
            got = await operator.ask("PUT", f"/v1/agents/{agent_id}/enforcement", body)
            assert (got.status, got.json()["error"]) == (400, 'mode must be "observe", "enforce", or "nudge"')
        assert operator.process.line.count("update_agent") == 0


class TestSettings:
    async def test_all_of_them(self, operator: Operator) -> None:
        agent_id = await operator.agent()
        path = f"/v1/agents/{agent_id}/settings"
        assert tuple(OTHER) == agents.SETTINGS
        assert (await operator.ask("PUT", path, {})).json() == {"agent_id": agent_id, **NEW}
        stored: dict[str, Any] = {"agent_id": agent_id, **NEW}
        for name, value in OTHER.items():
            stored[name] = value
            got = await operator.ask("PUT", path, {name: value})
            assert (got.status, got.json()) == (200, stored)
        assert (await operator.ask("PUT", path, NEW)).json() == {"agent_id": agent_id, **NEW}

    async def test_they_count_at_once(self, operator: Operator) -> None:
        agent_id = await operator.agent()
        await operator.ask("PUT", f"/v1/agents/{agent_id}/settings", {"failure_policy": "fail_closed"})
        agent = await operator.process.agents.by_id(agent_id)
        assert agent is not None
        assert agent.failure_policy == "fail_closed"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("nudge_strategy", "never"), ("nudge_rate", 101), ("nudge_rate", "5"), ("nudge_threshold", 0),
            ("aap_enabled", 1), ("aip_enabled", None), ("proof_enabled", "true"), ("proof_rate", -1),
            ("proof_rate", 1.5), ("ddr_mode", "on"), ("public", "no"), ("auto_containment_threshold", 1),
            ("auto_containment_threshold", True), ("gate_streams", None), ("failure_policy", "open"),
            ("thinking_injection", []), ("nudge_threshold", 10**30),
        ],
    )  # fmt: skip
    async def test_values_that_a_setting_does_not_take(self, operator: Operator, name: str, value: Any) -> None:
        agent_id = await operator.agent()
        got = await operator.ask("PUT", f"/v1/agents/{agent_id}/settings", {"proof_rate": 77, name: value})
        body = got.json()
        assert (got.status, body["type"]) == (400, "invalid_request")
        assert body["message"].startswith(f"{name} must be ")
        assert (await operator.ask("PUT", f"/v1/agents/{agent_id}/settings", {})).json()["proof_rate"] == 10

    @pytest.mark.parametrize(
        "name",
        ["thinking_budget", "org_card_exempt", "billing_account_id", "aip_enforcement_mode", "containment_status", "id",
         "", "x" * 500, "caf\u00e9 \ud800"],
    )  # fmt: skip
    async def test_names_that_are_no_settings(self, operator: Operator, name: str) -> None:
        agent_id = await operator.agent()
        got = await operator.ask("PUT", f"/v1/agents/{agent_id}/settings", {name: True})
        assert got.status == 400
        assert " is not one of nudge_strategy, " in got.json()["message"]
        assert len(got.body) < 600
        assert operator.process.line.count("update_agent") == 0


class TestBodies:
    @pytest.mark.parametrize(("method", "suffix", "body"), WRITES)
    @pytest.mark.parametrize(
        "data",
        [b"[]", b"null", b"1", b'"text"', b"{", b"not JSON", b'{"a": NaN}', b'{"mode": "nudge", "mode": "enforce"}',
         b"\xff", b"[" * 60_000, b'{"unknown": 1}', b'{"reason": ' + b"9" * 5000 + b"}"],
    )  # fmt: skip
    async def test_what_is_no_object_is_refused(
        self, operator: Operator, method: str, suffix: str, body: Any, data: bytes
    ) -> None:
        del body
        got = await operator.ask(method, f"/v1/agents/smolt-00000000/{suffix}", data)
        assert (got.status, got.json()["type"]) == (400, "invalid_request")
        assert operator.process.line.calls == []

    async def test_a_body_is_at_most_64_kib(self, operator: Operator) -> None:
        agent_id = await operator.agent()
        body = b'{"mode": "nudge"}'
        path = f"/v1/agents/{agent_id}/enforcement"
        assert (await operator.ask("PUT", path, body.ljust(bodies.LIMIT))).status == 200
        got = await operator.ask("PUT", path, body.ljust(bodies.LIMIT + 1))
        assert (got.status, got.json()["error"]) == (413, "Request body too large")
        assert operator.process.line.count("update_agent") == 1

    @pytest.mark.parametrize(("method", "suffix", "body"), [one for one in WRITES if one[0] == "PUT"])
    async def test_a_put_wants_a_body(self, operator: Operator, method: str, suffix: str, body: Any) -> None:
        del body
        for data in (None, b""):
            assert (await operator.ask(method, f"/v1/agents/smolt-00000000/{suffix}", data)).status == 400


class TestAbsence:
    @pytest.mark.parametrize(("method", "suffix", "body"), WRITES + READS)
    async def test_an_unknown_agent(self, operator: Operator, method: str, suffix: str, body: Any) -> None:
        got = await operator.ask(method, f"/v1/agents/smolt-00000000/{suffix}", body)
        assert (got.status, got.json()["error"]) == (404, "Agent not found")
        assert operator.process.events == []

    @pytest.mark.parametrize(("method", "suffix", "body"), WRITES + READS)
    async def test_a_database_that_is_away(self, operator: Operator, method: str, suffix: str, body: Any) -> None:
        agent_id = await operator.agent()
        operator.process.line.error = outage()
        got = await operator.ask(method, f"/v1/agents/{agent_id}/{suffix}", body)
        assert (got.status, got.get("retry-after")) == (503, "2")
        assert got.json()["type"] == "storage_unavailable"

    async def test_another_method(self, operator: Operator) -> None:
        for suffix, allowed in (("enforcement", "GET, HEAD, PUT"), ("settings", "PUT"), ("pause", "POST")):
            got = await operator.ask("DELETE", f"/v1/agents/smolt-00000000/{suffix}")
            assert (got.status, got.get("allow")) == (405, allowed)

    @pytest.mark.parametrize("path", ["/v1/agents/a%20b/pause", "/v1/orgs/a%20b/agents/smolt-1/pause"])
    async def test_what_is_no_id(self, operator: Operator, path: str) -> None:
        assert (await operator.ask("POST", path)).status == 400
