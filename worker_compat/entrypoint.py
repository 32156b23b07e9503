"""WorkerEntrypoint, and how a module's handler is found: class ``Default``, or legacy ``on_fetch``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .context import ExecutionContext
from .errors import ConfigError


class WorkerEntrypoint:
    """Base class of handlers. A new instance serves each event; module globals persist between events.

    Override ``async def fetch(self, request)``, and for other events ``scheduled`` and ``queue``.
    https://developers.cloudflare.com/workers/languages/python/
    """

    ctx: ExecutionContext
    env: Any

    def __init__(self, ctx: ExecutionContext, env: Any) -> None:
        self.ctx = ctx
        self.env = env


def find_entrypoint(module: ModuleType) -> type[WorkerEntrypoint]:
    """The handler class of ``module``; ``ConfigError`` says what is missing or doubled."""
    default = getattr(module, "Default", None)
    legacy = {name: getattr(module, name) for name in _LEGACY if callable(getattr(module, name, None))}
    where = getattr(module, "__file__", None) or module.__name__
    if default is None:
        if not legacy:
            raise ConfigError(
                f"{where}: no handler found; "
                "define `class Default(WorkerEntrypoint)` with `async def fetch(self, request)`"
            )
        return _adapt(legacy)
    if legacy:
        raise ConfigError(
            f"{where}: Cannot define multiple default entrypoints; remove {', '.join(legacy)} or class Default"
        )
    if not (inspect.isclass(default) and issubclass(default, WorkerEntrypoint)):
        raise ConfigError(f"{where}: Default must be a class that subclasses WorkerEntrypoint")
    return default


_LEGACY = {"on_fetch": "fetch", "on_scheduled": "scheduled", "on_queue": "queue"}


def _adapt(functions: dict[str, Callable[..., Any]]) -> type[WorkerEntrypoint]:
    """A ``Default`` class around module functions that take ``(event, env, ctx)``, or fewer of them."""

    def method(function: Callable[..., Any]) -> Callable[..., Any]:
        count = _positional(function)

        async def call(self: WorkerEntrypoint, event: Any, *_: Any) -> Any:
            result = function(*(event, self.env, self.ctx)[:count])
            return await result if inspect.isawaitable(result) else result

        return call

    members = {_LEGACY[name]: method(function) for name, function in functions.items()}
    return type("Default", (WorkerEntrypoint,), members)


def relaxed(function: Callable[..., Any]) -> Callable[..., Any]:
    """``fetch`` as Workers calls it: surplus arguments are dropped, missing ones are None.

    So ``fetch(self)``, ``fetch(self, request)`` and ``fetch(self, request, env, ctx)`` all work, the last
    one with None for ``env`` and ``ctx``.
    """
    count = _positional(function)
    if count == 2:
        return function  # (self, request): the usual form, called without a wrapper
    return lambda self, request: function(*(self, request, None, None)[:count])


def _positional(function: Callable[..., Any]) -> int | None:
    """How many positional arguments ``function`` takes; None for any number."""
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    return kinds.count(inspect.Parameter.POSITIONAL_ONLY) + kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
