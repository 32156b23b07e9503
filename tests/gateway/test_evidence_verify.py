"""POST /v1/verify: what is genuine, what is wrong, what is no certificate."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from smoltbot_worker.api.evidence import BODY_LIMIT, CHECKS
from tests.unit.attestation_support import LogReader, filled, two_sessions

from .evidence_support import certificate, over


@pytest.mark.parametrize("wrapped", [True, False])
async def test_a_genuine_certificate_is_valid(wrapped: bool) -> None:
    gateway = over(await filled(two_sessions(5)))
    document = await certificate(gateway, 2)
    body = json.dumps({"certificate": document} if wrapped else document).encode()
    got = await gateway.ask("POST", "/v1/verify", body=body)
    proofs = document["proofs"]
    assert got.status == 200
    assert got.json() == {
        "valid": True,
        "checks": {
            "signature": {"valid": True, "key_id": "key-001"},
            "chain": {"valid": True, "chain_hash": proofs["chain"]["chain_hash"]},
            "merkle": {"valid": True, "root": proofs["merkle"]["root"]},
            "input_commitment": {
                "valid": True, "commitment": document["input_commitments"]["combined_commitment"],
            },
            "claims": {"valid": True},
            "verdict_derivation": None,
        },
        "details": "every check passed",
    }  # fmt: skip


Change = Callable[[dict[str, Any]], Any]

WRONG: dict[str, tuple[str, Change]] = {
    "verdict": ("signature", lambda it: it["claims"].update(verdict="boundary_violation")),
    "signature": ("signature", lambda it: it["proofs"]["signature"].update(value="AAAA")),
    "an unknown key": ("signature", lambda it: it["proofs"]["signature"].update(key_id="key-009")),
    "session": ("claims", lambda it: it["subject"].update(session_id="another")),
    "type": ("claims", lambda it: it.update(type="Certificate")),
    "address": ("claims", lambda it: it["verification"].update(keys_url="https://elsewhere.example/v1/keys")),
    "chain": ("chain", lambda it: it["proofs"]["chain"].update(chain_hash="0" * 64)),
    "position": ("input_commitment", lambda it: it["proofs"]["chain"].update(position=7)),
    "a negative position": ("input_commitment", lambda it: it["proofs"]["chain"].update(position=-1)),
    "card hash": ("input_commitment", lambda it: it["input_commitments"].update(card_hash="0" * 64)),
    "leaf index out of range": ("merkle", lambda it: it["proofs"]["merkle"].update(leaf_index=5)),
    "leaf index far out of range": ("merkle", lambda it: it["proofs"]["merkle"].update(leaf_index=10**80)),
    "a negative leaf index": ("merkle", lambda it: it["proofs"]["merkle"].update(leaf_index=-1)),
    "tree size": ("merkle", lambda it: it["proofs"]["merkle"].update(tree_size=-5)),
    "root": ("merkle", lambda it: it["proofs"]["merkle"].update(root="")),
    "head": ("merkle", lambda it: it["proofs"]["merkle"]["head"].update(timestamp="yesterday")),
    "a derivation": ("verdict_derivation", lambda it: it["proofs"].update(verdict_derivation={})),
    "a member too many": ("signature", lambda it: it["subject"].update(more=1)),
    "half a surrogate pair": ("signature", lambda it: it["claims"].update(reasoning_summary="\ud800")),
    "no finite number": ("signature", lambda it: it["claims"].update(confidence=1e999)),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_value_is_answered_and_not_refused(wrong: str) -> None:
    gateway = over(await filled(two_sessions(5)))
    document = await certificate(gateway, 2)
    check, change = WRONG[wrong]
    change(document)
    body = json.dumps(document).replace("Infinity", "1e999").encode()
    got = await gateway.ask("POST", "/v1/verify", body=body)
    assert got.status == 200, got.body
    answer = got.json()
    assert answer["valid"] is False
    assert answer["checks"][check]["valid"] is False
    assert answer["details"]
    assert set(answer["checks"]) == set(CHECKS)


async def test_no_check_passes_that_was_not_made() -> None:
    log = await filled(two_sessions(5))
    gateway = over(log)
    document = await certificate(gateway, 2)
    gateway.env.records = LogReader(log, keys={})
    answer = (await gateway.ask("POST", "/v1/verify", body=json.dumps(document).encode())).json()
    shown = [check["valid"] for check in answer["checks"].values() if check]
    assert (answer["valid"], shown, answer["details"]) == (False, [False] * 5, "no public key is registered here")


def without(*path: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        inner = document
        for name in path[:-1]:
            inner = inner[name]
        del inner[path[-1]]

    return change


MALFORMED: dict[str, tuple[str, Change]] = {
    "no subject": ("subject is missing", without("subject")),
    "no claims signature": ("proofs.claims is missing", without("proofs", "claims")),
    "a number for a text": ("claims.verdict must be text", lambda it: it["claims"].update(verdict=1)),
    "a text for a number": ("leaf_index must be a whole number", lambda it: it["proofs"]["merkle"].update(
        leaf_index="2")),
    "true for a number": ("position must be a whole number", lambda it: it["proofs"]["chain"].update(position=True)),
    "an object for a list": ("mutations must be a list", lambda it: it.update(mutations={})),
    "null for a text": ("issued_at must be text", lambda it: it.update(issued_at=None)),
}  # fmt: skip


@pytest.mark.parametrize("wrong", MALFORMED)
async def test_a_member_that_is_missing_or_of_another_type_is_400(wrong: str) -> None:
    gateway = over(await filled(two_sessions(5)))
    document = await certificate(gateway, 2)
    said, change = MALFORMED[wrong]
    change(document)
    got = await gateway.ask("POST", "/v1/verify", body=json.dumps({"certificate": document}).encode())
    assert (got.status, got.json()["error"]) == (400, "Malformed certificate")
    assert said in got.json()["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b"{}", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"certificate":null}',
        b'{"a":1,"a":1}', b'{"certificate":NaN}', b"9" * 5_000,
    ],
    ids=range(12),
)  # fmt: skip
async def test_what_is_no_certificate_is_400(body: bytes) -> None:
    got = await over(await filled(two_sessions(1))).ask("POST", "/v1/verify", body=body)
    assert (got.status, got.json()["error"]) == (400, "Malformed certificate")
    assert len(got.body) < 4_000


async def test_a_body_without_any_is_400() -> None:
    assert (await over(await filled(two_sessions(1))).ask("POST", "/v1/verify")).status == 400


async def test_a_certificate_beyond_the_limit_is_413() -> None:
    gateway = over(await filled(two_sessions(2)))
    text = json.dumps(await certificate(gateway, 1)).encode()
    assert (await gateway.ask("POST", "/v1/verify", body=text.ljust(BODY_LIMIT))).json()["valid"] is True
    got = await gateway.ask("POST", "/v1/verify", body=text.ljust(BODY_LIMIT + 1))
    assert (got.status, got.json()["error"]) == (413, "Request body too large")
