"""Who may import whom: the rights of every package, and proof that a violation is seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, Import, Module, adapters, files, modules, none_of, packages

STANDARD = sys.stdlib_module_names
ANY = frozenset[str]()
"""Any function."""
HOST_COMMANDS = frozenset({"serve", "migrate", "doctor", "explained", "generate", "list_keys", "rotate"})


@dataclass(frozen=True)
class Rights:
    """What a package may import besides itself and the standard library; a name covers what is below it."""

    anywhere: frozenset[str] = frozenset()
    in_functions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    never: frozenset[str] = frozenset()


RIGHTS = {
    "worker_compat": Rights(never=frozenset({"unittest"})),
    "worker_compat.testing": Rights(frozenset({"worker_compat"}), never=frozenset({"unittest", "doctest"})),
    # aip pulls an HTTP client at import: start-up and the Pyodide bundle do without.
    "smoltbot_worker": Rights(
        frozenset({"worker_compat", "aap"}),
        in_functions={"aip": ANY},
        never=frozenset({"worker_compat.testing", "unittest"}),
    ),
    "worker_compat_aiohttp": Rights(frozenset({"worker_compat", "aiohttp", "aiodns", "yarl", "multidict"})),
    "worker_compat_brotli": Rights(frozenset({"worker_compat", "brotli"})),
    "worker_compat_cli": Rights(frozenset({"worker_compat", "click"})),
    # js, pyodide and workers exist only inside Cloudflare.
    "worker_compat_cloudflare": Rights(
        frozenset({"worker_compat"}), in_functions={"js": ANY, "pyodide": ANY, "workers": ANY}
    ),
    "worker_compat_postgres": Rights(frozenset({"worker_compat", "asyncpg"})),
    "worker_compat_redis": Rights(frozenset({"worker_compat", "redis"})),
    "worker_compat_sqlite": Rights(frozenset({"worker_compat"})),
    "worker_compat_zstd": Rights(frozenset({"worker_compat", "zstandard"})),
    "smoltbot_records_postgres": Rights(
        frozenset({
            "worker_compat", "worker_compat_postgres", "smoltbot_worker.ports", "smoltbot_worker.records", "asyncpg",
        })
    ),
    "smoltbot_records_supabase": Rights(
        frozenset({"worker_compat", "smoltbot_worker.ports", "smoltbot_worker.records"})
    ),
    "smoltbot_records_sqlite": Rights(
        frozenset({"worker_compat", "worker_compat_sqlite", "smoltbot_worker.ports", "smoltbot_worker.records"})
    ),
    # Help must be quick: whatever a command needs beyond click is imported by the command.
    "smoltbot_cli": Rights(
        frozenset({"worker_compat", "click"}),
        in_functions={
            "smoltbot_host": HOST_COMMANDS,
            "smoltbot_worker.env": HOST_COMMANDS,
            "smoltbot_worker.variables": HOST_COMMANDS,
            "smoltbot_worker.attestation": ANY,
            "rich": ANY,
            "cryptography": ANY,
        },
    ),
    "smoltbot_host": Rights(
        frozenset({
            "worker_compat", "smoltbot_worker", "worker_compat_aiohttp", "worker_compat_sqlite",
            "smoltbot_records_sqlite", "orjson", "jwt", "cryptography", "prometheus_client", "opentelemetry", "uvloop",
            "brotli", "zstandard",
        })
    ),
}  # fmt: skip

ELSEWHERE = frozenset({"pytest", "unittest"})
"""Libraries of tests: nobody's here."""
INSIDE_CLOUDFLARE = frozenset({"js", "pyodide", "workers"})
"""Modules that exist only there: no distribution has them, so the contracts need not forbid them."""


def under(target: str, names: frozenset[str]) -> str | None:
    """The name that covers a module, if one does."""
    return next((name for name in names if target == name or target.startswith(f"{name}.")), None)


def owner(module: str) -> str:
    """The row of the table that a module belongs to."""
    rows = [row for row in RIGHTS if under(module, frozenset({row}))]
    return max(rows, key=len, default=module.partition(".")[0])


