"""The seed page's promises about checks and licenses, each with real processes; numbers as in seed-coverage.md."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.gateway_process import GatewayProcess, free_port
from tests.integrity.planted import Planted
from tests.integrity.planted import http as planted_answer
from tests.integrity.planting import eventually
from tests.integrity.support import SHAPES, Got, Judged, Shape, send
from tests.provider.process import ProviderProcess
from tests.unit.license_support import Issuer

from .customized import ledger

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_ISSUER = Issuer()
_VIOLATION = "JUDGE:boundary_violation"
ANTHROPIC, CHAT, _, GEMINI = SHAPES
_PROMPT = "prompt-canary-8d11 "
_CANARIES = (_PROMPT.strip(), "thinking-canary-77c0", "answer-canary-5aa9")


def _run(folder: Path, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself: a start that is meant to fail, too."""
    environ = {"PATH": os.defpath, "HOST": "127.0.0.1", "PORT": "0", "DATA_DIR": str(folder / "data"), **variables}
    words = [sys.executable, "-m", "smoltbot_cli", command]
    return subprocess.run(words, env=environ, capture_output=True, text=True, timeout=30, check=False)


def _health(gateway: GatewayProcess, path: str = "/health/ready") -> tuple[int, Any]:
    try:
        with _OPENER.open(gateway.url + path, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def _license_check(gateway: GatewayProcess) -> Any:
    return _health(gateway)[1]["checks"]["license"]


def _canaried(shape: Shape) -> bytes:
    """A request whose user text is a canary; it is longer than what the local analyser sees of it."""
    return shape.request(False).replace(b"Hello", _PROMPT.encode() * 3)


def _licensed(license: str, issuer: Planted | None = None, **more: str) -> dict[str, str]:
    """The variables of a deployment that needs a license."""
    given = {"LICENSE_MODE": "required", "MNEMOM_LICENSE_JWT": license, "LICENSE_PUBLIC_KEY": _ISSUER.hex}
    given["HEARTBEAT_URL"] = "off" if issuer is None else f"{issuer.url}/v1/deployments/heartbeat"
    url = f"http://127.0.0.1:{free_port()}" if issuer is None else issuer.url
    given |= {"MNEMOM_ANALYZE_URL": f"{url}/v1/analyze", "MNEMOM_API_KEY": "mnm_seed", "ANALYSIS_MODE": "off"}
    return {**given, **more}


def _a_license(**claims: Any) -> str:
    return _ISSUER.license(**{"exp": time.time() + 100 * 86_400, "iat": time.time(), **claims})


_GOOD = planted_answer(b'{"valid":true}')


def test_row_02_nothing_but_the_answers_leaves_the_network(tmp_path: Path, provider: ProviderProcess) -> None:
    file, recording = ledger(tmp_path)
    with Planted([_GOOD]) as issuer:
        settings = _licensed(_a_license(), issuer, ANALYSIS_MODE="local")
        judged = Judged(tmp_path, provider, **{**settings, **recording})
        with judged.gateway:
            assert eventually(lambda: _license_check(judged.gateway)["status"] == "valid")
            for shape in SHAPES:
                name, agent_id = judged.new_agent(shape, "nudge")
                for streaming in (False, True, False):
                    given: dict[str, Any] = {"thinking": f"{_VIOLATION} {_CANARIES[1]}", "text": _CANARIES[2]}
                    body = None if streaming else _canaried(shape)
                    assert judged.ask(shape, streaming=streaming, agent=name, body=body, **given).status == 200
                assert len(judged.checkpoints(agent_id, 3)) == 3
            assert eventually(lambda: any("heartbeat" in asked.line for asked in issuer.asked))
        targets = {int(port) for port in re.findall(r"^connect \('127\.0\.0\.1', (\d+)\)$", file.read_text(), re.M)}
        assert targets == {provider.port, issuer.port}
        assert all("127.0.0.1" in line for line in file.read_text().splitlines())
        told = b"".join(asked.body + repr(asked.headers).encode() for asked in issuer.asked)
        asked_for = {asked.line.split()[1] for asked in issuer.asked}
        assert asked_for == {"/v1/license/validate", "/v1/deployments/heartbeat"}
    assert not [canary for canary in _CANARIES if canary.encode() in told]


_ORDER = (
    "x-smoltbot-request-id", "x-smoltbot-agent", "x-smoltbot-session", "x-aip-verdict", "x-aip-checkpoint-id",
    "x-aip-action", "x-aip-proceed", "x-aip-certificate-id", "x-aip-chain-hash",
)  # fmt: skip
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-%s[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_MISSING_KEYS = {
    "anthropic": "Missing x-api-key header",
    "openai": "Missing Authorization: Bearer <key> header",
    "gemini": "Missing x-goog-api-key header",
}


def test_row_03_headers_ids_and_errors_as_in_the_managed_service(tmp_path: Path, provider: ProviderProcess) -> None:
    judged = Judged(tmp_path, provider)
    with judged.gateway:
        for shape in (ANTHROPIC, CHAT, GEMINI):
            missing = send(judged.gateway.port, f"/{shape.provider}{shape.path}", b"{}", {})
            expected = {"error": _MISSING_KEYS[shape.provider], "type": "authentication_error"}
            assert (missing.status, missing.json()) == (401, expected)
        got = judged.ask(ANTHROPIC, headers={"x-api-key": "sk-ant-example-000"}, thinking="I plan to answer.")
        own = [name for name in got.headers if name.startswith(("x-smoltbot-", "x-aip-"))]
        assert tuple(own) == _ORDER
        assert (got.agent, got.aip("verdict")) == ("smolt-9d08aa51", "clear")
        assert (got.aip("action"), got.aip("proceed")) == ("continue", "true")
        hour = int(time.time()) // 3600
        assert got.headers["x-smoltbot-session"] in {f"9d08aa51eb89d283-{hour - late}" for late in (0, 1)}
        assert re.fullmatch(_UUID % "7", got.headers["x-smoltbot-request-id"])
        assert re.fullmatch("ic-" + _UUID % "4", got.aip("checkpoint-id") or "")
        assert re.fullmatch("cert-[0-9a-z]{8,}", got.aip("certificate-id") or "")
        name, agent_id = judged.new_agent(ANTHROPIC, "enforce")
        withheld = judged.ask(ANTHROPIC, agent=name, thinking=_VIOLATION)
        body = withheld.json()
        assert (withheld.status, body["type"]) == (403, "integrity_violation")
        assert body["error"] == "Request blocked by integrity check"
        assert set(body["checkpoint"]) == {
            "checkpoint_id", "verdict", "concerns", "reasoning_summary", "recommended_action",
        }  # fmt: skip
        judged.operate("POST", f"/agents/{agent_id}/pause")
        paused = judged.ask(ANTHROPIC, agent=name)
        assert (paused.status, paused.json()) == (
            403, {"error": "Agent contained", "type": "containment_error", "reason": "agent_paused"},
        )  # fmt: skip


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_row_03_formulas_as_in_the_managed_service(tmp_path: Path, provider: ProviderProcess) -> None:
    judged = Judged(tmp_path, provider)
    with judged.gateway:
        name, agent_id = judged.new_agent(ANTHROPIC)
        for _ in range(2):
            judged.ask(ANTHROPIC, agent=name, thinking="Résumé — I plan to answer.")
        rows = judged.checkpoints(agent_id, 2)
        certificates = [judged.operate("GET", f"/checkpoints/{row['checkpoint_id']}/certificate") for row in rows]
        [key] = judged.operate("GET", "/keys")["keys"]
    before, leaves = "genesis", []
    for row, certificate in zip(rows, certificates, strict=True):
        assert row["thinking_block_hash"] == _sha256("Résumé — I plan to answer.")
        commitment = certificate["input_commitments"]["combined_commitment"]
        timestamp = certificate["issued_at"]
        said = (row["checkpoint_id"], row["verdict"], row["thinking_block_hash"])
        assert row["chain_hash"] == _sha256("|".join((before, *said, commitment, timestamp)))
        before = row["chain_hash"]
        leaves.append(_sha256("|".join((*said, row["chain_hash"], timestamp))))
        signature = certificate["proofs"]["signature"]
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key["public_key"])).verify(
            base64.b64decode(signature["value"]), signature["signed_payload"].encode()
        )
        signed = {
            "agent_id": agent_id, "chain_hash": row["chain_hash"], "checkpoint_id": row["checkpoint_id"],
            "input_commitment": commitment, "thinking_block_hash": row["thinking_block_hash"],
            "timestamp": timestamp, "verdict": "clear",
        }  # fmt: skip
        assert signature["signed_payload"] == json.dumps(signed, separators=(",", ":"))
    assert certificates[1]["proofs"]["merkle"]["root"] == _sha256("".join(leaves))


