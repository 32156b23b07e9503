"""The window: what the session's last analyses found, as the next one gets to see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from smoltbot_worker.ports import Json, RecordStore
from smoltbot_worker.records.integrity import session_checks

from .reading import one_line

MOST_CHECKS = 10
MOST_AGE_S = 3600.0
FRESH_S = 1.0
"""How long a window that was read counts."""
_MOST_KEPT = 10_000
MOST_SUMMARY = 500
"""Characters of an earlier summary in the prompt. A model wrote it, from thinking that may try to steer the next."""


@dataclass(frozen=True)
class Window:
    """The earlier analyses of a session, oldest first.

    ``context`` holds ``{checkpoint_id, verdict, reasoning_summary}`` of each, as the prompt shows it and the next
    checkpoint commits to it. ``streak`` is how many of the session's newest analyses in a row had concerns.
    """

    context: Sequence[Mapping[str, Json]] = ()
    streak: int = 0
    rows: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    def followed_by(self, row: Mapping[str, Any]) -> Window:
        """The window after one more analysis, whose checkpoint is ``row``."""
        return Window(
            (*self.context, _seen(row))[-MOST_CHECKS:],
            0 if row["verdict"] == "clear" else self.streak + 1,
            (*self.rows, row)[-MOST_CHECKS:],
        )

    @property
    def position(self) -> dict[str, Json]:
        """The place of the next checkpoint."""
        return {"index": len(self.context), "window_size": len(self.context) + 1}

    @cached_property
    def checkpoints(self) -> list[Any]:
        """The checkpoints as the SDK's prompt takes them; what it does not print of them is left empty."""
        from aip import AnalysisMetadata, ConscienceContext, IntegrityCheckpoint, WindowPosition

        unprinted = ConscienceContext(), WindowPosition(0, 0), AnalysisMetadata("", 0, 0, 0, False, 0)
        return [
            IntegrityCheckpoint(
                row["checkpoint_id"], "", "", "", row["timestamp"], "", "", "", row["verdict"], [],
                str(seen["reasoning_summary"]), *unprinted,
            )
            for row, seen in zip(self.rows, self.context, strict=True)
        ]  # fmt: skip


@dataclass(slots=True)
class _Kept:
    """A window with what this process has stored since it was read, at ``read_at`` in seconds since the epoch."""

    window: Window
    read_at: float


class Windows:
    """The windows of the sessions that are active now, each read at most once a second.

    What this process stores is in them at once; what another process stores, within that second.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], _Kept] = {}

    async def load(self, store: RecordStore, agent_id: str, session_id: str, now: float) -> Window:
        """The window at ``now``. ``RecordsUnavailable`` when it must be read and cannot be."""
        session = agent_id, session_id
        kept = self._kept.get(session)
        if kept is not None and 0 <= now - kept.read_at < FRESH_S:
            return kept.window
        window = await load(store, agent_id, session_id, now)
        if len(self._kept) >= _MOST_KEPT:
            self._kept = {name: each for name, each in self._kept.items() if now - each.read_at < FRESH_S}
        self._kept[session] = _Kept(window, now)
        return window

    def stored(self, agent_id: str, session_id: str, row: Mapping[str, Any]) -> None:
        """This process has stored the checkpoint of an analysis."""
        kept = self._kept.get((agent_id, session_id))
        if kept is not None:
            kept.window = kept.window.followed_by(row)


async def load(store: RecordStore, agent_id: str, session_id: str, now: float) -> Window:
    """The window at ``now``, in seconds since the epoch. ``RecordsUnavailable`` when the database cannot be used."""
    answer = await session_checks(store, agent_id, session_id, MOST_CHECKS)
    rows = [row for row in answer["checks"][-MOST_CHECKS:] if now - _seconds(row["timestamp"]) <= MOST_AGE_S]
    return Window([_seen(row) for row in rows], answer["streak"]["length"], rows)


def _seen(row: Mapping[str, Any]) -> dict[str, Json]:
    return {
        "checkpoint_id": row["checkpoint_id"],
        "verdict": row["verdict"],
        "reasoning_summary": one_line(row["reasoning_summary"], MOST_SUMMARY),
    }


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
