"""WorkerConfig: what ``wrangler.toml`` and ``.dev.vars`` declare, checked, with wrangler's rules for environments.

https://developers.cloudflare.com/workers/wrangler/configuration/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .configfile import Table, read_table
from .dotenv import parse_dotenv
from .errors import ConfigError
from .queues import MAX_DELAY_S

# https://developers.cloudflare.com/workers/wrangler/configuration/#non-inheritable-keys
_NOT_INHERITED = ("vars", "kv_namespaces", "queues", "services")
_READ = frozenset({"name", "main", "compatibility_date", "compatibility_flags", "triggers", "env", *_NOT_INHERITED})
_WITHOUT_EFFECT = frozenset(
    (
        "$schema", "account_id", "alias", "base_dir", "build", "define", "dev", "find_additional_modules",
        "first_party_worker", "jsx_factory", "jsx_fragment", "keep_names", "keep_vars", "legacy_env", "limits",
        "logpush", "minify", "no_bundle", "observability", "placement", "preserve_file_names", "preview_urls",
        "pages_build_output_dir", "python_modules", "route", "routes", "rules", "send_metrics", "tail_consumers",
        "streaming_tail_consumers", "tsconfig", "upload_source_maps", "usage_model", "workers_dev",
    )
)  # fmt: skip
_UNSUPPORTED = {
    "ai": "Workers AI", "ai_search": "AI Search", "ai_search_namespaces": "AI Search",
    "analytics_engine_datasets": "Analytics Engine", "assets": "static assets", "browser": "Browser Rendering",
    "cloudchamber": "containers", "containers": "containers", "d1_databases": "D1", "data_blobs": "data blobs",
    "dispatch_namespaces": "Workers for Platforms", "durable_objects": "Durable Objects", "hyperdrive": "Hyperdrive",
    "images": "Images", "logfwdr": "logfwdr", "media": "Media", "migrations": "Durable Objects",
    "mtls_certificates": "mTLS certificates", "pipelines": "Pipelines", "r2_buckets": "R2",
    "ratelimits": "rate limiting", "secrets_store_secrets": "the Secrets Store", "send_email": "Email Routing",
    "site": "Workers Sites", "text_blobs": "text blobs", "unsafe": "unsafe bindings", "vectorize": "Vectorize",
    "version_metadata": "version metadata", "vpc_services": "VPC services", "wasm_modules": "Wasm modules",
    "worker_loaders": "worker loaders", "workflows": "Workflows",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class KVNamespaceConfig:
    """``[[kv_namespaces]]``: ``env.<binding>`` is the namespace ``id``."""

    binding: str
    id: str


@dataclass(frozen=True, slots=True)
class ProducerConfig:
    """``[[queues.producers]]``: ``env.<binding>`` sends to ``queue``."""

    binding: str
    queue: str
    delivery_delay_s: int = 0


@dataclass(frozen=True, slots=True)
class ConsumerConfig:
    """``[[queues.consumers]]``: the worker's ``queue()`` gets the messages of ``queue``."""

    queue: str
    max_batch_size: int = 10
    max_batch_timeout_s: int = 5
    max_retries: int = 3
    retry_delay_s: int = 0
    max_concurrency: int = 1
    dead_letter_queue: str | None = None


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """``[[services]]``: ``env.<binding>`` reaches another worker, or an entrypoint of it by name."""

    binding: str
    service: str
    entrypoint: str | None = None
    props: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One worker. ``warnings`` are sentences about keys that have no effect; ``secrets`` come from ``.dev.vars``."""

    name: str
    main: Path
    file: Path | None = None
    compatibility_date: str | None = None
    compatibility_flags: tuple[str, ...] = ()
    vars: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    kv_namespaces: tuple[KVNamespaceConfig, ...] = ()
    queue_producers: tuple[ProducerConfig, ...] = ()
    queue_consumers: tuple[ConsumerConfig, ...] = ()
    services: tuple[ServiceConfig, ...] = ()
    crons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_config(file: Path, environment: str | None = None) -> WorkerConfig:
    """The worker that ``file`` (TOML or JSON with comments) declares, in ``[env.<environment>]`` if one is named.

    ``ConfigError`` is one sentence with the file, the line or key, and what to do.
    """
    top = read_table(file)
    chosen = _environment(top, environment)
    table = top if chosen is None else _inherited(top, chosen)
    _look_for_unknown(table)
    config = WorkerConfig(
        name=_name(top, chosen, environment) or file.absolute().parent.name,
        main=_main(table, file),
        file=file,
        compatibility_date=table.optional_text("compatibility_date"),
        compatibility_flags=table.texts("compatibility_flags"),
        vars=table.values("vars"),
        secrets=_secrets(file, environment),
        kv_namespaces=tuple(map(_kv_namespace, table.tables("kv_namespaces"))),
        queue_producers=tuple(map(_producer, table.table("queues", "producers", "consumers").tables("producers"))),
        queue_consumers=tuple(map(_consumer, table.table("queues").tables("consumers"))),
        services=tuple(map(_service, table.tables("services"))),
        crons=_crons(table.table("triggers", "crons")),
        warnings=tuple(top.warnings),
    )
    _check_names(config)
    return config


def _environment(top: Table, name: str | None) -> Table | None:
    known = top.table("env")
    if name is None:
        return None
    if name not in known.content:
        names = ", ".join(sorted(known.content)) or "none"
        raise ConfigError(f"{top.file}: there is no [env.{name}]; environments: {names}")
    return known.table(name)


def _inherited(top: Table, chosen: Table) -> Table:
    """The environment's keys over those of the top level; bindings and variables are not inherited."""
    for key in _NOT_INHERITED:
        if key in top.content and key not in chosen.content:
            top.warnings.append(f"{top.file}: {key} is not inherited by {chosen.path}; repeat it there if you need it")
    above = {key: value for key, value in top.content.items() if key not in (*_NOT_INHERITED, *_UNSUPPORTED, "env")}
    return top.replaced({**above, **chosen.content}, dict.fromkeys(chosen.content, chosen.path))