def test_row_04_a_license_may_be_required(tmp_path: Path, provider: ProviderProcess) -> None:
    ran = _run(tmp_path, "serve", LICENSE_MODE="required")
    assert ran.returncode == 1
    assert "  MNEMOM_LICENSE_JWT (because LICENSE_MODE is required)" in ran.stderr.splitlines()
    judged = Judged(tmp_path, provider, **_licensed(Issuer(2).license(exp=time.time() + 1000)))
    with judged.gateway:
        for shape in SHAPES:
            got = judged.ask(shape)
            assert (got.status, got.json()) == (403, {"error": "License invalid or expired", "type": "license_error"})
        for path in ("/health", "/health/live", "/health/startup"):
            assert _health(judged.gateway, path)[0] == 200
    assert provider.requests() == []


def test_row_13_a_license_can_be_looked_at(tmp_path: Path) -> None:
    ran = _run(tmp_path, "doctor", **_licensed(_a_license(license_id="lic-seed")))
    [line] = [line for line in ran.stdout.splitlines() if " license: " in line]
    until = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 100 * 86_400))
    assert "lic-seed" in line
    assert until in line
    ran = _run(tmp_path, "doctor", **_licensed(Issuer(2).license(license_id="lic-seed")))
    assert ran.returncode == 1
    assert "license_signature_invalid" in ran.stdout


