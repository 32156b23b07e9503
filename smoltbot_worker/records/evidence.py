"""Typed callers of the database functions that read an agent's log, its tree and the keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smoltbot_worker.ports import Json, RecordStore


async def checkpoints(store: RecordStore, agent_id: str, after_index: int | None, limit: int) -> list[dict[str, Any]]:
    """The next entries of a log after a leaf, or its first ones, in their order."""
    return await _rows(store, "checkpoints", {"agent_id": agent_id, "after_index": after_index, "limit": limit})


async def checkpoint(store: RecordStore, checkpoint_id: str) -> dict[str, Any] | None:
    """One entry, or None."""
    row = await store.call("checkpoint", {"checkpoint_id": checkpoint_id})
    assert row is None or isinstance(row, dict)
    return row


async def merkle_nodes(
    store: RecordStore, agent_id: str, wanted: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], str]:
    """Those of the wanted nodes that are there: hashes by level and index."""
    places: list[Json] = [list(place) for place in wanted]
    found: Any = await store.call("merkle_nodes", {"agent_id": agent_id, "wanted": places})
    return {(level, index): digest for level, index, digest in found}


async def pruned_leaves(store: RecordStore, agent_id: str, after_index: int | None, limit: int) -> list[dict[str, Any]]:
    """The next leaves of entries that retention deleted: ``{"leaf_index", "leaf_hash"}``."""
    return await _rows(store, "pruned_leaves", {"agent_id": agent_id, "after_index": after_index, "limit": limit})


async def retention_statement(store: RecordStore, agent_id: str) -> dict[str, Any] | None:
    """What the holder of the key said last of what retention deleted, or None."""
    row = await store.call("retention_statement", {"agent_id": agent_id})
    assert row is None or isinstance(row, dict)
    return row


async def signed_heads(store: RecordStore, agent_id: str, limit: int) -> list[dict[str, Any]]:
    """The newest signed heads of a log, the newest first."""
    return await _rows(store, "signed_heads", {"agent_id": agent_id, "limit": limit})


async def signing_keys(store: RecordStore) -> list[dict[str, Any]]:
    """Every key that ever signed here, the oldest first."""
    return await _rows(store, "signing_keys", {})


async def _rows(store: RecordStore, function: str, arguments: dict[str, Json]) -> list[dict[str, Any]]:
    rows: Any = await store.call(function, arguments)
    assert isinstance(rows, list)
    return rows
