"""One agent as this process knows it: who it is, what applies to it, and the header lines that say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .containment import ACTIVE
from .identity import session_hour, session_id
from .quota import FREE_TIER


class Agent:
    """An agent with its context, which is of one moment; a newer one replaces it in place.

    ``card`` is the active card's row, ``organization`` what holds for every agent, ``seq`` the place in the feed of
    changes to which all of it is true, ``read_at`` when it was read (seconds since the epoch). ``stale``: something
    changed since; ``unreadable``: and what is stored now cannot be read. ``alignment`` is for whoever derives something
    from card and organisation: it is None again when one of them is another. An agent that is not ``recorded`` is who
    it must be, while the database cannot say.
    """

    __slots__ = (
        "_hour", "_session", "aap_enabled", "aip_enabled", "alignment", "auto_containment_threshold", "card",
        "containment", "failure_policy", "hash", "id", "id_line", "mode", "name", "org_card_exempt", "organization",
        "pending_nudges", "quota", "read_at", "recorded", "seq", "stale", "unreadable",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        agent_hash: str,
        name: str | None,
        *,
        aip_enabled: bool = True,
        aap_enabled: bool = True,
        recorded: bool = True,
    ) -> None:
        self.id = id
        self.hash = agent_hash
        self.name = name
        self.aip_enabled = aip_enabled
        self.aap_enabled = aap_enabled
        self.recorded = recorded
        self.mode = "observe"
        self.failure_policy: str | None = None
        self.containment = ACTIVE
        self.auto_containment_threshold: int | None = None
        self.quota: Mapping[str, Any] = FREE_TIER
        self.card: dict[str, Any] | None = None
        self.organization: dict[str, Any] | None = None
        self.org_card_exempt = False
        self.pending_nudges = 0
        self.seq = -1
        self.read_at = 0.0
        self.stale = False
        self.unreadable = False
        self.alignment: Any = None
        self.id_line = (b"x-smoltbot-agent", id.encode())
        self._hour = -1
        self._session = (b"x-smoltbot-session", b"")

    @classmethod
    def from_context(cls, context: Mapping[str, Any], now: float) -> Agent:
        """From the answer of ``agent_context``, read at ``now``."""
        row = context["agent"]
        agent = cls(row["id"], row["agent_hash"], row["name"])
        agent.learn(context, now)
        return agent

    @classmethod
    def derived(cls, digest: str, name: str | None) -> Agent:
        """Who it must be, while the database cannot say."""
        return cls(f"smolt-{digest[:8]}", digest[:16], name, recorded=False)

    @property
    def conscience_values(self) -> list[Any] | None:
        """The values that were set for this agent, as they are stored."""
        return None if self.card is None else self.card["conscience_values"]

    def learn(self, context: Mapping[str, Any], now: float) -> None:
        """Take over a context that was read at ``now``."""
        row, card, organization = context["agent"], context["card"], context["organization"]
        exempt = bool(row["org_card_exempt"])
        if (card, organization, exempt) != (self.card, self.organization, self.org_card_exempt):
            self.alignment = None
        self.card, self.organization, self.org_card_exempt = card, organization, exempt
        self.name = row["name"]
        self.aip_enabled = bool(row["aip_enabled"])
        self.aap_enabled = bool(row["aap_enabled"])
        self.mode = row["aip_enforcement_mode"]
        self.failure_policy = row["failure_policy"]
        self.containment = row["containment_status"]
        self.auto_containment_threshold = row["auto_containment_threshold"]
        self.quota = {**FREE_TIER, **context["quota"]}
        self.pending_nudges = context["pending_nudges"]
        self.seq = context["seq"]
        self.read_at = now
        self.stale = self.unreadable = False

    def contain(self, status: str) -> None:
        """Note that the agent's containment is ``status`` now, ahead of the context that says so."""
        self.containment = status
        self.quota = {**self.quota, "containment_status": status}

    def session_line(self, now: float) -> tuple[bytes, bytes]:
        """The session's header line; made anew once an hour."""
        hour = session_hour(now)
        if hour != self._hour:
            self._hour = hour
            self._session = (b"x-smoltbot-session", session_id(self.hash, hour).encode())
        return self._session