def test_row_14_the_anthropic_key_is_for_local_analysis(tmp_path: Path) -> None:
    ran = _run(tmp_path, "serve", ANALYSIS_MODE="local")
    assert ran.returncode == 1
    assert "  ANTHROPIC_API_KEY (because ANALYSIS_MODE is local)" in ran.stderr.splitlines()
    hybrid = {"MNEMOM_ANALYZE_URL": "http://127.0.0.1:1/v1/analyze", "MNEMOM_API_KEY": "mnm_seed"}
    for number, variables in enumerate((hybrid, {"AIP_ENABLED": "false"})):
        folder = tmp_path / str(number)
        folder.mkdir()
        with GatewayProcess(folder, variables) as gateway:
            assert _health(gateway)[0] == 200


def _hybrid(folder: Path, provider: ProviderProcess, **variables: str) -> Judged:
    """A gateway without a key of its own, whose checks a hosted service makes."""
    hosted = {"ANTHROPIC_API_KEY": "", "MNEMOM_ANALYZE_URL": provider.hosted_url, "MNEMOM_API_KEY": "mnm_seed"}
    return Judged(folder, provider, **{**hosted, **variables})


def test_row_05_53_56_only_thinking_leaves_for_the_hosted_service(tmp_path: Path, provider: ProviderProcess) -> None:
    judged = _hybrid(tmp_path, provider)
    with judged.gateway:
        for shape in SHAPES:
            name, agent_id = judged.new_agent(shape)
            got = judged.ask(
                shape, agent=name, body=_canaried(shape), thinking=f"{_VIOLATION} {_CANARIES[1]}", text=_CANARIES[2]
            )
            assert (got.status, got.aip("verdict"), got.aip("source")) == (200, "boundary_violation", "hybrid")
            [row] = judged.checkpoints(agent_id)
            assert (row["source"], row["checkpoint_id"]) == ("hybrid_api", got.aip("checkpoint-id"))
    asked = provider.judged()
    assert len(asked) == len(SHAPES)
    for request in asked:
        assert request["path"] == "/__analyze/v1/analyze"
        said = json.loads(request["body"])
        assert said["thinking_block"] == f"{_VIOLATION} {_CANARIES[1]}"
        assert said["store_checkpoint"] is False
        assert not [canary for canary in (_CANARIES[0], _CANARIES[2]) if canary.encode() in request["body"]]


