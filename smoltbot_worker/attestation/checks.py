"""What is checked of a certificate, offline, with the keys at hand."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .certificate import (
    ALGORITHM,
    CONTEXT,
    PAYLOAD,
    TYPE,
    VERSION,
    claims_hash,
    commitments_hash,
    signed_payload,
    verification,
)
from .chain import chain_hash, is_hash
from .heads import SignedHead
from .merkle import leaf_hash, proven_root
from .shape import CERTIFICATE

Certificate = Mapping[str, Any]

_FIELD = 2**255 - 19
_OF_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER = frozenset({0, 1, _OF_ORDER_8, _FIELD - _OF_ORDER_8, _FIELD - 1, _FIELD, _FIELD + 1})
"""The y of Ed25519's points of small order, in every spelling: one signature by such a key fits many texts."""

_CONSTANTS = {"@context": CONTEXT, "type": TYPE, "version": VERSION}


class SignatureCheck(Protocol):
    """The part of the Crypto port that verification needs."""

    async def verify(self, public_key: bytes, payload: bytes, signature: bytes) -> bool:
        """Whether the signature is that of the payload by this key."""
        ...


@dataclass(frozen=True, slots=True)
class Defect:
    """Something that is not as it was signed: in which entry, found by which check, in words."""

    entry: str
    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.entry}: {self.check}: {self.text}"


@dataclass(slots=True)
class Keyring:
    """The public keys at hand (64 hex): ``pinned`` by id, the ``only`` one for every id, and the file's ``own``."""

    pinned: Mapping[str, str] = field(default_factory=dict)
    only: str | None = None
    own: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_pinned(self) -> bool:
        """Whether the keys come from someone whom the verifier trusts, and not from the file itself."""
        return bool(self.pinned) or self.only is not None

    def find(self, key_id: str) -> str | None:
        """The key to verify with. The file's own keys count only when none is pinned."""
        if self.is_pinned:
            return self.only or self.pinned.get(key_id)
        return self.own.get(key_id)


class Examination:
    """One document under examination: the keys, the defects so far, and whether a key was missing."""

    def __init__(self, keys: Keyring, crypto: SignatureCheck) -> None:
        self.keys = keys
        self.defects: list[Defect] = []
        self.keyless = False
        self.used: set[str] = set()
        self._crypto = crypto
        self._heads: set[SignedHead] = set()

    def found(self, entry: str, check: str, text: str) -> None:
        """Note a defect."""
        self.defects.append(Defect(entry, check, text))

    async def head(self, entry: str, head: SignedHead) -> None:
        """Check the signature of a head, once for all certificates that carry it."""
        if head not in self._heads:
            await self.signature(entry, "head", head.key_id, head.text(), head.signature)
            if not any(defect.entry == entry and defect.check == "head" for defect in self.defects):
                self._heads.add(head)

    async def signature(self, entry: str, check: str, key_id: str, text: str, signature: str) -> None:
        """Check an Ed25519 signature over the UTF-8 of ``text``."""
        self.used.add(key_id)
        public_key = self.keys.find(key_id)
        if public_key is None and not self.keys.is_pinned and not self.keys.own:
            self.keyless = True
        elif public_key is None:
            self.found(entry, "key", f"there is no key {key_id!r} among those at hand")
        elif not is_hash(public_key):
            self.found(entry, "key", f"the key {key_id!r} is not 64 lower-case hex digits")
        elif _is_of_small_order(bytes.fromhex(public_key)):
            self.found(entry, "key", f"the key {key_id!r} is none that proves anything: its point is of small order")
        elif not await self._valid(bytes.fromhex(public_key), text, signature):
            self.found(entry, check, f"the signature is not that of {key_id!r} over what is shown")

    async def _valid(self, public_key: bytes, text: str, signature: str) -> bool:
        try:
            data = b64decode(signature, validate=True)
        except ValueError:
            return False
        # Base64 has several spellings of the same bytes; only one of them is what was signed.
        spelt = b64encode(data).decode() == signature
        return spelt and len(data) == 64 and await self._crypto.verify(public_key, text.encode(), data)


def _is_of_small_order(public_key: bytes) -> bool:
    return int.from_bytes(public_key, "little") & (2**255 - 1) in _SMALL_ORDER


async def check_certificate(exam: Examination, entry: str, certificate: Any, saved: SignedHead | None = None) -> bool:
    """Note every defect of a certificate. False when its shape is wrong, so that nothing else was looked at.

    ``saved`` is a head that was kept elsewhere: it stands in for that of a certificate which brings none.
    """
    problems = list(CERTIFICATE(certificate, ""))
    for problem in problems:
        exam.found(entry, "shape", problem)
    if problems:
        return False
    for check, text in (
        *_constants(certificate),
        *_payload(certificate),
        *_chain(certificate),
        *_claims(certificate),
        *_merkle(certificate),
        *_unsigned_tree(certificate, saved),
    ):
        exam.found(entry, check, text)
    await _signatures(exam, entry, certificate)
    return True


def merkle_head(certificate: Certificate) -> SignedHead | None:
    """The signed head that a certificate brings with its inclusion proof."""
    merkle = certificate["proofs"]["merkle"]
    if merkle is None or "head" not in merkle:
        return None
    agent_id = certificate["subject"]["agent_id"]
    return SignedHead(agent_id, merkle["tree_size"], merkle["root"], **merkle["head"])


