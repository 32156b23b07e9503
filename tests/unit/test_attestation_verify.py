"""Verification: any single change of a certificate or a bundle is found, and who writes without the key is caught."""

from __future__ import annotations

import asyncio
import copy
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smoltbot_host.crypto import HostCrypto
from smoltbot_worker.attestation.append import Draft, prepare, sign_head
from smoltbot_worker.attestation.chain import LogHead, SessionHead
from smoltbot_worker.attestation.checks import Keyring
from smoltbot_worker.attestation.heads import SignedHead
from smoltbot_worker.attestation.retention import RetentionStatement, sign_statement
from smoltbot_worker.attestation.verify import Report, Unreadable, read_document, read_head, verify_document
from tests.scale import figure, scaled
from tests.unit.attestation_support import (
    AGENT,
    CRYPTO,
    OTHER_SEED,
    PINNED,
    TIMESTAMP,
    MemoryLog,
    bundle_of,
    draft,
    filled,
    two_sessions,
)

Path_ = tuple[Any, ...]
OTHER = HostCrypto(OTHER_SEED)


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The paths of all values that hold no others; empty lists and objects too."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    empty = True
    for name, item in inner:
        empty = False
        yield from leaves(item, (*path, name))
    if empty:
        yield path


def at(document: Any, path: Path_) -> Any:
    for name in path:
        document = document[name]
    return document


def changed(document: Any, path: Path_, value: Any) -> Any:
    copied = copy.deepcopy(document)
    at(copied, path[:-1])[path[-1]] = value
    return copied


def others(value: Any) -> list[Any]:
    """Values that one leaf could be changed to."""
    if isinstance(value, bool):
        return [not value, None, int(value)]
    if isinstance(value, int):
        return [value + 1, value - 1, -1 - value, None, str(value), 2**50]
    if isinstance(value, float):
        return [value / 2, None, 1]
    if isinstance(value, str):
        flipped = value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"
        return [flipped, value + " ", value[:-1] if value else "y", None, value.upper() + "0", ""]
    return [["x"], {"x": 1}, None if value is not None else "x", 0, "genesis", False]


async def find(document: Any, keys: Keyring = PINNED, head: SignedHead | None = None) -> Report:
    return await verify_document(document, keys, CRYPTO, head)


async def missed(document: Any, keys: Keyring) -> list[str]:
    """Single changes that verification does not find."""
    found = []
    for path in leaves(document):
        for value in others(at(document, path)):
            if value == at(document, path) and type(value) is type(at(document, path)):
                continue
            report = await find(changed(document, path, value), keys)
            if report.status != 1 or not all(defect.entry and defect.check for defect in report.defects):
                found.append(f"{path} -> {value!r}")
    return found


@pytest.mark.parametrize("leaf", [0, 1, 4])
@pytest.mark.parametrize("keys", [PINNED, Keyring(only=CRYPTO.public_key)], ids=["by id", "the only one"])
async def test_any_change_of_a_certificate_is_found(leaf: int, keys: Keyring) -> None:
    certificate = bundle_of(await filled(two_sessions(5)))["entries"][leaf]["certificate"]
    assert (await find(certificate, keys)).status == 0
    assert await missed(certificate, keys) == []


@pytest.mark.proof
@pytest.mark.parametrize("keys", [PINNED, Keyring(only=CRYPTO.public_key), Keyring()], ids=["by id", "only", "own"])
async def test_any_change_of_a_bundle_is_found(keys: Keyring) -> None:
    bundle = bundle_of(await filled(two_sessions(scaled(2, 4)), batch=2), pruned=[0])
    assert (await find(bundle, keys)).status == (0 if keys.is_pinned else 3)
    assert await missed(bundle, keys) == []


