"""DATA_DIR: the generated keys are made once, whole, and for their owner only."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from smoltbot_host import data_dir
from worker_compat.errors import ConfigError

NAMES = ["signing.key", "queue.key", "admin.token"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files(folder: Path) -> list[str]:
    """Everything in it, hidden files too."""
    return sorted(file.name for file in folder.iterdir())


def test_the_first_start(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "data"
    before = os.umask(0)
    try:
        assert data_dir.prepare(str(folder)) == NAMES
    finally:
        os.umask(before)
    assert mode(folder) == 0o700
    assert files(folder) == sorted(NAMES)
    assert {mode(folder / name) for name in NAMES} == {0o600}
    for name in ("signing.key", "queue.key"):
        assert re.fullmatch(r"[0-9a-f]{64}\n", (folder / name).read_text())
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", (folder / "admin.token").read_text())
    assert len({(folder / name).read_text() for name in NAMES}) == 3


def test_every_deployment_has_its_own(tmp_path: Path) -> None:
    data_dir.prepare(str(tmp_path / "one"))
    data_dir.prepare(str(tmp_path / "two"))
    for name in NAMES:
        assert (tmp_path / "one" / name).read_text() != (tmp_path / "two" / name).read_text()


def test_later_starts_change_nothing(tmp_path: Path) -> None:
    data_dir.prepare(str(tmp_path))
    kept = {name: ((tmp_path / name).read_text(), (tmp_path / name).stat()) for name in NAMES}
    assert data_dir.prepare(str(tmp_path)) == []
    assert {name: ((tmp_path / name).read_text(), (tmp_path / name).stat()) for name in NAMES} == kept


def test_only_what_is_missing_is_made(tmp_path: Path) -> None:
    (tmp_path / "signing.key").write_text("ab" * 32)
    (tmp_path / "signing.key").chmod(0o440)
    (tmp_path / "queue.key").write_text("cd" * 32)
    assert data_dir.prepare(str(tmp_path)) == ["admin.token"]
    assert ((tmp_path / "signing.key").read_text(), mode(tmp_path / "signing.key")) == ("ab" * 32, 0o440)
    assert (tmp_path / "queue.key").read_text() == "cd" * 32


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_key_is_named_at_the_start(tmp_path: Path, name: str) -> None:
    data_dir.prepare(str(tmp_path))
    (tmp_path / name).write_text("bad")
    with pytest.raises(ConfigError, match=f"{name} is damaged"):
        data_dir.prepare(str(tmp_path))
    assert (tmp_path / name).read_text() == "bad"


def test_a_folder_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    data_dir.prepare(str(tmp_path))
    assert mode(tmp_path) == 0o750


_CHILD = """
import sys
from smoltbot_host import data_dir
print("ready", flush=True)
sys.stdin.readline()
print(",".join(data_dir.prepare(sys.argv[1])), flush=True)
"""


def test_several_processes_at_once_make_one_set(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _CHILD, str(tmp_path / "data")]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    made = [child.communicate(timeout=20)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0] * 4
    assert sorted(name for line in made for name in line.split(",") if name) == sorted(NAMES)
    assert files(tmp_path / "data") == sorted(NAMES)
    assert len((tmp_path / "data" / "signing.key").read_text()) == 65


def test_a_race_that_is_lost_leaves_the_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def slower(source: Path, target: Path) -> None:
        target.write_text("ab" * 32)
        link(source, target)

    monkeypatch.setattr(os, "link", slower)
    assert data_dir.prepare(str(tmp_path)) == []
    assert {(tmp_path / name).read_text() for name in NAMES} == {"ab" * 32}
    assert files(tmp_path) == sorted(NAMES)


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_full_disk_leaves_nothing_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(ConfigError, match="No space left on device"):
            data_dir.prepare(str(tmp_path))
        assert files(tmp_path) == []
    assert data_dir.prepare(str(tmp_path)) == NAMES


def test_what_a_crash_left_is_not_in_the_way(tmp_path: Path) -> None:
    """In a container every start has the same process id."""
    for name in NAMES:
        (tmp_path / f".{name}.{os.getpid()}").write_text("half a k")
    assert data_dir.prepare(str(tmp_path)) == NAMES


@pytest.mark.parametrize("below", ["", "data"])
def test_a_file_in_the_place_of_the_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / below)
    with pytest.raises(ConfigError) as caught:
        data_dir.prepare(path)
    assert str(caught.value).startswith(f"DATA_DIR {path!r} cannot be used (")
    assert "point DATA_DIR at a folder that this user may write" in str(caught.value)


_AS_NOBODY = """
import os, sys
from smoltbot_host import data_dir
if os.geteuid() == 0:  # who may write anywhere
    os.setgid(65534)
    os.setuid(65534)
data_dir.prepare(sys.argv[1])
"""


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    command = [sys.executable, "-c", _AS_NOBODY, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ran.returncode == 1
    assert "ConfigError: DATA_DIR" in ran.stderr
    assert "(Permission denied); point DATA_DIR at" in ran.stderr
    assert files(tmp_path) == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    data_dir.prepare(str(tmp_path))
    (tmp_path / "admin.token").unlink()
    (tmp_path / "admin.token").mkdir()
    with pytest.raises(ConfigError, match=r"admin\.token cannot be read \(Is a directory\): let this user read it"):
        data_dir.prepare(str(tmp_path))
