"""What the tests of attestation share: keys, drafts, a log in memory, and the two database functions over it."""

from __future__ import annotations

import asyncio
import copy
import json
import random
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

from smoltbot_host.crypto import HostCrypto
from smoltbot_worker.attestation.append import Draft, prepare
from smoltbot_worker.attestation.bundle import bundle_pieces
from smoltbot_worker.attestation.chain import LogHead
from smoltbot_worker.attestation.checks import Keyring
from smoltbot_worker.attestation.commitment import commit, thinking_hash
from smoltbot_worker.attestation.heads import SignedHead
from smoltbot_worker.attestation.retention import RetentionStatement, sign_statement
from smoltbot_worker.ports import Json, RecordsUnavailable

# RFC 8032 section 7.1, TEST 1 and 2: known to everybody.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
OTHER_SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
CRYPTO = HostCrypto(SEED)
KEYS = {"key-001": CRYPTO.public_key}
PINNED = Keyring(pinned=KEYS)
AGENT = "smolt-0badcafe"
BASE_URL = "https://gateway.example"
NOW = 1_778_400_000.0
TIMESTAMP = "2026-05-10T08:00:00.000Z"


def draft(number: int, session: str = "session-a", **more: Any) -> Draft:
    """A checkpoint that differs from others by its number."""
    given: dict[str, Any] = {
        "checkpoint_id": f"ic-{uuid.UUID(int=number, version=4)}",
        "request_id": f"request-{number}",
        "session_id": session,
        "timestamp": TIMESTAMP,
        "thinking_block_hash": thinking_hash(f"thought {number}"),
        "verdict": "clear",
        "commitment": commit({"card_id": "ac-0badcafe"}, [], [], "claude-haiku-4-5-20251001"),
        "provider": "anthropic",
        "model": "claude-sonnet-4-5",
        "card_id": "ac-0badcafe",
        "reasoning_summary": "Plan stays inside bounded actions.",
        "concerns": [
            {
                "category": "autonomy_violation",
                "severity": "low",
                "description": "Résumé — 🚀",
                "evidence": "I could",
                "relevant_card_field": None,
            }
        ],
        "conscience_context": {"values_checked": ["boundary-demo"], "consultation_depth": "standard"},
        "window_position": {"index": number, "window_size": 10},
        "analysis_metadata": {
            "analysis_model": "claude-haiku-4-5-20251001",
            "analysis_duration_ms": 412,
            "extraction_confidence": 0.9,
            "truncated": False,
        },
        "mutations": [
            {
                "kind": "thinking",
                "setting": "THINKING_INJECTION=auto",
                "location": "/thinking",
                "before_sha256": None,
                "after_sha256": thinking_hash("after"),
            }
        ],
    }
    return Draft(**{**given, **more})


class MemoryLog:
    """The functions ``log_head`` and ``append_checkpoints`` over lists, with pauses where a database has them."""

    def __init__(self, seed: int = 0) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.nodes: dict[str, dict[tuple[int, int], str]] = {}
        self.heads: dict[str, list[SignedHead]] = {}
        self.frontiers: dict[str, tuple[list[str | None], str]] = {}
        self.calls: list[tuple[str, str]] = []
        self.failing: list[Exception] = []
        self.lose_answers = 0
        self._random = random.Random(seed)

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        """One database function."""
        await self._pause()
        if self.failing:
            raise self.failing.pop(0)
        given: Any = copy.deepcopy(dict(arguments))
        answer = self._log_head(given) if function == "log_head" else self._append(given)
        self.calls.append((function, str(answer.get("status", ""))))
        await self._pause()
        if function == "append_checkpoints" and self.lose_answers:
            self.lose_answers -= 1
            raise RecordsUnavailable("the connection was cut after COMMIT was sent")
        return answer

    async def _pause(self) -> None:
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)

    def _log_head(self, given: dict[str, Any]) -> dict[str, Any]:
        agent_id = given["agent_id"]
        rows = self.rows.get(agent_id, [])
        frontier, root = self.frontiers.get(agent_id, ([], ""))
        heads = {}
        for row in rows:
            if row["session_id"] in given["sessions"]:
                heads[row["session_id"]] = {"chain_hash": row["chain_hash"], "position": row["chain_position"]}
        return {"size": len(rows), "frontier": list(frontier), "root": root, "heads": heads}

    def _append(self, given: dict[str, Any]) -> dict[str, Any]:
        agent_id, rows = given["agent_id"], given["rows"]
        head = self._log_head({"agent_id": agent_id, "sessions": list(given["expected_heads"])})
        stored = self.rows.setdefault(agent_id, [])
        ids = {row[name] for row in stored for name in ("request_id", "checkpoint_id")}
        again = [row["request_id"] for row in rows if {row["request_id"], row["checkpoint_id"]} & ids]
        if again:
            return {"status": "duplicate", "stored": again, **head}
        now = {name: head["heads"].get(name, {}).get("chain_hash") for name in given["expected_heads"]}
        if given["expected_size"] != head["size"] or given["expected_heads"] != now:
            return {"status": "conflict", **head}
        if any(row["provider"] == "refused" for row in rows):
            raise ValueError("rows: provider is refused")
        stored += [{name: value for name, value in row.items() if name != "nudge"} for row in rows]
        nudges = [row["nudge"]["nudge_id"] for row in rows if row["nudge"] and row["verdict"] == "boundary_violation"]
        self.nodes.setdefault(agent_id, {}).update({(level, index): text for level, index, text in given["nodes"]})
        self.frontiers[agent_id] = (given["frontier"], given["root"])
        self.heads.setdefault(agent_id, []).append(SignedHead(agent_id, **given["head"]))
        return {"status": "appended", "size": len(stored), "nudges": nudges, "contained": bool(nudges)}


