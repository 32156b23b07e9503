"""What one worker may hand to another by a method call: values are copied, streams and bindings pass over.

https://developers.cloudflare.com/workers/runtime-apis/rpc/
"""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Mapping
from typing import Any

from .jsjson import JsDict

_AS_THEY_ARE = (str, int, float, bytes, datetime.datetime, Exception, type(None))


def python_to_rpc(value: Any) -> Any:
    """A copy of ``value`` as the other side gets it: dicts become ``JsDict``, lists and sets new ones.

    Requests, responses, bindings and functions are passed on themselves. ``TypeError`` for tuples, bytearrays,
    awaitables and objects that cannot be copied, as in Cloudflare's SDK.
    """
    if isinstance(value, _AS_THEY_ARE) or callable(value):
        return value
    if isinstance(value, (tuple, bytearray)):
        raise TypeError(f"{type(value)} cannot be sent over RPC.")
    if inspect.isawaitable(value):
        raise TypeError(f"Awaitable {type(value)} cannot be sent over RPC.")
    if isinstance(value, Mapping):
        return JsDict({str(key): python_to_rpc(item) for key, item in value.items()})
    if isinstance(value, list):
        return [python_to_rpc(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return {python_to_rpc(item) for item in value}
    # Requests, bodies, headers, namespaces, queues: what the runtime itself made has its own rules for sharing.
    if any(kind.__module__.partition(".")[0] == __package__ for kind in type(value).__mro__):
        return value
    raise TypeError(
        f'Could not serialize object of type "{type(value).__name__}". This type does not support serialization.'
    )


def python_from_rpc(value: Any) -> Any:
    """What came from the other side, which is a Python value already."""
    return value
