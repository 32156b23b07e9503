"""The bundle: an agent's log in one file that can be verified without the gateway and its database.

It is made page by page, so that a log of any length takes the memory of one page. What was damaged in the database is
bundled as it is: finding it is the verifier's work.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from smoltbot_worker.ports import RecordStore, RecordsUnavailable
from smoltbot_worker.records import evidence

from .certificate import ALGORITHM, Row, build_certificate, in_order
from .heads import SignedHead
from .merkle import proof
from .shape import BUNDLE_VERSION, CHECKPOINT_COLUMNS
from .stored import MOST, Nodes, read_heads, read_nodes

HEADS = 1_000
"""The most signed heads in a bundle, the newest."""

_ENTRIES, _LEAVES = 100, 1_000
"""Entries and pruned leaves that are read at once."""
_AT_ONCE = 10
"""Entries that are made before others get their turn: each takes some hashes."""


async def bundle_pieces(store: RecordStore, heads: Sequence[SignedHead], base_url: str) -> AsyncIterator[bytes]:
    """The bundle of an agent's log up to the newest of ``heads``, as pieces of one JSON text.

    ``heads`` are signed heads of one agent, at least one. The log may grow and be pruned meanwhile: entries beyond the
    newest head are left out unless no later head covers them, which nobody with the key leaves behind. Each leaf before
    it is there once, as an entry or, if it was when the bundle was begun, as pruned. The text ends with a line feed,
    and there is none before. ``RecordsUnavailable`` when the database fails or holds an entry that cannot be read, and
    when retention deletes what is not in the bundle yet: what came until then is no JSON.
    """
    heads = sorted(heads, key=lambda head: head.size)
    newest = heads[-1]
    stated = await evidence.retention_statement(store, newest.agent_id)
    pruned = _pruned(stated)
    used = {head.key_id for head in heads} | ({stated["key_id"]} if stated else set())
    opening = {"bundle_version": BUNDLE_VERSION, "agent": newest.agent_id, "heads": [head.to_json() for head in heads]}
    yield _text(opening)[:-1] + b',"entries":['
    gaps = _Gaps()
    comma, after = b"", None
    while rows := await _next_rows(store, newest, after, pruned):
        nodes = await read_nodes(store, newest, rows)
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            yield comma + _listed(_entry(row, newest, nodes, base_url) for row in part)
            comma = b","
            await asyncio.sleep(0)
        gaps.note(row["merkle_leaf_index"] for row in rows)
        used |= {row["signing_key_id"] for row in rows}
        after = rows[-1]["merkle_leaf_index"]
    if beyond := await _unsigned_rows(store, newest):
        yield comma + _listed(_entry(row, newest, None, base_url) for row in beyond)
        used |= {row["signing_key_id"] for row in beyond}
    yield b'],"pruned":['
    comma, after = b"", None
    while leaves := await _next_leaves(store, newest, after):
        # Those that were pruned since they were read are among the entries.
        if missing := [leaf for leaf in leaves if leaf["leaf_index"] in gaps]:
            yield comma + _listed(missing)
            comma = b","
        after = leaves[-1]["leaf_index"]
    yield b'],"retention":' + _text(stated) + b',"keys":' + _text(await _keys(store, used)) + b"}\n"


class _Gaps:
    """The leaves that are no entries: beginnings and ends of the ranges between those that are."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._next = 0

    def note(self, indexes: Iterable[int]) -> None:
        """Take note of entries, in the order of the log."""
        for index in indexes:
            if index > self._next:
                self._begins.append(self._next)
                self._ends.append(index)
            self._next = index + 1

    def __contains__(self, index: int) -> bool:
        place = bisect_right(self._begins, index) - 1
        return index >= self._next or (place >= 0 and index < self._ends[place])


async def _next_rows(store: RecordStore, head: SignedHead, after: int | None, pruned: int) -> list[dict[str, Any]]:
    """The next entries up to the head; those before ``pruned`` were deleted when the bundle was begun."""
    if after is not None and after + 1 >= head.size:
        return []
    rows = await _page(store, head.agent_id, after)
    rows = [row for row in rows if row["merkle_leaf_index"] < head.size]
    expected = max(pruned, 0 if after is None else after + 1)
    following = rows[0]["merkle_leaf_index"] if rows else head.size
    if following > expected and _pruned(await evidence.retention_statement(store, head.agent_id)) > expected:
        raise RecordsUnavailable("retention deleted entries of this log while it was exported: export it again")
    return rows


async def _next_leaves(store: RecordStore, head: SignedHead, after: int | None) -> list[dict[str, Any]]:
    leaves = await evidence.pruned_leaves(store, head.agent_id, after, _LEAVES)
    return [leaf for leaf in leaves if leaf["leaf_index"] < head.size]


def _pruned(stated: Mapping[str, Any] | None) -> int:
    return stated["pruned"] if stated else 0


async def _page(store: RecordStore, agent_id: str, after: int | None) -> list[dict[str, Any]]:
    """The next entries; when not all of them can be read, the next one, so that the error is about one entry."""
    if after is not None and after > MOST:
        return []
    problem = None
    for limit in (_ENTRIES, 1):
        try:
            return await evidence.checkpoints(store, agent_id, after, limit)
        except ValueError as error:  # JSON that no program reads, as numbers of thousands of digits
            problem = error
    place = "the first entry" if after is None else f"the entry after leaf {after}"
    raise RecordsUnavailable(f"{place} of {agent_id} cannot be read: it was damaged in the database") from problem


async def _unsigned_rows(store: RecordStore, head: SignedHead) -> list[dict[str, Any]]:
    """The first entries beyond the newest signed head that there is by now: it is stored together with its entries."""
    size = head.size
    while rows := await _page(store, head.agent_id, size - 1):
        covered = max((newest.size for newest in await read_heads(store, head.agent_id, 1)), default=0)
        if beyond := [row for row in rows if row["merkle_leaf_index"] >= covered]:
            return beyond
        size = covered
    return []


def _entry(row: Row, head: SignedHead, nodes: Nodes | None, base_url: str) -> dict[str, Any]:
    """An entry of the bundle; without ``nodes`` it has no place in the tree of the head."""
    mutations = row["mutations"] or ()
    place = None if nodes is None else (head, proof(row["merkle_leaf_index"], head.size, nodes))
    try:
        certificate = build_certificate(head.agent_id, row, mutations, place, base_url)
    except (AttributeError, TypeError, ValueError):
        certificate = {}  # the row holds what no checkpoint holds; the verifier says of which entry
    return {
        "checkpoint": {name: row[name] for name in CHECKPOINT_COLUMNS},
        "certificate": certificate,
        "mutations": in_order(mutations),
    }


async def _keys(store: RecordStore, used: set[str]) -> list[dict[str, str]]:
    listed = await evidence.signing_keys(store)
    keys = sorted((key["key_id"], key["public_key"]) for key in listed if key["key_id"] in used)
    return [{"key_id": key_id, "public_key": public_key, "algorithm": ALGORITHM} for key_id, public_key in keys]


def _listed(values: Iterable[Any]) -> bytes:
    return b",".join(map(_text, values))


def _text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
