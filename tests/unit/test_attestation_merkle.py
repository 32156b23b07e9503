"""The tree: appending against a full rebuild, the proof of every leaf, and proofs that are none."""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoltbot_worker.attestation.commitment import sha256_hex
from smoltbot_worker.attestation.merkle import Place, Tree, depth, node, proof, proven_root, wanted
from tests.scale import scaled

MOST = 600
LEAVES = [sha256_hex(f"leaf-{number}") for number in range(MOST)]


def rebuilt(leaves: list[str]) -> list[list[str]]:
    """All levels, from the leaves to the root."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        level = levels[-1] + levels[-1][-1:] * (len(levels[-1]) % 2)
        levels.append([node(left, right) for left, right in list(pairwise(level))[::2]])
    return levels


def grown(size: int) -> tuple[Tree, dict[Place, str]]:
    tree, nodes = Tree(), {(0, index): leaf for index, leaf in enumerate(LEAVES[:size])}
    for leaf in LEAVES[:size]:
        nodes |= {(level, index): text for level, index, text in tree.append(leaf)}
    return tree, nodes


TREE, NODES = grown(MOST)


def test_every_size_has_the_root_of_a_full_rebuild() -> None:
    tree = Tree()
    for size in range(1, MOST + 1):
        completed = tree.append(LEAVES[size - 1])
        levels = rebuilt(LEAVES[:size])
        assert tree.root() == levels[-1][0]
        assert depth(size) == len(levels) - 1 == math.ceil(math.log2(size))
        assert all(levels[level][index] == text for level, index, text in completed)
        assert len(tree.frontier) <= size.bit_length()
        tree = Tree(size, tree.frontier)  # what a database keeps is enough to go on


def test_stored_nodes_are_the_complete_ones() -> None:
    assert {place for place in NODES if place[0]} == {
        (level, index) for level in range(1, 10) for index in range(MOST >> level)
    }


@pytest.mark.proof
@settings(max_examples=scaled(40, 600), deadline=None)
@given(st.integers(1, MOST))
def test_every_proof_of_every_leaf(size: int) -> None:
    root = rebuilt(LEAVES[:size])[-1][0]
    for index in range(size):
        needed = wanted(index, size)
        assert len(needed) <= 2 * depth(size) + 1
        nodes = {place: NODES[place] for place in needed}
        assert all(place_index + 1 << level <= size for level, place_index in needed)
        assert proven_root(LEAVES[index], index, size, proof(index, size, nodes)) == root


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_proof_proves_one_place_in_one_tree(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, MOST))
    index = data.draw(st.integers(0, size - 1))
    steps = proof(index, size, NODES)
    root = proven_root(LEAVES[index], index, size, steps)
    other = data.draw(st.integers(0, MOST).filter(lambda number: number != index))
    with suppress(ValueError):
        assert proven_root(LEAVES[index], other, size, steps) != root
    one_more = {"hash": root, "position": "left"}
    for wrong in ([*steps, one_more], *([steps[1:]] if steps else [])):
        with pytest.raises(ValueError, match="steps"):
            proven_root(LEAVES[index], index, size, wrong)


def test_the_repeated_last_leaf_is_no_further_leaf() -> None:
    """[a, b, c] and [a, b, c, c] have one root: only the size tells them apart."""
    assert grown(3)[0].root() == rebuilt([*LEAVES[:3], LEAVES[2]])[-1][0]
    steps = proof(2, 3, NODES)
    mirrored = [{**steps[0], "position": "left"}, steps[1]]
    with pytest.raises(ValueError, match="outside"):
        proven_root(LEAVES[2], 3, 3, mirrored)
    with pytest.raises(ValueError, match="repeat"):
        proven_root(LEAVES[2], 2, 3, [{**steps[0], "hash": LEAVES[0]}, steps[1]])


def test_what_is_not_there() -> None:
    for index, size in ((0, 0), (3, 3), (-1, 3)):
        with pytest.raises(IndexError):
            proof(index, size, NODES)
        with pytest.raises(IndexError):
            wanted(index, size)
    with pytest.raises(KeyError):
        proof(0, 3, {(0, 0): LEAVES[0]})
    with pytest.raises(ValueError, match="frontier"):
        Tree(3, [LEAVES[0]])
