"""What the tests of attestation share: keys, drafts, a log in memory, and the two database functions over it."""

from __future__ import annotations

import asyncio
import copy
import random
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from smoltbot_host.crypto import HostCrypto
from smoltbot_worker.attestation.append import Draft, prepare
from smoltbot_worker.attestation.bundle import build_bundle
from smoltbot_worker.attestation.chain import LogHead
from smoltbot_worker.attestation.checks import Keyring
from smoltbot_worker.attestation.commitment import commit, thinking_hash
from smoltbot_worker.attestation.heads import SignedHead
from smoltbot_worker.ports import Json, RecordsUnavailable

# RFC 8032 section 7.1, TEST 1 and 2: known to everybody.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
OTHER_SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
CRYPTO = HostCrypto(SEED)
PINNED = Keyring(pinned={"key-001": CRYPTO.public_key})
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
        stored += rows
        self.nodes.setdefault(agent_id, {}).update({(level, index): text for level, index, text in given["nodes"]})
        self.frontiers[agent_id] = (given["frontier"], given["root"])
        self.heads.setdefault(agent_id, []).append(SignedHead(agent_id, **given["head"]))
        return {"status": "appended", "size": len(stored)}


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


def bundle_of(log: MemoryLog, pruned: Sequence[int] = (), keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The bundle of a log's only agent, as an export would read it from a database, without the ``pruned`` rows."""
    rows = log.rows[AGENT]
    return build_bundle(
        rows=[row for row in rows if row["merkle_leaf_index"] not in pruned],
        pruned={index: rows[index]["merkle_leaf_hash"] for index in pruned},
        nodes=log.nodes[AGENT],
        heads=log.heads[AGENT],
        keys=keys or {"key-001": CRYPTO.public_key},
        base_url=BASE_URL,
    )
