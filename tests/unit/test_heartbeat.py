"""The heartbeat: what it tells, when, to whom, and that its failures have no effect."""

from __future__ import annotations

import asyncio
import json
import platform
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from smoltbot_host.license import load_reader
from smoltbot_worker.admission import heartbeat
from smoltbot_worker.admission.agents import AgentDirectory
from smoltbot_worker.admission.license import LicenseGate
from smoltbot_worker.env import Env, read_variables
from smoltbot_worker.events import Event
from smoltbot_worker.health import State
from worker_compat.errors import ConfigError, ConnectFailed
from worker_compat.kv import KVNamespace
from worker_compat.memory import MemoryKVStore
from worker_compat.ports import KVEntry
from worker_compat.response import Response
from worker_compat.runtime import Runtime
from worker_compat.testing import FakeClock, ScriptedFetcher
from worker_compat.testing.fakes import Answer, SeenRequest

from .license_support import NOW, Issuer, database

ISSUER = Issuer()
HOME = "https://api.mnemom.ai/v1/deployments/heartbeat"
TAKEN = Response.from_json({"status": "ok", "next_heartbeat_seconds": 300})


class Silent:
    """A Telemetry that nobody listens to."""

    def emit(self, event: Event) -> None: ...


class BrokenKV(MemoryKVStore):
    async def get(self, key: str) -> KVEntry | None:
        raise TimeoutError


class Deployment:
    """A licensed gateway, and who it may reach."""

    def __init__(self, env: Env, answer: Answer | list[Answer], url: str) -> None:
        self.env = env
        self.fetcher = ScriptedFetcher({f"POST {url}": answer})

    @property
    def beats(self) -> list[SeenRequest]:
        return self.fetcher.requests

    def body(self) -> dict[str, Any]:
        """That of the newest beat."""
        body: dict[str, Any] = json.loads(self.beats[-1].body)
        return body

    @asynccontextmanager
    async def running(self, interval_s: float = 60.0) -> AsyncIterator[asyncio.Task[None]]:
        with Runtime(self.fetcher).use():
            task = asyncio.create_task(heartbeat.run(self.env, interval_s))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def beat(self) -> dict[str, Any]:
        """What one beat tells."""
        count = len(self.beats)
        async with self.running():
            await until(lambda: len(self.beats) > count)
        return self.body()


@pytest.fixture
async def deploy(tmp_path: Path) -> AsyncIterator[Callable[..., Deployment]]:
    clock = FakeClock(NOW)
    async with database(tmp_path, clock) as store:

        def make(answer: Answer | list[Answer] = TAKEN, url: str = HOME, **variables: str) -> Deployment:
            given = {"MNEMOM_LICENSE_JWT": ISSUER.license(), "GATEWAY_VERSION": "9.9", **variables}
            values, _ = read_variables(given)
            telemetry, state = Silent(), State()
            state.started = True
            unused = cast(Any, None)
            env = Env(
                **values, records=store, crypto=unused, telemetry=telemetry, state=state, clock=clock,
                agents=AgentDirectory(store, telemetry, card=values["default_card"], clock=clock),
                checkpoints=unused, analyst=unused, exchanges=unused, egress=unused,
                license=LicenseGate.from_values(
                    values, load_reader(ISSUER.hex, clock), store, telemetry, public_key="ab" * 32, clock=clock
                ),
            )  # fmt: skip
            return Deployment(env, answer, url)

        yield make


