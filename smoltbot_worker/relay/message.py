"""The exchange message: one exchange as it waits for its check, and the bytes that carry it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from smoltbot_worker.ports import Json

VERSION = 1

_LENGTHS = struct.Struct(">BIII")
_BODIES = ("request_body", "response_body")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeMessage:
    """What is known of a finished exchange; for the fields see ``docs/architecture.md``.

    ``id`` is the request id. ``checkpoint_id`` is the one that its checkpoint will have, however often the message is
    delivered. ``path`` has no query. ``streamed``: the answer is an event stream (Gemini: or a JSON list of chunks).
    ``request_encoding`` and ``response_encoding`` are content codings as they were sent, "" for none.
    ``body_truncated``: the answer is larger than what was kept. ``cut``: it broke off, because the client left or the
    provider failed. ``created_at`` is seconds since the epoch. Header values and keys are no part of it.
    """

    id: str
    checkpoint_id: str
    created_at: float
    agent_id: str
    agent_hash: str
    session_id: str
    gateway_version: str
    provider: str
    method: str
    path: str
    status: int
    streamed: bool
    duration_ms: int = 0
    request_encoding: str = ""
    response_encoding: str = ""
    request_body: bytes = b""
    response_body: bytes = b""
    body_truncated: bool = False
    cut: bool = False
    mutations: Sequence[Mapping[str, Json]] = ()
    nudge_count: int = 0

    def to_bytes(self) -> bytes:
        """As :meth:`from_bytes` reads it: version, three lengths, the head as JSON, the two bodies."""
        head = {name: getattr(self, name) for name in _HEAD}
        data = json.dumps({**head, "mutations": list(self.mutations)}, separators=(",", ":")).encode()
        lengths = _LENGTHS.pack(VERSION, len(data), len(self.request_body), len(self.response_body))
        return b"".join((lengths, data, self.request_body, self.response_body))

    @classmethod
    def from_bytes(cls, data: bytes) -> ExchangeMessage:
        """The message; ``ValueError``, which quotes nothing of it, when these bytes are none."""
        try:
            version, *lengths = _LENGTHS.unpack_from(data)
            if version != VERSION or len(data) != _LENGTHS.size + sum(lengths):
                raise ValueError
            view = memoryview(data)[_LENGTHS.size :]
            head: dict[str, Any] = json.loads(bytes(view[: lengths[0]]))
            first = bytes(view[lengths[0] : lengths[0] + lengths[1]])
            return cls(**head, request_body=first, response_body=bytes(view[lengths[0] + lengths[1] :]))
        except (ValueError, TypeError, RecursionError, struct.error):
            raise ValueError("these bytes are no exchange message of this version") from None


_HEAD = tuple(field.name for field in fields(ExchangeMessage) if field.name not in _BODIES)
