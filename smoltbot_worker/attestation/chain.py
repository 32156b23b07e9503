"""The hash chain of an agent's session, and the head of an agent's log that the next entry goes on from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .commitment import sha256_hex
from .merkle import EMPTY_ROOT, Tree

GENESIS = "genesis"
"""Stands in the hash of a session's first entry for the previous hash, which is null there."""

_HASH = re.compile(r"[0-9a-f]{64}")


class LogDamaged(Exception):
    """What the database says about a log contradicts itself; nothing may be appended to it."""


def chain_hash(
    previous: str | None,
    checkpoint_id: str,
    verdict: str,
    thinking_block_hash: str,
    input_commitment: str,
    timestamp: str,
) -> str:
    """The hash of an entry; ``previous`` is that of its session's last entry, None for the first."""
    parts = (previous or GENESIS, checkpoint_id, verdict, thinking_block_hash, input_commitment, timestamp)
    return sha256_hex("|".join(parts))


def is_hash(value: object) -> bool:
    """Whether this is 64 lower-case hex digits."""
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class SessionHead:
    """The last entry of a session; ``position`` counts from 0."""

    chain_hash: str
    position: int


@dataclass(frozen=True, slots=True)
class LogHead:
    """Where an agent's log ends: its tree, and the last entries of the sessions that were asked for."""

    size: int
    frontier: Sequence[str | None]
    root: str
    sessions: Mapping[str, SessionHead]

    @classmethod
    def from_json(cls, answer: object) -> LogHead:
        """Read the result of ``log_head``.

        :class:`LogDamaged` unless it is whole and agrees with itself: an answer that says nothing is not an empty log.
        """
        try:
            return cls._read(answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LogDamaged(f"the database's answer is no head of a log ({type(error).__name__}: {error})") from None

    @classmethod
    def _read(cls, answer: Any) -> LogHead:
        size, frontier, root = answer["size"], answer["frontier"], answer["root"]
        if not _is_count(size) or not all(peak is None or is_hash(peak) for peak in frontier):
            raise ValueError("size or frontier")
        if Tree(size, frontier).root() != root if size else (frontier or root != EMPTY_ROOT):
            raise ValueError("the root is not that of the frontier")
        sessions = {name: SessionHead(head["chain_hash"], head["position"]) for name, head in answer["heads"].items()}
        for head in sessions.values():
            if not is_hash(head.chain_hash) or not _is_count(head.position) or head.position >= size:
                raise ValueError("the head of a session")
        return cls(size, tuple(frontier), root, sessions)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
