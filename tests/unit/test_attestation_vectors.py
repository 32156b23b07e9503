"""The worked examples of the attestation formulas, and the changes that they must not survive.

Examples 1 to 3 are checkpoints of one agent, 4 is a tree of five leaves, 5 is RFC 8032; ``NEGATIVE`` is the table of
changes that must fail, in its order.
"""

from __future__ import annotations

import copy
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smoltbot_host.crypto import HostCrypto
from smoltbot_worker.admission.identity import session_hour, session_id
from smoltbot_worker.attestation.append import Draft, prepare
from smoltbot_worker.attestation.certificate import signed_payload
from smoltbot_worker.attestation.chain import LogHead, SessionHead, chain_hash
from smoltbot_worker.attestation.commitment import canonical, commit, sha256_hex, thinking_hash
from smoltbot_worker.attestation.merkle import Tree, depth, leaf_hash, proof, proven_root
from smoltbot_worker.attestation.verify import verify_certificate
from tests.unit.attestation_support import AGENT, CRYPTO, OTHER_SEED, PINNED, SEED, MemoryLog, bundle_of

VECTORS = json.loads(Path(__file__).with_name("attestation_vectors.json").read_text("utf-8"))
EXAMPLES = VECTORS["checkpoints"]
FIVE = VECTORS["five_leaves"]
MODEL = "claude-haiku-4-5-20251001"

Members = dict[str, Any]


def drafts() -> list[Draft]:
    return [
        Draft(
            checkpoint_id=example["checkpoint_id"],
            request_id=f"request-{number}",
            session_id=example["session_id"],
            timestamp=example["timestamp"],
            thinking_block_hash=thinking_hash(example["thinking"]),
            verdict=example["verdict"],
            commitment=commit(
                json.loads(example["card"]), json.loads(example["values"]), json.loads(example["window"]), MODEL
            ),
            provider="anthropic",
            model="claude-sonnet-4-5",
            card_id="ac-0badcafe",
            analysis_metadata={"analysis_model": MODEL, "analysis_duration_ms": 300, "extraction_confidence": 1.0},
        )
        for number, example in enumerate(EXAMPLES)
    ]


async def prepared(count: int = 3) -> dict[str, Any]:
    return await prepare(AGENT, LogHead(0, [], "", {}), drafts()[:count], CRYPTO, "2026-05-10T09:00:02.000Z")


async def certificates() -> list[Members]:
    """The certificates of the three examples in their tree."""
    batch = await prepared()
    log = MemoryLog()
    await log.call("append_checkpoints", batch)
    return [entry["certificate"] for entry in bundle_of(log)["entries"]]


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("sk-ant-example-000", "9d08aa51eb89d283674d8cdabd4131781e392c64ec85ac567850125f327cee15"),
        ("sk-ant-example-000|my-coder", "c04288b764340a36"),
        ("mnm_example_key", "6c77b9c3fac254a46d0d98fe57f593d674a3f191467f75b9ad1d7628c29d2081"),
        ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ],
)
def test_primitive_digests(text: str, digest: str) -> None:
    assert sha256_hex(text).startswith(digest)


def test_primitive_agent_and_session() -> None:
    """An agent id, and the session of an agent at a moment."""
    assert "smolt-" + sha256_hex("sk-ant-example-000")[:8] == "smolt-9d08aa51"
    assert session_id("0badcafe12345678", session_hour(1_778_400_000)) == "0badcafe12345678-494000"


def test_primitive_empty_tree() -> None:
    assert (Tree().root(), depth(0)) == ("", 0)


@pytest.mark.parametrize("example", EXAMPLES, ids=["example 1", "example 2", "example 3"])
def test_example_commitments(example: Members) -> None:
    card, values, window = (json.loads(example[name]) for name in ("card", "values", "window"))
    assert [canonical(card), canonical(values), canonical(window)] == [
        example["card"],
        example["values"],
        example["window"],
    ]
    commitment = commit(card, values, window, MODEL)
    assert commitment.card_hash == example["card_hash"]
    assert commitment.values_hash == example["values_hash"]
    assert commitment.context_hash == example["context_hash"]
    assert commitment.combined == example["input_commitment"]
    assert thinking_hash(example["thinking"]) == example["thinking_block_hash"]