def test_row_54_the_hosted_service_needs_a_key(tmp_path: Path) -> None:
    ran = _run(tmp_path, "serve", MNEMOM_ANALYZE_URL="https://analyze.example/v1/analyze", MNEMOM_API_KEY="")
    assert ran.returncode == 1
    assert "  MNEMOM_API_KEY (because MNEMOM_ANALYZE_URL is set)" in ran.stderr.splitlines()


def test_row_55_a_hosted_service_that_refuses(tmp_path: Path, provider: ProviderProcess) -> None:
    judged = _hybrid(tmp_path, provider)
    with judged.gateway:
        for status in (401, 402, 429, 503):
            for policy, passed in (("fail_open", 200), ("fail_closed", 503)):
                name, agent_id = judged.new_agent(ANTHROPIC, "enforce", failure_policy=policy)
                # One good answer between the bad ones, or the breaker would open, which is another row's business.
                provider.judge({"status": status})
                got = judged.ask(ANTHROPIC, agent=name, thinking="I plan to answer.")
                assert (got.status, got.aip("verdict"), got.aip("source")) == (passed, "error", "hybrid"), status
                assert got.aip("reason") == "analysis-unavailable"
                [row] = judged.checkpoints(agent_id)
                assert (row["verdict"], row["source"]) == ("error", "hybrid_api")
                assert judged.ask(ANTHROPIC, thinking="I plan to answer.").aip("verdict") == "clear"


def test_row_68_verdicts_are_counted_of_streams_too(tmp_path: Path, provider: ProviderProcess) -> None:
    judged = Judged(tmp_path, provider)
    thoughts = {
        "clear": "I plan to answer.", "review_needed": "JUDGE:review_needed", "boundary_violation": _VIOLATION,
        "skipped": None,
    }  # fmt: skip
    with judged.gateway:
        for verdict, thinking in thoughts.items():
            name, agent_id = judged.new_agent(ANTHROPIC)
            before = _counted(judged, verdict)
            given: dict[str, Any] = {} if thinking is None else {"thinking": thinking}
            for streaming in (False, True, True):
                judged.ask(ANTHROPIC, streaming=streaming, agent=name, **given)
            assert [row["verdict"] for row in judged.checkpoints(agent_id, 3)] == [verdict] * 3
            assert eventually(partial(_is_counted, judged, verdict, before + 3))
        assert _counted(judged, "pending") == 0
        provider.judge(always={"drop": True})
        before = _counted(judged, "error")
        judged.ask(ANTHROPIC, streaming=True, thinking="I plan to answer.")
        assert eventually(partial(_is_counted, judged, "error", before + 1))


def _is_counted(judged: Judged, verdict: str, count: float) -> bool:
    return _counted(judged, verdict) == count


def _counted(judged: Judged, verdict: str) -> float:
    return judged.metric(f'gateway_aip_checks_total{{verdict="{verdict}"}}')


