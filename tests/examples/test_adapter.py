"""A stranger's adapter: the steps of docs/writing-an-adapter.md, in an environment that has nothing of ours."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

PAGE = (ROOT / "docs" / "writing-an-adapter.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "adapter"
BIN = Path("environment", "bin")


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """What a command prints that knows nothing of this tree but what it is given."""
    env = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV"))}
    ran = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's folder somewhere else, with step 3 done in an environment below it."""
    folder = tmp_path_factory.mktemp("stranger") / "adapter"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "wheels", ROOT, cwd=folder)
    (wheel,) = (folder / "wheels").glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "environment", cwd=folder)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / BIN / "python"), "install", "--quiet"]
    run(*pip, f"smoltbot-worker[cli] @ {wheel.as_uri()}", ".", "pytest", "pytest-asyncio", cwd=folder)
    return folder


def blocks(language: str) -> list[str]:
    """The page's blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_shows_the_files_of_the_example() -> None:
    assert blocks("toml") == [(EXAMPLE / "pyproject.toml").read_text()]
    assert blocks("python")[0] == (EXAMPLE / "test_conformance.py").read_text()


def test_every_case_that_the_page_names_exists() -> None:
    from worker_compat.testing.kv import KVStoreConformance

    named = re.findall(r"test_\w+|(?<=FAILED  KVStore  )\w+", "".join(blocks("text") + blocks("python")[1:]))
    assert named
    assert [name for name in named if not hasattr(KVStoreConformance, f"test_{name.removeprefix('test_')}")] == []


def test_the_adapter_is_found(stranger: Path) -> None:
    assert re.search(
        r"folder.*worker[-_]compat[-_]folder", run(stranger / BIN / "worker-compat", "adapters", cwd=stranger)
    )


def test_the_kit_is_green(stranger: Path, tmp_path: Path) -> None:
    report = run(stranger / BIN / "worker-compat", "check", f"folder://{tmp_path}/kv", cwd=stranger)
    assert "FAILED" not in report


def test_the_strangers_own_tests_are_green(stranger: Path) -> None:
    assert re.search(r"\d\d passed", run(stranger / BIN / "python", "-m", "pytest", "-q", cwd=stranger))


def test_a_broken_adapter_is_named(stranger: Path, tmp_path: Path) -> None:
    broken = tmp_path / "worker_compat_folder"
    shutil.copytree(EXAMPLE / "worker_compat_folder", broken, ignore=shutil.ignore_patterns("__pycache__"))
    source = (broken / "kv.py").read_text()
    (broken / "kv.py").write_text(source.replace("row.expiration > self._clock()", "row.expiration >= self._clock()"))
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from worker_compat_cli.main import main; main()"
    command: list[str | Path] = [
        stranger / BIN / "python",
        "-c",
        program,
        tmp_path,
        "check",
        f"folder://{tmp_path}/kv",
        "--json",
    ]
    report = json.loads(run(*command, cwd=tmp_path, code=1))
    failed = {row["name"] for row in report["KVStore"] if not row["passed"]}
    assert failed
    assert all("expir" in name or "gone" in name for name in failed), failed
