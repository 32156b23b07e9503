"""What to run: the workers and the places of their data, from the options of the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from worker_compat import registry
from worker_compat.bindings import StorageUrls
from worker_compat.config import ConsumerConfig, KVNamespaceConfig, ProducerConfig, WorkerConfig, read_config
from worker_compat.errors import ConfigError

CONFIG_NAMES = ("wrangler.toml", "wrangler.jsonc", "wrangler.json")
STATE_FOLDER = ".worker-compat"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``worker-compat run`` that say what to run."""

    handler: Path | None
    configs: tuple[Path, ...]
    environment: str | None
    kv: Mapping[str, str]
    queues: Mapping[str, str]
    variables: Mapping[str, str]
    persist_to: Path | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The workers, of which the first is served, and where their data is kept."""

    configs: tuple[WorkerConfig, ...]
    urls: StorageUrls
    folder: Path


def make_plan(options: Options) -> Plan:
    """Read what the options name. ``ConfigError`` for whatever does not fit together."""
    configs = read_configs(options)
    if options.handler is None:
        _check_declared("--kv", options.kv, [entry.binding for config in configs for entry in config.kv_namespaces])
        _check_declared("--queue", options.queues, _queues(configs))
        configs[0] = replace(configs[0], vars={**configs[0].vars, **options.variables})
    folder = (options.persist_to or (configs[0].file or configs[0].main).parent / STATE_FOLDER).absolute()
    urls = _urls(folder, options)
    _load_adapters(urls)
    return Plan(tuple(configs), urls, folder)


def read_configs(options: Options) -> list[WorkerConfig]:
    """The workers that the options name, as they declare themselves."""
    if options.handler is not None:
        return [_without_config(options, options.handler)]
    return [read_config(file, options.environment) for file in options.configs or (_config_here(),)]


def _load_adapters(urls: StorageUrls) -> None:
    """Import what keeps the data now: later a handler called ``sqlite3.py`` would be taken for the library."""
    registry.check(registry.KV, urls.kv_default)
    registry.check(registry.QUEUE, urls.queue_default)
    for option, group, given in (("--kv", registry.KV, urls.kv), ("--queue", registry.QUEUE, urls.queues)):
        for name, url in given.items():
            try:
                registry.check(group, url)
            except ConfigError as error:
                raise ConfigError(f"{option} {name}: {error}") from error


def prepare_folder(plan: Plan) -> None:
    """Make the folder of the data if some of it goes there; git is told to leave it alone."""
    namespaces = [entry.binding for config in plan.configs for entry in config.kv_namespaces]
    own = [name for name in namespaces if name not in plan.urls.kv]
    own += [name for name in _queues(plan.configs) if name not in plan.urls.queues]
    # What the crons have run is remembered there, too.
    own += [cron for config in plan.configs for cron in config.crons]
    if not own:
        return
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        (plan.folder / ".gitignore").write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{plan.folder} cannot be made ({error.strerror}); name another with --persist-to") from error


def _config_here() -> Path:
    for name in CONFIG_NAMES:
        if Path(name).is_file():
            return Path(name)
    raise ConfigError("there is no wrangler.toml in this folder; name a handler file, or a configuration with --config")


def _without_config(options: Options, handler: Path) -> WorkerConfig:
    """A handler alone: the options declare its bindings, and it consumes every queue that it is given."""
    if options.configs or options.environment:
        raise ConfigError("a handler file goes without --config and --env; `main` in wrangler.toml names its handler")
    given = {"--var": options.variables, "--kv": options.kv, "--queue": options.queues}
    for name in [*options.variables, *options.kv, *options.queues]:
        by = [option for option, names in given.items() if name in names]
        if len(by) > 1:
            raise ConfigError(f"{name} is bound twice, by {' and '.join(by)}; rename one of them")
    return WorkerConfig(
        name=handler.stem,
        main=handler,
        vars=options.variables,
        kv_namespaces=tuple(KVNamespaceConfig(name, name) for name in options.kv),
        queue_producers=tuple(ProducerConfig(name, name) for name in options.queues),
        queue_consumers=tuple(ConsumerConfig(name, max_batch_timeout_s=0) for name in options.queues),
    )


def _queues(configs: Iterable[WorkerConfig]) -> list[str]:
    found: dict[str, None] = {}
    for config in configs:
        found.update(dict.fromkeys(entry.queue for entry in config.queue_producers))
        for consumer in config.queue_consumers:
            found[consumer.queue] = None
            if consumer.dead_letter_queue is not None:
                found[consumer.dead_letter_queue] = None
    return list(found)


def _check_declared(option: str, given: Iterable[str], declared: Iterable[str]) -> None:
    known = list(declared)
    for name in given:
        if name not in known:
            names = ", ".join(known) or "none"
            raise ConfigError(f"{option} {name}: the configuration does not declare {name}; declared: {names}")


def _urls(folder: Path, options: Options) -> StorageUrls:
    # Three slashes, and the fourth is that of the absolute path.
    return StorageUrls(
        kv_default=f"sqlite:///{folder / 'kv.sqlite'}",
        queue_default=f"sqlite:///{folder / 'queues.sqlite'}",
        kv=options.kv,
        queues=options.queues,
    )
