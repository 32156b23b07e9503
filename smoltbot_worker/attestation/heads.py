"""The signed head of an agent's log: how many entries there are and the root over all of them, at one moment.

It is what makes truncation visible: who keeps a head can tell that a log no longer holds what it once held.
"""

from __future__ import annotations

from dataclasses import dataclass

from smoltbot_worker.ports import Json

from .commitment import canonical


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head; ``timestamp`` is ISO 8601, ``signature`` base64 of Ed25519 over :meth:`text`."""

    agent_id: str
    size: int
    root: str
    timestamp: str
    key_id: str
    signature: str = ""

    def text(self) -> str:
        """What is signed: the canonical JSON of all but the signature."""
        members = self.to_json()
        del members["signature"]
        return canonical(members)

    def to_json(self) -> dict[str, Json]:
        """The head as it is served and saved."""
        return {
            "agent_id": self.agent_id,
            "size": self.size,
            "root": self.root,
            "timestamp": self.timestamp,
            "key_id": self.key_id,
            "signature": self.signature,
        }
