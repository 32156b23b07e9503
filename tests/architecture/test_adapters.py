"""Adapters look alike: the same file name does the same job in each of them, and says the same things about itself."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from tests.architecture.test_packaging import entry_points
from tests.architecture.tree import ROOT

FILES = {
    "worker_compat.kv": "kv",
    "worker_compat.queue": "queue",
    "worker_compat.host": "host",
    "worker_compat.fetcher": "fetcher",
    "worker_compat.decoder": "decoder",
    "smoltbot.records": "records",
}
"""The file of a port's adapter, by the port's group of entry points."""

REGISTERED = sorted({(group, value) for group in FILES for value in entry_points()[group].values()})
STORES = [(group, value) for group, value in REGISTERED if group in ("worker_compat.kv", "worker_compat.queue")]


def test_every_group_is_in_the_table() -> None:
    assert set(entry_points()) - {"console_scripts"} == set(FILES)


@pytest.mark.parametrize(("group", "value"), REGISTERED)
def test_a_port_is_served_by_the_file_of_its_name(group: str, value: str) -> None:
    package, _, factory = value.partition(":")
    assert factory == f"open_{FILES[group]}"
    if package.startswith("worker_compat."):
        return  # the reference adapter is one module of the runtime
    opened = getattr(importlib.import_module(package), factory)
    assert opened.__module__ == f"{package}.{FILES[group]}"


@pytest.mark.parametrize(("group", "value"), STORES)
def test_a_store_says_its_url_its_semantics_and_its_limits(group: str, value: str) -> None:
    package, _, factory = value.partition(":")
    module = importlib.import_module(getattr(importlib.import_module(package), factory).__module__)
    text = module.__doc__ or ""
    assert [part for part in ("Connection URL:", "Semantics:", "Limits:") if part not in text] == []


@pytest.mark.parametrize("package", sorted({value.partition(":")[0] for _, value in STORES}))
def test_what_knows_the_library_is_the_connection(package: str) -> None:
    if not package.startswith("worker_compat."):
        assert (ROOT / "adapters" / package / "connection.py").is_file()


def test_the_runtime_needs_neither_site_packages_nor_the_environment() -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import worker_compat; print(worker_compat.KVNamespace)"
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
