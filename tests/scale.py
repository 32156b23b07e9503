"""Full size under ``make proof`` (PROOF=1), scaled down otherwise; figures are printed for ``docs/proofs.md``."""

from __future__ import annotations

import os

PROOF = os.environ.get("PROOF") == "1"


def scaled(usual: int, full: int) -> int:
    """How many this run does."""
    return full if PROOF else usual


def figure(what: str, seen: str) -> None:
    """Print a line for the table of proofs."""
    print(f"\nproof | {what} | {seen}")  # noqa: T201 - shown by `make proof`
