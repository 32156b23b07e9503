"""What is checked of a bundle: every entry, and the log as a whole (nothing missing, in order, as once signed)."""

from __future__ import annotations

from bisect import bisect, bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .certificate import ALGORITHM, row_proofs, statement
from .checks import Examination, check_certificate, merkle_head
from .heads import SignedHead
from .merkle import Tree
from .retention import RetentionStatement
from .shape import BUNDLE, BUNDLE_VERSION, ENTRY

Entry = Mapping[str, Any]

WHOLE = "bundle"
"""Stands for the entry in a defect of the bundle as a whole."""


def name_of(entry: Entry) -> str:
    """How reports name an entry."""
    checkpoint = entry["checkpoint"]
    return f"leaf {checkpoint['merkle_leaf_index']} ({checkpoint['checkpoint_id']})"


def is_name_of_entry(name: str) -> bool:
    """Whether this names one entry, and not the bundle, a head or several entries."""
    return name.startswith("leaf ")


async def check_bundle(exam: Examination, bundle: Any, saved: SignedHead | None) -> None:
    """Note every defect of a bundle; ``saved`` is a head that was kept elsewhere."""
    version = bundle.get("bundle_version") if isinstance(bundle, dict) else None
    if version != BUNDLE_VERSION or isinstance(version, bool):
        exam.found(WHOLE, "version", f"bundle_version is {version!r:.40}; this program reads version {BUNDLE_VERSION}")
        return
    problems = [*_shape_problems(bundle)]
    _note(exam, problems)
    if problems:
        return
    entries: Sequence[Entry] = bundle["entries"]
    whole = [entry for entry in entries if await _check_readable(exam, bundle["agent"], entry)]
    heads = [SignedHead(**head) for head in bundle["heads"]]
    for head in heads:
        await exam.head(f"head of size {head.size}", head)
    carried = {merkle_head(entry["certificate"]) for entry in whole} - {None}
    if bundle["retention"]:
        await _check_statement(exam, bundle["agent"], RetentionStatement(**bundle["retention"]))
    _note(exam, _retention_problems(bundle))
    _note(exam, _order_problems(bundle, heads))
    _note(exam, _chain_problems(entries, [leaf["leaf_index"] for leaf in bundle["pruned"]]))
    _note(exam, _tree_problems(bundle, heads, [head for head in carried if head is not None], saved))
    _note(exam, _key_problems(exam, bundle["keys"]))