def _look_for_unknown(table: Table) -> None:
    for key, value in table.content.items():
        if key in _UNSUPPORTED and value not in ([], {}):
            what = _UNSUPPORTED[key]
            raise ConfigError(
                f"{table.at(key)}: {what} cannot run here; remove the section, or run this worker with wrangler"
            )
    table.warn_unknown(_READ | _WITHOUT_EFFECT | set(_UNSUPPORTED))


def _name(top: Table, chosen: Table | None, environment: str | None) -> str | None:
    name = top.optional_text("name")
    if chosen is None:
        return name
    return chosen.optional_text("name") or (name and f"{name}-{environment}")


def _main(table: Table, file: Path) -> Path:
    main = table.text("main", 'add main = "src/worker.py"')
    if not main.endswith(".py"):
        raise ConfigError(f"{table.at('main')} names {main}, which is no Python file; only Python workers run here")
    return file.parent / main


def _secrets(file: Path, environment: str | None) -> Mapping[str, str]:
    """``.dev.vars.<environment>`` instead of ``.dev.vars`` where there is one, not on top of it."""
    names = [".dev.vars"] if environment is None else [f".dev.vars.{environment}", ".dev.vars"]
    for path in (file.with_name(name) for name in names):
        if path.is_file():
            try:
                return parse_dotenv(path.read_text(encoding="utf-8"), str(path))
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{path} cannot be read; make it a readable file in UTF-8") from error
    return {}


def _kv_namespace(table: Table) -> KVNamespaceConfig:
    table.warn_unknown({"binding", "id", "preview_id", "remote", "experimental_remote"})
    binding = table.identifier("binding")
    return KVNamespaceConfig(binding, table.optional_text("id") or binding)


def _producer(table: Table) -> ProducerConfig:
    table.warn_unknown({"binding", "queue", "delivery_delay", "remote"})
    queue = table.text("queue", 'add queue = "my-queue"')
    return ProducerConfig(table.identifier("binding"), queue, table.whole("delivery_delay", 0, 0, MAX_DELAY_S))


def _consumer(table: Table) -> ConsumerConfig:
    table.warn_unknown(
        {
            "queue", "type", "max_batch_size", "max_batch_timeout", "max_retries", "retry_delay", "max_concurrency",
            "dead_letter_queue", "visibility_timeout_ms",
        }
    )  # fmt: skip
    if table.optional_text("type") not in (None, "worker"):
        raise ConfigError(f'{table.at("type")}: only type = "worker" can run here; remove the key or this consumer')
    return ConsumerConfig(
        table.text("queue", 'add queue = "my-queue"'),
        max_batch_size=table.whole("max_batch_size", 10, 1, 100),
        max_batch_timeout_s=table.whole("max_batch_timeout", 5, 0, 60),
        max_retries=table.whole("max_retries", 3, 0, 100),
        retry_delay_s=table.whole("retry_delay", 0, 0, MAX_DELAY_S),
        max_concurrency=table.whole("max_concurrency", 1, 1, 250),
        dead_letter_queue=table.optional_text("dead_letter_queue"),
    )


def _service(table: Table) -> ServiceConfig:
    table.warn_unknown({"binding", "service", "entrypoint", "props", "environment", "remote", "experimental_remote"})
    service = table.text("service", 'add service = "name-of-the-other-worker"')
    return ServiceConfig(table.identifier("binding"), service, table.optional_text("entrypoint"), table.values("props"))


def _crons(table: Table) -> tuple[str, ...]:
    from .cron import Cron

    crons = table.texts("crons")
    for index, text in enumerate(crons):
        try:
            Cron.parse(text)
        except ConfigError as error:
            raise ConfigError(f"{table.at('crons')}[{index}]: {error}") from None
    return crons


def _check_names(config: WorkerConfig) -> None:
    """Every name of ``env`` has one meaning; only a secret may take the place of a variable."""
    sections = {
        "kv_namespaces": [entry.binding for entry in config.kv_namespaces],
        "queues.producers": [entry.binding for entry in config.queue_producers],
        "services": [entry.binding for entry in config.services],
        "vars": [*config.vars],
        ".dev.vars": [name for name in config.secrets if name not in config.vars],
    }
    seen: dict[str, str] = {}
    for section, names in sections.items():
        for name in names:
            if name in seen:
                raise ConfigError(
                    f"{config.file}: {name} is bound twice, in {seen[name]} and {section}; rename one of them"
                )
            seen[name] = section
    queues = [entry.queue for entry in config.queue_consumers]
    for queue in queues:
        if queues.count(queue) > 1:
            raise ConfigError(f"{config.file}: queues.consumers names {queue} twice; keep one of the two")
