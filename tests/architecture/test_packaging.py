"""What is shipped: the folders, the wheel, the entry points and docs/adapters.md name the same packages."""

from __future__ import annotations

import configparser
import email
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import click
import pytest

from tests.architecture.tree import ROOT, adapters, modules, none_of, packages

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
BY_SCHEME = ("worker_compat.kv", "worker_compat.queue", "smoltbot.records")
"""Groups whose entry points are found by the scheme of a URL."""


def entry_points() -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = PROJECT["project"]["entry-points"]
    return {"console_scripts": PROJECT["project"]["scripts"], **groups}


def documented() -> dict[str, tuple[str, set[str]]]:
    """Extra and URL schemes by package, as the table of docs/adapters.md has them."""
    rows = {}
    for line in (ROOT / "docs" / "adapters.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 4:
            package, _, extra, url = cells
            assert package.strip("`") not in rows, f"{package} has two rows"
            rows[package.strip("`")] = (extra.strip("`"), set(re.findall(r"`([a-z][a-z0-9+.-]*):", url)))
    return rows


def test_folders_wheel_and_document_name_the_same_adapters() -> None:
    shipped = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(shipped) == sorted(folder.relative_to(ROOT).as_posix() for folder in packages().values())
    assert sorted(documented()) == adapters()


def test_the_document_names_extras_and_schemes_that_exist() -> None:
    rows = documented()
    extras = PROJECT["project"]["optional-dependencies"]
    assert {package: extra for package, (extra, _) in rows.items() if extra not in extras} == {}
    registered: dict[str, set[str]] = {package: set() for package in rows}
    for group in BY_SCHEME:
        for scheme, value in entry_points().get(group, {}).items():
            registered.setdefault(value.partition(":")[0].partition(".")[0], set()).add(scheme)
    assert registered.pop("worker_compat") == {"memory"}, "what worker_compat brings itself is named below the table"
    assert {package: schemes for package, (_, schemes) in rows.items()} == registered


def test_adapters_is_a_folder_and_no_package() -> None:
    assert not (ROOT / "adapters" / "__init__.py").exists()
    assert [path.name for path in (ROOT / "adapters").iterdir() if path.is_file()] == []


@pytest.mark.parametrize("package", packages())
def test_every_package_is_complete_and_typed(package: str) -> None:
    folder = packages()[package]
    assert (folder / "py.typed").read_bytes() == b""
    holding = {folder, *(path.parent for path in folder.rglob("*.py"))}
    assert [path for path in sorted(holding) if not (path / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, names in entry_points().items() for name in names]
)
def test_every_entry_point_leads_somewhere(group: str, name: str) -> None:
    module, _, attribute = entry_points()[group][name].partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_the_source_distribution_lists_paths_that_exist() -> None:
    listed = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    none_of(path for path in listed if not (ROOT / path.lstrip("/")).exists())


def test_the_distribution_needs_nothing_by_itself() -> None:
    assert PROJECT["project"]["dependencies"] == []


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that knows nothing of this tree but what it is given."""
    env = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    ran = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a release makes it: built from the source distribution, which so proves to be complete."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """A fresh environment that holds the wheel and nothing else; the path of its ``bin``."""
    environment = built.parent / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=built.parent)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", built, cwd=built.parent)
    return python.parent


def test_the_wheel_holds_every_file_of_every_package(built: Path) -> None:
    names = set(zipfile.ZipFile(built).namelist())
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in packages().items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".py", ".typed", ".json")
    }
    expected |= {f"smoltbot_host/schema/sqlite/{path.name}" for path in (ROOT / "schema" / "sqlite").glob("*.sql")}
    assert {"smoltbot_worker/models.json", "smoltbot_host/schema/sqlite/0001_agents_and_cards.sql"} <= expected
    none_of(expected - names)
    own = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert own == set(packages()), "a stray top-level name in the wheel would be everybody's"
    assert not any("__pycache__" in name for name in names)


def test_the_wheel_says_what_pyproject_says(built: Path) -> None:
    wheel = zipfile.ZipFile(built)
    (info,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    registered = configparser.ConfigParser(delimiters=("=",))
    registered.optionxform = str  # type: ignore[assignment,method-assign] # names keep their case
    registered.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert {group: dict(registered[group]) for group in registered.sections()} == entry_points()
    about = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert about["License-Expression"] == "Apache-2.0"
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    required = about.get_all("Requires-Dist") or []
    assert required
    assert [line for line in required if "extra ==" not in line] == []
    assert built.name.endswith("-py3-none-any.whl")


def test_every_module_of_the_runtime_works_from_the_wheel_alone(installed: Path) -> None:
    names = [module.name for module in modules() if module.name.partition(".")[0] == "worker_compat"]
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "print(sys.modules['worker_compat'].__file__)"
    )
    shown = run(installed / "python", "-I", "-c", code, cwd=installed)
    assert Path(shown.strip()).is_relative_to(installed.parent)


def test_the_command_line_works_with_click_alone(installed: Path) -> None:
    (libraries,) = (installed.parent / "lib").glob("python*/site-packages")
    library = Path(click.__file__).parent
    shutil.copytree(library, libraries / "click", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    shown = run(installed / "smoltbot", "--help", cwd=installed)
    assert all(command in shown for command in ("serve", "migrate", "doctor"))
    # The schema that is found is the wheel's, and SQLite needs no library.
    assert "would apply 0001_agents_and_cards.sql" in run(installed / "smoltbot", "migrate", "--dry-run", cwd=installed)


def test_a_missing_library_is_answered_with_its_extra(installed: Path) -> None:
    code = (
        "from worker_compat import registry\nfrom worker_compat.errors import AdapterNotFound\n"
        "try: registry.find(registry.FETCHER, 'aiohttp')\nexcept AdapterNotFound as error: print(error)"
    )
    shown = run(installed / "python", "-I", "-c", code, cwd=installed)
    assert "needs aiohttp; pip install 'smoltbot-worker[aiohttp]'" in shown
