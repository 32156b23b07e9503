"""The repository's own furniture: prescribed folders, one command for CI, the license, the commit hooks."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, none_of

HOOKS = ROOT / ".pre-commit-config.yaml"


@pytest.mark.parametrize(
    "folder", ["worker_compat", "smoltbot_worker", "adapters", "tests", "docker", "helm", "schema"]
)
def test_prescribed_folders_exist(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    # git keeps no empty folder.
    assert any(path.is_file() for path in (ROOT / folder).rglob("*"))


@pytest.mark.parametrize("folder", ["docker", "helm", "schema"])
def test_folders_without_code_say_what_they_are(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert re.match(r"# \S.*\n\n\S", text)


def test_ci_runs_what_everybody_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#!")
    assert [line for line in lines if re.match(r"(exec )?make\b", line)] == ["exec make test"]


def test_the_license_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert re.match(r"\s*Apache License\s+Version 2\.0, January 2004\s+http://www\.apache\.org/licenses/", text)
    assert "END OF TERMS AND CONDITIONS" in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0"


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile, with the folder of tools as the hooks write it."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert found, f"the Makefile has no recipe for {target}"
    return [line.strip().replace("$(BIN)/", ".venv/bin/") for line in found[1].splitlines()]


def test_hooks_run_what_make_check_runs() -> None:
    entries = re.findall(r"^ +entry: (.+)$", HOOKS.read_text(encoding="utf-8"), re.MULTILINE)
    none_of(set(recipe("check")) - set(entries))


def test_hooks_need_no_network() -> None:
    assert set(re.findall(r"^ *- repo: (\S+)$", HOOKS.read_text(encoding="utf-8"), re.MULTILINE)) == {"local"}


def test_hooks_are_valid() -> None:
    ran = subprocess.run(
        [Path(sys.executable).with_name("pre-commit"), "validate-config", HOOKS],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
