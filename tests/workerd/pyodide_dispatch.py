"""How Cloudflare's runtime calls a Python Worker, for tests in Pyodide: one new instance of Default for each event."""

from __future__ import annotations

import importlib
import inspect
from typing import Any


async def dispatch(main: str, event: str, argument: Any, ctx: Any, env: Any) -> Any:
    """Call the method ``event`` of ``Default`` in the module ``main``; values are converted as for RPC."""
    from workers import python_from_rpc, python_to_rpc

    entrypoint = importlib.import_module(main).Default(ctx, env)
    method = getattr(entrypoint, event)
    given = python_from_rpc(argument)
    # fetch may take fewer or more arguments than one; the other handlers get exactly three.
    count = len(inspect.signature(method).parameters) if event == "fetch" else 3
    result = method(*(given, None, None)[:count])
    return python_to_rpc(await result if inspect.isawaitable(result) else result)