def _shape_problems(bundle: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield from ((WHOLE, "shape", problem) for problem in BUNDLE(bundle, ""))
    entries = bundle.get("entries")
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        for problem in ENTRY(entry, ""):
            try:
                name = name_of(entry)
            except (KeyError, TypeError):
                name = f"entry {number}"
            yield name, "shape", problem


def _note(exam: Examination, problems: Iterable[tuple[str, str, str]]) -> None:
    for entry, check, text in problems:
        exam.found(entry, check, text)


async def _check_readable(exam: Examination, agent_id: str, entry: Entry) -> bool:
    try:
        return await _check_entry(exam, agent_id, entry)
    except ValueError as error:  # it holds what has no canonical text
        exam.found(name_of(entry), "shape", str(error))
        return False


async def _check_entry(exam: Examination, agent_id: str, entry: Entry) -> bool:
    """Check an entry's certificate, and that it says what the checkpoint says. False when its shape is wrong."""
    name, certificate, checkpoint = name_of(entry), entry["certificate"], entry["checkpoint"]
    if not await check_certificate(exam, name, certificate):
        return False
    merkle = certificate["proofs"]["merkle"]
    if merkle is None:
        exam.found(name, "merkle", "an entry of a bundle has an inclusion proof")
        return False
    expected = statement(agent_id, checkpoint, entry["mutations"])
    expected["proofs"] = row_proofs(checkpoint) | {
        "merkle": {"leaf_index": checkpoint["merkle_leaf_index"], "leaf_hash": checkpoint["merkle_leaf_hash"]}
    }
    different = list(_differences(expected, certificate, ""))
    if certificate["mutations"] != entry["mutations"]:
        different.append("mutations")
    for path in dict.fromkeys(different):
        exam.found(name, "record", f"checkpoint and certificate differ in {path}")
    return True


def _differences(expected: Mapping[str, Any], shown: Mapping[str, Any], path: str) -> Iterator[str]:
    """The paths of the members of ``expected`` that ``shown`` has otherwise."""
    for name, value in expected.items():
        other = shown.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differences(value, other, f"{path}{name}.")
        elif value != other or type(value) is not type(other):
            yield path + name


def _order_problems(bundle: Mapping[str, Any], heads: Sequence[SignedHead]) -> Iterator[tuple[str, str, str]]:
    names = [name_of(entry) for entry in bundle["entries"]]
    indexes = [entry["checkpoint"]["merkle_leaf_index"] for entry in bundle["entries"]]
    for name, before, index in zip(names[1:], indexes, indexes[1:], strict=False):
        if index <= before:
            yield name, "order", f"stands after leaf {before}"
    for member in ("checkpoint_id", "certificate_id", "request_id"):
        counts = Counter(entry["checkpoint"][member] for entry in bundle["entries"])
        yield from (
            (name, "order", f"{member} is there {counts[entry['checkpoint'][member]]} times")
            for name, entry in zip(names, bundle["entries"], strict=True)
            if counts[entry["checkpoint"][member]] > 1
        )
    pruned = [leaf["leaf_index"] for leaf in bundle["pruned"]]
    if pruned != sorted(set(pruned)):
        yield WHOLE, "order", "the pruned leaves are not in order"
    sizes = [head.size for head in heads]
    if sizes != sorted(set(sizes)):
        yield WHOLE, "order", "the heads are not in order"
    yield from (
        (f"head of size {head.size}", "head", "is another agent's")
        for head in heads
        if head.agent_id != bundle["agent"]
    )


async def _check_statement(exam: Examination, agent_id: str, stated: RetentionStatement) -> None:
    """Check the signature of what is said to be deleted, and that it is said of this log."""
    name = _named(0, max(stated.pruned, 1) - 1)
    if stated.agent_id != agent_id:
        exam.found(name, "retention", "the statement is another agent's")
    await exam.signature(name, "retention", stated.key_id, stated.text(), stated.signature)


def _retention_problems(bundle: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What is pruned is the beginning of the log as far as the statement goes, and nothing else."""
    stated = bundle["retention"]["pruned"] if bundle["retention"] else 0
    pruned = sorted({leaf["leaf_index"] for leaf in bundle["pruned"]})
    covered = bisect_left(pruned, stated)
    said = f"signed is the deletion of the first {stated} alone" if stated else "nothing signed says so"
    yield from ((f"leaf {index}", "retention", f"is pruned, but {said}") for index in pruned[covered:])
    yield from (
        (_named(first, last), "retention", "not pruned, although it is signed that this was deleted")
        for first, last in _gaps(pruned[:covered], stated)
    )
    if bundle["retention"] and not stated:
        yield WHOLE, "retention", "there is a statement that nothing was deleted"


def _chain_problems(entries: Sequence[Entry], pruned: Sequence[int]) -> Iterator[tuple[str, str, str]]:
    """Every session counts on from its last entry and names its hash; only pruned entries may be left out."""
    last: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        row = entry["checkpoint"]
        before = last.get(row["session_id"])
        start = bisect(pruned, before["merkle_leaf_index"]) if before else 0
        missing = row["chain_position"] - (before["chain_position"] + 1 if before else 0)
        gone = bisect(pruned, row["merkle_leaf_index"]) - start
        if not 0 <= missing <= gone:
            yield name_of(entry), "chain", f"position {row['chain_position']} does not follow in its session"
        elif before and not missing and row["prev_chain_hash"] != before["chain_hash"]:
            yield name_of(entry), "chain", "prev_chain_hash is not the chain_hash before it in its session"
        last[row["session_id"]] = row


def _tree_problems(
    bundle: Mapping[str, Any], heads: Sequence[SignedHead], carried: Sequence[SignedHead], saved: SignedHead | None
) -> Iterator[tuple[str, str, str]]:
    rows = [entry["checkpoint"] for entry in bundle["entries"]]
    pairs = [(row["merkle_leaf_index"], row["merkle_leaf_hash"]) for row in rows]
    pairs += [(leaf["leaf_index"], leaf["leaf_hash"]) for leaf in bundle["pruned"]]
    leaves = dict(pairs)
    twice = sorted(index for index, count in Counter(index for index, _ in pairs).items() if count > 1)
    yield from ((f"leaf {index}", "order", "is there more than once") for index in twice)
    if not heads:
        yield WHOLE, "head", "there is no signed head"
    signed = max((head.size for head in heads), default=0)
    yield from (
        (_named(first, last), "missing", "not in the bundle")
        for first, last in _gaps(sorted(index for index in leaves if index < signed), signed)
    )
    yield from (
        (f"leaf {index}", "head", "is beyond the newest signed head") for index in sorted(leaves) if index >= signed
    )
    if saved and saved.agent_id != bundle["agent"]:
        yield "saved head", "head", f"is that of agent {saved.agent_id}"
        saved = None
    named = [(f"head of size {head.size}", head) for head in (*heads, *carried)]
    yield from _root_problems(leaves, [*named, *([("saved head", saved)] if saved else [])])


def _gaps(present: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """The ranges of leaves that are not there, and not each leaf, because a forged size may be anything."""
    for before, after in zip([-1, *present], [*present, size], strict=True):
        if after - before > 1:
            yield before + 1, after - 1


def _named(first: int, last: int) -> str:
    return f"leaf {first}" if first == last else f"leaves {first} to {last}"


def _root_problems(
    leaves: Mapping[int, str], heads: Sequence[tuple[str, SignedHead]]
) -> Iterator[tuple[str, str, str]]:
    """Compare the log with what it was at every head; after the first difference nothing more can be said."""
    tree, told, end = Tree(), False, max(leaves, default=-1) + 1
    for name, head in sorted(heads, key=lambda pair: pair[1].size):
        agreed = tree.size
        while tree.size < head.size and tree.size in leaves:
            tree.append(leaves[tree.size])
        if tree.size < head.size:
            if end < head.size:
                yield name, "head", f"has {head.size} entries where the bundle has {end}: the log was cut"
        elif tree.root() != head.root and (name == "saved head" or not told):
            told = True
            where = f"leaves {agreed} to {head.size - 1}, or before" if agreed < head.size else "its leaves"
            yield name, "head", f"the log is not what was signed then: {where}"


def _key_problems(exam: Examination, keys: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    ids = [key["key_id"] for key in keys]
    for key in keys:
        key_id = key["key_id"]
        pinned = exam.keys.find(key_id)
        if key["algorithm"] != ALGORITHM:
            yield WHOLE, "key", f"the algorithm of {key_id!r} is not {ALGORITHM!r}"
        if ids.count(key_id) > 1:
            yield WHOLE, "key", f"{key_id!r} is listed more than once"
        if key_id not in exam.used:
            yield WHOLE, "key", f"nothing is signed with {key_id!r}"
        if pinned != key["public_key"]:
            yield WHOLE, "key", f"{key_id!r} is not the pinned key"
    yield from ((WHOLE, "key", f"{key_id!r} is not listed") for key_id in sorted(exam.used - set(ids)))
