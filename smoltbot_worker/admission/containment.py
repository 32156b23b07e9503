"""Containment: an agent that was paused or killed is refused, whatever it pays for."""

from __future__ import annotations

from smoltbot_worker.answers import error_answer
from worker_compat.response import Response

ACTIVE = "active"


def refused(status: str) -> Response:
    """403: the agent is ``paused`` or ``killed``."""
    return error_answer(403, "Agent contained", "containment_error", reason=f"agent_{status}")
