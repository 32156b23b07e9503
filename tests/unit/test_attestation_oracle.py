"""Our certificates before the protocol's own verifier (npm, Node), whole and tampered with, beside ours."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from smoltbot_worker.attestation.verify import verify_certificate
from tests.unit.attestation_support import CRYPTO, PINNED, bundle_of, filled, two_sessions

SCRIPT = Path(__file__).parents[1] / "attestation" / "verify.mjs"

Certificate = dict[str, Any]


def official(certificates: Sequence[Certificate]) -> list[bool]:
    """What the protocol's verifier says of each."""
    asked = json.dumps({"key": CRYPTO.public_key, "certificates": certificates})
    ran = subprocess.run(["node", SCRIPT], input=asked, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    answers: list[bool] = json.loads(ran.stdout)
    return answers


async def ours(certificates: Sequence[Certificate]) -> list[bool]:
    return [(await verify_certificate(each, PINNED, CRYPTO)).status == 0 for each in certificates]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 1000])
async def test_certificates_are_accepted(count: int) -> None:
    bundle = bundle_of(await filled(two_sessions(count), batch=100))
    certificates = [entry["certificate"] for entry in bundle["entries"]]
    assert len(certificates) == count
    assert official(certificates) == [True] * count
    assert await ours(certificates) == [True] * count


def other(text: str) -> str:
    """The same text with its first character changed to another digit."""
    return ("0" if text[0] != "0" else "1") + text[1:]


def changing(*path: str | int, to: Callable[[Any], Any]) -> Callable[[Certificate], None]:
    def change(certificate: Certificate) -> None:
        inner: Any = certificate
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = to(inner[path[-1]])

    return change


COVERED = {
    "verdict": changing("claims", "verdict", to=lambda _: "boundary_violation"),
    "checkpoint id": changing("subject", "checkpoint_id", to=lambda text: text[:-1] + "f"),
    "thinking hash": changing("input_commitments", "thinking_block_hash", to=other),
    "commitment": changing("input_commitments", "combined_commitment", to=other),
    "timestamp": changing("issued_at", to=lambda text: text.replace("08:00", "08:01")),
    "previous hash": changing("proofs", "chain", "prev_chain_hash", to=other),
    "signature": changing("proofs", "signature", "value", to=lambda text: ("A" if text[0] != "A" else "B") + text[1:]),
    "payload": changing("proofs", "signature", "signed_payload", to=lambda text: text.replace("clear", "error")),
    "sibling": changing("proofs", "merkle", "inclusion_proof", 0, "hash", to=other),
    "root": changing("proofs", "merkle", "root", to=other),
}
"""What both verifiers refuse."""

PASSED_OVER = {
    "agent id": changing("subject", "agent_id", to=lambda text: text[:-1] + "0"),
    "session id": changing("subject", "session_id", to=lambda text: text + "x"),
    "card id": changing("subject", "card_id", to=lambda text: text + "x"),
    "concerns": changing("claims", "concerns", to=lambda _: []),
    "leaf index": changing("proofs", "merkle", "leaf_index", to=lambda index: index + 1),
    "tree size": changing("proofs", "merkle", "tree_size", to=lambda size: size + 1),
}
"""What only ours refuses."""


async def test_tampered_forms() -> None:
    certificate = bundle_of(await filled(two_sessions(5)))["entries"][2]["certificate"]
    tampered = {}
    for name, change in (COVERED | PASSED_OVER).items():
        tampered[name] = copy.deepcopy(certificate)
        change(tampered[name])
        assert tampered[name] != certificate, name
    answers = dict(zip(tampered, official(list(tampered.values())), strict=True))
    assert answers == {name: name in PASSED_OVER for name in tampered}
    assert await ours(list(tampered.values())) == [False] * len(tampered)
