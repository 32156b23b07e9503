"""What a run does: the command line and the cells it stands for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from bench.targets import NAMES

KINDS = ("plain", "sse", "long", "start")


@dataclass(frozen=True)
class Plan:
    """One run. Every round measures every cell on every target, so that a slow minute hits them alike."""

    rounds: int
    seconds: float
    targets: tuple[str, ...]
    kinds: tuple[str, ...]
    connections: tuple[int, ...]
    streams: tuple[int, ...]
    starts: int
    gate: bool


def _targets(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or (unknown := set(names) - set(NAMES)):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown)) if names else text!r}: not in {NAMES}")
    return tuple(name for name in NAMES if name in names)


def _rounds(text: str) -> int:
    if not 1 <= (value := int(text)) <= 50:
        raise argparse.ArgumentTypeError("a run has 1 to 50 rounds")
    return value


def _seconds(text: str) -> float:
    if not 1 <= (value := float(text)) <= 60:
        raise argparse.ArgumentTypeError("a cell takes 1 to 60 seconds")
    return value


def read_plan(arguments: list[str] | None = None) -> Plan:
    """The plan the command line asks for."""
    parser = argparse.ArgumentParser(prog="bench", description="Measures the gateway beside its floors.")
    add = parser.add_argument
    add("--rounds", type=_rounds, help="rounds over all cells; figures are their medians (3)")
    add("--seconds", type=_seconds, help="seconds per cell (3)")
    add("--quick", action="store_true", help="1 round, 1 s, fewer cells: a look, not a measurement")
    add("--only", choices=KINDS, help="one kind of cell only")
    add("--targets", type=_targets, default=NAMES, metavar="A,B", help=f"of {','.join(NAMES)} (all)")
    add("--gate", action="store_true", help="exit with 1 when a bar is missed, or none was measured")
    options = parser.parse_args(arguments)
    quick: bool = options.quick
    return Plan(
        rounds=options.rounds or (1 if quick else 3),
        seconds=options.seconds or (1.0 if quick else 3.0),
        targets=options.targets,
        kinds=(options.only,) if options.only else KINDS,
        connections=(1, 64) if quick else (1, 16, 64, 256),
        streams=(32,) if quick else (1, 32, 256),
        starts=1 if quick else 3,
        gate=options.gate,
    )
