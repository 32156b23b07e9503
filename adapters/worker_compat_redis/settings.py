"""The settings that a Redis URL gives: addresses, credentials, limits, and what is stored there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from worker_compat.errors import ConfigError

Address = tuple[str, int]

_FORMS = {
    "": "write redis://[user:password@]host:port/db",
    "sentinel": "write redis+sentinel://[user:password@]host:26379,host2:26379/service/db",
    "cluster": "write redis+cluster://[user:password@]host:port,host2:port",
}
_PORTS = {"": 6379, "sentinel": 26379, "cluster": 6379}
_LIMITS = {"connect_timeout_ms": 100, "timeout_ms": 150, "max_connections": 32}
_TLS = ("ca", "cert", "key")
_NOT_ENCODED = "write / # ? in the password of a Redis URL as %2F %23 %3F"
_HOST = re.compile(r"\[(?P<v6>[0-9a-fA-F:.]+)\](?::(?P<port6>\d+))?|(?P<host>[^\[\]:@]+)(?::(?P<port>\d+))?")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a URL says. Secrets are left out of the representation.

    ``topology`` is ``""`` for one server, ``"sentinel"`` or ``"cluster"``; ``addresses`` are those of the
    server, the sentinels, or some nodes. ``name`` is the namespace or the queue.
    """

    topology: str
    addresses: Sequence[Address]
    name: str
    service: str = ""
    db: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    connect_timeout_s: float = 0.1
    timeout_s: float = 0.15
    max_connections: int = 32


def settings_of(url: str, what: str) -> Settings:
    """The settings in ``url``; ``what`` is the option that names what is stored: ``namespace`` or ``queue``.

    Raises :class:`ConfigError`, which quotes no part of the URL but the names of options.
    """
    scheme, separator, rest = url.partition("://")
    base, _, topology = scheme.lower().partition("+")
    if not separator or base not in ("redis", "rediss") or topology not in _FORMS:
        raise ConfigError(f"this is not the URL of a Redis: {_FORMS['']}")
    rest, _, query = rest.partition("?")
    if "#" in url or "@" in rest.partition("/")[2]:
        raise ConfigError(_NOT_ENCODED)
    options = _options(query, (what, *_LIMITS, *_extra(base, topology)))
    authority, _, path = rest.partition("/")
    credentials, _, hosts = authority.rpartition("@")
    user, colon, password = credentials.partition(":")
    service, db = _service_and_db(path, topology)
    if "key" in options and "cert" not in options:
        raise ConfigError("the option key of the Redis URL needs the option cert: name the certificate of this key")
    name = options.get(what, "default")
    if not name:
        raise ConfigError(f"the option {what} of the Redis URL is empty: write {what}=NAME")
    return Settings(
        topology=topology,
        addresses=_addresses(hosts, topology),
        name=name,
        service=service,
        db=db,
        user=unquote(user) or None,
        password=unquote(password) if colon else None,
        sentinel_password=options.get("sentinel_password"),
        tls=base == "rediss",
        ca=options.get("ca"),
        cert=options.get("cert"),
        key=options.get("key"),
        connect_timeout_s=_number(options, "connect_timeout_ms") / 1000,
        timeout_s=_number(options, "timeout_ms") / 1000,
        max_connections=_number(options, "max_connections"),
    )


def _extra(base: str, topology: str) -> tuple[str, ...]:
    sentinel = ("sentinel_password",) if topology == "sentinel" else ()
    return (_TLS if base == "rediss" else ()) + sentinel


def _options(query: str, known: Sequence[str]) -> Mapping[str, str]:
    given = parse_qsl(query, keep_blank_values=True)
    options = dict(given)
    unknown = sorted(set(options) - set(known))
    if unknown and "@" in query:  # these names are what follows a ? in a password
        raise ConfigError(_NOT_ENCODED)
    if unknown:
        raise ConfigError(
            f"a Redis URL of this kind has no such option {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    if len(options) < len(given):
        raise ConfigError("an option of the Redis URL is given twice: write it once")
    return options


def _number(options: Mapping[str, str], name: str) -> int:
    text = options.get(name, str(_LIMITS[name]))
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) == 0:
        raise ConfigError(f"the option {name} of the Redis URL must be a whole number from 1 to 999999")
    return int(text)


def _addresses(hosts: str, topology: str) -> Sequence[Address]:
    found = [_HOST.fullmatch(unquote(host)) for host in hosts.split(",")]
    if topology == "" and len(found) > 1:
        raise ConfigError(f"a single Redis has one host; for several {_FORMS['sentinel']}, or {_FORMS['cluster']}")
    addresses = []
    for match in found:
        port = int((match and (match["port"] or match["port6"])) or _PORTS[topology])
        if match is None or not 0 < port < 65536:
            raise ConfigError(f"the Redis URL names no valid host and port: {_FORMS[topology]}")
        addresses.append((match["host"] or match["v6"], port))
    return addresses


def _service_and_db(path: str, topology: str) -> tuple[str, int]:
    parts = path.split("/") if path else []
    service = ""
    if topology == "sentinel":
        service = unquote(parts.pop(0)) if parts else ""
        if not service:
            raise ConfigError(f"the Redis URL does not name the service that Sentinel watches: {_FORMS[topology]}")
    db = parts.pop(0) if parts else ""
    if parts or not re.fullmatch(r"[0-9]{0,5}", db):
        raise ConfigError(f"the path of a Redis URL is the number of a database: {_FORMS[topology]}")
    if topology == "cluster" and db not in ("", "0"):
        raise ConfigError("a Redis Cluster has database 0 only: leave the path out")
    return service, int(db or 0)
