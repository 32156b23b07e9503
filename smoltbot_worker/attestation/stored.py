"""What proofs are made of, read from the database: signed heads and the nodes of the tree."""

from __future__ import annotations

from collections.abc import Sequence

from smoltbot_worker.ports import RecordStore
from smoltbot_worker.records import evidence

from .certificate import Row
from .heads import SignedHead
from .merkle import Place, wanted

_UNKNOWN = "0" * 64
MOST = 2**53 - 1
"""No place is beyond; a head of which somebody changed the size may lead there."""


class Nodes(dict[Place, str]):
    """Hashes of complete nodes by place; one that the database lost is 64 zeros, which no verifier takes."""

    def __missing__(self, place: Place) -> str:
        return _UNKNOWN


async def read_heads(store: RecordStore, agent_id: str, limit: int) -> list[SignedHead]:
    """The newest signed heads of a log, the newest first."""
    return [SignedHead(**head) for head in await evidence.signed_heads(store, agent_id, limit)]


async def read_nodes(store: RecordStore, head: SignedHead, rows: Sequence[Row]) -> Nodes:
    """The nodes from which the proofs of these entries in the tree of ``head`` are made."""
    leaves = {(0, row["merkle_leaf_index"]): row["merkle_leaf_hash"] for row in rows}
    places = {place for _, index in leaves for place in wanted(index, head.size) if place[1] <= MOST}
    found = await evidence.merkle_nodes(store, head.agent_id, sorted(places - set(leaves)))
    return Nodes({**found, **leaves})