@pytest.mark.parametrize("at_once", [True, False], ids=["in one batch", "one by one"])
async def test_examples_1_to_3_rows_payloads_and_signatures(at_once: bool) -> None:
    rows: list[Members] = []
    if at_once:
        rows = (await prepared())["rows"]
    else:
        head = LogHead(0, [], "", {})
        for each in drafts():
            batch = await prepare(AGENT, head, [each], CRYPTO, each.timestamp)
            (row,) = batch["rows"]
            rows.append(row)
            sessions = {**head.sessions, each.session_id: SessionHead(row["chain_hash"], row["chain_position"])}
            head = LogHead(head.size + 1, batch["frontier"], batch["root"], sessions)
    for index, (row, example) in enumerate(zip(rows, EXAMPLES, strict=True)):
        assert row["merkle_leaf_index"] == index
        for column, name in (
            ("chain_hash", "chain_hash"),
            ("merkle_leaf_hash", "leaf_hash"),
            ("signed_payload", "signed_payload"),
            ("issuer_signature", "signature"),
            ("input_commitment", "input_commitment"),
        ):
            assert row[column] == example[name], column
    assert [row["prev_chain_hash"] for row in rows] == [None, EXAMPLES[0]["chain_hash"], None]
    assert [row["chain_position"] for row in rows] == [0, 1, 0]


@pytest.mark.parametrize("count", [1, 2, 3], ids=["example 1", "example 2", "example 3"])
async def test_example_roots_and_proofs(count: int) -> None:
    batch = await prepared(count)
    example = EXAMPLES[count - 1]
    assert batch["root"] == batch["head"]["root"] == example["root"]
    nodes = {(level, index): text for level, index, text in batch["nodes"]}
    nodes |= {(0, row["merkle_leaf_index"]): row["merkle_leaf_hash"] for row in batch["rows"]}
    assert proof(count - 1, count, nodes) == example["inclusion_proof"]
    if count == 3:
        assert [proof(index, 3, nodes) for index in (0, 1)] == VECTORS["older_proofs"]


def test_example_4_five_leaves() -> None:
    assert FIVE["leaves"] == [sha256_hex(f"leaf-{number}") for number in range(5)]
    tree, nodes = Tree(), {(0, index): leaf for index, leaf in enumerate(FIVE["leaves"])}
    for leaf in FIVE["leaves"]:
        nodes |= {(level, index): text for level, index, text in tree.append(leaf)}
    assert tree.root() == FIVE["root"]
    assert [proof(index, 5, nodes) for index in range(5)] == FIVE["proofs"]
    assert {proven_root(leaf, index, 5, FIVE["proofs"][index]) for index, leaf in enumerate(FIVE["leaves"])} == {
        FIVE["root"]
    }


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            SEED,
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            b"",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            OTHER_SEED,
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            b"\x72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
)
async def test_example_5_rfc_8032(seed: bytes, public: str, message: bytes, signature: str) -> None:
    crypto = HostCrypto(seed)
    assert crypto.public_key == public
    assert (await crypto.sign(message)).hex() == signature
    assert await crypto.verify(bytes.fromhex(public), message, bytes.fromhex(signature))
    assert not await crypto.verify(bytes.fromhex(public), message + b"x", bytes.fromhex(signature))


