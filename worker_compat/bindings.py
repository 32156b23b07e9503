"""Env: what a handler finds as ``self.env``: variables, secrets and bindings by name, and how they are opened."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import registry
from .errors import ConfigError
from .jsjson import JsDict
from .kv import KVNamespace
from .ports import Clock, KVStore
from .runtime import _context

if TYPE_CHECKING:
    from .config import ServiceConfig, WorkerConfig
    from .consumer import WakingQueueStore
    from .services import ServiceBinding, Worker


class Env:
    """Bindings as attributes; a missing one is an ``AttributeError`` that names those that exist."""

    def __init__(self, **bindings: Any) -> None:
        self.__dict__.update(bindings)

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(sorted(self.__dict__)) or "none"
        raise AttributeError(f"env has no binding {name!r}; bindings: {known}")

    def __repr__(self) -> str:
        # Names only: values are secrets.
        return f"<Env {sorted(self.__dict__)}>"


_patched: ContextVar[Any] = ContextVar("worker_compat.patched_env")


class EventEnv:
    """``from workers import env``: the environment of whatever event is running."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(_event_env(), name)

    def __repr__(self) -> str:
        return "<env of the running event>"


env = EventEnv()


@contextmanager
def patch_env(values: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **named: Any) -> Iterator[None]:
    """Replace names of the module-level ``env`` inside the block, for tests; ``self.env`` is not touched."""
    context = _context.get(None)
    before = _patched.get(None) or (None if context is None else context._env)
    token = _patched.set(Env(**{**vars(before or Env()), **dict(values), **named}))
    try:
        yield
    finally:
        _patched.reset(token)


def _event_env() -> Any:
    patched = _patched.get(None)
    if patched is not None:
        return patched
    context = _context.get(None)
    if context is None:
        raise ConfigError("no event here: `env` works while a handler runs; read it inside a function of the handler")
    return context._env


@dataclass(frozen=True, slots=True)
class StorageUrls:
    """Where bindings keep their data: URLs by name, and one of each kind for all other names.

    ``kv`` is by binding and ``queues`` by name of the queue. Each namespace and queue of a shared URL is kept apart
    by the option ``namespace`` or ``queue``.
    """

    kv_default: str = "memory://"
    queue_default: str = "memory://"
    kv: Mapping[str, str] = field(default_factory=dict)
    queues: Mapping[str, str] = field(default_factory=dict)


class Stores:
    """The stores of one process: each is opened once, so that bindings of the same id share it, memory included."""

    def __init__(self, stack: AsyncExitStack, urls: StorageUrls, clock: Clock) -> None:
        self._stack = stack
        self._urls = urls
        self._clock = clock
        self._kv: dict[str, KVStore] = {}
        self._queues: dict[str, WakingQueueStore] = {}

    async def kv(self, binding: str, id: str) -> KVStore:
        """The store of the namespace ``id``, or the one that was given for ``binding``."""
        url = registry.with_option(self._urls.kv.get(binding, self._urls.kv_default), "namespace", id)
        if url not in self._kv:
            self._kv[url] = await self._stack.enter_async_context(registry.open_kv(url, clock=self._clock))
        return self._kv[url]

    async def queue(self, name: str) -> WakingQueueStore:
        """The store of the queue ``name``, which wakes the consumers of this process."""
        from .consumer import WakingQueueStore

        url = registry.with_option(self._urls.queues.get(name, self._urls.queue_default), "queue", name)
        if url not in self._queues:
            store = await self._stack.enter_async_context(registry.open_queue(url, clock=self._clock))
            self._queues[url] = WakingQueueStore(store)
        return self._queues[url]


@asynccontextmanager
async def open_stores(urls: StorageUrls, *, clock: Clock = time.time) -> AsyncIterator[Stores]:
    """Stores that are opened on first use and closed together at exit."""
    async with AsyncExitStack() as stack:
        yield Stores(stack, urls, clock)


async def open_bindings(config: WorkerConfig, stores: Stores, workers: Mapping[str, Worker]) -> Env:
    """The environment that ``config`` declares; ``workers`` are those that its services may name.

    Values of ``vars`` keep their types, tables can be read by attribute. ``ConfigError`` for a service or an
    entrypoint that does not exist, errors of :func:`worker_compat.registry.open_kv` for stores.
    """
    found: dict[str, Any] = {name: _js_value(value) for name, value in config.vars.items()}
    found.update(config.secrets)
    for namespace in config.kv_namespaces:
        found[namespace.binding] = KVNamespace(await stores.kv(namespace.binding, namespace.id))
    if config.queue_producers:
        from .queues import Queue

        for producer in config.queue_producers:
            store = await stores.queue(producer.queue)
            found[producer.binding] = Queue(store, delivery_delay_s=producer.delivery_delay_s)
    for service in config.services:
        found[service.binding] = _service(config, service, workers)
    return Env(**found)


def _service(config: WorkerConfig, service: ServiceConfig, workers: Mapping[str, Worker]) -> ServiceBinding:
    from .services import ServiceBinding

    where = f"{config.file}: services names {service.service}"
    worker = workers.get(service.service)
    if worker is None:
        running = ", ".join(sorted(workers))
        raise ConfigError(f"{where}, which does not run here; add -c path/to/its/wrangler.toml (running: {running})")
    entrypoint = service.entrypoint or "default"
    if entrypoint not in worker.entrypoints:
        known = ", ".join(sorted(worker.entrypoints)) or "none"
        raise ConfigError(f"{where}, which has no entrypoint {entrypoint}; entrypoints: {known}")
    return ServiceBinding(worker, entrypoint, service.props)


def _js_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return JsDict({name: _js_value(item) for name, item in value.items()})
    return [_js_value(item) for item in value] if isinstance(value, list) else value
