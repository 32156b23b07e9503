"""Why an exchange could not be judged."""

from __future__ import annotations

TIMEOUT = "analysis-timeout"
UNAVAILABLE = "analysis-unavailable"
MALFORMED = "analysis-malformed"


class AnalysisFailed(Exception):
    """Nobody judged; ``reason`` is that of the checkpoint, ``detail`` says more and quotes no answer and no key."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
