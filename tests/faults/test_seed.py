"""The promises of the seed page that need a process, one test each; the numbers are rows of seed-coverage.md."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from smoltbot_worker.env import read_variables
from tests.architecture.tree import ROOT
from tests.gateway_process import GatewayProcess
from tests.provider.process import ProviderProcess
from tests.services.process import end
from tests.services.redis import redis_server
from tests.wire.raw import RawClient
from worker_compat import registry
from worker_compat.ports import KVEntry

from .ask import STREAM, ask, get, post, ready, script
from .customized import ledger, site

_ROUTES = {
    "/anthropic/v1/messages": "x-other: 1",
    "/openai/v1/chat/completions": "Authorization: Bearer sk-1",
    "/gemini/v1beta/models/gemini-2.5-pro:generateContent": "x-goog-api-key: AIza1",
}

_RESULTS = ("hit", "miss", "error")


async def _metric(gateway: GatewayProcess, name: str, **labels: str) -> float:
    """The value of one series; 0 when it is not there."""
    page = (await get(gateway, "/metrics")).body.decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )


def _serve(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A start that is meant to fail."""
    environ = {"PATH": os.defpath, "HOST": "127.0.0.1", "PORT": "0", "DATA_DIR": str(folder / "data"), **variables}
    command = [sys.executable, "-m", "smoltbot_cli", "serve"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=False)


async def test_row_01_works_with_no_route_but_the_upstream(
    tmp_path: Path, provider: ProviderProcess, upstreams: dict[str, str]
) -> None:
    file, recording = ledger(tmp_path)
    with GatewayProcess(tmp_path, {**upstreams, **recording}) as gateway:
        for path, key in _ROUTES.items():
            assert (await ask(gateway, post(path, key))).status == 200
        await asyncio.sleep(1.2)  # background work has its say
    lines = set(file.read_text().splitlines())
    assert {line for line in lines if line.startswith("connect")} == {f"connect ('127.0.0.1', {provider.port})"}
    assert {line.split(" ", 1)[1].strip("b'") for line in lines if line.startswith("resolve")} <= {"127.0.0.1"}


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"ANALYSIS_MODE": "local"}, "ANTHROPIC_API_KEY"),
        ({"SUPABASE_URL": "https://x.supabase.co"}, "SUPABASE_KEY"),
        ({"MNEMOM_ANALYZE_URL": "https://x"}, "MNEMOM_API_KEY"),
        ({"LICENSE_MODE": "required"}, "MNEMOM_LICENSE_JWT"),
    ],
)
def test_row_23_75_a_missing_variable_is_named(tmp_path: Path, given: dict[str, str], needed: str) -> None:
    [(name, value)] = given.items()
    why = "set" if "://" in value else value
    for empty in ({}, {needed: " "}):
        ran = _serve(tmp_path, **given, **empty)
        assert ran.returncode == 1
        first, second, *_ = ran.stderr.splitlines()
        assert first == "EnvValidationError: Missing required environment variables:"
        assert second == f"  {needed} (because {name} is {why})"


@pytest.mark.parametrize("role", ["gateway", "scheduler", "all"])
@pytest.mark.parametrize("empty", [None, ""])
def test_row_52_what_is_required_in_each_role(tmp_path: Path, role: str, empty: str | None) -> None:
    needed = [
        "SUPABASE_KEY", "ED25519_SIGNING_KEY", "QUEUE_ENCRYPTION_KEY", "QUEUE_URL", "ANTHROPIC_API_KEY",
        "MNEMOM_LICENSE_JWT",
    ]  # fmt: skip
    given = {"SUPABASE_URL": "https://x.supabase.co", "ANALYSIS_MODE": "local", "LICENSE_MODE": "required"}
    ran = _serve(tmp_path, SMOLTBOT_ROLE=role, **given, **({} if empty is None else dict.fromkeys(needed, empty)))
    assert (ran.returncode, ran.stdout) == (1, "")
    lines = ran.stderr.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == needed
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("role", ["gateway", "scheduler", "all"])
def test_row_52_an_endpoint_of_postgresql(tmp_path: Path, role: str) -> None:
    keys = {"ED25519_SIGNING_KEY": "5c" * 32, "QUEUE_ENCRYPTION_KEY": "5d" * 32}
    rest = _serve(tmp_path, SMOLTBOT_ROLE=role, SUPABASE_URL="http://postgres:5432", SUPABASE_KEY="the-secret")
    assert rest.returncode == 1
    assert "set DATABASE_URL=postgresql://user:password@host:port/database instead" in rest.stderr
    assert "the-secret" not in rest.stderr
    wire = _serve(tmp_path, SMOLTBOT_ROLE=role, SUPABASE_URL="postgres://u:the-secret@@h/d", **keys)
    assert (wire.returncode, wire.stderr) == (1, "")
    assert "cannot start: this is not the URL of a PostgreSQL server" in wire.stdout
    assert "the-secret" not in wire.stdout