def allowed(module: str, found: Import) -> bool:
    row = owner(module)
    rights = RIGHTS.get(row, Rights())
    if under(found.target, rights.never):
        return False
    if under(found.target, rights.anywhere | {row}) or found.target.partition(".")[0] in STANDARD:
        return True
    if found.target == "?":  # a computed name: the host alone looks adapters up
        return row == "smoltbot_host"
    lazy = under(found.target, frozenset(rights.in_functions))
    return (
        lazy is not None and found.function != "" and found.function in (rights.in_functions[lazy] or {found.function})
    )


def wrong(module: Module) -> Iterator[str]:
    for found in module.imports():
        if not allowed(module.name, found):
            where = f" in {found.function}()" if found.function else ""
            yield f"{module.shown}:{found.line}: {owner(module.name)} may not import {found.target}{where}"


def violations(root: Path) -> list[str]:
    return [line for module in modules(root) for line in wrong(module)]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and their contracts in another place, to be broken there."""
    root = tmp_path_factory.mktemp("tree")
    for folder in packages().values():
        shutil.copytree(folder, root / folder.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


@contextmanager
def planted(file: Path, text: str) -> Iterator[None]:
    """The file with a text at its end."""
    before = file.read_text()
    file.write_text(f"{before}\n{text}\n")
    try:
        yield
    finally:
        file.write_text(before)


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """import-linter with the contracts and the packages of this folder."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'adapters'}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def python(code: str, *options: str) -> str:
    ran = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_package_has_its_row() -> None:
    assert {owner(module.name) for module in modules()} <= set(RIGHTS)
    assert set(RIGHTS) - {"worker_compat.testing"} == set(packages())


def test_every_import_is_a_right() -> None:
    none_of(violations(ROOT))


def test_only_the_command_line_imports_the_host() -> None:
    sources = [*modules(), *(Module(path, path.stem, ROOT) for name in ("bench", "examples")
                             for path in files(".py", ROOT / name))]  # fmt: skip
    importers = {
        module.shown.rpartition("/")[0]
        for module in sources
        for found in module.imports()
        if found.target.partition(".")[0] == "smoltbot_host"
    }
    assert importers - {"adapters/smoltbot_host"} <= {"adapters/smoltbot_cli"}


def test_import_linter_keeps_every_contract() -> None:
    ran = lint_imports(ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " 0 broken." in ran.stdout


def contracts() -> tuple[list[str], list[dict[str, list[str]]]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return settings["root_packages"], settings["contracts"]


def libraries(names: frozenset[str]) -> set[str]:
    return {name.partition(".")[0] for name in names} - set(packages())


def test_import_linter_looks_at_every_package() -> None:
    roots, _ = contracts()
    assert sorted(roots) == sorted(packages())


@pytest.mark.parametrize("package", sorted(set(packages()) - {"smoltbot_host"}))
def test_the_contracts_forbid_every_library_that_the_table_does(package: str) -> None:
    everyone = {name for rights in RIGHTS.values() for name in libraries(rights.anywhere | set(rights.in_functions))}
    own = libraries(RIGHTS[package].anywhere | set(RIGHTS[package].in_functions))
    _, rules = contracts()
    forbidden = {
        name for rule in rules if package in rule.get("source_modules", ()) for name in rule["forbidden_modules"]
    }
    libraries_forbidden = {name for name in forbidden if name.partition(".")[0] not in packages()}
    assert libraries_forbidden == (everyone | ELSEWHERE) - own - INSIDE_CLOUDFLARE


PLANTED = {
    "a library in the runtime": ("worker_compat/kv.py", "import redis"),
    "an SDK in the runtime": ("worker_compat/testing/__init__.py", "from aip import client"),
    "the gateway in the runtime": ("worker_compat/headers.py", "import smoltbot_worker.env"),
    "an adapter in the gateway": ("smoltbot_worker/relay/proxy.py", "from worker_compat_aiohttp import open_fetcher"),
    "a library in the gateway": ("smoltbot_worker/gateway.py", "def late():\n    import orjson"),
    "the kits in the gateway": ("smoltbot_worker/health.py", "from worker_compat import testing"),
    "the gateway in an adapter": ("adapters/worker_compat_sqlite/writer.py", "from smoltbot_worker.ports import Json"),
    "an adapter in an adapter": ("adapters/worker_compat_aiohttp/host.py", "import worker_compat_sqlite"),
    "a stranger's adapter": ("adapters/smoltbot_records_sqlite/agents.py", "import worker_compat_aiohttp.wire"),
    "the gateway's inside": ("adapters/smoltbot_records_sqlite/agents.py", "from smoltbot_worker.relay import proxy"),
    "the host in an adapter": ("adapters/smoltbot_records_sqlite/migrate.py", "def f():\n    import smoltbot_host"),
    "a library in the command line": ("adapters/smoltbot_cli/main.py", "def serve_more():\n    import aiohttp"),
}


@pytest.mark.parametrize(("file", "text"), PLANTED.values(), ids=PLANTED)
def test_a_planted_import_fails_both_checks(copied: Path, file: str, text: str) -> None:
    with planted(copied / file, text):
        assert [line.partition(":")[0] for line in violations(copied)] == [file]
        ran = lint_imports(copied)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    # A library in the runtime is one in whatever imports the runtime as well.
    assert " 0 broken." not in ran.stdout


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("adapters/smoltbot_cli/main.py", "import smoltbot_host.serve"),
        ("adapters/smoltbot_cli/main.py", "def help():\n    from smoltbot_host import serve"),
        ("adapters/smoltbot_cli/main.py", "from smoltbot_worker.env import Env"),
        ("adapters/smoltbot_cli/__main__.py", "import rich"),
        ("smoltbot_worker/observer.py", "import aip"),
        ("smoltbot_worker/observer.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import aip"),
        ("smoltbot_worker/observer.py", "import importlib\nimportlib.import_module('aiohttp')"),
        ("smoltbot_worker/observer.py", "name = 'aiohttp'\n__import__(name)"),
        ("worker_compat/kv.py", "from .. import anything"),
        ("worker_compat/kv.py", "class Late:\n    def load(self):\n        import requests"),
    ],
)
def test_what_only_the_table_can_say_is_seen(copied: Path, file: str, text: str) -> None:
    with planted(copied / file, text):
        assert [line.partition(":")[0] for line in violations(copied)] == [file]


