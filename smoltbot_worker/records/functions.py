"""The list of database functions: the name and the arguments of each, for every adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smoltbot_worker.ports import Json

from .arguments import Functions, parse_arguments
from .batch import check_batch
from .parameters import agents, control, events, integrity, log, nudges, retention, traces

FUNCTIONS: Functions = {
    **agents.FUNCTIONS,
    **control.FUNCTIONS,
    **events.FUNCTIONS,
    **log.FUNCTIONS,
    **nudges.FUNCTIONS,
    **traces.FUNCTIONS,
    **retention.FUNCTIONS,
    **integrity.FUNCTIONS,
}
"""Each parser returns JSON: what it returns is what the database gets."""


def checked_arguments(name: str, arguments: Mapping[str, Json]) -> dict[str, Any]:
    """The arguments of the function called ``name``, complete and checked.

    Raises ``LookupError`` for an unknown function, ``ValueError`` that names the argument.
    """
    parameters = FUNCTIONS.get(name)
    if parameters is None:
        raise LookupError(f"there is no database function {name!r}")
    values = parse_arguments(parameters, arguments)
    if name == "append_checkpoints":
        check_batch(values)
    return values
