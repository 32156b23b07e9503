"""The two routes of an agent's checkpoints: pages, filters, one entry, and who may read them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from smoltbot_records_sqlite import migrate, open_records
from smoltbot_worker.api import routes
from smoltbot_worker.env import Env, read_variables
from smoltbot_worker.ports import Json, RecordStore, RecordsUnavailable
from smoltbot_worker.testing.records_area import append, call, new_agent
from smoltbot_worker.testing.samples import entry
from tests.gateway.support import Got
from worker_compat.request import Request
from worker_compat.testing import FakeClock, read_response

ADMIN, READER = "admin-token-of-a-test", "read-token-of-a-test"
SCHEMA = Path(__file__).parents[2] / "schema" / "sqlite"
VERDICTS = ("clear", "review_needed", "boundary_violation", "error", "skipped")
COLUMNS = {
    "checkpoint_id", "request_id", "agent_id", "session_id", "card_id", "timestamp", "created_at", "verdict", "reason",
    "thinking_block_hash", "provider", "model", "concerns", "reasoning_summary", "conscience_context",
    "window_position", "analysis_metadata", "linked_trace_id", "source", "synthetic", "synthetic_reason",
    "cross_validation_warnings", "input_commitment", "card_hash", "values_hash", "context_hash", "model_version",
    "prompt_template_version", "chain_hash", "prev_chain_hash", "chain_position", "merkle_leaf_index",
    "merkle_leaf_hash", "certificate_id", "issuer_signature", "signing_key_id", "signed_payload", "claims_hash",
    "claims_signature", "mutations",
}  # fmt: skip
"""The row of a checkpoint, attestation included."""


class Away:
    """A database that cannot be reached."""

    async def call(self, function: str, arguments: Any) -> Json:
        raise RecordsUnavailable("the secret address does not answer")


@dataclass
class Api:
    """The routes over a database with one agent and 25 checkpoints."""

    store: RecordStore
    agent_id: str
    rows: list[dict[str, Any]]

    async def ask(
        self, target: str, token: str | None = READER, method: str = "GET", *, store: RecordStore | None = None
    ) -> Got:
        values, _ = read_variables({"ADMIN_TOKEN": ADMIN, "READ_TOKEN": READER})
        nothing = cast(Any, None)
        env = Env(
            **values, records=store or self.store, telemetry=nothing, crypto=nothing, egress=nothing, agents=nothing,
            state=nothing, checkpoints=nothing, analyst=nothing, exchanges=nothing, license=nothing,
        )  # fmt: skip
        lines = [] if token is None else [(b"Authorization", f"Bearer {token}".encode())]
        request = Request.incoming(method, target, [(b"Host", b"gateway.test"), *lines], None)
        response = await routes.answer(env, request, target.partition("?")[0])
        return Got(response.status, response.headers.raw, await read_response(response))

    async def page(self, query: str = "") -> tuple[list[int], int]:
        """The places in the log of a page, and the total."""
        got = await self.ask(f"/v1/agents/{self.agent_id}/checkpoints{query}")
        assert got.status == 200, got.body
        return [row["merkle_leaf_index"] for row in got.json()["checkpoints"]], got.json()["total"]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    url = f"sqlite:///{tmp_path}/records.db"
    await migrate(url, SCHEMA)
    async with open_records(url, clock=FakeClock()) as store:
        agent_id = await new_agent(store)
        given = [entry(f"session-{n % 2}", verdict=VERDICTS[n % 5], mutations=[{"kind": "nudge"}]) for n in range(25)]
        yield Api(store, agent_id, (await append(store, agent_id, *given))["rows"])


class TestList:
    async def test_the_newest_come_first(self, api: Api) -> None:
        got = await api.ask(f"/v1/agents/{api.agent_id}/checkpoints?limit=2&offset=3")
        assert got.status == 200
        assert got.get("cache-control") == "no-store"
        body = got.json()
        rows = body.pop("checkpoints")
        assert body == {"total": 25, "limit": 2, "offset": 3}
        assert [row["checkpoint_id"] for row in rows] == [api.rows[place]["checkpoint_id"] for place in (21, 20)]
        assert [set(row) for row in rows] == [COLUMNS] * 2
        assert rows[0] == (await api.ask(f"/v1/agents/{api.agent_id}/checkpoints/{rows[0]['checkpoint_id']}")).json()

    async def test_twenty_unless_told_otherwise(self, api: Api) -> None:
        got = await api.ask(f"/v1/agents/{api.agent_id}/checkpoints")
        assert (got.json()["limit"], got.json()["offset"], len(got.json()["checkpoints"])) == (20, 0, 20)
        assert await api.page("?limit=1000") == (list(range(24, -1, -1)), 25)
        assert await api.page("?limit=1000&offset=25") == ([], 25)
        assert await api.page(f"?offset={2**53 - 1}") == ([], 25)

    @pytest.mark.parametrize("verdict", VERDICTS)
    async def test_a_verdict(self, api: Api, verdict: str) -> None:
        places = [place for place in range(24, -1, -1) if VERDICTS[place % 5] == verdict]
        assert await api.page(f"?verdict={verdict}") == (places, 5)

    async def test_a_session(self, api: Api) -> None:
        assert await api.page("?session_id=session-1&limit=3") == ([23, 21, 19], 12)
        assert await api.page("?session_id=session-1&verdict=clear&other=x") == ([15, 5], 2)
        assert await api.page("?session_id=session%2d0&verdict=clear&limit=1&offset=1") == ([10], 3)
        assert await api.page("?session_id=session-9") == ([], 0)

    @pytest.mark.parametrize(
        ("query", "sentence"),
        [
            *((f"limit={text}", "limit must be a whole number from 1 to 1000") for text in
              ("0", "1001", "-1", "x", "", "1.5", "%2B1", "1_0", "%D9%A1", "%201", "9" * 5000)),
            *((f"offset={text}", "offset must be a whole number from 0 to 9007199254740991") for text in
              ("-1", "x", "", "9007199254740992", "1e3")),
            *((f"verdict={text}", "verdict must be one of boundary_violation, clear, error, review_needed, skipped")
              for text in ("fine", "", "CLEAR", "clear%00")),
            *((f"session_id={text}", "session_id must be 1 to 200 visible ASCII characters, no quote and no backslash")
              for text in ("", "a%20b", "%22", "x" * 201)),
            ("limit=1&limit=2", "limit must be given once"),
            ("verdict=clear&verdict=clear", "verdict must be given once"),
        ],
    )  # fmt: skip
    async def test_what_cannot_be_asked(self, api: Api, query: str, sentence: str) -> None:
        got = await api.ask(f"/v1/agents/{api.agent_id}/checkpoints?{query}")
        assert got.status == 400
        assert got.json() == {"error": "Invalid query", "type": "invalid_request", "message": sentence}

    async def test_an_agent_without_checkpoints(self, api: Api) -> None:
        quiet = Api(api.store, await new_agent(api.store), [])
        assert await quiet.page() == ([], 0)

    async def test_an_unknown_agent(self, api: Api) -> None:
        got = await api.ask("/v1/agents/smolt-00000000/checkpoints")
        assert (got.status, got.json()["error"]) == (404, "Agent not found")


class TestOne:
    async def test_an_entry(self, api: Api) -> None:
        row = api.rows[7]
        got = await api.ask(f"/v1/agents/{api.agent_id}/checkpoints/{row['checkpoint_id']}", ADMIN)
        assert got.status == 200
        assert got.json() == await call(api.store, "checkpoint", checkpoint_id=row["checkpoint_id"])
        assert set(got.json()) == COLUMNS

    async def test_what_this_agent_does_not_have(self, api: Api) -> None:
        """Another agent's entry is as unknown as one that is nowhere."""
        other = await new_agent(api.store)
        await append(api.store, other, entry("session-0"))
        known = api.rows[0]["checkpoint_id"]
        paths = (f"{other}/checkpoints/{known}", f"{api.agent_id}/checkpoints/ic-0", f"smolt-0/checkpoints/{known}")
        answers = [await api.ask(f"/v1/agents/{path}") for path in paths]
        assert [got.status for got in answers] == [404] * 3
        assert len({got.body for got in answers}) == 1


@pytest.mark.parametrize("path", ["", "/ic-1"])
class TestBoth:
    async def test_who_may_read(self, api: Api, path: str) -> None:
        target = f"/v1/agents/{api.agent_id}/checkpoints{path}"
        assert [(await api.ask(target, token)).status for token in (None, "x")] == [401, 401]
        assert {(await api.ask(target, token)).status for token in (READER, ADMIN)} <= {200, 404}

    async def test_only_reading(self, api: Api, path: str) -> None:
        got = await api.ask(f"/v1/agents/{api.agent_id}/checkpoints{path}", ADMIN, "POST")
        assert (got.status, got.get("allow")) == (405, "GET, HEAD")

    async def test_a_bad_id(self, api: Api, path: str) -> None:
        assert (await api.ask(f"/v1/agents/a'b/checkpoints{path}")).status == 400

    async def test_a_database_that_is_away(self, api: Api, path: str) -> None:
        got = await api.ask(f"/v1/agents/{api.agent_id}/checkpoints{path}", store=Away())
        assert (got.status, got.json()["type"]) == (503, "storage_unavailable")
        assert b"secret" not in got.body