def members(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield (*path, name)
            yield from members(item, (*path, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from members(item, (*path, number))


async def test_members_that_are_missing_or_added_are_found(three: dict[str, Any]) -> None:
    bundle = three
    free = ("conscience_context", "window_position", "analysis_metadata")
    for path in members(bundle):
        without = copy.deepcopy(bundle)
        del at(without, path[:-1])[path[-1]]
        assert (await find(without)).status == 1, path
        if isinstance(at(bundle, path), dict):
            report = await find(changed(bundle, (*path, "added"), 1))
            assert report.status == 1, path
            assert any(name in path for name in free) or "added is not known" in str(report.defects[0])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_json_at_all_ends_in_a_report(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(PATHS))
    value = data.draw(JSONS)
    assume(value != at(BUNDLE, path))
    document = changed(BUNDLE, path, value)
    assert asyncio.run(find(document)).status == 1


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


async def test_the_exit_codes(three: dict[str, Any]) -> None:
    bundle = three
    certificate = bundle["entries"][1]["certificate"]
    stranger = Keyring(pinned={"key-001": OTHER.public_key})
    other_id = Keyring(pinned={"key-002": CRYPTO.public_key})
    for document, own in ((bundle, 3), (certificate, 2)):
        assert (await find(document)).status == 0
        assert (await find(document, Keyring(only=CRYPTO.public_key))).status == 0
        assert (await find(document, Keyring())).status == own
        for wrong in (stranger, other_id, Keyring(only=OTHER.public_key)):
            assert (await find(document, wrong)).status == 1
    certificate = changed(certificate, ("claims", "verdict"), "review_needed")
    assert (await find(certificate, Keyring())).status == 1, "a defect that needs no key"
    for document in (None, [], {}, "x", {"bundle_version": 1}, {"type": "IntegrityCertificate"}):
        assert (await find(document)).status == 1


async def test_a_bundle_of_another_version(three: dict[str, Any]) -> None:
    bundle = three
    for version in (2, 0, None, True, "1"):
        report = await find({**bundle, "bundle_version": version})
        assert [defect.check for defect in report.defects] == ["version"]
        assert "reads version 1" in str(report.defects[0])


async def test_a_bundle_of_nothing_proves_nothing(three: dict[str, Any]) -> None:
    bundle = three
    assert (await find({**bundle, "heads": [], "entries": [], "keys": []})).status == 1


async def test_a_log_of_two_keys() -> None:
    log = await filled(two_sessions(4))
    second = HostCrypto(OTHER_SEED, "key-002")
    head = await log.call("log_head", {"agent_id": AGENT, "sessions": ["session-a"]})
    await log.call("append_checkpoints", await prepare(AGENT, LogHead.from_json(head), [draft(9)], second, TIMESTAMP))
    keys = {"key-001": CRYPTO.public_key, "key-002": OTHER.public_key}
    bundle = bundle_of(log, keys={**keys, "key-003": "0" * 64})
    assert [key["key_id"] for key in bundle["keys"]] == ["key-001", "key-002"]
    assert (await find(bundle, Keyring(pinned=keys))).status == 0
    assert (await find(bundle, PINNED)).status == 1


async def test_entries_that_are_moved_or_repeated_in_the_file_are_found() -> None:
    bundle = bundle_of(await filled([draft(number, f"session-{number}") for number in range(4)]))
    first, second, third, fourth = bundle["entries"]
    for entries, name in (
        ([first, third, second, fourth], "leaf 1"),
        ([first, second, second, third, fourth], "leaf 1"),
        ([first, second, fourth], "leaf 2"),
    ):
        report = await find({**bundle, "entries": entries})
        assert report.status == 1
        assert {defect.entry.split(" (")[0] for defect in report.defects} == {name}
    assert (await find({**bundle, "heads": bundle["heads"][::-1]})).status == 1


WRONG_HEADS = {
    "a second genesis": None,
    "a fork": SessionHead("b" * 64, 1),
    "another past": SessionHead("b" * 64, 2),
    "a gap": SessionHead("b" * 64, 7),
    "a first entry that follows another": SessionHead("b" * 64, -1),
}


@pytest.mark.parametrize("wrong", WRONG_HEADS)
async def test_a_chain_that_was_signed_wrongly_is_found(wrong: str) -> None:
    """A writer with the key that took the wrong head: every signature is good, the order is not."""
    log = await filled([draft(number) for number in range(3)])
    head = LogHead.from_json(await log.call("log_head", {"agent_id": AGENT, "sessions": ["session-a"]}))
    taken = WRONG_HEADS[wrong]
    sessions = {"session-a": taken} if taken else {}
    batch = await prepare(AGENT, replace(head, sessions=sessions), [draft(9)], CRYPTO, TIMESTAMP)
    batch["expected_heads"] = {"session-a": head.sessions["session-a"].chain_hash}
    answer = await log.call("append_checkpoints", batch)
    assert answer == {"status": "appended", "size": 4, "nudges": [], "contained": False}
    bundle = bundle_of(log)
    report = await find(bundle)
    assert {(defect.entry.split(" (")[0], defect.check) for defect in report.defects} == {("leaf 3", "chain")}
    alone = await find(bundle["entries"][3]["certificate"])
    assert alone.status == (1 if wrong == "a first entry that follows another" else 0)


MANY = scaled(120, 1_000)
BATCH = MANY // 20


def nine_sessions(count: int) -> list[Draft]:
    return [draft(number, f"session-{number % 9}") for number in range(count)]


@pytest.fixture(scope="module")
def long_log() -> MemoryLog:
    """A log that no test changes."""
    return asyncio.run(filled(nine_sessions(MANY), batch=BATCH))


@pytest.fixture(scope="module")
def three() -> dict[str, Any]:
    """The bundle of a log of three, which no test changes."""
    return bundle_of(asyncio.run(filled(two_sessions(3))))


Attack = Callable[[list[dict[str, Any]], int], None]


def flip_verdict(rows: list[dict[str, Any]], index: int) -> None:
    rows[index]["verdict"] = "review_needed"


def flip_provider(rows: list[dict[str, Any]], index: int) -> None:
    rows[index]["provider"] = "openai"


def flip_commitment(rows: list[dict[str, Any]], index: int) -> None:
    rows[index]["card_hash"] = "0" * 64


def flip_evidence(rows: list[dict[str, Any]], index: int) -> None:
    rows[index]["concerns"][0]["evidence"] = "nothing"


def flip_leaf(rows: list[dict[str, Any]], index: int) -> None:
    rows[index]["merkle_leaf_hash"] = "0" * 64


def delete(rows: list[dict[str, Any]], index: int) -> None:
    del rows[index]


def insert(rows: list[dict[str, Any]], index: int) -> None:
    rows.insert(index, {**rows[index], "checkpoint_id": "ic-00000000-0000-4000-8000-ffffffffffff"})


def swap(rows: list[dict[str, Any]], index: int) -> None:
    other = (index + 50) % MANY
    for name in ("merkle_leaf_index", "chain_position"):
        rows[index][name], rows[other][name] = rows[other][name], rows[index][name]


def swap_verdicts(rows: list[dict[str, Any]], index: int) -> None:
    """The whole judgement of one entry under the name of another."""
    for name in ("verdict", "issuer_signature", "claims_hash", "claims_signature", "signed_payload", "reason"):
        rows[index][name] = rows[(index + 9) % MANY][name]


def copied(log: MemoryLog) -> MemoryLog:
    """The same log, whose rows and heads may be changed."""
    other = copy.copy(log)
    other.rows = copy.deepcopy(log.rows)
    other.heads = {name: list(heads) for name, heads in log.heads.items()}
    return other


FLIPS = (flip_verdict, flip_provider, flip_commitment, flip_evidence, flip_leaf, swap_verdicts)


async def test_every_flip_in_the_database_is_found(long_log: MemoryLog) -> None:
    log = copied(long_log)
    flipped = random.Random(3).sample(range(0, MANY, 2), 60)
    for number, index in enumerate(flipped):
        FLIPS[number % len(FLIPS)](log.rows[AGENT], index)
    report = await find(bundle_of(log))
    assert report.status == 1
    named = {defect.entry for defect in report.defects}
    assert [index for index in flipped if not any(entry.startswith(f"leaf {index} (") for entry in named)] == []
    # A leaf that was changed spoils the proof of its neighbour too; nothing else is blamed.
    spoilt = {index for index in flipped if FLIPS[flipped.index(index) % len(FLIPS)] is flip_leaf}
    blamed = {int(entry.split()[1]) for entry in named if entry.startswith("leaf ")}
    assert blamed <= set(flipped) | {index ^ 1 for index in spoilt}


@pytest.mark.parametrize("attack", [delete, insert, swap])
async def test_every_move_in_the_database_is_found(long_log: MemoryLog, attack: Attack) -> None:
    index = random.Random(attack.__name__).randrange(MANY - 50)
    log = copied(long_log)
    attack(log.rows[AGENT], index)
    report = await find(bundle_of(log))
    assert report.status == 1
    assert any(re.match(rf"leaf {index}\b", defect.entry) for defect in report.defects), report.defects[:5]


async def test_a_cut_log_is_found_by_a_saved_head(long_log: MemoryLog) -> None:
    saved = long_log.heads[AGENT][-1]
    assert (await find(bundle_of(long_log), head=saved)).status == 0
    log = copied(long_log)
    rows = log.rows[AGENT]
    del rows[-BATCH:], log.heads[AGENT][-1]
    cut = bundle_of(log)
    assert (await find(cut, head=log.heads[AGENT][3])).status == 0, "nothing in the file tells of what is gone"
    report = await find(cut, head=saved)
    assert report.status == 1
    assert [(defect.entry, defect.check) for defect in report.defects] == [("saved head", "head")]
    assert f"{MANY} entries where the bundle has {MANY - BATCH}" in report.defects[0].text
    del rows[-3:]
    report = await find(bundle_of(log))
    gone = f"leaves {MANY - BATCH - 3} to {MANY - BATCH - 1}"
    assert (gone, "missing") in [(defect.entry, defect.check) for defect in report.defects]


async def test_a_log_that_was_rolled_back_and_went_on_is_found_by_a_saved_head(long_log: MemoryLog) -> None:
    saved = long_log.heads[AGENT][-1]
    older = await filled(nine_sessions(MANY - BATCH), batch=BATCH)
    head = await older.call("log_head", {"agent_id": AGENT, "sessions": ["session-0"]})
    new = [draft(number, "session-0") for number in range(2000, 2000 + BATCH + 3)]
    await older.call("append_checkpoints", await prepare(AGENT, LogHead.from_json(head), new, CRYPTO, TIMESTAMP))
    bundle = bundle_of(older)
    assert (await find(bundle)).status == 0
    report = await find(bundle, head=saved)
    assert report.status == 1
    assert [(defect.entry, defect.check) for defect in report.defects] == [("saved head", "head")]


async def test_saved_heads() -> None:
    log = await filled(two_sessions(30), batch=4)
    bundle = bundle_of(log)
    certificate = bundle["entries"][7]["certificate"]
    newest, older = log.heads[AGENT][-1], log.heads[AGENT][4]
    assert (await find(certificate, head=newest)).status == 0
    report = await find(certificate, head=older)
    assert report.status == 1
    assert "use a bundle" in str(report.defects[0])
    stranger = await sign_head(replace(newest, agent_id="smolt-ffffffff"), CRYPTO)
    forged = replace(newest, root="0" * 64)
    other_root = await sign_head(forged, CRYPTO)
    for wrong in (stranger, forged, other_root):
        for document in (bundle, certificate):
            report = await find(document, head=wrong)
            assert report.status == 1
            assert any(defect.check == "head" for defect in report.defects)
    assert read_head(newest.to_json()) == newest
    for document in (None, {}, {**newest.to_json(), "size": "1"}, {**newest.to_json(), "root": "\ud800"}):
        with pytest.raises(Unreadable):
            read_head(document)


async def test_pruned_entries_leave_their_leaves() -> None:
    bundle = bundle_of(await filled(two_sessions(60)), pruned=range(25))
    report = await find(bundle)
    assert (report.status, report.what) == (0, "bundle with 35 entries and 25 pruned")
    bundle["pruned"][3]["leaf_hash"] = "0" * 64
    assert (await find(bundle)).status == 1


Leaves = range | list[int]
RETENTION: dict[str, tuple[Leaves, int | None, list[str]]] = {
    "the middle": ([7], None, ["leaf 7: retention: is pruned, but nothing signed says so"]),
    "the beginning": (range(2), None, [f"leaf {index}: retention: is pruned, but" for index in range(2)]),
    "beyond": (range(6), 5, ["leaf 5: retention: is pruned, but signed is the deletion of the first 5 alone"]),
    "one more": ([0, 1, 2, 5], 3, ["leaf 5: retention: is pruned, but"]),
    "a hole": ([0, 2], 3, ["leaf 1: retention: not pruned, although"]),
    "the rest": (range(3), 6, ["leaves 3 to 5: retention: not pruned, although"]),
    "nothing": (range(0), 3, ["leaves 0 to 2: retention: not pruned, although"]),
    "nothing at all": (range(0), 0, ["bundle: retention: there is a statement that nothing was deleted"]),
    "far too much": (range(3), 2**50, [f"leaves 3 to {2**50 - 1}: retention: not pruned, although"]),
}


@pytest.mark.parametrize(("pruned", "stated", "said"), RETENTION.values(), ids=list(RETENTION))
async def test_what_is_pruned_is_what_was_signed(pruned: Leaves, stated: int | None, said: list[str]) -> None:
    """Signatures are right here: what they say is not what the bundle shows."""
    bundle = bundle_of(await filled(two_sessions(12)), pruned=pruned)
    bundle["retention"] = None if stated is None else await retention(pruned=stated)
    report = await find(bundle)
    assert report.status == 1
    found = [str(defect) for defect in report.defects if defect.check == "retention"]
    assert len(found) == len(said)
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True)), found


async def retention(crypto: HostCrypto = CRYPTO, **members: Any) -> dict[str, Any]:
    """A statement with its signature."""
    given = {"agent_id": AGENT, "pruned": 3, "timestamp": TIMESTAMP, "key_id": crypto.key_id, **members}
    return dict((await sign_statement(RetentionStatement(**given), crypto)).to_json())


async def test_who_signs_what_was_pruned() -> None:
    bundle = bundle_of(await filled(two_sessions(12)), pruned=range(3))
    assert (await find({**bundle, "retention": await retention()})).defects == ()
    signed = {
        "retention": ({"crypto": OTHER}, {"agent_id": "smolt-ffffffff"}),
        "key": ({"key_id": "key-009"},),
    }
    for check, statements in signed.items():
        for changes in statements:
            report = await find({**bundle, "retention": await retention(**changes)})
            assert ("leaves 0 to 2", check) in {(defect.entry, defect.check) for defect in report.defects}, changes
    moved = {**await retention(agent_id="smolt-ffffffff"), "agent_id": AGENT}
    report = await find({**bundle, "retention": moved})
    assert [(defect.entry, defect.check) for defect in report.defects] == [("leaves 0 to 2", "retention")]
    alone = {**bundle, "retention": await retention(OTHER, key_id="key-002")}
    alone["keys"] = [*bundle["keys"], {"key_id": "key-002", "public_key": OTHER.public_key, "algorithm": "Ed25519"}]
    keys = Keyring(pinned={CRYPTO.key_id: CRYPTO.public_key, "key-002": OTHER.public_key})
    assert (await find(alone, keys)).defects == (), "the key of the statement counts as used"


async def test_the_shape_of_an_entry_is_a_matter_of_its_own() -> None:
    bundle = bundle_of(await filled(two_sessions(4)), pruned=[0])
    bundle["entries"][1]["checkpoint"]["concerns"] = "[{"
    bundle["entries"][2] = 7
    found = [(defect.entry.split(" (")[0], defect.check, defect.text) for defect in (await find(bundle)).defects]
    assert ("leaf 2", "shape", "checkpoint.concerns must be a list") in found
    assert ("entry 2", "shape", "the document must be an object") in found


NO_DOCUMENTS = ["", "{", '{"a":1,"a":1}', "[" * 100_000, "nul", '{"x":' + "9" * 5000 + "}"]


@pytest.mark.parametrize("text", NO_DOCUMENTS, ids=range(len(NO_DOCUMENTS)))
def test_what_is_no_document(text: str) -> None:
    with pytest.raises(Unreadable):
        read_document(text)


@pytest.mark.proof
async def test_how_long_a_bundle_takes(long_log: MemoryLog) -> None:
    document = json.loads(json.dumps(bundle_of(long_log)))
    started = time.perf_counter()
    assert (await find(document)).status == 0
    figure(f"verify a bundle of {MANY}", f"{time.perf_counter() - started:.2f} s")


def small() -> dict[str, Any]:
    return bundle_of(asyncio.run(filled(two_sessions(2))))


BUNDLE = small()
PATHS = list(leaves(BUNDLE))
