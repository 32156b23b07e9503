"""Our certificates before the protocol's own verifier (npm, Node), whole and tampered with, beside ours."""

from __future__ import annotations

import asyncio
import copy
import json
import random
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from smoltbot_worker.attestation.verify import verify_certificate
from tests.scale import figure, scaled
from tests.unit.attestation_support import CRYPTO, PINNED, bundle_of, filled, two_sessions

SCRIPT = Path(__file__).parents[1] / "attestation" / "verify.mjs"
LOGS = (1, 2, 3, 5, 8, 1_000)
"""The leaves of the logs whose certificates are shown."""

Certificate = dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """Certificates by name, and what the protocol's verifier says of each."""

    certificates: dict[str, Certificate]
    official: dict[str, bool]


def official(certificates: Sequence[Certificate]) -> list[bool]:
    """What the protocol's verifier says of each."""
    asked = json.dumps({"key": CRYPTO.public_key, "certificates": certificates})
    ran = subprocess.run(["node", SCRIPT], input=asked, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    answers: list[bool] = json.loads(ran.stdout)
    return answers


async def ours(certificates: Iterable[Certificate]) -> list[bool]:
    return [(await verify_certificate(each, PINNED, CRYPTO)).status == 0 for each in certificates]


def chosen(count: int) -> list[int]:
    """Leaves of a log: all; of a long one in the usual run both ends, the edges of the subtrees and some others."""
    if count <= scaled(8, count):
        return list(range(count))
    edges = {edge for power in range(count.bit_length()) for edge in (2**power - 1, 2**power, count - 2**power)}
    return sorted(edges | set(random.Random(count).sample(range(count), 20)))


@pytest.fixture(scope="module")
def shown() -> Shown:
    """Everything that is shown to the protocol's verifier, in one process of Node."""
    certificates: dict[str, Certificate] = {}
    for count in LOGS:
        entries = bundle_of(asyncio.run(filled(two_sessions(count), batch=100)))["entries"]
        certificates |= {f"{count}: {index}": entries[index]["certificate"] for index in chosen(count)}
    for name, change in (COVERED | PASSED_OVER).items():
        certificates[name] = copy.deepcopy(certificates["5: 2"])
        change(certificates[name])
    return Shown(certificates, dict(zip(certificates, official(list(certificates.values())), strict=True)))


@pytest.mark.proof
@pytest.mark.parametrize("count", LOGS)
async def test_certificates_are_accepted(shown: Shown, count: int) -> None:
    names = [f"{count}: {index}" for index in chosen(count)]
    assert [name for name in names if not shown.official[name]] == []
    assert all(await ours(shown.certificates[name] for name in names))
    figure(f"certificates of a log of {count}", f"{len(names)} accepted by the protocol's verifier and ours")


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


@pytest.mark.parametrize("form", [*COVERED, *PASSED_OVER])
async def test_tampered_forms_are_refused(shown: Shown, form: str) -> None:
    certificate = shown.certificates[form]
    assert certificate != shown.certificates["5: 2"]
    assert shown.official[form] is (form in PASSED_OVER)
    assert await ours([certificate]) == [False]
