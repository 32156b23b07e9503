"""What retention deleted of a log, as a signed statement: without it a deletion is a defect.

Entries are deleted from the beginning of a log, so that one number says which. Their leaves stay as evidence.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, replace
from datetime import datetime

from smoltbot_worker import records
from smoltbot_worker.ports import Crypto, Json, RecordStore
from smoltbot_worker.records import evidence

from .append import sign_head
from .chain import LogDamaged
from .commitment import canonical
from .merkle import leaf_hash, proof, proven_root
from .stored import read_heads, read_nodes

_NOTHING: dict[str, Json] = {"pruned": 0, "more": False}


@dataclass(frozen=True, slots=True)
class RetentionStatement:
    """The entries ``0`` to ``pruned - 1`` were deleted.

    ``timestamp`` is ISO 8601, ``signature`` base64 of Ed25519 over :meth:`text`.
    """

    agent_id: str
    pruned: int
    timestamp: str
    key_id: str
    signature: str = ""

    def text(self) -> str:
        """What is signed: the canonical JSON of all but the signature."""
        members = self.to_json()
        del members["signature"]
        return canonical(members)

    def to_json(self) -> dict[str, Json]:
        """The statement as a bundle shows it."""
        return {
            "agent_id": self.agent_id,
            "pruned": self.pruned,
            "timestamp": self.timestamp,
            "key_id": self.key_id,
            "signature": self.signature,
        }


async def prune(
    store: RecordStore, crypto: Crypto, agent_id: str, before: str, limit: int, timestamp: str
) -> dict[str, Json]:
    """Delete at most ``limit`` of an agent's first entries that are from before ``before``, and sign for it.

    Both times are ISO 8601, ``timestamp`` as in records; the newest entry of a log stays. ``{"pruned": n, "more":
    whether there may be more to delete}``. Nothing is deleted where the newest head is signed with another key than
    that of ``crypto``, as after a rotation until the next entry. :class:`LogDamaged` when the log does not prove that
    its entries are so old: what somebody wrote into the database must not be signed for.
    """
    pruned, following = await records.prunable_checkpoints(store, agent_id, before, limit)
    if following == pruned or not await _is_old(store, crypto, agent_id, following - 1, before):
        return dict(_NOTHING)
    statement = await sign_statement(RetentionStatement(agent_id, following, timestamp, crypto.key_id), crypto)
    members = statement.to_json()
    del members["agent_id"]
    gone = await records.prune_checkpoints(store, agent_id, members)
    return {"pruned": gone, "more": following - pruned == limit}


async def sign_statement(statement: RetentionStatement, crypto: Crypto) -> RetentionStatement:
    """``statement`` with its signature."""
    return replace(statement, signature=b64encode(await crypto.sign(statement.text().encode())).decode())


async def _is_old(store: RecordStore, crypto: Crypto, agent_id: str, index: int, before: str) -> bool:
    """Whether an entry is from before a time, by a head that this very key signed; those before it are older.

    A registered key would not do: who writes into the database can register one.
    """
    rows = await evidence.checkpoints(store, agent_id, index - 1 if index else None, 1)
    heads = await read_heads(store, agent_id, 1)
    if not rows or rows[0]["merkle_leaf_index"] != index or not heads or heads[0].key_id != crypto.key_id:
        return False
    (row,), (head,) = rows, heads
    leaf = leaf_hash(
        row["checkpoint_id"], row["verdict"], row["thinking_block_hash"], row["chain_hash"], row["timestamp"]
    )
    try:
        root = proven_root(leaf, index, head.size, proof(index, head.size, await read_nodes(store, head, rows)))
    except (IndexError, ValueError) as error:
        raise LogDamaged(f"leaf {index} is not in the log as it was signed: {error}") from None
    # Ed25519 gives the same signature again.
    if root != head.root or await sign_head(head, crypto) != head:
        raise LogDamaged(f"leaf {index} is not in the log as it was signed")
    return datetime.fromisoformat(row["timestamp"]) < datetime.fromisoformat(before)
