"""The database functions over dictionaries, as far as one request needs them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from smoltbot_worker.ports import Json

AGENT_DEFAULTS: dict[str, Json] = {
    "aip_enabled": True,
    "aap_enabled": True,
    "aip_enforcement_mode": "observe",
    "failure_policy": None,
    "containment_status": "active",
    "org_card_exempt": False,
    "auto_containment_threshold": None,
}
NO_ORGANIZATION: dict[str, Json] = {
    "org_id": "org-local",
    "card_template": None,
    "card_template_enabled": False,
    "conscience_values": [],
    "conscience_values_mode": "augment",
    "conscience_values_enabled": False,
    "updated_at": None,
}


class MemoryRecords:
    """A RecordStore. What it answers to a function is the method of that name.

    ``calls`` has every call; ``error`` is raised by each one while it is set, ``errors`` by those of a name; ``gate``
    holds each one back. ``settings`` are columns of agents made from now on.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.agents: dict[str, dict[str, Json]] = {}
        self.cards: dict[str, Json] = {}
        self.seen: dict[str, str] = {}
        self.logs: dict[str, list[dict[str, Any]]] = {}
        self.settings: dict[str, Json] = {}
        self.error: BaseException | None = None
        self.errors: dict[str, Exception] = {}
        self.gate: asyncio.Event | None = None
        self.called = asyncio.Event()
        self._functions: dict[str, Callable[[dict[str, Any]], Json]] = {
            "get_or_create_agent": self.get_or_create_agent,
            "agent_context": self.agent_context,
            "touch_agents": self.touch_agents,
            "log_head": self.log_head,
            "append_checkpoints": self.append_checkpoints,
            "changes_since": lambda given: {"seq": 0, "changes": [], "reset": False},
            "contained_agents": lambda given: [],
            "record_metering": lambda given: len(given["events"]),
            "session_checks": lambda given: {
                "checks": [],
                "streak": {"first": None, "length": 0, "categories": {}},
                "ended": None,
            },
            "ping": lambda given: {"ok": True, "schema": "0001_agents_and_cards.sql"},
        }

    def count(self, function: str) -> int:
        """How often a function was called."""
        return sum(name == function for name, _ in self.calls)

    @property
    def checkpoints(self) -> list[dict[str, Any]]:
        """Every checkpoint, in the order in which it was stored."""
        return [row for log in self.logs.values() for batch in log for row in batch["rows"]]

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        self.calls.append((function, dict(arguments)))
        self.called.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        if function in self.errors:
            raise self.errors[function]
        if function not in self._functions:
            raise LookupError(function)
        return self._functions[function](dict(arguments))

    def get_or_create_agent(self, given: dict[str, Any]) -> Json:
        digest = str(given["agent_hash"])
        is_new = digest not in self.agents
        if is_new:
            row: dict[str, Json] = {"id": f"smolt-{digest[:8]}", "agent_hash": digest, "name": given["name"]}
            self.agents[digest] = {**row, **AGENT_DEFAULTS, **self.settings}
            self.cards[digest] = given["card"]
        return {"agent": self.agents[digest], "is_new": is_new}

    def agent_context(self, given: dict[str, Any]) -> Json:
        for digest, agent in self.agents.items():
            if agent["id"] == given["agent_id"]:
                return {
                    "agent": agent,
                    "card": {
                        "card_id": "ac-1",
                        "version": 1,
                        "card_json": self.cards[digest],
                        "conscience_values": None,
                    },
                    "organization": NO_ORGANIZATION,
                    "quota": {"containment_status": agent["containment_status"]},
                    "pending_nudges": 0,
                    "seq": 0,
                }
        return None

    def touch_agents(self, given: dict[str, Any]) -> Json:
        for agent_id, at in given["seen"]:
            self.seen[agent_id] = max(at, self.seen.get(agent_id, ""))
        return len(given["seen"])

    def log_head(self, given: dict[str, Any]) -> Json:
        log = self.logs.get(given["agent_id"])
        if not log:
            return {"size": 0, "frontier": [], "root": "", "heads": {}}
        rows = {row["session_id"]: row for batch in log for row in batch["rows"]}
        return {
            "size": log[-1]["head"]["size"],
            "frontier": log[-1]["frontier"],
            "root": log[-1]["root"],
            "heads": {
                session: {"chain_hash": row["chain_hash"], "position": row["chain_position"]}
                for session, row in rows.items()
            },
        }

    def append_checkpoints(self, given: dict[str, Any]) -> Json:
        self.logs.setdefault(given["agent_id"], []).append(given)
        return {"status": "appended", "size": given["head"]["size"], "nudges": [], "contained": False}
