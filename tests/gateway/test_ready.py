"""Readiness: one entry per dependency, bounded in time, and what each failure means for traffic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from smoltbot_worker import health
from smoltbot_worker.admission.license import LicenseGate
from smoltbot_worker.events import RecordsChanged
from smoltbot_worker.ports import RecordStore, RecordsUnavailable
from tests.unit.license_support import NOW as SECONDS
from tests.unit.license_support import VALIDATE, Issuer, database, gate_for
from worker_compat.errors import ConnectFailed, KVError, StoreUnavailable
from worker_compat.kv import KVNamespace
from worker_compat.memory import MemoryKVStore
from worker_compat.ports import KVEntry
from worker_compat.response import Response
from worker_compat.testing import FakeClock

from .support import MESSAGES, THOUGHT, Gateway, Got

NOW = "2023-11-14T22:13:20.000Z"


class BrokenKV(MemoryKVStore):
    """A store that raises ``error``, or hangs without one."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__()
        self.error = error

    async def get(self, key: str) -> KVEntry | None:
        if self.error is None:
            await asyncio.get_running_loop().create_future()
        assert self.error is not None
        raise self.error


def with_kv(store: MemoryKVStore, **variables: str) -> Gateway:
    gateway = Gateway(None, **variables)
    gateway.env.kv_primary = KVNamespace(store)
    return gateway


async def ready(gateway: Gateway) -> tuple[int, dict[str, Any]]:
    got: Got = await gateway.ask("GET", "/health/ready")
    return got.status, got.json()


async def test_everything_is_well() -> None:
    status, body = await ready(with_kv(MemoryKVStore()))
    assert (status, body["status"], body["timestamp"]) == (200, "ready", NOW)
    assert set(body["checks"]) == {"redis", "supabase", "license"}
    for name in ("redis", "supabase"):
        check = body["checks"][name]
        assert (check["ok"], check["status"]) == (True, "ok")
        assert 0 <= check["latencyMs"] < 1000
    assert body["checks"]["supabase"]["schema"] == "0001_agents_and_cards.sql"
    assert body["checks"]["license"] == {"ok": True, "status": "valid"}


async def test_without_kv_memory_serves() -> None:
    status, body = await ready(Gateway())
    assert (status, body["checks"]["redis"]) == (200, {"ok": True, "status": "ok", "fallback": "memory"})


async def test_not_before_the_start_is_complete() -> None:
    gateway = Gateway()
    gateway.state.started = False
    status, body = await ready(gateway)
    assert (status, body["status"], body["reason"]) == (503, "not_ready", "starting")
    assert body["checks"]["supabase"]["ok"]  # what it waits for is shown from the first moment


async def test_a_schema_that_is_on_its_way_is_no_outage() -> None:
    gateway = Gateway()
    gateway.state.started = False
    gateway.records.error = RecordsUnavailable("no such table")
    assert (await ready(gateway))[0] == 503
    assert gateway.telemetry.of(RecordsChanged) == []
    gateway.state.started = True
    await ready(gateway)
    assert [event.available for event in gateway.telemetry.of(RecordsChanged)] == [False]


async def test_not_while_ending() -> None:
    gateway = Gateway({MESSAGES: Response(b"ok")})
    assert (await ready(gateway))[0] == 200
    gateway.state.draining = True
    assert await ready(gateway) == (
        503,
        {"status": "not_ready", "reason": "shutting down", "checks": {}, "timestamp": NOW},
    )
    # Those who still come are served, and a probe must not kill a process that is ending well.
    assert (await gateway.message()).status == 200
    assert (await gateway.ask("GET", "/health/live")).status == 200
    assert (await gateway.ask("GET", "/health/startup")).status == 200


@pytest.mark.parametrize("mode", ["open", "closed"])
async def test_not_before_the_first_success_of_the_database(mode: str) -> None:
    gateway = Gateway(DB_FAILURE_MODE=mode)
    gateway.records.error = RecordsUnavailable("secret detail")
    status, body = await ready(gateway)
    assert (status, body["status"]) == (503, "not_ready")
    assert body["checks"]["supabase"] == {"ok": False, "status": "unavailable", "error": "database_unavailable"}
    assert body["checks"]["redis"]["ok"]
    gateway.records.error = None
    assert (await ready(gateway))[0] == 200


@pytest.mark.parametrize(("mode", "expected"), [("open", (200, "degraded")), ("closed", (503, "not_ready"))])
async def test_a_database_that_goes_away_later(mode: str, expected: tuple[int, str]) -> None:
    gateway = Gateway(DB_FAILURE_MODE=mode)
    await ready(gateway)
    gateway.records.error = RecordsUnavailable("gone")
    status, body = await ready(gateway)
    assert (status, body["status"]) == expected
    assert not body["checks"]["supabase"]["ok"]
    await ready(gateway)
    gateway.records.error = None
    assert (await ready(gateway))[1]["status"] == "ready"
    assert [event.available for event in gateway.telemetry.of(RecordsChanged)] == [False, True]