def test_row_28_curl_health(tmp_path: Path) -> None:
    curl = shutil.which("curl")
    assert curl is not None, "curl is missing: `make test` installs it"
    with GatewayProcess(tmp_path) as gateway:
        for path in ("/health", "/health/live", "/health/ready", "/health/startup", "/metrics"):
            command = [curl, "--silent", "--show-error", "--fail", "--noproxy", "*", gateway.url + path]
            body = subprocess.run(command, capture_output=True, timeout=10, check=True).stdout
            assert path == "/metrics" or json.loads(body)["status"] in ("ok", "ready")


async def test_row_49_51_background_work_is_not_in_the_way(tmp_path: Path, upstreams: dict[str, str]) -> None:
    database = tmp_path / "data" / "smoltbot.db"
    # Without checks: the record of a check is no background work, its answer waits for it.
    with GatewayProcess(tmp_path, {**upstreams, "AIP_ENABLED": "false"}) as gateway:
        await ask(gateway, post())
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            slowest, ends = 0.0, time.monotonic() + 2.5
            while time.monotonic() < ends:  # the batch that records these requests waits for the lock, and fails
                started = time.monotonic()
                assert (await ask(gateway, post())).status == 200
                slowest = max(slowest, time.monotonic() - started)
                await asyncio.sleep(0.05)
            connection.execute("ROLLBACK")
        assert slowest < 0.8
        assert await _metric(gateway, "gateway_db_errors_total") >= 1
        assert await _metric(gateway, "gateway_background_tasks_total", task="find") == 1
        seen = time.time()
        await ask(gateway, post())
        assert gateway.stop() == 0  # waits for what is not written yet
    with closing(sqlite3.connect(database)) as connection:
        [(last,)] = connection.execute("SELECT (julianday(last_seen) - 2440587.5) * 86400.0 FROM agents").fetchall()
    assert last >= seen - 0.01


async def test_row_48_requests_go_on_without_redis(tmp_path: Path, upstreams: dict[str, str]) -> None:
    with redis_server(tmp_path) as redis, GatewayProcess(tmp_path, {**upstreams, "REDIS_URL": redis.url}) as gateway:
        status, body = await ready(gateway)
        assert (status, body["status"], body["checks"]["redis"]["status"]) == (200, "ready", "ok")
        assert await _metric(gateway, "gateway_dependency_up", dep="kv") == 1
        end(redis.process)
        started = time.monotonic()
        statuses = [(await ask(gateway, post())).status for _ in range(20)]
        assert statuses == [200] * 20
        status, body = await ready(gateway)
        assert (status, body["status"], body["checks"]["redis"]["fallback"]) == (200, "degraded", "memory")
        assert time.monotonic() - started < 5
        assert await _metric(gateway, "gateway_cache_operations_total", operation="get", result="error") >= 1
        with redis_server(tmp_path, port=redis.port):
            back = time.monotonic()
            while (await ready(gateway))[1]["status"] != "ready":
                assert time.monotonic() - back < 5
                await asyncio.sleep(0.1)


