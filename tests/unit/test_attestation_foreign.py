"""Certificates as the protocol has them, of another maker: no claims of ours beyond it, and no signed head."""

from __future__ import annotations

import copy
from base64 import b64encode
from typing import Any

import pytest

from smoltbot_worker.attestation.certificate import claims_hash
from smoltbot_worker.attestation.checks import merkle_head
from smoltbot_worker.attestation.heads import SignedHead
from smoltbot_worker.attestation.verify import DEFECTIVE, VALID, Report, verify_certificate
from tests.unit.attestation_support import CRYPTO, PINNED, bundle_of, filled, two_sessions

OURS = ("commitments_hash", "record_hash")

Foreign = tuple[dict[str, Any], SignedHead]


@pytest.fixture
async def foreign() -> Foreign:
    """A certificate with the members of the protocol only, and the head of its log, which was saved elsewhere."""
    bundle = bundle_of(await filled(two_sessions(3)))
    certificate = copy.deepcopy(bundle["entries"][1]["certificate"])
    head = merkle_head(certificate)
    assert head is not None
    for name in OURS:
        del certificate["claims"][name]
    del certificate["proofs"]["merkle"]["head"]
    claims = certificate["proofs"]["claims"]
    claims["claims_hash"] = claims_hash(certificate)
    claims["signature"] = b64encode(await CRYPTO.sign(claims["claims_hash"].encode())).decode()
    return certificate, head


async def judged(certificate: dict[str, Any], head: SignedHead | None) -> Report:
    return await verify_certificate(certificate, PINNED, CRYPTO, head)


async def test_it_is_valid_with_a_saved_head(foreign: Foreign) -> None:
    report = await judged(*foreign)
    assert (report.status, report.defects) == (VALID, ())


async def test_without_a_head_its_tree_is_anybodys(foreign: Foreign) -> None:
    report = await judged(foreign[0], None)
    assert (report.status, [defect.check for defect in report.defects]) == (DEFECTIVE, ["head"])


async def test_without_a_tree_it_needs_none(foreign: Foreign) -> None:
    certificate, _ = foreign
    certificate["proofs"]["merkle"] = None
    assert (await judged(certificate, None)).status == VALID


@pytest.mark.parametrize("member", ["verdict", "reasoning_summary"])
async def test_its_claims_are_held_to_their_signature(foreign: Foreign, member: str) -> None:
    certificate, head = foreign
    certificate["claims"][member] = "boundary_violation"
    assert (await judged(certificate, head)).status == DEFECTIVE


@pytest.mark.parametrize(("member", "value"), [("tree_size", 4), ("root", "0" * 64), ("leaf_index", 0)])
async def test_its_place_is_held_to_the_saved_head(foreign: Foreign, member: str, value: object) -> None:
    certificate, head = foreign
    certificate["proofs"]["merkle"][member] = value
    assert (await judged(certificate, head)).status == DEFECTIVE


async def test_our_own_lose_nothing_unseen() -> None:
    certificate = bundle_of(await filled(two_sessions(3)))["entries"][1]["certificate"]
    for name in OURS:
        less = copy.deepcopy(certificate)
        del less["claims"][name]
        assert [defect.check for defect in (await judged(less, None)).defects] == ["claims"]