async def test_what_readiness_finds_out_the_relay_knows() -> None:
    gateway = Gateway({MESSAGES: Response(THOUGHT)})
    gateway.records.error = RecordsUnavailable("gone")
    await ready(gateway)
    calls = len(gateway.records.calls)
    assert (await gateway.message()).get("x-aip-reason") == "storage-unavailable"
    assert len(gateway.records.calls) == calls
    gateway.records.error = None
    await ready(gateway)
    assert (await gateway.message()).get("x-aip-reason") == "no-analysis-configured"


@pytest.mark.parametrize("error", [StoreUnavailable("secret detail"), KVError("Error", "KV GET failed: 503 secret")])
async def test_a_broken_kv_is_a_degradation(error: Exception) -> None:
    status, body = await ready(with_kv(BrokenKV(error)))
    assert (status, body["status"]) == (200, "degraded")
    assert body["checks"]["redis"] == {
        "ok": False, "status": "unavailable", "fallback": "memory", "error": "kv_unreachable",
    }  # fmt: skip


async def test_a_required_kv_makes_an_instance_unready() -> None:
    status, body = await ready(with_kv(BrokenKV(StoreUnavailable("gone")), REDIS_REQUIRED="true"))
    assert (status, body["status"]) == (503, "not_ready")
    status, body = await ready(with_kv(MemoryKVStore(), REDIS_REQUIRED="true"))
    assert (status, body["status"]) == (200, "ready")


async def test_checks_run_at_once_and_within_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert health.CHECK_LIMIT_S < 3  # what a probe waits
    monkeypatch.setattr(health, "CHECK_LIMIT_S", 0.1)
    gateway = with_kv(BrokenKV(None), DB_FAILURE_MODE="closed")
    gateway.records.gate = asyncio.Event()
    started = time.monotonic()
    status, body = await ready(gateway)
    assert time.monotonic() - started < 0.19
    assert (status, body["status"]) == (503, "not_ready")
    assert [check["ok"] for check in body["checks"].values()] == [False, False, True]


async def test_live_says_when_the_schedule_is_stuck() -> None:
    gateway = Gateway()
    gateway.state.last_tick = time.monotonic() - 299
    assert (await gateway.ask("GET", "/health/live")).status == 200
    gateway.state.last_tick = time.monotonic() - 301
    assert (await gateway.ask("GET", "/health/live")).status == 503


async def test_live_and_startup_ask_nobody() -> None:
    gateway = with_kv(BrokenKV(None))
    gateway.records.gate = asyncio.Event()
    async with asyncio.timeout(1):
        for target in ("/health/live", "/health/startup", "/health", "/health/"):
            assert (await gateway.ask("GET", target)).status == 200
    assert gateway.records.calls == []


@pytest.mark.parametrize(("mode", "expected"), [("open", (200, "degraded")), ("closed", (503, "not_ready"))])
async def test_readable_is_not_writable(mode: str, expected: tuple[int, str]) -> None:
    gateway = Gateway({MESSAGES: Response(b"ok")}, DB_FAILURE_MODE=mode)
    await ready(gateway)
    await gateway.message()
    call = gateway.records.call

    async def full(function: str, arguments: Any) -> Any:
        if function == "touch_agents":
            raise RecordsUnavailable("the disk is full")
        return await call(function, arguments)

    gateway.records.call = full  # type: ignore[method-assign] # a disk that is full
    assert not await gateway.agents.flush()
    status, body = await ready(gateway)
    assert (status, body["status"]) == expected
    assert body["checks"]["supabase"]["error"] == "database_not_writable"
    # No traffic reaches what is not ready: readiness itself must find out that it is over.
    gateway.records.call = call  # type: ignore[method-assign]
    assert (await ready(gateway))[1]["status"] == "ready"
    assert list(gateway.records.seen) == ["smolt-9d08aa51"]


ISSUER = Issuer()
YES, NO = Response.from_json({"valid": True}), Response(b"", 403)


