"""The workers of one process, wired: modules loaded, stores opened, environments bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker_compat.bindings import Stores, open_bindings
from worker_compat.config import ConsumerConfig, WorkerConfig
from worker_compat.entrypoint import WorkerEntrypoint, find_entrypoints
from worker_compat.errors import ConfigError
from worker_compat.loading import load_module
from worker_compat.runtime import Runtime
from worker_compat.services import Worker

from .plan import Plan


@dataclass(frozen=True, slots=True)
class Loaded:
    """A worker and what was declared for it."""

    config: WorkerConfig
    worker: Worker

    @property
    def default(self) -> type[WorkerEntrypoint]:
        """The class that gets the events."""
        return self.worker.entrypoints["default"]

    @property
    def consumers(self) -> Sequence[ConsumerConfig]:
        """The queues that it consumes; a handler without configuration may as well only produce."""
        return self.config.queue_consumers if hasattr(self.default, "queue") else ()


def load_workers(plan: Plan, runtime: Runtime) -> Sequence[Loaded]:
    """Import every handler. ``ConfigError`` for what is wrong in a module, or between it and its configuration."""
    folders = [config.main.absolute().parent for config in plan.configs]
    loaded: dict[str, Loaded] = {}
    for config, own in zip(plan.configs, folders, strict=True):
        if config.name in loaded:
            raise ConfigError(f"two workers are named {config.name}; change `name` in {config.file}")
        module = load_module(config.main, apart_from=[folder for folder in folders if folder != own])
        worker = Loaded(config, Worker(config.name, find_entrypoints(module), runtime))
        _check_handlers(worker)
        loaded[config.name] = worker
    return list(loaded.values())


async def bind_workers(workers: Sequence[Loaded], stores: Stores) -> None:
    """Give every worker its ``env``; services may lead in circles."""
    by_name: Mapping[str, Worker] = {loaded.config.name: loaded.worker for loaded in workers}
    for loaded in workers:
        loaded.worker.env = await open_bindings(loaded.config, stores, by_name)


def _check_handlers(loaded: Loaded) -> None:
    config, default = loaded.config, loaded.default
    if config.crons and not hasattr(default, "scheduled"):
        raise ConfigError(
            f"{config.file}: triggers.crons is set, but {config.main} has no handler for it; "
            "add `async def scheduled(self, controller, env, ctx)` to class Default"
        )
    if config.file is not None and config.queue_consumers and not hasattr(default, "queue"):
        raise ConfigError(
            f"{config.file}: queues.consumers is set, but {config.main} has no handler for it; "
            "add `async def queue(self, batch)` to class Default"
        )
