"""The evidence over HTTP: keys, heads, exports, certificates, proofs and their verification."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from smoltbot_worker.answers import error_answer, json_answer
from smoltbot_worker.attestation.bundle import HEADS, bundle_pieces
from smoltbot_worker.attestation.certificate import Row, build_certificate
from smoltbot_worker.attestation.checks import Keyring
from smoltbot_worker.attestation.heads import SignedHead
from smoltbot_worker.attestation.merkle import Step, depth, proof, proven_root
from smoltbot_worker.attestation.shape import CERTIFICATE, Unknown
from smoltbot_worker.attestation.stored import read_heads, read_nodes
from smoltbot_worker.attestation.verify import VALID, Report, Unreadable, read_document, verify_certificate
from smoltbot_worker.env import Env
from smoltbot_worker.records import evidence as records
from smoltbot_worker.relay.capture import BodyTooLarge, Capture, Copied
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.streams import ReadableStream

BODY_LIMIT = 1 << 20
"""The most bytes of a certificate that is verified here."""

_KEY = ("key_id", "public_key", "algorithm", "created_at", "is_active")
_JSON = (b"Content-Type", b"application/json")
_FRESH = ((b"Cache-Control", b"no-store"),)
_SHOWN = 20

CHECKS: Mapping[str, Sequence[str]] = {
    "signature": ("signature", "payload", "key"),
    "chain": ("chain",),
    "merkle": ("merkle", "head"),
    "input_commitment": ("commitment",),
    "claims": ("claims", "version", "verification"),
    "verdict_derivation": ("verdict_derivation",),
}
"""The members of ``checks``, and the checks of a certificate that each of them stands for."""


async def keys(env: Env, request: Request) -> Response:
    """GET /v1/keys: every public key that signs or signed here."""
    del request
    listed = await records.signing_keys(env.records)
    return _found({"keys": [{name: key[name] for name in _KEY} for key in listed]})


async def head(env: Env, request: Request, agent_id: str) -> Response:
    """GET /v1/agents/{id}/head: the newest signed head, as it was signed."""
    del request
    newest = await _newest_head(env, agent_id)
    return _no_log() if newest is None else _found(newest.to_json())


async def merkle_root(env: Env, request: Request, agent_id: str) -> Response:
    """GET /v1/agents/{id}/merkle-root: the root over an agent's log, which is that of its newest signed head."""
    del request
    newest = await _newest_head(env, agent_id)
    if newest is None:
        return _no_log()
    tree = {
        "agent_id": agent_id,
        "merkle_root": newest.root,
        "tree_depth": depth(newest.size),
        "leaf_count": newest.size,
        "last_updated": newest.timestamp,
    }
    return _found(tree)


async def export(env: Env, request: Request, agent_id: str) -> Response:
    """GET /v1/agents/{id}/export: the bundle of a log. It breaks off when the database fails in the middle."""
    del request
    heads = await read_heads(env.records, agent_id, HEADS)
    if not heads:
        return _no_log()
    pieces: AsyncIterator[bytes] = bundle_pieces(env.records, heads, env.public_base_url)
    return Response.from_raw(200, None, [_JSON, *_FRESH], ReadableStream.from_iterable(pieces))


async def certificate(env: Env, request: Request, checkpoint_id: str) -> Response:
    """GET /v1/checkpoints/{id}/certificate: everything that proves one verdict."""
    del request
    row = await records.checkpoint(env.records, checkpoint_id)
    if row is None:
        return _no_checkpoint()
    place = await _place(env, row)
    try:
        return _found(build_certificate(row["agent_id"], row, row["mutations"] or (), place, env.public_base_url))
    except (AttributeError, TypeError, ValueError):  # the row holds what no checkpoint holds
        message = "The database holds no readable checkpoint under this id any more: export the log and verify it"
        return error_answer(500, "Checkpoint damaged", "records_damaged", message=message)


