"""Env: every variable and binding of the gateway, typed and documented."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from worker_compat import __version__

from .integrity.window import Windows
from .records.arguments import identifier
from .records.locations import checked_database, checked_project, database_problems, with_one_database
from .variables import (
    EnvValidationError,
    base_url,
    card,
    choice,
    flag,
    hex_key,
    json_file,
    origins,
    seconds,
    setting,
    shown,
    token,
    tokens,
    url_or_off,
    whole,
)

if TYPE_CHECKING:
    from worker_compat.kv import KVNamespace
    from worker_compat.ports import DecoderFactory, Fetcher

    from .admission.agents import AgentDirectory
    from .admission.license import LicenseGate
    from .attestation.log import CheckpointLog
    from .health import State
    from .integrity.analysis import Analyst
    from .ports import Crypto, RecordStore, Telemetry
    from .relay.exchanges import ExchangeQueue

DEFAULT_CARD: dict[str, Any] = {
    "aap_version": "0.1.0",
    "principal": {"type": "human", "relationship": "delegated_authority"},
    "values": {"declared": ["transparency", "accuracy", "helpfulness", "safety", "autonomy", "honesty", "quality"]},
    "autonomy_envelope": {"bounded_actions": ["inference"], "escalation_triggers": [], "forbidden_actions": []},
    "audit_commitment": {"retention_days": 365, "queryable": True},
}


@dataclass(slots=True, kw_only=True)
class Env:
    """What the handler sees as ``self.env``: variables first, then what the host binds."""

    host: str = setting("0.0.0.0", "bind address")
    port: int = setting(8787, "HTTP listen port", whole(0, 65535))
    smoltbot_role: str = setting(
        "all", "`gateway` (HTTP only), `scheduler` (cron only; HTTP answers health, metrics and `/v1`) or `all`",
        choice("gateway", "scheduler", "all"),
    )  # fmt: skip
    log_level: str = setting("info", "`debug`, `info`, `warn` or `error`; JSON lines on stdout", str.lower)
    data_dir: str = setting("./data", "embedded state: database, generated keys, admin token")
    database_url: str = setting(
        "", "where records are kept: `postgresql://user:password@host:port/database` or `sqlite:////absolute/path`",
        checked_database, shown="`sqlite:///{DATA_DIR}/smoltbot.db`", secret=True,
    )  # fmt: skip
    supabase_url: str = setting(
        "", "instead of `DATABASE_URL`: records in Supabase, over its REST API: `https://PROJECT.supabase.co`",
        checked_project, secret=True,
    )  # fmt: skip
    supabase_key: str = setting("", "the secret (service_role) key of `SUPABASE_URL`", token, secret=True)
    db_pool_min: int = setting(1, "connections to PostgreSQL that a process opens at its start", whole(0, 1000))
    db_pool_max: int = setting(10, "connections to PostgreSQL that a process opens at most", whole(1, 1000))
    ed25519_signing_key: str = setting(
        "", "seed of the key that signs records, 64 hex digits; required with PostgreSQL and Supabase",
        hex_key, shown="that of `DATA_DIR/signing.key`", secret=True,
    )  # fmt: skip
    ed25519_key_id: str = setting(
        "", "the name under which that key is published", identifier, shown="`key-001`, or that in `signing.key`"
    )
    public_base_url: str = setting(
        "http://localhost:8787", "where others reach this gateway: URLs in certificates begin with it", base_url
    )
    admin_token: tuple[str, ...] = setting(
        (), "bearer token for writes to `/v1`; two separated by a comma while one replaces the other",
        tokens, shown="embedded: that of `DATA_DIR/admin.token`", secret=True,
    )  # fmt: skip
    read_token: str = setting("", "bearer token for reads of `/v1`; the admin token reads too", token, secret=True)
    kv_url: str = setting("memory://", "where the KV namespace is kept; `memory://` is for a single node", secret=True)
    redis_required: bool = setting(
        False,
        "`true`: unready while the KV store is out of reach; requests go on in either case",
        flag,
        shown="`false`",
    )
    db_failure_mode: str = setting(
        "open", "while the database is unavailable: `open` relays unrecorded, `closed` answers 503",
        choice("open", "closed"),
    )  # fmt: skip
    aip_enabled: bool = setting(
        True, "integrity checks; only the text `false` disables", lambda text: text != "false", shown="true"
    )
    gateway_version: str = setting(__version__, "what /health reports", shown="the package's version")
    aip_failure_policy: str = setting(
        "fail_open", "an answer whose check failed, in mode `enforce`: `fail_open` relays it, `fail_closed` is a 503",
        choice("fail_open", "fail_closed"),
    )  # fmt: skip
    aip_store_evidence: bool = setting(
        False, "`true`: checkpoints keep the quotations of thinking (200 characters each) that concerns are based on",
        flag, shown="`false`",
    )  # fmt: skip
    analysis_mode: str = setting(
        "auto", "who judges: `local`, a model that this gateway calls; `hybrid`, `MNEMOM_ANALYZE_URL`; `off`; "
        "`auto` takes `hybrid` when that URL is set, else `local` when `ANTHROPIC_API_KEY` is, else `off`",
        choice("auto", "local", "hybrid", "off"),
    )  # fmt: skip
    anthropic_api_key: str = setting("", "the key that pays for local analysis", token, secret=True)
    analysis_model: str = setting("claude-haiku-4-5-20251001", "the model that judges in local analysis", identifier)
    analysis_base_url: str = setting(
        "https://api.anthropic.com", "where that model is: any server with Anthropic's `/v1/messages`", base_url
    )
    analysis_timeout_ms: int = setting(10_000, "the longest that one analysis may take", whole(1, 600_000))
    mnemom_analyze_url: str = setting(
        "", "hybrid analysis: who gets the thinking, and nothing else, to judge it", base_url
    )
    mnemom_api_key: str = setting("", "the key for `MNEMOM_ANALYZE_URL`, required with it", token, secret=True)
    queue_url: str = setting(
        "", "where exchanges wait for their check: `redis://...`, or another queue; required with Supabase",
        shown="the database", secret=True,
    )  # fmt: skip
    queue_encryption_key: str = setting(
        "", "seals what waits in the queue, and the secrets of webhooks: 64 hex digits (AES-256-GCM); required with"
        " PostgreSQL and Supabase",
        hex_key, shown="that of `DATA_DIR/queue.key`", secret=True,
    )  # fmt: skip
    exchange_durability: str = setting(
        "durable", "when a stream's end leaves: once the exchange is in the queue (`durable`), or at once (`async`)",
        choice("durable", "async"),
    )  # fmt: skip
    observer_batch: int = setting(50, "exchanges that are taken from the queue together", whole(1, 100))
    observer_max_attempts: int = setting(
        5, "how often an exchange that breaks the observer is tried before it is dead-lettered", whole(1, 100)
    )
    webhook_allow_private: bool = setting(
        False, "`true`: webhooks may go to private addresses and over http", flag, shown="`false`"
    )
    license_mode: str = setting(
        "optional", "`required`: without a valid license provider routes answer 403",
        choice("required", "optional"),
    )  # fmt: skip
    mnemom_license_jwt: str = setting("", "the license", token, secret=True)
    license_public_key: str = setting(
        "", "who may issue licenses: 64 hex digits (Ed25519), several as `kid=hex` with commas, or a JWKS file"
    )
    heartbeat_url: str = setting(
        "https://api.mnemom.ai/v1/deployments/heartbeat", "who hears that a licensed gateway lives; `off`: nobody",
        url_or_off,
    )  # fmt: skip
    deployment_id: str = setting(
        "", "the name of this deployment to the license's issuer", identifier, shown="`selfhosted-{HOSTNAME}`"
    )
    billing_enforcement_enabled: bool = setting(
        False, "`true`: the plan and quota of an agent's account decide whether it may pass", flag, shown="`false`"
    )
    client_fin: str = setting(
        "wait", "what a client's half-close means: `wait` (it still reads) or `abort` (it is gone, nginx's rule)",
        choice("wait", "abort"),
    )  # fmt: skip
    max_connections: int = setting(10_000, "connections beyond this are answered 503", whole(1, 1_000_000))
    max_held_bytes: int = setting(
        268_435_456, "bytes held for slow peers; beyond this new requests are answered 503", whole(1 << 20, 1 << 40)
    )
    max_body_bytes: int = setting(
        33_554_432, "limit of a request body that is looked at (generation endpoints); beyond: 413", whole(1, 1 << 40)
    )
    max_capture_bytes: int = setting(
        1_048_576, "what is kept of each request and answer for the check; a larger answer cannot be clear",
        whole(1024, 1 << 30),
    )  # fmt: skip
    upstream_anthropic_url: str = setting("https://api.anthropic.com", "where /anthropic goes", base_url)
    upstream_openai_url: str = setting("https://api.openai.com", "where /openai goes", base_url)
    upstream_gemini_url: str = setting("https://generativelanguage.googleapis.com", "where /gemini goes", base_url)
    upstream_connect_timeout_s: float = setting(10.0, "time to connect to a provider, in seconds", seconds)
    upstream_read_timeout_s: float = setting(
        300.0, "time to a provider's first byte, and between any two bytes, in seconds", seconds
    )
    cors_allow_origins: tuple[str, ...] = setting(
        ("*",), "origins that browsers may call from, separated by commas", origins, shown="`*`"
    )
    default_card: dict[str, Any] = field(
        default_factory=lambda: DEFAULT_CARD,
        metadata={"doc": "JSON of the alignment card given to new agents", "parse": card, "shown": "built in"},
    )
    models_file: str = setting("", "JSON file that replaces the built-in `/models.json`", json_file)
    shutdown_grace_s: float = setting(45.0, "time for requests and streams to finish on SIGTERM", seconds)
    drain_timeout_s: float = setting(10.0, "time for background work after the streams ended", seconds)

    records: RecordStore = field(kw_only=True, metadata={"binding": "the database's functions"})
    crypto: Crypto = field(kw_only=True, metadata={"binding": "the key that signs records"})
    telemetry: Telemetry = field(kw_only=True, metadata={"binding": "takes the gateway's events"})
    agents: AgentDirectory = field(kw_only=True, metadata={"binding": "the agents this process knows"})
    state: State = field(kw_only=True, metadata={"binding": "where the process is in its life"})
    checkpoints: CheckpointLog = field(kw_only=True, metadata={"binding": "writes checkpoints to the agents' logs"})
    analyst: Analyst = field(kw_only=True, metadata={"binding": "judges thinking, or knows that nobody does"})
    windows: Windows = field(
        default_factory=Windows, metadata={"binding": "what the last analyses of the active sessions found"}
    )
    exchanges: ExchangeQueue = field(kw_only=True, metadata={"binding": "the queue EXCHANGES, sealed"})
    license: LicenseGate = field(kw_only=True, metadata={"binding": "the license and its state"})
    egress: Fetcher = field(kw_only=True, metadata={"binding": "EGRESS: asks addresses that users configure"})
    decoders: Mapping[str, DecoderFactory] = field(
        default_factory=dict, metadata={"binding": "undo content codings on the copy that is checked"}
    )
    kv: KVNamespace | None = field(default=None, metadata={"binding": "the KV namespace, which outlives its store"})
    kv_primary: KVNamespace | None = field(
        default=None, metadata={"binding": "the same, failing with its store: what readiness asks"}
    )
    metrics_page: Callable[[], tuple[str, bytes]] | None = field(
        default=None, metadata={"binding": "content type and body of /metrics"}
    )
    clock: Callable[[], float] = field(default=time.time, metadata={"binding": "seconds since the epoch"})

    @property
    def relays(self) -> bool:
        """Whether this role serves provider routes."""
        return self.smoltbot_role != "scheduler"

    @property
    def schedules(self) -> bool:
        """Whether this role runs cron jobs."""
        return self.smoltbot_role != "gateway"

    def upstream(self, provider: str) -> str:
        """The base URL of a provider, without a trailing slash."""
        if provider == "anthropic":
            return self.upstream_anthropic_url
        return self.upstream_openai_url if provider == "openai" else self.upstream_gemini_url


def variables() -> list[Field[Any]]:
    """The fields that are read from the environment."""
    return [entry for entry in fields(Env) if "parse" in entry.metadata]


def read_variables(environ: Mapping[str, str], *, signs: bool = True) -> tuple[dict[str, Any], list[str]]:
    """Values for :class:`Env` by field name, and warnings; :class:`EnvValidationError` lists every problem.

    An empty text counts as unset, because deployments pass ``""`` for optional variables. A process that ``signs``
    nothing, as one that migrates, does without the key.
    """
    given = with_one_database({name: text.strip() for name, text in environ.items() if text.strip()})
    values: dict[str, Any] = {}
    warnings: list[str] = []
    missing, invalid = _combinations(given, signs)
    for entry in variables():
        name = entry.name.upper()
        text = given.get(name)
        if text is None:
            values[entry.name] = entry.default if entry.default_factory is MISSING else entry.default_factory()
            continue
        try:
            values[entry.name] = entry.metadata["parse"](text)
        except ValueError as error:
            invalid.append(f"{name}: {'' if entry.metadata.get('secret') else shown(text)}{error}")
    if values.get("db_pool_min", 0) > values.get("db_pool_max", 1000):
        invalid.append("DB_POOL_MIN: is more than DB_POOL_MAX")
    if values.get("log_level") not in ("debug", "info", "warn", "error"):
        warnings.append(f"LOG_LEVEL {values.get('log_level')!r} is not debug, info, warn or error; using info")
        values["log_level"] = "info"
    if "SUPABASE_KEY" in given and "SUPABASE_URL" not in given:
        warnings.append("SUPABASE_KEY is set, but has no effect without SUPABASE_URL")
    warnings += [f"{name} is set, but has no effect in this version" for name in sorted(LATER & set(given))]
    if missing or invalid:
        raise EnvValidationError(missing, invalid)
    return values, warnings


_LATER = """
    OPENAI_API_KEY GEMINI_API_KEY THINKING_BUDGET OTLP_ENDPOINT OTLP_AUTH PROVER_URL PROVER_API_KEY
    OBSERVER_STORE_BODIES OBSERVER_RETENTION_HOURS DRIFT_SIMILARITY_THRESHOLD GATE_MAX_WAIT_MS GATE_MAX_BYTES
