"""WorkerEntrypoint, and how a module's entrypoints are found: ``Default``, named classes, or legacy ``on_fetch``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

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


class DurableObject:
    """Base class of Durable Objects: a module that defines one can be loaded, but nothing here can run it."""

    def __init__(self, ctx: Any, env: Any) -> None:
        self.ctx = ctx
        self.env = env


class WorkflowEntrypoint(DurableObject):
    """Base class of Workflows: a module that defines one can be loaded, but nothing here can run it."""


F = TypeVar("F", bound=Callable[..., Any])


def handler(function: F) -> F:
    """Marks a legacy function such as ``on_fetch``; they are found and given wrapped objects without it, too."""
    return function


def find_entrypoints(module: ModuleType) -> dict[str, type[WorkerEntrypoint]]:
    """Every entrypoint of ``module`` by name: ``default``, and the other subclasses by the name of the class.

    Classes whose names begin with an underscore are left out; ``__all__`` restricts what is found.
    """
    found = {"default": find_entrypoint(module)}
    for name in _names(module):
        value = getattr(module, name, None)
        if inspect.isclass(value) and issubclass(value, WorkerEntrypoint) and value is not WorkerEntrypoint:
            found.setdefault(name, value)
    found.pop("Default", None)
    return found


def find_entrypoint(module: ModuleType) -> type[WorkerEntrypoint]:
    """The handler class of ``module``; ``ConfigError`` says what is missing or doubled."""
    names = set(_names(module))
    default = getattr(module, "Default", None) if "Default" in names else None
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
    for name in _LEGACY.values():
        if not callable(getattr(default, name, _no_handler)):
            raise ConfigError(f"{where}: Default.{name} must be a method; write `async def {name}(self, ...)`")
    return default


def _no_handler() -> None: ...


def _names(module: ModuleType) -> list[str]:
    listed = getattr(module, "__all__", None)
    return [name for name in vars(module) if not name.startswith("_")] if listed is None else list(listed)


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
    first = next(iter(functions.values()))
    return type("Default", (WorkerEntrypoint,), {**members, "__module__": first.__module__})


def place_of(entrypoint: type[WorkerEntrypoint]) -> str:
    """File and class of an entrypoint, for messages."""
    file = getattr(sys.modules.get(entrypoint.__module__), "__file__", None)
    return f"{file or entrypoint.__module__}, class {entrypoint.__name__}"


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
