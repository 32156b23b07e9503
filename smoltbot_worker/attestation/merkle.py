"""The Merkle tree of an agent's checkpoints: append, root and inclusion proofs, each in O(log n).

A node is the hash of the 128 hex digits of its two children. A level with an odd count repeats its last node, so a root
means something only together with its size: [a, b, c] and [a, b, c, c] have the same one. A *complete* node covers
2**level leaves that are all there; it never changes again, and it is what a database stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .commitment import sha256_hex

EMPTY_ROOT = ""
"""The root of a tree without leaves."""

Place = tuple[int, int]
"""Level (0: leaves) and index within the level."""

Step = dict[str, str]
"""One step of an inclusion proof: ``{"hash": 64 hex, "position": "left" or "right"}``, where the sibling stands."""


def leaf_hash(checkpoint_id: str, verdict: str, thinking_block_hash: str, chain_hash: str, timestamp: str) -> str:
    """The leaf of a checkpoint."""
    return sha256_hex("|".join((checkpoint_id, verdict, thinking_block_hash, chain_hash, timestamp)))


def node(left: str, right: str) -> str:
    """The parent of two nodes."""
    return sha256_hex(left + right)


def depth(size: int) -> int:
    """Steps from a leaf to the root: 0 for up to one leaf, else ceil(log2 size)."""
    return (size - 1).bit_length() if size > 1 else 0


class Tree:
    """The right edge of a tree, which is all that appending needs.

    ``frontier[level]`` is the complete subtree of that level which still waits for its sibling, or None.
    """

    __slots__ = ("frontier", "size")

    def __init__(self, size: int = 0, frontier: Sequence[str | None] = ()) -> None:
        self.size = size
        self.frontier = list(frontier)
        waiting = [level for level, peak in enumerate(self.frontier) if peak is not None]
        if waiting != [level for level in range(size.bit_length()) if size >> level & 1]:
            raise ValueError(f"this frontier is not that of {size} leaves")

    def append(self, leaf: str) -> list[tuple[int, int, str]]:
        """Add a leaf; the nodes above the leaves that it completed, as level, index, hash."""
        completed = []
        level, current = 0, leaf
        while self.size >> level & 1:
            current = node(self._peak(level), current)
            self.frontier[level] = None
            level += 1
            completed.append((level, self.size >> level, current))
        if level == len(self.frontier):
            self.frontier.append(current)
        else:
            self.frontier[level] = current
        self.size += 1
        return completed

    def root(self) -> str:
        """The root of all leaves so far."""
        top = depth(self.size)
        if self.size == 1 << top:
            return self._peak(top)
        peaks = {}
        for level, peak in enumerate(self.frontier):
            if peak is not None:
                peaks[level, (self.size >> level) - 1] = peak
        return _edge(self.size, top, peaks) or EMPTY_ROOT

    def _peak(self, level: int) -> str:
        peak = self.frontier[level]
        assert peak is not None
        return peak


def wanted(index: int, size: int) -> list[Place]:
    """The complete nodes from which :func:`proof` makes its steps; the leaf itself is the first. ``IndexError``."""
    _check_index(index, size)
    places = [(0, index)]
    for level in range(depth(size)):
        sibling = index >> level ^ 1
        if sibling + 1 << level <= size:
            places.append((level, sibling))
        elif sibling << level < size:
            places += [(below, (size >> below) - 1) for below in range(level) if size >> below & 1]
    return places


def proof(index: int, size: int, nodes: Mapping[Place, str]) -> list[Step]:
    """The inclusion proof of a leaf in the tree of its first ``size`` leaves.

    ``nodes`` holds at least what :func:`wanted` names; ``KeyError`` for one that it lacks, ``IndexError`` for a leaf
    that the tree has not.
    """
    _check_index(index, size)
    current, steps = nodes[0, index], []
    for level in range(depth(size)):
        own, sibling = index >> level, index >> level ^ 1
        if sibling + 1 << level <= size:
            other = nodes[level, sibling]
        elif sibling << level < size:
            other = _edge(size, level, nodes) or EMPTY_ROOT
        else:
            other = current
        steps.append({"hash": other, "position": "left" if own & 1 else "right"})
        current = node(other, current) if own & 1 else node(current, other)
    return steps


def proven_root(leaf: str, index: int, size: int, steps: Sequence[Mapping[str, str]]) -> str:
    """The root that an inclusion proof leads to.

    ``ValueError`` says what no proof of this leaf in a tree of this size has: an index outside of the tree, another
    number of steps, a sibling on the wrong side, a repeated last node that is not a repetition.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf_index {index} is outside of a tree of {size} leaves")
    if len(steps) != depth(size):
        raise ValueError(f"a proof in a tree of {size} leaves has {depth(size)} steps, not {len(steps)}")
    current = leaf
    for level, step in enumerate(steps):
        own, other = index >> level, step["hash"]
        if step["position"] != ("left" if own & 1 else "right"):
            raise ValueError(f"step {level} stands on the wrong side for leaf_index {index}")
        if (own ^ 1) << level >= size and other != current:
            raise ValueError(f"step {level} should repeat the last node of its level")
        current = node(other, current) if own & 1 else node(current, other)
    return current


def _edge(size: int, level: int, nodes: Mapping[Place, str]) -> str | None:
    """The last node of a level, when it is not complete; None when there is no such node."""
    current: str | None = None
    for below in range(level):
        if size >> below & 1:
            peak = nodes[below, (size >> below) - 1]
            current = node(peak, peak if current is None else current)
        elif current is not None:
            current = node(current, current)
    return current


def _check_index(index: int, size: int) -> None:
    if not 0 <= index < size:
        raise IndexError(f"there is no leaf {index} in a tree of {size} leaves")
