"""Env: every variable and binding of the gateway, typed and documented, and how a variable's text is read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from worker_compat import __version__

from .records.arguments import identifier
from .records.locations import checked_database, checked_project, database_problems, with_one_database

if TYPE_CHECKING:
    from worker_compat.kv import KVNamespace

    from .admission.agents import AgentDirectory
    from .health import State
    from .ports import Crypto, RecordStore, Telemetry


class EnvValidationError(Exception):
    """The environment is incomplete or wrong; the text lists every problem at once."""

    def __init__(self, missing: list[str], invalid: list[str]) -> None:
        lines = []
        if missing:
            lines += ["Missing required environment variables:", *(f"  {line}" for line in missing)]
        if invalid:
            lines += ["Invalid environment variables:", *(f"  {line}" for line in invalid)]
        lines.append("Set them in .env or in the deployment's configuration; docs/configuration.md explains each.")
        super().__init__("\n".join(lines))
        self.missing = missing
        self.invalid = invalid


Parse = Callable[[str], Any]

_HEX = frozenset("0123456789abcdefABCDEF")


def _whole(low: int, high: int) -> Parse:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20) or not low <= int(text) <= high:
            raise ValueError(f"is not a whole number from {low} to {high}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 86_400:
        raise ValueError("is not a number of seconds between 0 and 86400")
    return value


def _choice(*allowed: str) -> Parse:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"is not one of {', '.join(allowed)}")
        return text.lower()

    return parse


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("is not true or false")
    return text.lower() == "true"


def _base_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port_ok = parts.port is None or 0 < parts.port < 65_536
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok:
        raise ValueError("is not an http:// or https:// URL with a host")
    if parts.query or parts.fragment or parts.username or parts.password or any(c <= " " for c in text):
        raise ValueError("must be a base URL without user, query or fragment")
    return text.rstrip("/")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _card(text: str) -> dict[str, Any]:
    try:
        card = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(card, dict):
        raise ValueError("is not a JSON object")
    return card


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    if "*" in origins and len(origins) > 1:
        raise ValueError("has `*` beside other origins; `*` alone allows every origin")
    return origins


def _json_file(text: str) -> str:
    try:
        with open(text, "rb") as file:  # noqa: PTH123 - pathlib costs an import at start
            json.loads(file.read(), parse_constant=_no_constant)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise ValueError("is not a JSON file") from None
    return text


def _seed(text: str) -> str:
    if len(text) != 64 or not _HEX.issuperset(text):
        raise ValueError("is not 64 hex digits, the 32 bytes of an Ed25519 seed")
    return text.lower()


def _token(text: str) -> str:
    if not all("!" <= char <= "~" for char in text):
        raise ValueError("has a character other than visible ASCII, which no header can carry")
    return text


def _tokens(text: str) -> tuple[str, ...]:
    tokens = tuple(part.strip() for part in text.split(","))
    if len(tokens) > 2 or not all(tokens):
        raise ValueError("is not one value, or two separated by a comma")
    return tuple(map(_token, tokens))


def setting(default: Any, doc: str, parse: Parse = str, *, shown: str | None = None, secret: bool = False) -> Any:
    """A field that is read from the variable of its name in upper case. ``shown`` is the default in the docs.

    What is ``secret`` is in no repr and no error.
    """
    return field(
        default=default, repr=not secret, metadata={"doc": doc, "parse": parse, "shown": shown, "secret": secret}
    )


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
    port: int = setting(8787, "HTTP listen port", _whole(0, 65535))
    smoltbot_role: str = setting(
        "all", "`gateway` (HTTP only), `scheduler` (cron only; HTTP answers health, metrics and `/v1`) or `all`",
        _choice("gateway", "scheduler", "all"),
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
    supabase_key: str = setting("", "the secret (service_role) key of `SUPABASE_URL`", _token, secret=True)
    db_pool_min: int = setting(1, "connections to PostgreSQL that a process opens at its start", _whole(0, 1000))
    db_pool_max: int = setting(10, "connections to PostgreSQL that a process opens at most", _whole(1, 1000))
    ed25519_signing_key: str = setting(
        "", "seed of the key that signs records, 64 hex digits; required with PostgreSQL and Supabase",
        _seed, shown="that of `DATA_DIR/signing.key`", secret=True,
    )  # fmt: skip
    ed25519_key_id: str = setting(
        "", "the name under which that key is published", identifier, shown="`key-001`, or that in `signing.key`"
    )
    public_base_url: str = setting(
        "http://localhost:8787", "where others reach this gateway: URLs in certificates begin with it", _base_url
    )
    admin_token: tuple[str, ...] = setting(
        (), "bearer token for writes to `/v1`; two separated by a comma while one replaces the other",
        _tokens, shown="embedded: that of `DATA_DIR/admin.token`", secret=True,
    )  # fmt: skip
    read_token: str = setting("", "bearer token for reads of `/v1`; the admin token reads too", _token, secret=True)
    kv_url: str = setting("memory://", "where the KV namespace is kept; `memory://` is for a single node", secret=True)
    redis_required: bool = setting(
        False,
        "`true`: unready while the KV store is out of reach; requests go on in either case",
        _flag,
        shown="`false`",
    )
    db_failure_mode: str = setting(
        "open", "while the database is unavailable: `open` relays unrecorded, `closed` answers 503",
        _choice("open", "closed"),
    )  # fmt: skip
    aip_enabled: bool = setting(
        True, "integrity checks; only the text `false` disables", lambda text: text != "false", shown="true"
    )
    gateway_version: str = setting(__version__, "what /health reports", shown="the package's version")
    client_fin: str = setting(
        "wait", "what a client's half-close means: `wait` (it still reads) or `abort` (it is gone, nginx's rule)",
        _choice("wait", "abort"),
    )  # fmt: skip
    max_connections: int = setting(10_000, "connections beyond this are answered 503", _whole(1, 1_000_000))
    max_held_bytes: int = setting(
        268_435_456, "bytes held for slow peers; beyond this new requests are answered 503", _whole(1 << 20, 1 << 40)
    )
    max_body_bytes: int = setting(
        33_554_432, "limit of a request body that is looked at (generation endpoints); beyond: 413", _whole(1, 1 << 40)
    )
    upstream_anthropic_url: str = setting("https://api.anthropic.com", "where /anthropic goes", _base_url)
    upstream_openai_url: str = setting("https://api.openai.com", "where /openai goes", _base_url)
    upstream_gemini_url: str = setting("https://generativelanguage.googleapis.com", "where /gemini goes", _base_url)
    upstream_connect_timeout_s: float = setting(10.0, "time to connect to a provider, in seconds", _seconds)
    upstream_read_timeout_s: float = setting(
        300.0, "time to a provider's first byte, and between any two bytes, in seconds", _seconds
    )
    cors_allow_origins: tuple[str, ...] = setting(
        ("*",), "origins that browsers may call from, separated by commas", _origins, shown="`*`"
    )
    default_card: dict[str, Any] = field(
        default_factory=lambda: DEFAULT_CARD,
        metadata={"doc": "JSON of the alignment card given to new agents", "parse": _card, "shown": "built in"},
    )
    models_file: str = setting("", "JSON file that replaces the built-in `/models.json`", _json_file)
    shutdown_grace_s: float = setting(45.0, "time for requests and streams to finish on SIGTERM", _seconds)
    drain_timeout_s: float = setting(10.0, "time for background work after the streams ended", _seconds)

    records: RecordStore = field(kw_only=True, metadata={"binding": "the database's functions"})
    crypto: Crypto = field(kw_only=True, metadata={"binding": "the key that signs records"})
    telemetry: Telemetry = field(kw_only=True, metadata={"binding": "takes the gateway's events"})
    agents: AgentDirectory = field(kw_only=True, metadata={"binding": "the agents this process knows"})
    state: State = field(kw_only=True, metadata={"binding": "where the process is in its life"})
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


def _shown(text: str) -> str:
    """A refused text for an error message; not a URL, which may hold a password or a key."""
    return "" if "://" in text else f"{text[:60]!r} "


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
            invalid.append(f"{name}: {'' if entry.metadata.get('secret') else _shown(text)}{error}")
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
    ANTHROPIC_API_KEY OPENAI_API_KEY GEMINI_API_KEY MNEMOM_LICENSE_JWT LICENSE_PUBLIC_KEY
    MNEMOM_ANALYZE_URL MNEMOM_API_KEY ANALYSIS_MODE ANALYSIS_MODEL ANALYSIS_BASE_URL ANALYSIS_TIMEOUT_MS
    THINKING_BUDGET OTLP_ENDPOINT OTLP_AUTH PROVER_URL PROVER_API_KEY HEARTBEAT_URL DEPLOYMENT_ID
    OBSERVER_STORE_BODIES OBSERVER_RETENTION_HOURS OBSERVER_BATCH
    OBSERVER_MAX_ATTEMPTS DRIFT_SIMILARITY_THRESHOLD MAX_CAPTURE_BYTES EXCHANGE_DURABILITY
    GATE_MAX_WAIT_MS GATE_MAX_BYTES WEBHOOK_ALLOW_PRIVATE QUEUE_ENCRYPTION_KEY
"""
LATER = frozenset(_LATER.split())
"""Variables of later versions that are safe to ignore."""