async def test_row_48_a_required_redis_takes_the_instance_out(tmp_path: Path, upstreams: dict[str, str]) -> None:
    variables = {**upstreams, "REDIS_URL": "", "REDIS_REQUIRED": "true"}
    with redis_server(tmp_path) as redis:
        gateway = GatewayProcess(tmp_path, {**variables, "REDIS_URL": redis.url})
        gateway.start()
    assert (await ready(gateway))[0] == 503
    assert (await ask(gateway, post())).status == 200
    assert gateway.stop() == 0


async def test_row_57_provider_keys_are_optional(tmp_path: Path, upstreams: dict[str, str]) -> None:
    empty = dict.fromkeys(("OPENAI_API_KEY", "GEMINI_API_KEY", "ANTHROPIC_API_KEY"), "")
    with GatewayProcess(tmp_path, {**upstreams, **empty}) as gateway:
        assert [(await ask(gateway, post(path, key))).status for path, key in _ROUTES.items()] == [200, 200, 200]
        assert "has no effect in this version" not in gateway.output()


async def test_row_58_no_redis_is_a_warning(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path, {"REDIS_URL": "", "ANALYSIS_MODE": "off"}) as gateway:
        status, body = await ready(gateway)
        assert (status, body["status"], body["checks"]["redis"]["ok"]) == (200, "ready", True)
        lines = [json.loads(line) for line in gateway.output().splitlines()]
    warnings = [line["message"] for line in lines if line["level"] == "warn"]
    assert warnings == ["KV is in memory: this is for a single node, and is empty after a restart"]


async def test_row_59_the_port(tmp_path: Path) -> None:
    assert read_variables({})[0]["port"] == 8787
    with GatewayProcess(tmp_path) as gateway:
        assert f"listening on http://127.0.0.1:{gateway.port} as all" in gateway.output()
        assert (await get(gateway, "/health/live")).status == 200


def test_row_60_the_host(tmp_path: Path) -> None:
    def reachable(address: str, port: int) -> bool:
        try:
            socket.create_connection((address, port), timeout=2).close()
        except ConnectionRefusedError:
            return False
        return True

    for variables, shown, others in (({"HOST": ""}, "0.0.0.0", True), ({}, "127.0.0.1", False)):
        folder = tmp_path / shown
        folder.mkdir()
        with GatewayProcess(folder, variables) as gateway:
            assert f"listening on http://{shown}:{gateway.port} as all" in gateway.output()
            assert reachable("127.0.0.1", gateway.port)
            assert reachable("127.0.0.2", gateway.port) is others


_ALWAYS_THE_LAST_SECOND_OF_A_MINUTE = """
import time
real, start = time.time, time.time()
def fast():
    passed = real() - start
    return (start // 60 + int(passed)) * 60 + 59 + passed % 1
time.time = fast
"""


async def test_row_61_the_roles(tmp_path: Path, upstreams: dict[str, str]) -> None:
    variables = site(tmp_path, _ALWAYS_THE_LAST_SECOND_OF_A_MINUTE)
    runs: dict[str, float] = {}
    for role in ("gateway", "scheduler", "all"):
        folder = tmp_path / role
        folder.mkdir()
        with GatewayProcess(folder, {**upstreams, **variables, "SMOLTBOT_ROLE": role}) as gateway:
            answer = await ask(gateway, post())
            assert answer.status == (404 if role == "scheduler" else 200)
            for path in ("/health", "/health/live", "/health/ready", "/health/startup"):
                assert (await get(gateway, path)).status == 200
            ends = time.monotonic() + (2.5 if role == "gateway" else 10.0)
            while not runs.get(role) and time.monotonic() < ends:
                await asyncio.sleep(0.1)
                runs[role] = await _metric(gateway, "gateway_cron_runs_total", job="observer", result="success")
            assert f'"service":"smoltbot-{role}"' in gateway.output()
    assert runs["gateway"] == 0
    assert runs["scheduler"] >= 1
    assert runs["all"] >= 1