async def test_a_signature_has_one_form() -> None:
    """RFC 8032 section 5.1.7: S + L is the same number modulo the group's order, and is refused."""
    signature = await CRYPTO.sign(b"x")
    order = 2**252 + 27742317777372353535851937790883648493
    higher = (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    public = bytes.fromhex(CRYPTO.public_key)
    assert await CRYPTO.verify(public, b"x", signature)
    assert not await CRYPTO.verify(public, b"x", signature[:32] + higher)
    assert not await CRYPTO.verify(public[:31], b"x", signature)
    assert not await CRYPTO.verify(public, b"x", b"")


async def test_the_examples_certificates_are_valid() -> None:
    for certificate in await certificates():
        report = await verify_certificate(certificate, PINNED, CRYPTO)
        assert (report.defects, report.status) == ((), 0)


def change_verdict(certificate: Members) -> None:
    certificate["claims"]["verdict"] = "clear"


def change_payload(certificate: Members) -> None:
    text = certificate["proofs"]["signature"]["signed_payload"]
    certificate["proofs"]["signature"]["signed_payload"] = text.replace("08:05", "08:06")


def genesis_literal(certificate: Members) -> None:
    certificate["proofs"]["chain"]["prev_chain_hash"] = "genesis"


def no_previous(certificate: Members) -> None:
    certificate["proofs"]["chain"]["prev_chain_hash"] = None


def other_timestamp(certificate: Members) -> None:
    certificate["issued_at"] = certificate["issued_at"].replace("250Z", "250000+00:00")


def swapped_siblings(certificate: Members) -> None:
    certificate["proofs"]["merkle"]["inclusion_proof"].reverse()


def swapped_sides(certificate: Members) -> None:
    for step in certificate["proofs"]["merkle"]["inclusion_proof"]:
        step["position"] = {"left": "right", "right": "left"}[step["position"]]


def index_beyond(certificate: Members) -> None:
    certificate["proofs"]["merkle"]["leaf_index"] = 3


def other_base64(certificate: Members) -> None:
    """The same 64 bytes, spelt with other unused bits."""
    value = certificate["proofs"]["signature"]["value"]
    other = value[:85] + chr(ord(value[85]) + 1) + "=="
    assert b64decode(other) == b64decode(value)
    assert b64encode(b64decode(value)).decode() == value
    certificate["proofs"]["signature"]["value"] = other


def written(card: str, example: Members) -> str:
    """The commitment to an example's inputs by who writes its card in this text."""
    return sha256_hex("|".join([card, example["values"], example["window"], f'"{MODEL}"', '"1.0.0"']))


def float_in_the_card(certificate: Members) -> None:
    card = EXAMPLES[0]["card"].replace('"priority":1', '"priority":1.0')
    certificate["input_commitments"]["combined_commitment"] = written(card, EXAMPLES[0])


def escaped_card(certificate: Members) -> None:
    card = json.dumps(json.loads(EXAMPLES[2]["card"]), sort_keys=True, separators=(",", ":"))
    assert "\\u" in card
    certificate["input_commitments"]["combined_commitment"] = written(card, EXAMPLES[2])


NEGATIVE: dict[str, tuple[int, Callable[[Members], None], str]] = {
    "verdict in claims only": (1, change_verdict, "payload"),
    "one character of signed_payload": (1, change_payload, "signature"),
    "prev_chain_hash null to genesis": (0, genesis_literal, "chain"),
    "prev_chain_hash to null": (1, no_previous, "chain"),
    "timestamp 250Z to 250000+00:00": (1, other_timestamp, "chain"),
    "card with 1.0 instead of 1": (0, float_in_the_card, "commitment"),
    "sibling order swapped": (2, swapped_siblings, "merkle"),
    "sides of siblings swapped": (1, swapped_sides, "merkle"),
    "leaf_index 3 in a tree of 3": (2, index_beyond, "merkle"),
    "non-ASCII escaped in example 3": (2, escaped_card, "commitment"),
    "another spelling of the signature": (0, other_base64, "signature"),
}
"""By row: the leaf, the change and the check that finds it; the last row is ours."""


@pytest.mark.parametrize(("leaf", "change", "check"), NEGATIVE.values(), ids=list(NEGATIVE))
async def test_negative(leaf: int, change: Callable[[Members], None], check: str) -> None:
    certificate = (await certificates())[leaf]
    changed = copy.deepcopy(certificate)
    change(changed)
    assert changed != certificate
    report = await verify_certificate(changed, PINNED, CRYPTO)
    assert report.status == 1
    assert check in {defect.check for defect in report.defects}, report.defects
    assert {defect.entry for defect in report.defects} == {certificate["subject"]["checkpoint_id"]}


def test_genesis_is_the_hash_of_the_literal() -> None:
    """Why the verifier looks at the position: the hash alone cannot tell."""
    rest = ("ic-1", "clear", "a" * 64, "b" * 64, "t")
    assert chain_hash(None, *rest) == chain_hash("genesis", *rest)


def test_a_float_of_the_card_counts_as_its_integer() -> None:
    """JavaScript prints 1.0 as 1: a commitment over the text `1.0` is another one."""
    example = EXAMPLES[0]
    card = json.loads(example["card"], parse_int=float)
    assert card["values"][0]["priority"].is_integer()
    assert canonical(card) == example["card"]
    assert written(example["card"], example) == example["input_commitment"]
    card["values"][0]["priority"] = 1.5
    assert commit(card, json.loads(example["values"]), [], MODEL).combined != example["input_commitment"]


def test_the_payload_has_its_order() -> None:
    members = json.loads(EXAMPLES[0]["signed_payload"])
    assert signed_payload(dict(reversed(members.items()))) == EXAMPLES[0]["signed_payload"]


def test_leaf_and_node_are_apart() -> None:
    """A leaf is the hash of a text with separators, a node that of 128 hex digits: neither can stand for the other."""
    example = EXAMPLES[0]
    parts = (example["checkpoint_id"], example["verdict"], example["thinking_block_hash"], example["chain_hash"])
    assert leaf_hash(*parts, example["timestamp"]) == example["leaf_hash"]
