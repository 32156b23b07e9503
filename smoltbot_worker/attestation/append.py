"""From drafts and the head of a log to the one call that stores them, with every hash and signature made.

Nothing here reads or writes: the head comes from the database function ``log_head``, and the result is the argument of
``append_checkpoints``, which compares it with the log that it then finds.
"""

from __future__ import annotations

import copy
import json
import re
import uuid
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from smoltbot_worker.ports import Crypto, Json

from .certificate import claims_hash, in_order, signed_payload, statement
from .chain import LogHead, SessionHead, chain_hash, is_hash
from .commitment import Commitment, canonical
from .heads import SignedHead
from .merkle import Tree, leaf_hash

VERDICTS = frozenset({"clear", "review_needed", "boundary_violation", "error", "skipped"})

_CHECKPOINT_ID = re.compile(r"ic-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_NOT_AS_IT_IS = re.compile(r"\\u0000|[:\[,] -?[0-9]{16}|: -?[0-9]+e")
"""In JSON: NUL, and numbers that JavaScript may not read as Python does."""
_NOT_COLUMNS = ("commitment", "mutations", "row", "nudge", "events")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A checkpoint as it was judged, before it has a place in the log.

    ``timestamp`` is ISO 8601 UTC with exactly three digits of milliseconds and ``Z``. Texts are kept as every database
    can hold them: NUL and lone surrogates become U+FFFD. ``ValueError`` names what has not the form that is signed.
    """

    checkpoint_id: str
    request_id: str
    session_id: str
    timestamp: str
    thinking_block_hash: str
    verdict: str
    commitment: Commitment
    provider: str
    model: str | None
    card_id: str | None
    reasoning_summary: str = ""
    reason: str | None = None
    concerns: Sequence[Mapping[str, Json]] = ()
    conscience_context: Mapping[str, Json] | None = None
    window_position: Mapping[str, Json] | None = None
    analysis_metadata: Mapping[str, Json] | None = None
    source: str = "gateway"
    synthetic: bool = False
    synthetic_reason: str | None = None
    cross_validation_warnings: Sequence[Json] | None = None
    mutations: Sequence[Mapping[str, Json]] = ()
    certificate_id: str = field(default_factory=lambda: f"cert-{uuid.uuid4().hex}")
    nudge: Mapping[str, Json] | None = None
    """The nudge to be made if the agent's settings say so; not a part of what is signed."""
    events: Sequence[Mapping[str, Json]] = ()
    """What webhooks are told when the checkpoint is stored; not a part of what is signed."""
    row: dict[str, Any] = field(init=False, repr=False, compare=False)
    """The columns that do not depend on the place in the log; not to be changed."""

    def __post_init__(self) -> None:
        if not _CHECKPOINT_ID.fullmatch(self.checkpoint_id):
            raise ValueError("checkpoint_id must be ic- and a UUID")
        if not _TIMESTAMP.fullmatch(self.timestamp):
            raise ValueError("timestamp must be like 2026-05-10T08:00:00.000Z")
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(sorted(VERDICTS))}")
        committed = self.commitment
        for name in ("card_hash", "values_hash", "context_hash", "combined"):
            if not is_hash(getattr(committed, name)):
                raise ValueError(f"commitment: {name} must be 64 lower-case hex digits")
        if not is_hash(self.thinking_block_hash):
            raise ValueError("thinking_block_hash must be 64 lower-case hex digits")
        object.__setattr__(self, "row", self._columns())

    def _columns(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in _COLUMNS}
        committed = self.commitment
        row = {
            **own,
            "concerns": list(self.concerns),
            "card_hash": committed.card_hash,
            "values_hash": committed.values_hash,
            "context_hash": committed.context_hash,
            "model_version": committed.model_version,
            "prompt_template_version": committed.template_version,
            "input_commitment": committed.combined,
            "mutations": in_order(self.mutations),
        }
        return _storable_row(row)

    def bringing_about(self, nudge: Mapping[str, Json] | None, events: Sequence[Mapping[str, Json]]) -> Draft:
        """The same draft with its nudge and events, which are no part of what is signed."""
        draft = copy.copy(self)
        object.__setattr__(draft, "nudge", nudge)
        object.__setattr__(draft, "events", events)
        return draft


_COLUMNS = tuple(entry.name for entry in fields(Draft) if entry.name not in _NOT_COLUMNS)


async def prepare(
    agent_id: str, head: LogHead, drafts: Sequence[Draft], crypto: Crypto, timestamp: str
) -> dict[str, Any]:
    """The argument of ``append_checkpoints`` that adds ``drafts``, in this order, to the log that ends at ``head``.

    ``head`` holds the heads of the drafts' sessions; ``timestamp`` is the time of the new signed head.
    """
    tree = Tree(head.size, head.frontier)
    sessions = dict(head.sessions)
    rows, nodes = [], []
    for draft in drafts:
        row = await _signed(agent_id, _placed(draft, tree.size, sessions), crypto)
        nodes += [list(completed) for completed in tree.append(row["merkle_leaf_hash"])]
        sessions[draft.session_id] = SessionHead(row["chain_hash"], row["chain_position"])
        rows.append({**row, "nudge": _storable(draft.nudge)})
    signed = await sign_head(SignedHead(agent_id, tree.size, tree.root(), timestamp, crypto.key_id), crypto)
    new_head = signed.to_json()
    del new_head["agent_id"]
    return {
        "agent_id": agent_id,
        "expected_size": head.size,
        "expected_heads": {draft.session_id: _hash_of(head.sessions.get(draft.session_id)) for draft in drafts},
        "rows": rows,
        "nodes": nodes,
        "frontier": tree.frontier,
        "root": signed.root,
        "head": new_head,
        "events": [_storable(event) for draft in drafts for event in draft.events],
    }


async def sign_head(head: SignedHead, crypto: Crypto) -> SignedHead:
    """``head`` with its signature."""
    signature = await _sign(head.text(), crypto)
    return SignedHead(head.agent_id, head.size, head.root, head.timestamp, head.key_id, signature)


def _placed(draft: Draft, index: int, sessions: Mapping[str, SessionHead]) -> dict[str, Any]:
    """The row of a draft at its place: chained to its session, and a leaf of the tree."""
    row = dict(draft.row)
    before = sessions.get(draft.session_id)
    row["prev_chain_hash"] = _hash_of(before)
    row["chain_position"] = before.position + 1 if before else 0
    row["chain_hash"] = chain_hash(
        row["prev_chain_hash"],
        draft.checkpoint_id,
        draft.verdict,
        draft.thinking_block_hash,
        row["input_commitment"],
        draft.timestamp,
    )
    row["merkle_leaf_index"] = index
    row["merkle_leaf_hash"] = leaf_hash(
        draft.checkpoint_id, draft.verdict, draft.thinking_block_hash, row["chain_hash"], draft.timestamp
    )
    return row


async def _signed(agent_id: str, row: dict[str, Any], crypto: Crypto) -> dict[str, Any]:
    row["signing_key_id"] = crypto.key_id
    row["signed_payload"] = signed_payload({**row, "agent_id": agent_id})
    row["issuer_signature"] = await _sign(row["signed_payload"], crypto)
    row["claims_hash"] = claims_hash(statement(agent_id, row, row["mutations"]))
    row["claims_signature"] = await _sign(row["claims_hash"], crypto)
    return row


async def _sign(text: str, crypto: Crypto) -> str:
    return b64encode(await crypto.sign(text.encode())).decode()


def _hash_of(head: SessionHead | None) -> str | None:
    return head.chain_hash if head else None


def _storable_row(row: dict[str, object]) -> dict[str, Any]:
    """``row`` with lists for tuples, texts as all databases can hold them; ``ValueError`` for what has no one text."""
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        text = "\ud800"
    if text.isascii() and _NOT_AS_IT_IS.search(text) is None:
        # Usual: nothing to replace. A way there and back through C is shorter than two walks in Python.
        storable = json.loads(text)
    else:
        storable = _storable(row)
        canonical(storable)
    assert isinstance(storable, dict)
    return storable


def _storable(value: object) -> object:
    if isinstance(value, str):
        return value if value.isascii() and "\0" not in value else _replaced(value)
    if isinstance(value, Mapping):
        return {_storable(name): _storable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


def _replaced(text: str) -> str:
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return _UNSTORABLE.sub("\ufffd", whole)