def test_row_76_a_redis_that_refuses(tmp_path: Path, provider: ProviderProcess) -> None:
    judged = Judged(tmp_path, provider, REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    with judged.gateway:
        status, body = _health(judged.gateway)
        assert (status, body["status"]) == (200, "degraded")
        redis = body["checks"]["redis"]
        assert (redis["ok"], redis["fallback"]) == (False, "memory")
        assert judged.ask(ANTHROPIC, thinking="I plan to answer.").aip("verdict") == "clear"


_REFUSED: Mapping[str, tuple[Callable[[], str], int | None]] = {
    "license_parse_error": (lambda: "no.license.atall", 200),
    "license_signature_invalid": (lambda: Issuer(2).license(exp=time.time() + 1000), 200),
    "license_expired": (lambda: _a_license(exp=time.time() - 1000), 200),
    "license_revoked": (_a_license, 403),
    "license_activation_limit": (_a_license, 409),
    "license_unreachable": (_a_license, None),
}


@pytest.mark.parametrize("code", _REFUSED)
def test_row_77_readiness_names_what_is_wrong_with_the_license(
    tmp_path: Path, provider: ProviderProcess, code: str
) -> None:
    license, status = _REFUSED[code]
    with Planted([planted_answer(b"{}", status or 200)]) as issuer:
        settings = _licensed(license(), None if status is None else issuer, HEARTBEAT_URL="off")
        judged = Judged(tmp_path, provider, **settings)
        with judged.gateway:
            assert eventually(lambda: _license_check(judged.gateway).get("error") == code)
            assert _license_check(judged.gateway) == {"ok": False, "status": "invalid", "error": code}
            assert judged.ask(ANTHROPIC).status == 403
            assert judged.metric('gateway_license_status{state="invalid"}') == 1


def test_row_78_an_expired_license_has_a_grace(tmp_path: Path, provider: ProviderProcess) -> None:
    with Planted([_GOOD]) as issuer:
        judged = Judged(tmp_path, provider, **_licensed(_a_license(), issuer))
        with judged.gateway:
            assert eventually(lambda: _license_check(judged.gateway) == {"ok": True, "status": "valid"})
        expired = {"MNEMOM_LICENSE_JWT": _a_license(exp=time.time() - 60)}
        judged.gateway.start(expired)
        grace = {"ok": True, "status": "grace", "warning": "license_expired_grace_period"}
        assert eventually(lambda: _license_check(judged.gateway) == grace)
        assert judged.ask(ANTHROPIC).status == 200
        judged.gateway.stop()
        with closing(sqlite3.connect(tmp_path / "data" / "smoltbot.db", isolation_level=None)) as connection:
            week = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - 7 * 86_400 - 1))
            connection.execute("UPDATE license_state SET last_valid_at = ?", (week,))
        judged.gateway.start(expired)
        assert eventually(lambda: _license_check(judged.gateway).get("error") == "license_expired")
        assert judged.ask(ANTHROPIC).status == 403
        judged.gateway.stop()


@pytest.mark.parametrize("streaming", [False, True], ids=["buffered", "stream"])
@pytest.mark.parametrize("mode", ["observe", "nudge", "enforce"])
def test_row_87_the_modes(modes: Judged, mode: str, streaming: bool) -> None:
    for shape in SHAPES:
        name, agent_id = modes.new_agent(shape, mode)
        got = modes.ask(shape, streaming=streaming, agent=name, thinking=_VIOLATION)
        withheld = mode == "enforce" and not streaming
        assert got.status == (403 if withheld else 200), shape.name
        assert got.aip("verdict") == ("pending" if streaming else "boundary_violation")
        assert (_VIOLATION.encode() in got.body) is not withheld or streaming
        [row] = modes.checkpoints(agent_id)
        assert row["verdict"] == "boundary_violation"
        after = modes.ask(shape, agent=name)
        told = None if mode == "observe" else "1"
        assert (after.status, after.aip("nudge-count")) == (200, told), shape.name
        sent = base64.b64decode(modes.provider.requests()[-1]["body"])
        assert (row["checkpoint_id"].encode() in sent) is (told is not None)


@pytest.fixture(scope="module")
def modes(_provider: ProviderProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    _provider.reset()
    judged = Judged(tmp_path_factory.mktemp("modes"), _provider)
    with judged.gateway:
        yield judged


def test_row_90_a_dead_analyser_fails_open_unless_told_otherwise(tmp_path: Path, provider: ProviderProcess) -> None:
    dead = {"ANALYSIS_BASE_URL": f"http://127.0.0.1:{free_port()}"}
    for policy, status in (("", 200), ("fail_open", 200), ("fail_closed", 503)):
        folder = tmp_path / f"policy {policy}"
        folder.mkdir()
        judged = Judged(folder, provider, AIP_FAILURE_POLICY=policy, **dead)
        with judged.gateway:
            answers: dict[str, Got] = {}
            for mode in ("observe", "nudge", "enforce"):
                name, _ = judged.new_agent(ANTHROPIC, mode)
                answers[mode] = judged.ask(ANTHROPIC, agent=name, thinking="I plan to answer.")
        assert {mode: got.status for mode, got in answers.items()} == {"observe": 200, "nudge": 200, "enforce": status}
        assert {(got.aip("verdict"), got.aip("reason")) for got in answers.values()} == {
            ("error", "analysis-unavailable"),
        }  # fmt: skip
        if status == 503:
            assert answers["enforce"].json()["type"] == "integrity_unavailable"
