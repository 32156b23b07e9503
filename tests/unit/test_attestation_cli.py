"""``smoltbot verify``: its exit codes and what it says, in a process of its own, without host and network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from smoltbot_cli.main import main
from tests.unit.attestation_support import CRYPTO, bundle_of, filled, two_sessions

ROOT = Path(__file__).parents[2]
KEY = CRYPTO.public_key
OTHER_KEY = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A bundle, a certificate, heads and keys, whole and damaged."""
    log = await filled(two_sessions(6), batch=2)
    bundle = bundle_of(log)
    certificate = bundle["entries"][3]["certificate"]
    cut = await filled(two_sessions(4), batch=2)
    bad = json.loads(json.dumps(bundle))
    bad["entries"][2]["certificate"]["claims"]["verdict"] = "boundary_violation"
    documents: dict[str, Any] = {
        "bundle": bundle,
        "certificate": certificate,
        "cut": bundle_of(cut),
        "bad": bad,
        "later": {**bundle, "bundle_version": 2},
        "head": log.heads["smolt-0badcafe"][-1].to_json(),
        "keys": {"keys": [{"key_id": "key-001", "public_key": KEY, "algorithm": "Ed25519", "is_active": True}]},
        "wrong_keys": {"keys": [{"key_id": "key-001", "public_key": OTHER_KEY}]},
        "no_keys": {"keys": []},
        "two_keys": [{"key_id": "key-001", "public_key": key} for key in (OTHER_KEY, KEY)],
    }
    for name, document in documents.items():
        (tmp_path / name).write_text(json.dumps(document))
    (tmp_path / "torn").write_text(json.dumps(bundle)[:-100])
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").touch()
    (tmp_path / "nan").write_text('{"bundle_version":NaN}')
    (tmp_path / "deep").write_text("[" * 200_000)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate((1 << 30) + 1)  # a hole, which takes no space
    return tmp_path


def verify(folder: Path, *words: str) -> Result:
    plain = ("-", KEY, KEY.upper(), OTHER_KEY, "nonsense")
    given = [word if word.startswith(plain) else str(folder / word) for word in words]
    return CliRunner().invoke(main, ["verify", *given])


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--keys", "keys", "bundle", "certificate"], 0, "bundle with 6 entries and 0 pruned: valid"),
        (["--key", KEY, "certificate"], 0, "valid"),
        (["--key", KEY.upper(), "certificate"], 0, "valid"),
        (["--keys", "keys", "--head", "head", "bundle", "certificate"], 0, "valid"),
        (["bundle"], 3, "consistent, key not pinned"),
        (["certificate"], 2, "without a key"),
        (["bundle", "certificate"], 2, "key not pinned"),
        (["bundle", "bad"], 1, "leaf 2 (ic-00000000-0000-4000-8000-000000000002): payload: verdict not as signed"),
        (["--keys", "keys", "bad"], 1, "NOT VALID"),
        (["--keys", "keys", "--head", "head", "cut"], 1, "saved head: head: has 6 entries where the bundle has 4"),
        (["--keys", "keys", "cut"], 0, "valid"),
        (["--keys", "wrong_keys", "bundle"], 1, "is not the pinned key"),
        (["--key", OTHER_KEY, "certificate"], 1, "signature"),
        (["later"], 1, "bundle_version is 2; this program reads version 1"),
        (["torn"], 1, "it is not JSON"),
        (["binary"], 1, "it is not UTF-8"),
        (["absent"], 1, "it cannot be read (No such file or directory)"),
        (["empty"], 1, "it is not JSON"),
        (["nan"], 1, "it is not JSON: NaN is no value of JSON"),
        (["deep"], 1, "it is nested too deeply"),
        (["huge"], 1, "it is larger than 1024 MiB"),
        (["--head", "huge", "bundle"], 1, "it is larger than 1024 MiB"),
        (["keys"], 1, "shape"),
        (["--head", "keys", "bundle"], 1, "no signed head"),
        (["--keys", "no_keys", "bundle"], 2, "it should be"),
        (["--keys", "two_keys", "bundle"], 2, "the same key_id is there twice"),
        (["--keys", "absent", "bundle"], 2, "it cannot be read"),
        (["--key", "nonsense", "bundle"], 2, "64 hex digits"),
        (["--key", KEY, "--keys", "keys", "bundle"], 2, "not both"),
    ],
)
def test_exit_codes(folder: Path, words: list[str], status: int, said: str) -> None:
    result = verify(folder, *words)
    assert result.exit_code == status, result.output
    assert said in result.output


@pytest.mark.parametrize("name", ["torn", "binary", "absent", "empty", "nan", "deep", "huge"])
def test_what_cannot_be_read_takes_one_line(folder: Path, name: str) -> None:
    result = verify(folder, "--keys", "keys", name)
    assert result.output.startswith(f"{folder / name}: NOT VALID: it ")
    assert len(result.output.splitlines()) == 1


def test_it_needs_no_host(folder: Path) -> None:
    """The command, in a process that refuses to import the host, the server and the databases."""
    program = (
        "import sys\n"
        f"sys.path[:0] = {[str(ROOT), str(ROOT / 'adapters')]!r}\n"
        "for name in ('smoltbot_host', 'aiohttp', 'smoltbot_records_sqlite', 'asyncpg', 'aip'):\n"
        "    sys.modules[name] = None\n"
        "from smoltbot_cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, "verify", "--keys", str(folder / "keys"), str(folder / "bundle")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_many_defects_are_cut_short(folder: Path) -> None:
    bundle = json.loads((folder / "bundle").read_text())
    bundle["agent"] = "smolt-ffffffff"
    for entry in bundle["entries"]:
        entry["certificate"] = {}
    (folder / "many").write_text(json.dumps(bundle))
    result = verify(folder, "many")
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 52
    assert "more" in result.output.splitlines()[-1]