def test_a_copy_without_a_plant_passes_both_checks(copied: Path) -> None:
    none_of(violations(copied))
    ran = lint_imports(copied)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_package_nobody_thought_of_has_no_rights(tmp_path: Path) -> None:
    (tmp_path / "adapters" / "worker_compat_new").mkdir(parents=True)
    (tmp_path / "adapters" / "worker_compat_new" / "__init__.py").write_text("from worker_compat import KVNamespace\n")
    assert adapters(tmp_path) == ["worker_compat_new"]
    assert violations(tmp_path) == [
        "adapters/worker_compat_new/__init__.py:1: worker_compat_new may not import worker_compat"
    ]


AVOIDED = (
    "concurrent.futures.process", "concurrent.futures.thread", "ctypes", "email", "http.client", "importlib.metadata",
    "multiprocessing", "sqlite3", "unittest", "urllib.request", "xml",
)  # fmt: skip
"""Heavy parts of the standard library that start-up and Pyodide do without; asyncio itself brings ssl."""


def test_the_runtime_stands_alone() -> None:
    names = sorted(module.name for module in modules() if owner(module.name).partition(".")[0] == "worker_compat")
    loaded = python(
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules)\n"
        "import worker_compat\n"
        "print(*sorted(set(sys.modules) - before))\n"
        f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        "print(*sorted(set(sys.modules) - before))",
        "-I", "-S",
    ).splitlines()  # fmt: skip
    first, every = (line.split() for line in loaded)
    assert "worker_compat.kv" in first
    assert set(names) <= set(every)
    assert {name.partition(".")[0] for name in every} - STANDARD == {"worker_compat"}
    assert set(every) & set(AVOIDED) == set()


def test_help_does_not_load_the_gateway() -> None:
    loaded = python(
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'adapters')!r}]\n"
        "import smoltbot_cli.main\nprint(*sys.modules)"
    ).split()
    roots = {name.partition(".")[0] for name in loaded}
    assert {"smoltbot_cli", "click"} <= roots
    assert roots & {"smoltbot_host", "smoltbot_worker", "aiohttp", "prometheus_client", "sqlite3", "orjson"} == set()