async def _signatures(exam: Examination, entry: str, certificate: Certificate) -> None:
    proofs = certificate["proofs"]
    signature, claims = proofs["signature"], proofs["claims"]
    await exam.signature(entry, "signature", signature["key_id"], signature["signed_payload"], signature["value"])
    await exam.signature(entry, "claims", claims["key_id"], claims["claims_hash"], claims["signature"])
    head = merkle_head(certificate)
    if head is not None:
        await exam.head(entry, head)


def _constants(certificate: Certificate) -> Iterator[tuple[str, str]]:
    for name, expected in _CONSTANTS.items():
        if certificate[name] != expected:
            yield "version", f"{name} is not {expected!r}"
    proofs = certificate["proofs"]
    if proofs["signature"]["algorithm"] != ALGORITHM:
        yield "signature", f"algorithm is not {ALGORITHM!r}"
    if proofs["verdict_derivation"] is not None:
        yield "verdict_derivation", "there is no verifier of derivations here"
    links = certificate["verification"]
    base_url = links["keys_url"].removesuffix("/v1/keys")
    if links != verification(base_url, certificate["subject"]["checkpoint_id"]):
        yield "verification", "the addresses are not those of one gateway and this checkpoint"


def _fields(certificate: Certificate) -> dict[str, Any]:
    """The members of the signed payload as the certificate shows them."""
    return {
        "agent_id": certificate["subject"]["agent_id"],
        "chain_hash": certificate["proofs"]["chain"]["chain_hash"],
        "checkpoint_id": certificate["subject"]["checkpoint_id"],
        "input_commitment": certificate["input_commitments"]["combined_commitment"],
        "thinking_block_hash": certificate["input_commitments"]["thinking_block_hash"],
        "timestamp": certificate["issued_at"],
        "verdict": certificate["claims"]["verdict"],
    }


def _payload(certificate: Certificate) -> Iterator[tuple[str, str]]:
    text, shown = certificate["proofs"]["signature"]["signed_payload"], _fields(certificate)
    if text == signed_payload(shown):
        return
    try:
        signed = json.loads(text)
    except (ValueError, RecursionError):
        signed = None
    if not isinstance(signed, dict):
        yield "payload", "signed_payload is not the JSON that is signed"
        return
    different = [name for name in PAYLOAD if signed.get(name) != shown[name]]
    if "input_commitment" in different:
        yield "commitment", "combined_commitment is not the one that was signed"
        different.remove("input_commitment")
    said = f"{', '.join(different)} not as signed" if different else "signed_payload is not spelt as it is signed"
    yield "payload", said


def _chain(certificate: Certificate) -> Iterator[tuple[str, str]]:
    chain, shown = certificate["proofs"]["chain"], _fields(certificate)
    previous = chain["prev_chain_hash"]
    if (previous is None) != (chain["position"] == 0):
        yield "chain", "prev_chain_hash is null exactly at position 0"
    elif previous is not None and not is_hash(previous):
        yield "chain", "prev_chain_hash is not 64 lower-case hex digits"
    expected = chain_hash(
        previous,
        shown["checkpoint_id"],
        shown["verdict"],
        shown["thinking_block_hash"],
        shown["input_commitment"],
        shown["timestamp"],
    )
    if chain["chain_hash"] != expected:
        yield "chain", "chain_hash is not the hash of this entry"


def _claims(certificate: Certificate) -> Iterator[tuple[str, str]]:
    proofs = certificate["proofs"]
    key_id = proofs["signature"]["key_id"]
    if proofs["claims"]["key_id"] != key_id:
        yield "claims", "the claims are signed with another key than the payload"
    if proofs["claims"]["claims_hash"] != claims_hash(certificate):
        yield "claims", "claims_hash is not the hash of subject, claims and mutations"
    position = proofs["chain"]["position"]
    bound = commitments_hash(certificate["certificate_id"], key_id, position, certificate["input_commitments"])
    if certificate["claims"].get("commitments_hash", bound) != bound:
        yield "commitment", "certificate_id, key_id, position or input_commitments are not as signed"


def _merkle(certificate: Certificate) -> Iterator[tuple[str, str]]:
    merkle, shown = certificate["proofs"]["merkle"], _fields(certificate)
    if merkle is None:
        return
    leaf = leaf_hash(
        shown["checkpoint_id"],
        shown["verdict"],
        shown["thinking_block_hash"],
        shown["chain_hash"],
        shown["timestamp"],
    )
    if merkle["leaf_hash"] != leaf:
        yield "merkle", "leaf_hash is not the hash of this entry"
    try:
        root = proven_root(leaf, merkle["leaf_index"], merkle["tree_size"], merkle["inclusion_proof"])
    except ValueError as error:
        yield "merkle", str(error)
        return
    if root != merkle["root"]:
        yield "merkle", "the inclusion proof does not lead to the root"


def _unsigned_tree(certificate: Certificate, saved: SignedHead | None) -> Iterator[tuple[str, str]]:
    """The protocol signs no tree: without a head, size and root are whatever the certificate says."""
    merkle = certificate["proofs"]["merkle"]
    if merkle is None or "head" in merkle:
        return
    shown = (certificate["subject"]["agent_id"], merkle["tree_size"], merkle["root"])
    if saved is None or (saved.agent_id, saved.size, saved.root) != shown:
        yield "head", f"nobody signed a tree of {merkle['tree_size']} with this root: give the head of that size"