@pytest.mark.parametrize(
    ("level", "levels"),
    [
        ("debug", {"debug", "info", "warn", "error"}),
        ("", {"info", "warn", "error"}),
        ("warn", {"warn", "error"}),
        ("ERROR", {"error"}),
        ("loud", {"info", "warn", "error"}),
    ],
)
def test_row_62_log_levels_and_json_on_stdout(tmp_path: Path, level: str, levels: set[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = _serve(tmp_path, LOG_LEVEL=level, PORT=str(taken.getsockname()[1]))
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {line["level"] for line in lines} == levels
    assert all(line["service"] == "smoltbot-all" and line["message"] and line["timestamp"] for line in lines)
    assert (ran.returncode, ran.stderr) == (1, "")


async def test_row_63_alive_without_a_database(tmp_path: Path) -> None:
    database = tmp_path / "data" / "smoltbot.db"
    with GatewayProcess(tmp_path) as gateway:
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            assert (await ready(gateway))[1]["status"] == "degraded"
            assert (await get(gateway, "/health/live")).status == 200
            connection.execute("ROLLBACK")
        for file in database.parent.glob("smoltbot.db*"):
            file.unlink()
        assert (await ready(gateway))[1]["status"] == "degraded"
        started = time.monotonic()
        assert (await get(gateway, "/health/live")).status == 200
        assert time.monotonic() - started < 0.5


async def test_row_65_startup_waits_for_the_database(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with closing(sqlite3.connect(tmp_path / "data" / "smoltbot.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        gateway = GatewayProcess(tmp_path)
        starting = asyncio.create_task(asyncio.to_thread(gateway.start))
        while True:
            try:
                answer = await get(gateway, "/health/startup")
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
        assert (answer.status, json.loads(answer.body)) == (503, {"status": "starting"})
        assert (await get(gateway, "/health/live")).status == 200
        assert (await ready(gateway))[0] == 503
        connection.execute("ROLLBACK")
    await starting
    answer = await get(gateway, "/health/startup")
    assert (answer.status, json.loads(answer.body)["status"]) == (200, "ok")
    assert gateway.stop() == 0


async def test_row_66_requests_are_counted(tmp_path: Path, upstreams: dict[str, str]) -> None:
    with GatewayProcess(tmp_path, upstreams) as gateway:
        for number, (path, key) in enumerate(_ROUTES.items(), 1):
            for _ in range(number):
                await ask(gateway, post(path, key))
        await ask(gateway, post("/openai/v1/chat/completions", script(status=429), "Authorization: Bearer k"))
        await ask(gateway, post("/openai/v1/chat/completions"))
        await get(gateway, "/nowhere")
        name = "gateway_requests_total"
        counted = {("anthropic", "200"): 1, ("openai", "200"): 2, ("gemini", "200"): 3, ("openai", "429"): 1}
        counted |= {("openai", "401"): 1, ("unknown", "404"): 1}
        for (who, status), count in counted.items():
            assert await _metric(gateway, name, provider=who, status=status) == count, (who, status)


async def test_row_67_the_duration_includes_the_body(tmp_path: Path, upstreams: dict[str, str]) -> None:
    with GatewayProcess(tmp_path, upstreams) as gateway:
        data = post("/anthropic/v1/messages", script(events=6, event_delay=0.1), body=STREAM)
        started = time.monotonic()
        async with await RawClient.connect(gateway.port) as client:
            await client.send(data)
            await client.reader.readuntil(b"event:")
            first = time.monotonic() - started
            await client.reader.readuntil(b"\r\n0\r\n\r\n")
        whole = time.monotonic() - started
        name = "gateway_request_duration_seconds"
        assert await _metric(gateway, f"{name}_count", provider="anthropic") == 1
        total = await _metric(gateway, f"{name}_sum", provider="anthropic")
        assert first + 0.3 <= total <= whole
        assert await _metric(gateway, "gateway_ttfb_seconds_sum", provider="anthropic") <= first
        bounds = [".05", ".1", ".25", ".5", "1", "2.5", "5", "10", "30", "60"]
        for bound in (str(float(bound)) for bound in bounds):
            seen = await _metric(gateway, f"{name}_bucket", provider="anthropic", le=bound)
            assert seen == (1 if total <= float(bound) else 0), bound


async def test_row_69_cache_operations_are_counted(tmp_path: Path) -> None:
    name = "gateway_cache_operations_total"
    with redis_server(tmp_path) as redis, GatewayProcess(tmp_path, {"REDIS_URL": redis.url}) as gateway:
        counted = {result: await _metric(gateway, name, operation="get", result=result) for result in _RESULTS}
        await ready(gateway)
        assert await _metric(gateway, name, operation="get", result="miss") == counted["miss"] + 1
        async with registry.open_kv(f"{redis.url}?namespace=smoltbot") as store:
            await store.put("health:probe", KVEntry(b"here"))
        await ready(gateway)
        assert await _metric(gateway, name, operation="get", result="hit") == counted["hit"] + 1
        end(redis.process)
        await ready(gateway)
        assert await _metric(gateway, name, operation="get", result="error") == counted["error"] + 1


async def test_row_70_the_process_describes_itself(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path) as gateway:
        for name in ("process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"):
            assert await _metric(gateway, name) > 0
        page = (await get(gateway, "/metrics")).body.decode()
    assert "process_cpu_seconds_total " in page
    assert "\npython_info{" in page
    assert "nodejs_" not in page
    manual = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert re.search(r"`python_\*`.*`nodejs_\*` do not exist", manual)


@pytest.mark.parametrize("status", [401, 403])
async def test_row_80_a_refusal_of_the_provider_passes_unchanged(
    tmp_path: Path, provider: ProviderProcess, upstreams: dict[str, str], status: int
) -> None:
    with GatewayProcess(tmp_path, upstreams) as gateway:
        for path, key in _ROUTES.items():
            through = await ask(gateway, post(path, key, script(status=status)))
            async with await RawClient.connect(provider.port) as client:
                direct = await client.request(post("/" + path.split("/", 2)[2], key, script(status=status)))
            assert through.start == direct.start
            assert through.body.partition(b"req")[0] == direct.body.partition(b"req")[0]
            theirs = [name for name, _ in direct.headers if name.lower() != b"connection"]
            assert [name for name, _ in through.headers][: len(theirs)] == theirs
            assert (through.get(b"x-aip-verdict"), through.get(b"x-aip-reason")) == (b"skipped", b"upstream-status")


async def test_row_81_there_is_no_intermediate_host(
    tmp_path: Path, provider: ProviderProcess, upstreams: dict[str, str]
) -> None:
    file, recording = ledger(tmp_path)
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:1")
    with GatewayProcess(tmp_path, {**upstreams, **recording, **proxies}) as gateway:
        answer = await ask(gateway, post("/anthropic/v1/messages?beta=true", "x-mnemom-api-key: mnm_1", "cf-aig-x: 1"))
        assert answer.status == 200
        assert (await get(gateway, "/health/ready")).status == 200
    [seen] = provider.requests()
    assert seen["line"] == "POST /v1/messages?beta=true HTTP/1.1"
    names = [name.lower() for name, _ in seen["headers"]]
    assert seen["headers"][0] == ["Host", f"127.0.0.1:{provider.port}"]
    assert not [name for name in names if name in ("via", "forwarded") or name.startswith(("x-forwarded-", "cf-aig-"))]
    targets = {line for line in file.read_text().splitlines() if line.startswith("connect")}
    assert targets == {f"connect ('127.0.0.1', {provider.port})"}


async def test_row_84_memory_is_bounded() -> None:
    tracemalloc.start()
    try:
        async with registry.open_kv("memory://") as store:
            for number in range(30_000):
                await store.put(f"key-{number}", KVEntry(number.to_bytes(4) * 4096))
            assert await store.get("key-0") is None
            assert await store.get("key-29999") is not None
            assert tracemalloc.get_traced_memory()[0] < 80 * 1024 * 1024  # 30,000 entries would be 480 MB
    finally:
        tracemalloc.stop()
