"""The one door for adapters: a URL scheme or a name leads to an installed entry point.

Groups: ``worker_compat.kv`` and ``worker_compat.queue`` are registered by URL scheme, ``worker_compat.host``
and ``worker_compat.fetcher`` by name. An entry point is a factory that returns an async context manager::

    [project.entry-points."worker_compat.kv"]
    redis = "worker_compat_redis:open_kv"
    rediss = "worker_compat_redis:open_kv"

Inside Cloudflare there is no package metadata and so no registry: bindings are native there.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .errors import AdapterNotFound, ConfigError
from .ports import Clock, KVStore, QueueStore

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

KV = "worker_compat.kv"
QUEUE = "worker_compat.queue"
HOST = "worker_compat.host"
FETCHER = "worker_compat.fetcher"

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


async def _enter(stack: AsyncExitStack, group: str, url: str, clock: Clock) -> Any:
    scheme = _scheme(url)
    factory = find(group, scheme)
    # An adapter may import its library as late as here.
    with _library_named(_entry_point(group, scheme)):
        return await stack.enter_async_context(factory(url, clock=clock))


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


def _remedy(entry: EntryPoint, missing: str) -> str:
    if entry.dist is None:
        return missing.partition(".")[0]
    offered = entry.dist.metadata.get_all("Provides-Extra") or []
    # rediss:// and kv+cloudflare:// come from extras that bear the adapter's name, not the scheme's.
    package = entry.module.partition(".")[0]
    for extra in (*entry.extras, entry.name, package.rpartition("_")[2]):
        if extra in offered:
            return f"'{entry.dist.name}[{extra}]'"
    return missing.partition(".")[0]
