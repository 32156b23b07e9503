"""The one door for adapters: a URL scheme or a name leads to an installed entry point.

Groups: ``worker_compat.kv`` and ``worker_compat.queue`` are registered by URL scheme, ``worker_compat.host``
and ``worker_compat.fetcher`` by name, ``worker_compat.decoder`` by content coding. An entry point is a factory
that returns an async context manager, or, for a decoder, the decoder of one body::

    [project.entry-points."worker_compat.kv"]
    redis = "worker_compat_redis:open_kv"
    rediss = "worker_compat_redis:open_kv"

Inside Cloudflare there is no package metadata and so no registry: bindings are native there.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from .errors import AdapterNotFound, ConfigError
from .ports import Clock, DecoderFactory, Fetcher, Host, KVStore, QueueStore

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

KV = "worker_compat.kv"
QUEUE = "worker_compat.queue"
HOST = "worker_compat.host"
FETCHER = "worker_compat.fetcher"
DECODER = "worker_compat.decoder"

_BY_SCHEME = frozenset({KV, QUEUE})
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")


@asynccontextmanager
async def open_kv(url: str, *, clock: Clock = time.time) -> AsyncIterator[KVStore]:
    """The key-value store at ``url``, closed at exit.

    ``ConfigError`` for a malformed URL, ``AdapterNotFound`` when no adapter is installed for its scheme or
    the adapter's library is missing. No error text of this module shows more of the URL than its scheme.
    """
    async with AsyncExitStack() as stack:
        yield await _enter(stack, KV, url, clock)


@asynccontextmanager
async def open_queue(url: str, *, clock: Clock = time.time) -> AsyncIterator[QueueStore]:
    """The queue at ``url``, closed at exit; errors as for :func:`open_kv`."""
    async with AsyncExitStack() as stack:
        yield await _enter(stack, QUEUE, url, clock)


def find(group: str, name: str) -> Any:
    """The factory registered as ``name`` (a URL scheme for KV and queues) in ``group``.

    ``AdapterNotFound`` names what there is, or the extra that brings the missing library; ``ConfigError``
    when two distributions claim the name.
    """
    entry = _entry_point(group, name)
    with _library_named(entry):
        return entry.load()


def check(group: str, url: str) -> None:
    """Raise what :func:`open_kv` or :func:`open_queue` would raise before anything is opened."""
    find(group, _scheme(url))


@asynccontextmanager
async def open_host(host: str, port: int, **options: Any) -> AsyncIterator[Host]:
    """A server on ``host`` and ``port`` from the installed adapter; ``AdapterNotFound`` when there is none."""
    async with AsyncExitStack() as stack:
        yield await _enter_only(stack, HOST, host, port, **options)


@asynccontextmanager
async def open_fetcher(**options: Any) -> AsyncIterator[Fetcher]:
    """A client from the installed adapter; ``AdapterNotFound`` when there is none."""
    async with AsyncExitStack() as stack:
        yield await _enter_only(stack, FETCHER, **options)


def decoders() -> dict[str, DecoderFactory]:
    """The decoders of content codings whose libraries are there; ``Runtime(decoders=...)`` picks Workers' from them."""
    return {found.name: find(DECODER, found.name) for found in installed(DECODER) if found.problem is None}


@dataclass(frozen=True, slots=True)
class Adapter:
    """One registered adapter: ``name`` is a URL scheme for KV and queues; ``problem`` says what it lacks, or None."""

    group: str
    name: str
    package: str
    extra: str | None
    problem: str | None


def installed(group: str) -> Sequence[Adapter]:
    """Every adapter registered in ``group``, by name. Each is imported, to see whether its library is there."""
    from importlib.metadata import entry_points

    unique = {(entry.name, entry.value): entry for entry in entry_points(group=group)}
    return [
        Adapter(group, name, entry.module.partition(".")[0], _extra(entry), _problem(entry))
        for (name, _), entry in sorted(unique.items())
    ]


