"""Which routes an invalid license closes, and that no request waits for whoever judges it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.unit.license_support import VALIDATE, Issuer, database, gate_for
from worker_compat.request import Request
from worker_compat.response import Response

from .support import MESSAGES, Gateway

ISSUER = Issuer()
PROVIDERS = ("/anthropic/v1/messages", "/openai/v1/responses", "/gemini/v1/x", "/agent/a/openai/v1/x", "/models.json")


@pytest.mark.parametrize("target", PROVIDERS)
async def test_an_invalid_license_closes_what_it_is_for(tmp_path: Path, target: str) -> None:
    gateway = Gateway()
    async with database(tmp_path, gateway.clock) as store:
        gateway.env.license = gate_for("forged", store, gateway.clock, key=ISSUER.hex)
        got = await gateway.ask("GET" if target == "/models.json" else "POST", target)
        assert (got.status, got.json()) == (403, {"error": "License invalid or expired", "type": "license_error"})
        assert gateway.fetcher.requests == []
        gateway.env.license = gate_for("forged", store, gateway.clock, key=ISSUER.hex, LICENSE_MODE="optional")
        assert (await gateway.ask("GET" if target == "/models.json" else "POST", target)).status != 403


async def test_and_nothing_else(tmp_path: Path) -> None:
    gateway = Gateway()
    async with database(tmp_path, gateway.clock) as store:
        gateway.env.license = gate_for("forged", store, gateway.clock, key=ISSUER.hex)
        for target in ("/health", "/health/live", "/health/ready", "/health/startup"):
            assert (await gateway.ask("GET", target)).status == 200
        assert (await gateway.ask("OPTIONS", "/anthropic/v1/messages")).status == 204
        assert (await gateway.ask("GET", "/nowhere")).status == 404
        assert (await gateway.ask("GET", "/v1/nowhere")).status != 403


async def test_no_request_waits_for_an_issuer_that_never_answers(tmp_path: Path) -> None:
    asked = 0

    async def black_hole(request: Request) -> Response:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()
        raise AssertionError

    gateway = Gateway({MESSAGES: Response(b"{}"), f"POST {VALIDATE}": black_hole})
    async with database(tmp_path, gateway.clock) as store:
        gateway.env.license = gate_for(ISSUER.license(is_offline=True), store, gateway.clock, key=ISSUER.hex)
        with gateway.runtime.use():
            running = asyncio.create_task(gateway.env.license.run(0.001))
        async with asyncio.timeout(5):
            while not asked:
                await asyncio.sleep(0.005)
        started = time.perf_counter()
        answers = await asyncio.gather(*(gateway.message() for _ in range(50)))
        took = time.perf_counter() - started
        running.cancel()
    assert {answer.status for answer in answers} == {200}
    assert asked == 1
    assert took < 2.5  # half of what one call to the issuer may take