"""
LATER = frozenset(_LATER.split())
"""Variables of later versions that are safe to ignore."""

_REFUSED_VALUES = {"THINKING_INJECTION": ("auto", "thinking injection")}
_CHOICES = {"THINKING_INJECTION": ("off", "auto")}
_REFUSED = ("CF_AI_GATEWAY_URL",)


def _combinations(given: Mapping[str, str], signs: bool) -> tuple[list[str], list[str]]:
    """Problems that no single variable shows: what another one requires, and what this version must not ignore."""
    missing, invalid = database_problems(given, signs=signs)
    if "MNEMOM_ANALYZE_URL" in given and "MNEMOM_API_KEY" not in given:
        missing.append("MNEMOM_API_KEY (because MNEMOM_ANALYZE_URL is set)")
    if given.get("ANALYSIS_MODE", "").lower() == "local" and "ANTHROPIC_API_KEY" not in given:
        missing.append("ANTHROPIC_API_KEY (because ANALYSIS_MODE is local)")
    if given.get("ANALYSIS_MODE", "").lower() == "hybrid" and "MNEMOM_ANALYZE_URL" not in given:
        missing.append("MNEMOM_ANALYZE_URL (because ANALYSIS_MODE is hybrid)")
    if given.get("LICENSE_MODE", "").lower() == "required" and "MNEMOM_LICENSE_JWT" not in given:
        missing.append("MNEMOM_LICENSE_JWT (because LICENSE_MODE is required)")
    invalid += [
        f"{name}: this version has no {what} yet and must not pretend to; unset it"
        for name, (value, what) in _REFUSED_VALUES.items()
        if given.get(name, "").lower() == value
    ]
    invalid += [
        f"{name}: {shown(given[name])}is not one of {', '.join(allowed)}"
        for name, allowed in _CHOICES.items()
        if name in given and given[name].lower() not in allowed
    ]
    invalid += [f"{name}: not supported by this version; unset it" for name in _REFUSED if name in given]
    return missing, invalid
