"""The routes of the evidence: what they answer, who may ask, and what fails."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest

from smoltbot_worker.attestation.heads import SignedHead
from smoltbot_worker.attestation.verify import verify_certificate
from tests.unit.attestation_support import AGENT, CRYPTO, PINNED, TIMESTAMP, LogReader, draft, filled, two_sessions

from .evidence_support import BEARER, EXPORT, calls_of, certificate, over
from .support import Gateway, Got

ROUTES = [
    ("GET", "/v1/keys"),
    ("GET", f"/v1/agents/{AGENT}/head"),
    ("GET", f"/v1/agents/{AGENT}/merkle-root"),
    ("GET", EXPORT),
    ("GET", "/v1/checkpoints/ic-00000000-0000-4000-8000-000000000001/certificate"),
    ("GET", "/v1/checkpoints/ic-00000000-0000-4000-8000-000000000001/inclusion-proof"),
    ("POST", "/v1/verify"),
]


async def test_the_head_is_the_newest_as_it_was_signed() -> None:
    log = await filled(two_sessions(7))
    got = await over(log).ask("GET", f"/v1/agents/{AGENT}/head")
    assert (got.status, got.json()) == (200, log.heads[AGENT][-1].to_json())
    assert SignedHead(**got.json()).size == 7
    assert got.get("cache-control") == "no-store"


async def test_the_merkle_root_is_that_of_the_newest_head() -> None:
    log = await filled(two_sessions(7))
    got = await over(log).ask("GET", f"/v1/agents/{AGENT}/merkle-root")
    newest = log.heads[AGENT][-1]
    assert got.status == 200
    assert got.json() == {
        "agent_id": AGENT, "merkle_root": newest.root, "tree_depth": 3, "leaf_count": 7, "last_updated": TIMESTAMP,
    }  # fmt: skip


async def test_keys() -> None:
    got = await over(await filled(two_sessions(1))).ask("GET", "/v1/keys")
    key = {"key_id": "key-001", "public_key": CRYPTO.public_key, "algorithm": "Ed25519"}
    assert (got.status, got.json()) == (200, {"keys": [{**key, "created_at": TIMESTAMP, "is_active": True}]})


async def test_certificates_verify() -> None:
    gateway = over(await filled(two_sessions(11)))
    for number in range(11):
        document = await certificate(gateway, number)
        assert (await verify_certificate(document, PINNED, CRYPTO)).status == 0
        assert document["proofs"]["merkle"]["tree_size"] == 11
    assert document["verification"]["keys_url"] == "https://gateway.example/v1/keys"


async def test_inclusion_proofs() -> None:
    gateway = over(await filled(two_sessions(11)))
    for number in range(11):
        got = await gateway.ask("GET", f"/v1/checkpoints/{draft(number).checkpoint_id}/inclusion-proof")
        merkle = (await certificate(gateway, number))["proofs"]["merkle"]
        assert got.status == 200
        assert got.json() == {
            "checkpoint_id": draft(number).checkpoint_id, "leaf_hash": merkle["leaf_hash"], "leaf_index": number,
            "siblings": merkle["inclusion_proof"], "root": merkle["root"], "tree_size": 11, "verified": True,
        }  # fmt: skip


async def test_a_proof_that_leads_elsewhere_says_so() -> None:
    log = await filled(two_sessions(11))
    log.nodes[AGENT][1, 1] = "0" * 64
    got = await over(log).ask("GET", f"/v1/checkpoints/{draft(0).checkpoint_id}/inclusion-proof")
    assert (got.status, got.json()["verified"]) == (200, False)


async def test_a_leaf_beyond_the_newest_head() -> None:
    log = await filled(two_sessions(11))
    del log.heads[AGENT][-1]
    gateway = over(log)
    got = await gateway.ask("GET", f"/v1/checkpoints/{draft(10).checkpoint_id}/inclusion-proof")
    assert (got.status, got.json()["error"]) == (422, "Leaf out of bounds")
    document = await certificate(gateway, 10)
    assert document["proofs"]["merkle"] is None
    assert (await verify_certificate(document, PINNED, CRYPTO)).status == 0
    del log.heads[AGENT][:]
    assert (await gateway.ask("GET", f"/v1/agents/{AGENT}/head")).status == 404


@pytest.mark.parametrize("role", ["gateway", "scheduler", "all"])
async def test_every_role_serves_them(role: str) -> None:
    gateway = over(await filled(two_sessions(3)), role=role)
    answers = [await gateway.ask(method, target, BEARER, body=b"{}" if method == "POST" else None)
               for method, target in ROUTES]  # fmt: skip
    assert [got.status for got in answers] == [200, 200, 200, 200, 200, 200, 400]


async def test_what_is_unknown_is_404() -> None:
    gateway = over(await filled(two_sessions(3)))
    for target in ("agents/smolt-ffffffff/head", "agents/smolt-ffffffff/merkle-root", "agents/smolt-ffffffff/export",
                   "checkpoints/ic-9/certificate", "checkpoints/ic-9/inclusion-proof"):  # fmt: skip
        got = await gateway.ask("GET", f"/v1/{target}", BEARER)
        assert (got.status, got.json()["type"]) == (404, "not_found"), target
        assert got.json()["error"] in ("Agent not found", "Checkpoint not found")


@pytest.mark.parametrize(
    "target", ["/v1", "/v1/", "/v1/nothing", "/v1/keys/", "/v1/agents//x", "/v1/keys/x", "/v1/agents/x/head/y",
               "/v1//keys"],
)  # fmt: skip
async def test_a_path_that_is_no_route_is_404(target: str) -> None:
    got = await over(await filled(two_sessions(1))).ask("GET", target, BEARER)
    assert (got.status, got.json()["error"], got.json()["type"]) == (404, "Not found", "not_found")


@pytest.mark.parametrize("agent_id", ["", "..", "%73molt", "a b", "smolt-\xe9", "x" * 201, '"', "-x"])
async def test_an_id_that_no_id_looks_like_is_400(agent_id: str) -> None:
    gateway = over(await filled(two_sessions(1)))
    got = await gateway.ask("GET", f"/v1/agents/{agent_id}/head")
    assert (got.status, got.json()["error"]) == (400, "Invalid id")
    assert calls_of(gateway) == []


async def test_other_methods_are_405() -> None:
    gateway = over(await filled(two_sessions(1)))
    for method, target in ROUTES:
        allowed = "POST" if method == "POST" else "GET, HEAD"
        for other in {"GET", "HEAD", "POST", "PUT", "DELETE", "PROPFIND"} - set(allowed.split(", ")):
            got = await gateway.ask(other, target, BEARER)
            assert (got.status, got.get("allow"), got.json()["type"]) == (405, allowed, "invalid_request")


async def test_head_is_answered_like_get() -> None:
    gateway = over(await filled(two_sessions(3)))
    for method, target in ROUTES[:-1]:
        assert method == "GET"
        assert (await gateway.ask("HEAD", f"{target}?x=1", BEARER)).status == 200
    assert (await gateway.ask("HEAD", EXPORT)).status == 401


async def asked(read: str = "", admin: str = "") -> Callable[..., Awaitable[Got]]:
    gateway = Gateway(READ_TOKEN=read, ADMIN_TOKEN=admin)
    gateway.env.records = LogReader(await filled(two_sessions(1)))

    async def ask(*lines: str) -> Got:
        return await gateway.ask("GET", EXPORT, *lines)

    return ask


async def test_an_export_wants_a_token() -> None:
    ask = await asked("read", "new,old")
    for token in ("read", "new", "old"):
        assert (await ask(f"Authorization: Bearer {token}")).status == 200
        assert (await ask(f"authorization: bearer  {token} ")).status == 200
    for lines in (
        [], ["Authorization: Bearer"], ["Authorization: Bearer "], ["Authorization: Basic read"],
        ["Authorization: read"],
        ["Authorization: Bearer new,old"], ["Authorization: Bearer rea"], ["Authorization: Bearer read2"],
        ["Authorization: Bearer \xe9"], ["Authorization: Bearer read", "Authorization: Bearer read"],
        ["x-api-key: read"], ["Authorization: Bearer READ"],
    ):  # fmt: skip
        got = await ask(*lines)
        assert (got.status, got.json()["type"]) == (401, "authentication_error"), lines
        assert got.get("www-authenticate") == 'Bearer realm="smoltbot"'
        assert b"new" not in got.body


async def test_either_token_is_enough() -> None:
    assert (await (await asked("read"))("Authorization: Bearer read")).status == 200
    ask = await asked(admin="admin")
    assert (await ask("Authorization: Bearer admin")).status == 200
    assert (await ask("Authorization: Bearer")).status == 401  # READ_TOKEN is not set, which is no token of no letters


async def test_without_any_token_nobody_may_export() -> None:
    got = await (await asked())("Authorization: Bearer x")
    assert (got.status, got.json()["type"]) == (403, "permission_error")
    assert "READ_TOKEN or ADMIN_TOKEN" in got.json()["message"]


async def test_all_but_the_export_is_public() -> None:
    gateway = over(await filled(two_sessions(3)))
    statuses = {target: (await gateway.ask(method, target, body=b"" if method == "POST" else None)).status
                for method, target in ROUTES}  # fmt: skip
    assert [target for target, status in statuses.items() if status == 401] == [EXPORT]


async def test_a_database_that_is_away_is_503() -> None:
    log = await filled(two_sessions(3))
    document = json.dumps(await certificate(over(log), 1)).encode()
    for method, target in ROUTES:
        got = await over(log, failing=0).ask(method, target, BEARER, body=document if method == "POST" else None)
        assert (got.status, got.json()["type"], got.get("retry-after")) == (503, "storage_unavailable", "2"), target
        assert b"secret" not in got.body


async def test_an_overloaded_host_refuses_them() -> None:
    gateway = over(await filled(two_sessions(1)))
    got = await gateway.ask("GET", EXPORT, BEARER, overload="held-bytes")
    assert (got.status, got.json()["type"], got.get("retry-after")) == (503, "overloaded", "1")
    assert calls_of(gateway) == []


@pytest.mark.parametrize(("origins", "allowed"), [("", None), ("*", None), ("https://a.example", "https://a.example")])
@pytest.mark.parametrize("method", ["OPTIONS", "GET"])
async def test_browsers_read_them_only_from_configured_origins(method: str, origins: str, allowed: str | None) -> None:
    gateway = Gateway(CORS_ALLOW_ORIGINS=origins)
    gateway.env.records = LogReader(await filled(two_sessions(1)))
    for target in ("/v1/keys", "/v1/nothing", EXPORT):
        got = await gateway.ask(method, target, "Origin: https://a.example")
        assert got.get("access-control-allow-origin") == allowed
        assert got.get("vary") == "Origin"
        other = await gateway.ask(method, target, "Origin: https://b.example")
        assert other.get("access-control-allow-origin") is None
    assert (await gateway.ask(method, "/v1x", "Origin: https://a.example")).get("access-control-allow-origin") == (
        allowed or "*"
    )


@pytest.mark.parametrize(
    ("column", "value"), [("analysis_metadata", "cut"), ("concerns", [1]), ("reasoning_summary", "\ud800")]
)
async def test_a_damaged_row_has_no_certificate(column: str, value: object) -> None:
    log = await filled(two_sessions(3))
    log.rows[AGENT][1][column] = value
    got = await over(log).ask("GET", f"/v1/checkpoints/{draft(1).checkpoint_id}/certificate")
    assert (got.status, got.json()["error"], got.json()["type"]) == (500, "Checkpoint damaged", "records_damaged")