async def inclusion_proof(env: Env, request: Request, checkpoint_id: str) -> Response:
    """GET /v1/checkpoints/{id}/inclusion-proof: the way from a leaf to the root of the newest signed head."""
    del request
    row = await records.checkpoint(env.records, checkpoint_id)
    if row is None:
        return _no_checkpoint()
    place = await _place(env, row)
    if place is None:
        message = "The leaf is beyond the newest signed head of its log: the database was damaged"
        return error_answer(422, "Leaf out of bounds", "invalid_request", message=message)
    newest, steps = place
    leaf, index = row["merkle_leaf_hash"], row["merkle_leaf_index"]
    shown = {
        "checkpoint_id": checkpoint_id,
        "leaf_hash": leaf,
        "leaf_index": index,
        "siblings": steps,
        "root": newest.root,
        "tree_size": newest.size,
        "verified": proven_root(leaf, index, newest.size, steps) == newest.root,
    }
    return _found(shown)


async def verify(env: Env, request: Request) -> Response:
    """POST /v1/verify: whether a certificate is genuine, by the keys that are registered here.

    400 for what is no certificate; a certificate that says something wrong is answered 200 with ``valid`` false.
    """
    try:
        document = read_document((await _body(request)).decode())
    except BodyTooLarge:
        message = f"A certificate has at most {BODY_LIMIT} bytes"
        return error_answer(413, "Request body too large", "invalid_request", message=message)
    except UnicodeDecodeError:
        return _malformed(["the body is not UTF-8"])
    except Unreadable as error:
        return _malformed([f"the body is no certificate: {error}"])
    given = document.get("certificate", document) if isinstance(document, dict) else document
    problems = [problem for problem in CERTIFICATE(given, "") if not isinstance(problem, Unknown)]
    if problems:
        return _malformed(problems)
    registered = {key["key_id"]: key["public_key"] for key in await records.signing_keys(env.records)}
    report = await verify_certificate(given, Keyring(pinned=registered), env.crypto)
    return _found(_verdict(given, report))


def _verdict(given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    failed = {defect.check for defect in report.defects}
    # What could not be looked at must not seem to have passed.
    looked = "shape" not in failed and (report.status == VALID or bool(failed))
    proofs = given["proofs"]
    shown: dict[str, dict[str, Any] | None] = {
        "signature": {"key_id": proofs["signature"]["key_id"]},
        "chain": {"chain_hash": proofs["chain"]["chain_hash"]},
        "merkle": proofs["merkle"] and {"root": proofs["merkle"]["root"]},
        "input_commitment": {"commitment": given["input_commitments"]["combined_commitment"]},
        "claims": {},
        "verdict_derivation": proofs["verdict_derivation"] and {},
    }
    checks = {
        name: None if more is None else {"valid": looked and failed.isdisjoint(CHECKS[name]), **more}
        for name, more in shown.items()
    }
    said = [f"{defect.check}: {defect.text}" for defect in report.defects[:_SHOWN]]
    if not said:
        said = ["every check passed" if report.status == VALID else "no public key is registered here"]
    return {"valid": report.status == VALID, "checks": checks, "details": "; ".join(said)}


async def _body(request: Request) -> bytes:
    if request.body is None:
        return b""
    source = request.body.detach()
    if source.length is not None and source.length > BODY_LIMIT:
        raise BodyTooLarge
    return await ReadableStream(Copied(source, Capture(0), BODY_LIMIT)).read_all()


async def _newest_head(env: Env, agent_id: str) -> SignedHead | None:
    return next(iter(await read_heads(env.records, agent_id, 1)), None)


async def _place(env: Env, row: Row) -> tuple[SignedHead, list[Step]] | None:
    """The newest signed head and the proof of an entry in its tree; None for an entry that is not in it."""
    newest = await _newest_head(env, row["agent_id"])
    index = row["merkle_leaf_index"]
    if newest is None or index >= newest.size:
        return None
    return newest, proof(index, newest.size, await read_nodes(env.records, newest, [row]))


def _found(body: Any) -> Response:
    return json_answer(200, body, _FRESH)


def _no_log() -> Response:
    return error_answer(404, "Agent not found", "not_found", message="There is no log of an agent with this id")


def _no_checkpoint() -> Response:
    message = "There is no attested checkpoint with this id; it may have been pruned"
    return error_answer(404, "Checkpoint not found", "not_found", message=message)


def _malformed(problems: Sequence[str]) -> Response:
    shown = "; ".join(problems[:_SHOWN])
    return error_answer(400, "Malformed certificate", "invalid_request", message=shown)