async def until(condition: Callable[[], object], limit_s: float = 5.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_it_tells(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(DEPLOYMENT_ID="plant-7")
    body = await deployment.beat()
    data = body.pop("heartbeat_data")
    assert body == {
        "deployment_id": "plant-7", "instance_id": "plant-7", "version": "9.9", "timestamp": "2023-11-14T22:13:20.000Z",
    }  # fmt: skip
    assert 1 < data.pop("memory_usage_mb") < 10_000
    assert data == {
        "uptime_seconds": 0, "health_status": "healthy", "runtime_version": platform.python_version(),
        "platform": sys.platform,
    }  # fmt: skip
    [request] = deployment.beats
    token = deployment.env.mnemom_license_jwt
    assert request.headers.get("authorization") == f"Bearer {token}"
    assert request.headers.get("content-type") == "application/json"
    assert token.encode() not in request.body


async def test_the_name_of_the_deployment(deploy: Callable[..., Deployment]) -> None:
    body = await deploy().beat()
    assert body["deployment_id"] == f"selfhosted-{platform.node()}"
    assert body["instance_id"] == await deploy().env.license.instance_id()


async def test_its_health_is_the_real_one(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    deployment.env.kv_primary = KVNamespace(BrokenKV())
    assert (await deployment.beat())["heartbeat_data"]["health_status"] == "degraded"
    deployment.env.kv_primary = None
    assert (await deployment.beat())["heartbeat_data"]["health_status"] == "healthy"
    deployment.env.state.started = False
    assert (await deployment.beat())["heartbeat_data"]["health_status"] == "unknown"
    deployment.env.state.started = deployment.env.state.draining = True
    assert (await deployment.beat())["heartbeat_data"]["health_status"] == "unknown"


async def test_at_the_start_and_then_at_intervals(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    async with deployment.running(interval_s=60.0):
        await until(lambda: deployment.beats)
        await asyncio.sleep(0.05)
        assert len(deployment.beats) == 1
    async with deployment.running(interval_s=0.01):
        await until(lambda: len(deployment.beats) > 4)


@pytest.mark.parametrize(
    "variables",
    [
        {"MNEMOM_LICENSE_JWT": ""},
        {"HEARTBEAT_URL": "off"},
        {"HEARTBEAT_URL": "OFF"},
        {"MNEMOM_LICENSE_JWT": "sk-another-secret-that-went-into-the-wrong-variable"},
        {"MNEMOM_LICENSE_JWT": Issuer(2).license()},
    ],
    ids=["no license", "off", "OFF", "no token", "forged"],
)
async def test_where_there_is_none(
    deploy: Callable[..., Deployment], variables: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    deployment = deploy(**variables)
    async with deployment.running(interval_s=0.001) as task:
        await asyncio.sleep(0.05)
        assert not task.done()
    assert deployment.beats == []
    assert caplog.messages == []


async def test_another_address(deploy: Callable[..., Deployment]) -> None:
    url = "http://hub.example:8080/alive"
    await deploy(url=url, HEARTBEAT_URL=url).beat()


async def test_a_redirect_is_not_followed(deploy: Callable[..., Deployment]) -> None:
    # The license would go to whoever answers there.
    deployment = deploy(Response(b"", 307, headers={"location": "https://elsewhere.example/"}))
    async with deployment.running(interval_s=0.01) as task:
        await until(lambda: len(deployment.beats) > 2)
        assert not task.done()
    assert {request.url for request in deployment.beats} == {HOME}


async def test_failures_have_no_effect_and_are_logged_once(
    deploy: Callable[..., Deployment], caplog: pytest.LogCaptureFixture
) -> None:
    refused, down = Response(b"secret words", 500), ConnectFailed("refused")
    deployment = deploy([down, refused, TimeoutError(), TAKEN, refused, *[TAKEN] * 10_000])
    async with deployment.running(interval_s=0.001) as task:
        await until(lambda: len(deployment.beats) > 6)
        assert not task.done()
    assert caplog.messages == [
        f"the heartbeat did not reach {HOME} (refused)", f"the heartbeat did not reach {HOME} (status 500)",
    ]  # fmt: skip
    assert deployment.env.license.state == "pending"  # a heartbeat says nothing about the license


async def test_it_survives_whatever_happens(
    deploy: Callable[..., Deployment], caplog: pytest.LogCaptureFixture
) -> None:
    deployment = deploy([ZeroDivisionError("a defect"), *[TAKEN] * 10_000])
    async with deployment.running(interval_s=0.001):
        await until(lambda: len(deployment.beats) > 1)
    assert caplog.messages[0] == "no heartbeat could be made"


async def test_it_needs_a_runtime(deploy: Callable[..., Deployment]) -> None:
    with pytest.raises(ConfigError, match="no runtime here"):
        await heartbeat.run(deploy().env)