def with_option(url: str, name: str, value: str) -> str:
    """``url`` with the option ``name=value``, unless it has that option already.

    Every KV URL takes the option ``namespace`` and every queue URL the option ``queue``.
    """
    base, _, query = url.partition("?")
    if any(option.partition("=")[0] == name for option in query.split("&")):
        return url
    option = f"{name}={quote(value, safe='')}"
    return f"{base}?{query}&{option}" if query else f"{base}?{option}"


async def _enter(stack: AsyncExitStack, group: str, url: str, clock: Clock) -> Any:
    scheme = _scheme(url)
    factory = find(group, scheme)
    # An adapter may import its library as late as here.
    with _library_named(_entry_point(group, scheme)):
        return await stack.enter_async_context(factory(url, clock=clock))


async def _enter_only(stack: AsyncExitStack, group: str, *arguments: Any, **options: Any) -> Any:
    """Open the adapter of a group from which nobody chooses: the first by name that can be imported."""
    adapters = installed(group)
    usable = [adapter for adapter in adapters if adapter.problem is None]
    if not usable:
        problems = "; ".join(adapter.problem or "" for adapter in adapters)
        raise AdapterNotFound(problems or f"no {group} adapter is installed; pip install 'smoltbot-worker[aiohttp]'")
    return await stack.enter_async_context(find(group, usable[0].name)(*arguments, **options))


def _scheme(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    # Without a separator the first part may be a password: it is not shown.
    if not separator or not _SCHEME.fullmatch(scheme) or _UNPRINTABLE.search(url) or not _splits(url):
        raise ConfigError("malformed URL: expected scheme://[user[:password]@]host[:port][/path][?options]")
    return scheme.lower()


def _splits(url: str) -> bool:
    try:
        urlsplit(url)
    except ValueError:  # its text quotes the URL, so it must not become anyone's context
        return False
    return True


def _entry_point(group: str, name: str) -> EntryPoint:
    from importlib.metadata import entry_points  # lazily: start-up and Pyodide do without

    installed = entry_points(group=group)
    found = {entry.value: entry for entry in installed if entry.name == name}
    if len(found) > 1:
        raise ConfigError(f"{_label(group, name)} is registered more than once: {', '.join(sorted(found))}")
    if not found:
        names = ", ".join(sorted({_label(group, entry.name) for entry in installed})) or "none"
        raise AdapterNotFound(f"no {group} adapter for {_label(group, name)}; installed: {names}")
    return found.popitem()[1]


def _label(group: str, name: str) -> str:
    return f"{name}://" if group in _BY_SCHEME else name


@contextmanager
def _library_named(entry: EntryPoint) -> Iterator[None]:
    """Turn a library that an adapter misses into an error that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        # A hole in this package is a broken installation, which no extra mends.
        if error.name is None or error.name.partition(".")[0] == __package__:
            raise
        label = _label(entry.group, entry.name)
        raise AdapterNotFound(f"{label} needs {error.name}; pip install {_remedy(entry, error.name)}") from error


def _problem(entry: EntryPoint) -> str | None:
    try:
        with _library_named(entry):
            entry.load()
    except (ImportError, AttributeError, AdapterNotFound) as error:
        return str(error)
    return None


def _remedy(entry: EntryPoint, missing: str) -> str:
    extra = _extra(entry)
    if entry.dist is None or extra is None:
        return missing.partition(".")[0]
    return f"'{entry.dist.name}[{extra}]'"


def _extra(entry: EntryPoint) -> str | None:
    """The extra of the adapter's distribution that brings its library."""
    offered = (entry.dist and entry.dist.metadata.get_all("Provides-Extra")) or []
    # rediss:// and kv+cloudflare:// come from extras that bear the adapter's name, not the scheme's.
    package = entry.module.partition(".")[0]
    return next((name for name in (*entry.extras, entry.name, package.rpartition("_")[2]) if name in offered), None)
