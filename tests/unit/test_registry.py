"""The registry: adapters found by scheme and name in real package metadata, and the errors that help."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker_compat import memory, registry
from worker_compat.errors import AdapterNotFound, ConfigError
from worker_compat.ports import KVEntry

ADAPTER = """
from contextlib import asynccontextmanager

events = []

@asynccontextmanager
async def open_kv(url, *, clock):
    events.append(("open", url, clock))
    yield "the store"
    events.append(("close",))

@asynccontextmanager
async def open_late(url, *, clock):
    import a_library_nobody_has
    yield

@asynccontextmanager
async def open_broken(url, *, clock):
    import worker_compat.a_module_that_is_not_there
    yield
"""

ENTRY_POINTS = """
[worker_compat.kv]
etcd = worker_compat_etcd:open_kv
etcds = worker_compat_etcd:open_kv
kv+etcd = worker_compat_etcd_absent:open_kv
late = worker_compat_etcd:open_late
broken = worker_compat_etcd:open_broken
plain = a_library_nobody_has.client:open_kv
twice = worker_compat_etcd:open_kv
[worker_compat.queue]
etcd = worker_compat_etcd:open_kv
[worker_compat.host]
etcdhttp = worker_compat_etcd:open_kv
"""


def _install(site: Path, name: str, entry_points: str) -> None:
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    extras = "Provides-Extra: etcd\nProvides-Extra: late\n"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{extras}")
    (info / "entry_points.txt").write_text(entry_points)


def _shows(error: BaseException | None, secret: str) -> bool:
    """Whether an error, or one behind it, has the secret in its text or its attributes."""
    while error is not None:
        if secret in f"{error!r} {vars(error)}":
            return True
        error = error.__cause__ or error.__context__
    return False


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A site directory with one more distribution in it."""
    _install(tmp_path, "etcd-adapter", ENTRY_POINTS)
    (tmp_path / "worker_compat_etcd.py").write_text(ADAPTER)
    (tmp_path / "worker_compat_etcd_absent.py").write_text("import a_library_nobody_has.client\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("worker_compat_etcd", "worker_compat_etcd_absent"):
        sys.modules.pop(name, None)


async def test_memory_uses_the_same_door() -> None:
    assert registry.find(registry.KV, "memory") is memory.open_kv
    async with registry.open_kv("Memory://", clock=lambda: 5.0) as store:
        await store.put("k", KVEntry(b"x", None, 6))
        assert await store.get("k") is not None
        await store.put("k", KVEntry(b"x", None, 5))
        assert await store.get("k") is None


@pytest.mark.parametrize("scheme", ["etcd", "etcds", "ETCD"])
async def test_a_store_is_opened_and_closed(site: Path, scheme: str) -> None:
    url = f"{scheme}://user:password@host:1,other:2/path?x=1"
    async with registry.open_kv(url) as store:
        assert repr(store) == "'the store'"
        events = sys.modules["worker_compat_etcd"].events
        assert events == [("open", url, time.time)]
    assert events[-1] == ("close",)


async def test_a_queue_is_opened_on_the_given_clock(site: Path) -> None:
    def clock() -> float:
        return 5.0

    async with registry.open_queue("etcd://host", clock=clock):
        assert sys.modules["worker_compat_etcd"].events == [("open", "etcd://host", clock)]


async def test_an_unknown_scheme_names_those_that_exist(site: Path) -> None:
    with pytest.raises(AdapterNotFound) as caught:
        async with registry.open_queue("etcds://user:hunter2@host"):
            pass
    start, _, names = str(caught.value).partition("; installed: ")
    assert start == "no worker_compat.queue adapter for etcds://"
    assert {"etcd://", "memory://"} <= set(names.split(", "))
    assert not _shows(caught.value, "hunter2")


def test_an_unknown_name_names_those_that_exist(site: Path) -> None:
    with pytest.raises(AdapterNotFound) as caught:
        registry.find(registry.HOST, "nginx")
    assert str(caught.value).startswith("no worker_compat.host adapter for nginx; installed: ")
    assert "etcdhttp" in str(caught.value)
    with pytest.raises(AdapterNotFound, match=r"no nobody\.home adapter for x; installed: none$"):
        registry.find("nobody.home", "x")


def test_a_missing_library_names_the_extra_of_the_adapter(site: Path) -> None:
    _install(site, "smoltbot-x", "[worker_compat.kv]\netcdx = a_library_nobody_has:f [etcd]\n")
    with pytest.raises(AdapterNotFound) as caught:
        registry.find(registry.KV, "etcdx")
    text = "etcdx:// needs a_library_nobody_has; pip install 'smoltbot-x[etcd]'"
    assert str(caught.value) == text


def test_a_missing_library_without_any_extra_is_itself_the_remedy(site: Path) -> None:
    with pytest.raises(AdapterNotFound) as caught:
        registry.find(registry.KV, "kv+etcd")
    assert str(caught.value) == "kv+etcd:// needs a_library_nobody_has; pip install a_library_nobody_has"


def test_the_extra_may_bear_the_name_of_the_package(site: Path) -> None:
    (site / "worker_compat_late.py").write_text("import a_library_nobody_has\n")
    _install(site, "smoltbot-y", "[worker_compat.kv]\nlatetls = worker_compat_late:open_kv\n")
    with pytest.raises(AdapterNotFound, match=r"^latetls:// needs .*'smoltbot-y\[late\]'$"):
        registry.find(registry.KV, "latetls")


async def test_a_library_imported_only_on_opening_is_named_too(site: Path) -> None:
    registry.find(registry.KV, "late")
    with pytest.raises(AdapterNotFound) as caught:
        async with registry.open_kv("late://user:hunter2@host"):
            pass
    assert str(caught.value) == "late:// needs a_library_nobody_has; pip install 'etcd-adapter[late]'"
    assert not _shows(caught.value, "hunter2")


async def test_a_hole_in_this_package_is_not_blamed_on_an_extra(site: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        async with registry.open_kv("broken://"):
            pass


async def test_an_import_error_of_the_caller_passes_through(site: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="theirs"):
        async with registry.open_kv("etcd://"):
            raise ModuleNotFoundError("theirs", name="theirs")


def test_a_scheme_that_two_adapters_claim_is_an_error(site: Path) -> None:
    _install(site, "second", "[worker_compat.kv]\ntwice = other:open_kv\netcd = worker_compat_etcd:open_kv\n")
    with pytest.raises(ConfigError, match=r"^twice:// is registered more than once: other:open_kv, worker"):
        registry.find(registry.KV, "twice")
    # The same adapter seen twice, as in an editable and a plain installation side by side, is no conflict.
    registry.find(registry.KV, "etcd")


@pytest.mark.parametrize(
    "url",
    [
        *("", "hunter2", "memory", "memory:", "/var/hunter2", "user:hunter2@host:6379", "://hunter2"),
        *(
            "user:hunter2@host://x",
            "1redis://hunter2",
            "re dis://hunter2",
            "redis://hunter2@ho st",
            "redis://a\n",
        ),
        *("redis://:hunter2@[::1", "redis://hunter2@a]b/", "redis://hunter2\u2100@host"),
    ],
)
async def test_a_malformed_url_is_refused_and_never_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="malformed URL") as caught:
        async with registry.open_kv(url):
            pass
    assert not _shows(caught.value, "hunter2")


def test_metadata_is_read_only_when_asked_for() -> None:
    source = Path(registry.__file__).read_text()
    imports = [line for line in source.splitlines() if "importlib.metadata" in line and "import " in line]
    assert all(line.startswith("    ") for line in imports), imports


def test_what_is_installed(site: Path) -> None:
    found = {adapter.name: adapter for adapter in registry.installed(registry.KV)}
    assert list(found) == sorted(found)
    assert (found["memory"].package, found["memory"].extra, found["memory"].problem) == ("worker_compat", None, None)
    assert (found["etcd"].package, found["etcd"].extra) == ("worker_compat_etcd", "etcd")
    assert found["kv+etcd"].problem == "kv+etcd:// needs a_library_nobody_has; pip install a_library_nobody_has"


def test_an_adapter_that_is_registered_in_two_places_is_listed_once(site: Path) -> None:
    _install(site, "second", "[worker_compat.kv]\netcd = worker_compat_etcd:open_kv\n")
    assert [adapter.name for adapter in registry.installed(registry.KV)].count("etcd") == 1


async def test_the_host_is_the_first_that_can_be_imported(site: Path) -> None:
    _install(site, "a", "[worker_compat.fetcher]\naaa = worker_compat_etcd_absent:f\naab = fetcher_of_a:open_fetcher\n")
    (site / "fetcher_of_a.py").write_text(
        "from contextlib import asynccontextmanager\n"
        "@asynccontextmanager\nasync def open_fetcher(**options):\n    yield options\n"
    )
    async with registry.open_fetcher(limit=1) as fetcher:
        assert fetcher == {"limit": 1}  # type: ignore[comparison-overlap] # a stand-in


def test_decoders_whose_library_is_missing_are_left_out(site: Path) -> None:
    _install(site, "d", "[worker_compat.decoder]\nxx = worker_compat_etcd:open_kv\nyy = a_library_nobody_has:f\n")
    found = registry.decoders()
    assert found["xx"] is sys.modules["worker_compat_etcd"].open_kv
    assert "yy" not in found


def test_a_url_is_checked_without_opening_anything(site: Path) -> None:
    registry.check(registry.KV, "etcd://host")
    with pytest.raises(AdapterNotFound, match=r"no worker_compat\.kv adapter for nowhere"):
        registry.check(registry.KV, "nowhere://host")
    assert sys.modules["worker_compat_etcd"].events == []