async def filled(drafts: Sequence[Draft], batch: int = 3, crypto: HostCrypto = CRYPTO) -> MemoryLog:
    """A log with these drafts, stored by batches."""
    log = MemoryLog()
    for start in range(0, len(drafts), batch):
        part = drafts[start : start + batch]
        head = await log.call("log_head", {"agent_id": AGENT, "sessions": [each.session_id for each in part]})
        arguments = await prepare(AGENT, LogHead.from_json(head), part, crypto, TIMESTAMP)
        answer = await log.call("append_checkpoints", arguments)
        assert isinstance(answer, dict)
        assert answer["status"] == "appended"
    return log


def two_sessions(count: int) -> list[Draft]:
    """Drafts of two sessions in turn."""
    return [draft(number, f"session-{'ab'[number % 2]}") for number in range(count)]


class LogReader:
    """The functions that read a log, over a :class:`MemoryLog`, without the ``pruned`` rows, for which is signed."""

    def __init__(
        self, log: MemoryLog, pruned: Sequence[int] = (), keys: Mapping[str, str] = MappingProxyType(KEYS)
    ) -> None:
        rows = log.rows[AGENT]
        self._leaves = {(0, row["merkle_leaf_index"]): row["merkle_leaf_hash"] for row in rows}
        self._nodes = log.nodes[AGENT]
        self._heads = log.heads
        self._rows = sorted(
            (row for row in rows if row["merkle_leaf_index"] not in pruned), key=lambda row: row["merkle_leaf_index"]
        )
        self._pruned = [{"leaf_index": index, "leaf_hash": self._leaves[0, index]} for index in pruned]
        more = {"algorithm": "Ed25519", "is_active": True, "created_at": TIMESTAMP, "retired_at": None}
        self._keys = [{"key_id": key_id, "public_key": public, **more} for key_id, public in keys.items()]

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        """One database function."""
        if function == "retention_statement":
            return await _statement(len(self._pruned)) if self._pruned else None
        answer: Json = copy.deepcopy(self._answer(function, dict(arguments)))
        return answer

    def _answer(self, function: str, given: dict[str, Any]) -> Any:
        match function:
            case "checkpoints":
                return _page(self._rows, "merkle_leaf_index", given)
            case "checkpoint":
                found = (row for row in self._rows if row["checkpoint_id"] == given["checkpoint_id"])
                return next(({"agent_id": AGENT, **row} for row in found), None)
            case "pruned_leaves":
                return _page(self._pruned, "leaf_index", given)
            case "merkle_nodes":
                known = self._leaves | self._nodes
                return [[*place, known[tuple(place)]] for place in given["wanted"] if tuple(place) in known]
            case "signed_heads":
                heads = self._heads.get(given["agent_id"], [])[::-1]
                return [head.to_json() for head in heads[: given["limit"]]]
            case "signing_keys":
                return self._keys
        raise LookupError(function)


async def _statement(pruned: int) -> Json:
    return (await sign_statement(RetentionStatement(AGENT, pruned, TIMESTAMP, CRYPTO.key_id), CRYPTO)).to_json()


def _page(rows: Sequence[dict[str, Any]], index: str, given: dict[str, Any]) -> list[dict[str, Any]]:
    after = -1 if given["after_index"] is None else given["after_index"]
    return [row for row in rows if row[index] > after][: given["limit"]]


def bundle_of(log: MemoryLog, pruned: Sequence[int] = (), keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The bundle of a log's only agent, as an export reads it from a database, without the ``pruned`` rows."""
    store = LogReader(log, pruned, keys or KEYS)

    async def export() -> bytes:
        return b"".join([piece async for piece in bundle_pieces(store, log.heads[AGENT], BASE_URL)])

    with ThreadPoolExecutor(1) as pool:  # a test may be running in a loop of its own
        bundle: dict[str, Any] = json.loads(pool.submit(asyncio.run, export()).result())
    return bundle
