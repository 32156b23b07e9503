"""Which database a URL means, what it needs besides, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

PROJECT = "https://PROJECT.supabase.co"
SERVER = "postgresql://user:password@host:port/database"

_WIRE_PORTS = (5432, 6543)
_POSTGRES = ("postgres", "postgresql")


def scheme(url: str) -> str:
    """What stands before ``://`` or ``:``, in lower case."""
    return url.partition(":")[0].lower()


def is_postgres(url: str) -> bool:
    """Whether the URL names a PostgreSQL server."""
    return scheme(url) in _POSTGRES


def is_embedded(url: str) -> bool:
    """Whether the URL names a file of this machine, which the gateway migrates by itself."""
    return scheme(url) == "sqlite"


def checked_database(url: str) -> str:
    """A DATABASE_URL; the text of the ``ValueError`` shows nothing of it."""
    if scheme(url) in ("http", "https"):
        raise ValueError(f"is an address of HTTP: set {SERVER}, or SUPABASE_URL={PROJECT} and no DATABASE_URL")
    if not (is_postgres(url) or is_embedded(url)):
        raise ValueError(f"is not {SERVER} or sqlite:////absolute/path")
    return url


def checked_project(url: str) -> str:
    """A SUPABASE_URL, without a slash at its end; the text of the ``ValueError`` shows nothing of it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text quotes the URL
        raise ValueError(f"is not {PROJECT}") from None
    if is_postgres(url) or port in _WIRE_PORTS:
        raise ValueError(
            f"names a PostgreSQL server and not Supabase's REST API: set DATABASE_URL={SERVER} instead,"
            " and unset SUPABASE_URL"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError(f"is not {PROJECT}, without user and password")
    if parts.path not in ("", "/") or parts.query or parts.fragment or any(char <= " " for char in url):
        raise ValueError(f"does not end with the host: {PROJECT}")
    return url.rstrip("/")


def with_one_database(given: Mapping[str, str]) -> dict[str, str]:
    """The variables, where a SUPABASE_URL that names a PostgreSQL server has become DATABASE_URL."""
    url = given.get("SUPABASE_URL", "")
    if not is_postgres(url) or "DATABASE_URL" in given:
        return dict(given)
    others = {name: text for name, text in given.items() if name not in ("SUPABASE_URL", "SUPABASE_KEY")}
    return {**others, "DATABASE_URL": url}


def database_problems(given: Mapping[str, str], *, signs: bool) -> tuple[list[str], list[str]]:
    """What is missing and what is wrong about the database in ``given``, from :func:`with_one_database`.

    ``signs`` is whether the process signs records, and so needs the key that all processes share.
    """
    missing, invalid = [], []
    if "SUPABASE_URL" in given and "SUPABASE_KEY" not in given:
        missing.append("SUPABASE_KEY (because SUPABASE_URL is set)")
    remote = _remote(given)
    if signs and "ED25519_SIGNING_KEY" not in given and remote:
        missing.append(
            f"ED25519_SIGNING_KEY (because {remote}: its processes share one key;"
            " `smoltbot signing-keys generate` makes one)"
        )
    if signs and "QUEUE_ENCRYPTION_KEY" not in given and remote:
        missing.append(
            f"QUEUE_ENCRYPTION_KEY (because {remote}: its processes share one key; `openssl rand -hex 32` makes one)"
        )
    if signs and "SUPABASE_URL" in given and "QUEUE_URL" not in given:
        missing.append("QUEUE_URL (because SUPABASE_URL is set, which has no queue: name a redis:// server)")
    if "SUPABASE_URL" in given and "DATABASE_URL" in given:
        invalid.append("DATABASE_URL: SUPABASE_URL is set too; keep one of them, the one where the records are")
    return missing, invalid


def _remote(given: Mapping[str, str]) -> str | None:
    if "SUPABASE_URL" in given:
        return "SUPABASE_URL is set"
    return "DATABASE_URL is a PostgreSQL server" if is_postgres(given.get("DATABASE_URL", "")) else None
