"""Agents: named and unnamed, looked up once, seen in batches, with or without a database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from smoltbot_worker.admission import agents
from smoltbot_worker.env import DEFAULT_CARD
from smoltbot_worker.events import ExchangeEnded, RecordsChanged
from smoltbot_worker.ports import RecordsUnavailable
from worker_compat.response import Response

from .support import AGENT, ANTHROPIC, HASH, KEY, KEY_LINE, MESSAGES, THOUGHT, Gateway, Got

NAMED = "smolt-c04288b7"


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway({MESSAGES: Response(THOUGHT), f"GET {ANTHROPIC}/": Response(b"ok")})
    yield gateway
    await gateway.runtime.background.drain(0)


async def get(gateway: Gateway, target: str, *lines: str) -> Got:
    return await gateway.ask("GET", target, KEY_LINE, *lines)


class TestNames:
    @pytest.mark.parametrize(
        ("target", "lines", "agent"),
        [
            ("/anthropic", [], AGENT),
            ("/agent/my-coder/anthropic", [], NAMED),
            ("/agent/my-coder/anthropic/?a=1", [], NAMED),
            ("/anthropic", ["x-smoltbot-agent: my-coder"], NAMED),
            ("/anthropic", ["X-Smoltbot-Agent: my-coder"], NAMED),
            ("/anthropic", ["x-mnemom-agent: my-coder"], NAMED),
            ("/anthropic", ["x-mnemom-agent: other", "x-smoltbot-agent: my-coder"], NAMED),
            ("/agent/my-coder/anthropic", ["x-smoltbot-agent: other"], NAMED),
            ("/agent/my-coder/anthropic", ["x-smoltbot-agent: not a name"], NAMED),
            ("/anthropic", ["x-smoltbot-agent:"], AGENT),
        ],
    )
    async def test_vectors(self, gateway: Gateway, target: str, lines: list[str], agent: str) -> None:
        assert (await get(gateway, target, *lines)).get("x-smoltbot-agent") == agent

    async def test_what_is_recorded(self, gateway: Gateway) -> None:
        await get(gateway, "/anthropic")
        await get(gateway, "/agent/my-coder/anthropic")
        first, second = (given for function, given in gateway.records.calls if function == "get_or_create_agent")
        assert (first["agent_hash"], first["name"], first["card"]) == (HASH, None, DEFAULT_CARD)
        assert first["key_hash"].startswith(HASH)
        assert len(first["key_hash"]) == 64
        assert first["seen_at"] == "2023-11-14T22:13:20.000Z"
        assert (second["agent_hash"], second["name"]) == ("c04288b764340a36", "my-coder")
        assert KEY not in repr(gateway.records.calls)

    @pytest.mark.parametrize("name", ["a", "A0", "0", "a.b_c-d", "x" * 64, "my-coder", "a..", "task-sk-1"])
    async def test_names(self, gateway: Gateway, name: str) -> None:
        assert (await get(gateway, f"/agent/{name}/anthropic")).status == 200
        assert (await get(gateway, "/anthropic", f"x-smoltbot-agent: {name}")).status == 200
        assert gateway.records.count("get_or_create_agent") == 1

    @pytest.mark.parametrize(
        "name",
        [
            "-a", ".a", "_a", "a b", "a%20b", "%61", "x" * 65, "a,b", "a@b", "a:b", "a\n", "caf\u00e9", "a~", "*",
            "sk-ant-api03-x", "AIzaSyA", "mnm_1234", "smk_1234", "eyJhbGciOi",
        ],
    )  # fmt: skip
    async def test_what_is_no_name(self, gateway: Gateway, name: str) -> None:
        asked = [await get(gateway, f"/agent/{name}/anthropic")]
        if "\n" not in name:
            asked += [
                await get(gateway, "/anthropic", f"{header}: {name}")
                for header in ("x-smoltbot-agent", "x-mnemom-agent")
            ]
        for got in asked:
            assert got.status == 400
            body = got.json()
            assert body.pop("message")
            assert body == {"error": "Invalid agent name", "type": "invalid_request"}
            assert len(name) < 8 or name not in got.body.decode()
        assert not gateway.fetcher.requests
        assert not gateway.records.calls

    async def test_an_empty_name_in_the_path(self, gateway: Gateway) -> None:
        assert (await get(gateway, "/agent//anthropic")).status == 400

    async def test_a_key_is_no_name(self, gateway: Gateway) -> None:
        got = await gateway.ask("GET", "/agent/opaque-key-1/anthropic", "x-api-key: opaque-key-1")
        assert (got.status, got.json()["error"]) == (400, "Invalid agent name")
        assert gateway.records.calls == []

    async def test_a_name_needs_a_key_too(self, gateway: Gateway) -> None:
        assert (await gateway.ask("GET", "/agent/my-coder/anthropic")).status == 401


class TestLookups:
    async def test_a_hundred_first_requests_ask_once(self, gateway: Gateway) -> None:
        gateway.records.gate = asyncio.Event()
        asked = [asyncio.create_task(gateway.message()) for _ in range(100)]
        await gateway.records.called.wait()
        gateway.records.gate.set()
        assert {got.get("x-smoltbot-agent") for got in await asyncio.gather(*asked)} == {AGENT}
        await gateway.message()
        assert gateway.records.count("get_or_create_agent") == 1

    async def test_who_leaves_during_the_first_lookup_fails_nobody(self, gateway: Gateway) -> None:
        gateway.records.gate = asyncio.Event()
        asked = [asyncio.create_task(gateway.message()) for _ in range(10)]
        await gateway.records.called.wait()
        for left in asked[:3]:  # the first of them began the lookup
            left.cancel()
        await asyncio.wait(asked[:3])
        gateway.records.gate.set()
        assert [got.status for got in await asyncio.gather(*asked[3:])] == [200] * 7
        assert gateway.records.count("get_or_create_agent") == 1
        outcomes = [event.outcome for event in gateway.telemetry.of(ExchangeEnded)]
        assert sorted(outcomes) == ["client-left"] * 3 + ["complete"] * 7

    async def test_a_lookup_goes_on_when_everybody_left(self, gateway: Gateway) -> None:
        gateway.records.gate = asyncio.Event()
        asked = asyncio.create_task(gateway.message())
        await gateway.records.called.wait()
        asked.cancel()
        await asyncio.wait({asked})
        gateway.records.gate.set()
        await asyncio.sleep(0)
        assert (await gateway.message()).status == 200
        assert gateway.records.count("get_or_create_agent") == 1

    async def test_a_slow_database_is_not_waited_for(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        assert agents._LOOKUP_LIMIT_S <= 2
        monkeypatch.setattr(agents, "_LOOKUP_LIMIT_S", 0.05)
        gateway.records.gate = asyncio.Event()
        started = time.monotonic()
        first = await asyncio.gather(*(gateway.message() for _ in range(20)))
        assert 0.04 < time.monotonic() - started < 1
        assert {(got.status, got.get("x-aip-reason")) for got in first} == {(200, "storage-unavailable")}
        started = time.monotonic()
        for _ in range(50):  # known to be away: nobody waits any more
            assert (await gateway.message()).get("x-smoltbot-agent") == AGENT
        assert time.monotonic() - started < 1
        assert gateway.records.count("get_or_create_agent") == 1

    async def test_a_record_that_cannot_be_made_stops_nobody(
        self, gateway: Gateway, caplog: pytest.LogCaptureFixture
    ) -> None:
        gateway.records.error = ValueError("card: must be JSON")
        got = await gateway.message()
        assert (got.status, got.get("x-smoltbot-agent"), got.get("x-aip-reason")) == (200, AGENT, "storage-unavailable")
        assert "card: must be JSON" in caplog.text
        gateway.records.error = None
        assert (await gateway.message()).get("x-aip-reason") == "no-analysis-configured"

    async def test_memory_for_agents_is_bounded(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agents, "MAX_KNOWN", 20)
        for number in range(100):
            assert (await gateway.ask("GET", "/anthropic", f"x-api-key: k{number}")).status == 200
        assert len(gateway.agents._known) <= 20
        calls = len(gateway.records.calls)
        await gateway.ask("GET", "/anthropic", "x-api-key: k99")
        assert len(gateway.records.calls) == calls


class TestWithoutDatabase:
    async def test_closed_refuses_new_agents(self) -> None:
        gateway = Gateway({MESSAGES: Response(b"ok")}, DB_FAILURE_MODE="closed")
        gateway.records.error = RecordsUnavailable("secret detail")
        for _ in range(2):
            got = await gateway.message()
            assert (got.status, got.get("retry-after")) == (503, "2")
            assert got.json() == {"error": "Agent records unavailable", "type": "storage_unavailable"}
        assert gateway.fetcher.requests == []
        await gateway.runtime.background.drain(0)

    async def test_open_relays_unrecorded(self, gateway: Gateway) -> None:
        gateway.records.error = RecordsUnavailable("gone")
        for _ in range(3):
            got = await gateway.message()
            assert (got.status, got.get("x-smoltbot-agent")) == (200, AGENT)
            assert got.get("x-smoltbot-session") == f"{HASH}-472222"
            assert (got.get("x-aip-verdict"), got.get("x-aip-reason")) == ("skipped", "storage-unavailable")
        assert gateway.records.count("get_or_create_agent") == 1
        [event] = gateway.telemetry.of(RecordsChanged)
        assert (event.available, event.detail) == (False, "gone")

    async def test_it_finds_out_by_itself_when_the_database_is_back(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agents, "_PROBE_S", 0.01)
        gateway.records.error = RecordsUnavailable("gone")
        await asyncio.gather(*(gateway.message() for _ in range(50)))
        assert len(gateway.runtime.background) == 1  # one probe, whoever asked for it
        gateway.records.called.clear()
        await gateway.records.called.wait()
        gateway.records.error = None
        assert await gateway.runtime.background.drain(5) == 0
        assert gateway.agents.available
        assert (await gateway.message()).get("x-aip-reason") == "no-analysis-configured"
        assert [event.available for event in gateway.telemetry.of(RecordsChanged)] == [False, True]


class TestTouches:
    async def test_a_thousand_requests_are_a_few_calls(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        assert agents._FLUSH_S >= 0.5
        monkeypatch.setattr(agents, "_FLUSH_S", 0.1)
        started = time.monotonic()
        for number in range(1000):
            await gateway.ask("GET", "/anthropic", f"x-api-key: k{number % 7}")
            gateway.clock.advance(1 / 1024)
        assert await gateway.runtime.background.drain(5) == 0
        assert gateway.records.count("touch_agents") <= (time.monotonic() - started) / 0.1 + 1
        assert len(gateway.records.seen) == 7
        assert max(gateway.records.seen.values()) == "2023-11-14T22:13:20.975Z"
        assert gateway.telemetry.of(RecordsChanged) == []

    async def test_one_task_writes_for_everybody(self, gateway: Gateway) -> None:
        await asyncio.gather(*(gateway.ask("GET", "/anthropic", f"x-api-key: k{n}") for n in range(100)))
        assert len(gateway.runtime.background) == 1
        assert gateway.records.count("touch_agents") == 0
        assert await gateway.agents.flush()
        assert gateway.records.count("touch_agents") == 1
        assert len(gateway.records.seen) == 100
        assert await gateway.agents.flush()
        assert gateway.records.count("touch_agents") == 1

    async def test_nothing_is_lost_when_the_database_fails_in_between(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agents, "_FLUSH_S", 0.01)
        await gateway.ask("GET", "/anthropic", "x-api-key: one")
        await gateway.ask("GET", "/anthropic", "x-api-key: two")
        gateway.records.error = RecordsUnavailable("gone")
        gateway.records.called.clear()
        await gateway.records.called.wait()
        gateway.clock.advance(60)
        await gateway.ask("GET", "/anthropic", "x-api-key: two")
        gateway.records.called.clear()
        await gateway.records.called.wait()
        gateway.records.error = None
        assert await gateway.runtime.background.drain(5) == 0
        assert sorted(gateway.records.seen.values()) == ["2023-11-14T22:13:20.000Z", "2023-11-14T22:14:20.000Z"]
        assert gateway.agents.available
        assert not gateway.agents.stuck

    @pytest.mark.parametrize("failure", [RecordsUnavailable("gone"), ValueError("odd"), asyncio.CancelledError()])
    async def test_what_is_being_written_when_it_fails_is_kept(
        self, gateway: Gateway, failure: BaseException, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await get(gateway, "/anthropic")
        await get(gateway, "/agent/my-coder/anthropic")

        async def fails(function: str, arguments: Any) -> Any:
            gateway.clock.advance(1)
            await get(gateway, "/anthropic")  # seen again meanwhile
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(gateway.records, "call", fails)
            if isinstance(failure, RecordsUnavailable):
                assert not await gateway.agents.flush()
            else:
                with pytest.raises(type(failure)):
                    await gateway.agents.flush()
        assert await gateway.agents.flush()
        assert gateway.records.seen == {
            AGENT: "2023-11-14T22:13:21.000Z",  # the newer sighting, not the older one
            NAMED: "2023-11-14T22:13:20.000Z",
        }

    async def test_unrecorded_agents_are_not_touched(self, gateway: Gateway) -> None:
        gateway.records.error = RecordsUnavailable("gone")
        await gateway.message()
        gateway.records.error = None
        assert await gateway.agents.flush()
        assert gateway.records.count("touch_agents") == 0