_REFUSED_VALUES = {
    "LICENSE_MODE": ("required", "license checks"),
    "AIP_FAILURE_POLICY": ("fail_closed", "integrity checks"),
    "THINKING_INJECTION": ("auto", "thinking injection"),
    "BILLING_ENFORCEMENT_ENABLED": ("true", "billing"),
    "ANALYSIS_MODE": ("hybrid", "hybrid analysis"),
}
_CHOICES = {
    "LICENSE_MODE": ("required", "optional"),
    "AIP_FAILURE_POLICY": ("fail_open", "fail_closed"),
    "THINKING_INJECTION": ("off", "auto"),
    "BILLING_ENFORCEMENT_ENABLED": ("true", "false"),
    "ANALYSIS_MODE": ("auto", "local", "hybrid", "off"),
}
_REFUSED = ("QUEUE_URL", "CF_AI_GATEWAY_URL")


def _combinations(given: Mapping[str, str], signs: bool) -> tuple[list[str], list[str]]:
    """Problems that no single variable shows: what another one requires, and what this version must not ignore."""
    missing, invalid = database_problems(given, signs=signs)
    if "MNEMOM_ANALYZE_URL" in given and "MNEMOM_API_KEY" not in given:
        missing.append("MNEMOM_API_KEY (because MNEMOM_ANALYZE_URL is set)")
    if given.get("ANALYSIS_MODE", "").lower() == "local" and "ANTHROPIC_API_KEY" not in given:
        missing.append("ANTHROPIC_API_KEY (because ANALYSIS_MODE is local)")
    if given.get("LICENSE_MODE", "").lower() == "required" and "MNEMOM_LICENSE_JWT" not in given:
        missing.append("MNEMOM_LICENSE_JWT (because LICENSE_MODE is required)")
    invalid += [
        f"{name}: this version has no {what} yet and must not pretend to; unset it"
        for name, (value, what) in _REFUSED_VALUES.items()
        if given.get(name, "").lower() == value
    ]
    invalid += [
        f"{name}: {_shown(given[name])}is not one of {', '.join(allowed)}"
        for name, allowed in _CHOICES.items()
        if name in given and given[name].lower() not in allowed
    ]
    invalid += [f"{name}: not supported by this version; unset it" for name in _REFUSED if name in given]
    return missing, invalid