class Licensed:
    """A gateway with a license, whose issuer gives these answers in turn, and then the last one for ever."""

    def __init__(self, store: RecordStore, *answers: Any, token: str | None = None, mode: str = "required") -> None:
        self.answers = list(answers)
        self.gateway = Gateway({f"POST {VALIDATE}": self._answer})
        self.gateway.env.license = gate_for(
            ISSUER.license() if token is None else token, store, self.gateway.clock, key=ISSUER.hex, LICENSE_MODE=mode
        )

    def _answer(self, request: object) -> Response:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Response)
        return answer.clone()

    async def check(self, later: float = 0.0) -> None:
        self.gateway.clock.advance(later)
        with self.gateway.runtime.use():
            await self.gateway.env.license.check()

    async def shown(self) -> tuple[int, str, dict[str, Any]]:
        status, body = await ready(self.gateway)
        return status, body["status"], body["checks"]["license"]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RecordStore]:
    async with database(tmp_path, FakeClock()) as opened:
        yield opened


async def test_a_license_that_nobody_has_judged_yet(store: RecordStore) -> None:
    # The first judgement takes some seconds at most; until then a required license stops traffic.
    assert await Licensed(store, YES).shown() == (503, "not_ready", {"ok": False, "status": "pending"})
    assert await Licensed(store, YES, mode="optional").shown() == (200, "ready", {"ok": True, "status": "pending"})


async def test_a_valid_license(store: RecordStore) -> None:
    licensed = Licensed(store, YES)
    await licensed.check()
    assert await licensed.shown() == (200, "ready", {"ok": True, "status": "valid"})


async def test_a_license_that_ends_soon(store: RecordStore) -> None:
    licensed = Licensed(store, YES, token=ISSUER.license(exp=SECONDS + 3600))
    await licensed.check()
    expected = {"ok": True, "status": "valid", "warning": "license_expires_soon"}
    assert await licensed.shown() == (200, "ready", expected)


@pytest.mark.parametrize(
    ("answer", "token", "error"),
    [
        (YES, "x", "license_parse_error"),
        (YES, Issuer(2).license(), "license_signature_invalid"),
        (Response(b"", 401), None, "license_signature_invalid"),
        (YES, ISSUER.license(exp=SECONDS - 1), "license_expired"),
        (Response(b"", 410), None, "license_expired"),
        (NO, None, "license_revoked"),
        (Response(b"", 409), None, "license_activation_limit"),
        (Response.from_json({"valid": False}), None, "license_validation_failed"),
        (Response(b"", 500), None, "license_unreachable"),
        (ConnectFailed("refused"), None, "license_unreachable"),
    ],
)
async def test_each_error_of_a_license_is_shown(store: RecordStore, answer: Any, token: str | None, error: str) -> None:
    licensed = Licensed(store, answer, token=token)
    await licensed.check()
    # 200: the process answers, /v1 and its health included; provider routes say 403 with the reason.
    assert await licensed.shown() == (200, "degraded", {"ok": False, "status": "invalid", "error": error})
    licensed = Licensed(store, answer, token=token, mode="optional")
    await licensed.check()
    assert await licensed.shown() == (200, "ready", {"ok": True, "status": "invalid", "warning": error})


async def test_a_license_that_is_missing(store: RecordStore) -> None:
    gateway = Gateway()
    values = dict.fromkeys(("mnemom_license_jwt", "mnemom_analyze_url", "gateway_version", "deployment_id"), "")
    gateway.env.license = LicenseGate.from_values(
        {**values, "license_mode": "required"}, None, store, gateway.telemetry
    )
    expected = {"ok": False, "status": "invalid", "error": "license_missing"}
    assert (await ready(gateway))[1]["checks"]["license"] == expected


@pytest.mark.parametrize(
    ("answer", "warning", "error"),
    [
        (ConnectFailed("refused"), "license_validation_unreachable_grace", "license_unreachable"),
        (Response(b"", 409), "license_validation_failed_grace", "license_activation_limit"),
    ],
)
async def test_a_license_in_its_grace_and_after_it(store: RecordStore, answer: Any, warning: str, error: str) -> None:
    licensed = Licensed(store, YES, answer)
    await licensed.check()
    await licensed.check(later=7 * 86_400 - 1)
    assert await licensed.shown() == (200, "ready", {"ok": True, "status": "grace", "warning": warning})
    await licensed.check(later=1)
    assert await licensed.shown() == (200, "degraded", {"ok": False, "status": "invalid", "error": error})


async def test_an_expired_license_in_its_grace_and_after_it(store: RecordStore) -> None:
    licensed = Licensed(store, YES, token=ISSUER.license(exp=SECONDS + 3600))
    await licensed.check()
    await licensed.check(later=3601)
    expected: dict[str, Any] = {"ok": True, "status": "grace", "warning": "license_expired_grace_period"}
    assert await licensed.shown() == (200, "ready", expected)
    await licensed.check(later=7 * 86_400 - 3601)
    expected = {"ok": False, "status": "invalid", "error": "license_expired"}
    assert await licensed.shown() == (200, "degraded", expected)
