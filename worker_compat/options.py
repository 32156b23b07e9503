"""Options and values of bindings, read as Workers read them: spelling, numbers, and what cannot be sent."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import jsjson
from .errors import BindingError


def named_options(call: str, options: Any, keywords: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """The options of ``call`` that are ``known``, given as one object or as keywords; others are ignored.

    ``TypeError`` for both at once, and for a known name in another spelling, which Cloudflare would ignore.
    """
    if options is not None and keywords:
        raise TypeError(f"{call} takes options as an object or as keywords, not both")
    given: Mapping[str, Any] = options or keywords
    spellings = {name.lower(): name for name in known}
    for name in given:
        right = spellings.get(str(name).replace("_", "").lower(), name)
        if right != name:
            raise TypeError(f"{call} takes {right!r}; Cloudflare silently ignores {name!r}")
    return {name: given[name] for name in known if name in given}


def int32(value: object, error: type[BindingError]) -> int:
    """``value`` as a binding makes an integer of it: JavaScript's ToNumber, not finite is 0, truncated."""
    if isinstance(value, str):
        value = jsjson.to_number(value)
    if not isinstance(value, int | float) or (isinstance(value, float) and not math.isfinite(value)):
        return 0
    if not -(2**31) <= value <= 2**31 - 1:
        limits = "Must be between -2147483648 and 2147483647 (inclusive)."
        raise error("TypeError", f"Value out of range. {limits}")
    return int(value)


def text_of(value: object) -> str:
    """``String(value)`` of a primitive; ``TypeError`` for anything else."""
    found = jsjson.to_string(value)
    if found is None:
        refuse_unsendable(value)
        # JavaScript would take "[object Object]" here, which nobody ever means.
        raise TypeError(f"expected str, not {type(value).__name__}")
    return found


def json_text(value: object, error: type[BindingError]) -> str:
    """``JSON.stringify(value)``; ``error`` for what JSON cannot hold, ``TypeError`` for what cannot be sent."""
    try:
        written = jsjson.stringify(value)
    except (TypeError, ValueError) as reason:
        name = "TypeError" if isinstance(reason, TypeError) else "RangeError"
        raise error(name, str(reason)) from None
    _refuse_unsendable_parts(value)
    return written


def refuse_unsendable(value: object) -> None:
    """What Cloudflare's Python SDK refuses to hand to JavaScript at all is a ``TypeError``."""
    if isinstance(value, tuple | bytearray) or inspect.isawaitable(value):
        kind = "Awaitable " if inspect.isawaitable(value) else ""
        raise TypeError(f"{kind}{type(value)} cannot be sent over RPC.")


def _refuse_unsendable_parts(value: object) -> None:
    refuse_unsendable(value)
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_unsendable_parts(item)
