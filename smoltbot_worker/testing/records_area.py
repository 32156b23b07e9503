"""What the cases of the records kit share: agents of their own, errors that must come, answers as they are typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import uuid4

from smoltbot_worker.ports import Json, RecordStore

from .samples import HEADLESS, KEY_ID, digest, extension

SEEN = "2026-05-10T08:00:00.000Z"
LATER = "2026-05-10T08:00:00.001Z"
ABSENT = "smolt-0000000000000000"
"""An agent that is never made."""


class AdvancingClock(Protocol):
    """A clock that moves when it is told to."""

    def __call__(self) -> float:
        """Seconds since the epoch."""
        ...

    def advance(self, seconds: float) -> None:
        """Move on."""
        ...


async def call(store: RecordStore, function: str, **arguments: Any) -> Any:
    """The answer of a function."""
    return await store.call(function, arguments)


def first_request(digits: str | None = None, **changes: Json) -> dict[str, Any]:
    """Arguments of ``get_or_create_agent`` for an agent that nobody else uses."""
    digits = digits or uuid4().hex[:16]
    given: dict[str, Any] = {"agent_hash": digits, "key_hash": digits * 4, "name": None, "card": None, "seen_at": SEEN}
    return {**given, **changes}


async def new_agent(store: RecordStore) -> str:
    """The id of a new agent, with a key that signs its log."""
    await call(store, "put_signing_key", key_id=KEY_ID, public_key=digest("public key"))
    answer = await call(store, "get_or_create_agent", **first_request())
    return str(answer["agent"]["id"])


async def append(store: RecordStore, agent_id: str, *entries: dict[str, Any]) -> dict[str, Any]:
    """Append to a log that nobody else extends; the arguments that did it."""
    sessions = sorted({row["session_id"] for row in entries})
    head = await call(store, "log_head", agent_id=agent_id, sessions=sessions)
    batch = extension(agent_id, head, entries)
    answer = await call(store, "append_checkpoints", **batch)
    expected = {"status": "appended", "size": batch["head"]["size"], "nudges": [], "contained": False}
    assert answer == expected, "a batch after the head is appended"
    return batch


async def head_of(store: RecordStore, agent_id: str, *sessions: str) -> Any:
    """The head of a log."""
    return await call(store, "log_head", agent_id=agent_id, sessions=list(sessions))


async def assert_empty(store: RecordStore, agent_id: str) -> None:
    """The log has no entry."""
    assert await head_of(store, agent_id, "session-1") == HEADLESS, "nothing was written"


@contextmanager
def refused(argument: str = "") -> Iterator[None]:
    """The call inside must be refused with a ``ValueError`` whose text begins with the name of the argument."""
    try:
        yield
        text = ""
    except ValueError as error:
        text = str(error)
    assert text, "a ValueError must be raised"
    assert text.startswith(argument), f"the error begins with {argument}, and not: {text}"


def iso(seconds: float) -> str:
    """A time as records have it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def without(batch: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The batch with its first row changed."""
    first, *others = batch["rows"]
    return {**batch, "rows": [{**first, **changes}, *others]}
