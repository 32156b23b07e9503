"""Signing keys: made, listed, used at a start and rotated, in a file and by variables; a kill loses none."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from smoltbot_cli.main import main
from smoltbot_host import data_dir, key_file, records, signing_keys
from smoltbot_host.crypto import HostCrypto, load_crypto
from smoltbot_host.migrate import migrate
from smoltbot_worker.env import read_variables
from worker_compat.errors import ConfigError, StoreUnavailable

SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
OTHER = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An embedded database, migrated, without a registered key."""
    given = {"DATA_DIR": str(tmp_path / "data")}
    migrate(given, dry_run=False, wait_s=30)
    return given


def folder(environ: Mapping[str, str]) -> Path:
    return Path(environ["DATA_DIR"])


def smoltbot(environ: Mapping[str, str], *arguments: str) -> Result:
    """``smoltbot signing-keys ...`` in this process."""
    return CliRunner().invoke(main, ["signing-keys", *arguments], env=dict(environ))


def called(environ: Mapping[str, str], function: str, **arguments: Any) -> Any:
    """One database function."""
    values, _ = read_variables(environ)

    async def ask() -> Any:
        async with records.opened(values) as store:
            return await store.call(function, arguments)

    return asyncio.run(ask())


def start(environ: Mapping[str, str]) -> HostCrypto:
    """What a start does with the key; the key."""
    values, _ = read_variables(environ)
    data_dir.prepare(values["data_dir"])
    crypto = load_crypto(values["ed25519_signing_key"], values["ed25519_key_id"], values["data_dir"])

    async def use() -> None:
        async with records.opened(values) as store:
            await signing_keys.use(store, crypto, values)

    asyncio.run(use())
    return crypto


def refusal(environ: Mapping[str, str]) -> str:
    """Why a start with these settings is refused; nothing changes by it."""
    before = called(environ, "signing_keys")
    with pytest.raises(ConfigError) as caught:
        start(environ)
    assert called(environ, "signing_keys") == before
    return str(caught.value)


def active(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(row["key_id"], row["public_key"]) for row in signing_keys.listed(environ) if row["is_active"]]


class TestGenerate:
    def test_what_to_set(self) -> None:
        one, two = (smoltbot({}, "generate").output for _ in range(2))
        seed = next(line.partition("=")[2] for line in one.splitlines() if line.startswith("ED25519_SIGNING_KEY="))
        assert read_variables({"ED25519_SIGNING_KEY": seed})[0]["ed25519_signing_key"] == seed
        assert f"public key {HostCrypto(bytes.fromhex(seed)).public_key}\n" in one
        assert "ED25519_KEY_ID=key-001" in one
        assert seed not in two

    def test_into_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "seed"
        result = smoltbot({}, "generate", "--out", str(file))
        assert result.exit_code == 0
        seed = file.read_text().strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert f"public key {HostCrypto(bytes.fromhex(seed)).public_key}\n" in result.output
        assert seed not in result.output
        assert [each.name for each in tmp_path.iterdir()] == ["seed"]

    def test_a_file_that_exists_stays(self, tmp_path: Path) -> None:
        (tmp_path / "seed").write_text("mine")
        result = smoltbot({}, "generate", "--out", str(tmp_path / "seed"))
        assert (result.exit_code, result.stdout) == (1, "")
        assert "exists already" in result.stderr
        assert (tmp_path / "seed").read_text() == "mine"

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        result = smoltbot({}, "generate", "--out", str(tmp_path / "none" / "seed"))
        assert (result.exit_code, result.stdout) == (1, "")
        assert "cannot be written" in result.stderr


class TestStart:
    def test_the_first_key_is_registered(self, environ: dict[str, str]) -> None:
        key = start(environ)
        assert key.key_id == "key-001"
        assert start(environ).public_key == key.public_key
        assert active(environ) == [("key-001", key.public_key)]

    def test_a_changed_key_under_its_old_id(self, environ: dict[str, str]) -> None:
        start({**environ, "ED25519_SIGNING_KEY": SEED})
        told = refusal({**environ, "ED25519_SIGNING_KEY": OTHER})
        assert told == (
            "the signing key key-001: another key is registered under this key_id; set ED25519_SIGNING_KEY and"
            " ED25519_KEY_ID to the key that is active, or set a new key under a new id and run"
            " `smoltbot signing-keys rotate`"
        )

    def test_another_key(self, environ: dict[str, str]) -> None:
        start(environ)
        told = refusal({**environ, "ED25519_SIGNING_KEY": SEED, "ED25519_KEY_ID": "mine"})
        assert told.startswith("the signing key mine: another key is active; set ED25519_SIGNING_KEY")

    def test_a_lost_file(self, environ: dict[str, str]) -> None:
        start(environ)
        (folder(environ) / "signing.key").unlink()
        told = refusal(environ)
        assert "restore signing.key from a backup, or run `smoltbot signing-keys rotate`" in told
        smoltbot(environ, "rotate")
        assert start(environ).key_id == "key-002"

    def test_another_id_for_the_file(self, environ: dict[str, str]) -> None:
        start(environ)
        assert "another key is active; unset ED25519_KEY_ID, restore" in refusal({**environ, "ED25519_KEY_ID": "mine"})

    def test_a_retired_key(self, environ: dict[str, str]) -> None:
        start(environ)
        old = (folder(environ) / "signing.key").read_text()
        smoltbot(environ, "rotate")
        (folder(environ) / "signing.key").write_text(old)
        assert refusal(environ).startswith("the signing key key-001: this key was retired; restore signing.key")


class TestList:
    def test_which_one_is_used(self, environ: dict[str, str]) -> None:
        assert smoltbot(environ, "list").output == "no key is registered yet\n"
        key = start(environ)
        assert smoltbot(environ, "list").output.startswith(f"key-001  {key.public_key}  made 20")
        assert smoltbot(environ, "list").output.endswith("Z  active  (these settings)\n")
        output = smoltbot({**environ, "ED25519_SIGNING_KEY": SEED}, "list").output
        assert output.endswith("Z  active\nnone of these is the key of these settings\n")

    def test_json_is_what_verify_reads(self, environ: dict[str, str], tmp_path: Path) -> None:
        start(environ)
        smoltbot(environ, "rotate")
        output = smoltbot(environ, "list", "--json").output
        rows = json.loads(output)["keys"]
        assert [(row["key_id"], row["is_active"], row["in_use"]) for row in rows] == [
            ("key-001", False, False), ("key-002", True, True),
        ]  # fmt: skip
        (tmp_path / "keys.json").write_text(output)
        (tmp_path / "certificate").write_text("{}")
        arguments = ["verify", "--keys", str(tmp_path / "keys.json"), str(tmp_path / "certificate")]
        assert "NOT VALID" in CliRunner().invoke(main, arguments).output

    def test_no_database(self, tmp_path: Path) -> None:
        result = smoltbot({"DATA_DIR": str(tmp_path / "data")}, "list")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: the SQLite database cannot be used")
        assert list(tmp_path.iterdir()) == []


class TestRotate:
    def test_the_file(self, environ: dict[str, str]) -> None:
        old = start(environ)
        result = smoltbot(environ, "rotate")
        assert result.exit_code == 0
        new = start(environ)
        assert (new.key_id, active(environ)) == ("key-002", [("key-002", new.public_key)])
        assert new.public_key != old.public_key
        assert result.output.splitlines()[0] == f"key-002 is the active key now: {new.public_key}"
        assert "Restart every gateway" in result.output
        assert stat.S_IMODE((folder(environ) / "signing.key").stat().st_mode) == 0o600
        assert not (folder(environ) / "signing.key.next").exists()
        smoltbot(environ, "rotate")
        assert start(environ).key_id == "key-003"

    def test_before_the_first_start(self, environ: dict[str, str]) -> None:
        (folder(environ) / "signing.key").unlink()
        assert smoltbot(environ, "rotate").exit_code == 0
        assert start(environ).key_id == "key-002"

    @pytest.mark.parametrize(
        ("old", "new"), [("key-009", "key-010"), ("key-999", "key-1000"), ("mine", "mine-002"), ("2026", "2027")]
    )
    def test_the_next_id(self, environ: dict[str, str], old: str, new: str) -> None:
        key_file.create(folder(environ) / "other", f"{OTHER} {old}")
        (folder(environ) / "other").replace(folder(environ) / "signing.key")
        start(environ)
        smoltbot(environ, "rotate")
        assert start(environ).key_id == new

    def test_an_id_that_somebody_had(self, environ: dict[str, str]) -> None:
        called(environ, "put_signing_key", key_id="key-002", public_key=PUBLIC)
        smoltbot(environ, "rotate")
        assert start(environ).key_id == "key-003"

    def test_the_variable(self, environ: dict[str, str]) -> None:
        start({**environ, "ED25519_SIGNING_KEY": OTHER})
        before = (folder(environ) / "signing.key").read_text()
        settings = {**environ, "ED25519_SIGNING_KEY": SEED, "ED25519_KEY_ID": "key-002"}
        for _ in range(2):
            assert signing_keys.rotate(settings)["public_key"] == PUBLIC
        assert active(environ) == [("key-002", PUBLIC)]
        assert start(settings).key_id == "key-002"
        assert (folder(environ) / "signing.key").read_text() == before

    @pytest.mark.parametrize(
        ("seed", "key_id", "says"),
        [
            (OTHER, "key-002", "another key is registered under this key_id"),
            (OTHER, "key-001", "this key was retired"),
            (OTHER, "key-003", "this key is registered under another key_id"),
        ],
    )
    def test_a_key_that_cannot_come(self, environ: dict[str, str], seed: str, key_id: str, says: str) -> None:
        called(environ, "rotate_signing_key", key_id="key-001", public_key=HostCrypto(bytes.fromhex(OTHER)).public_key)
        called(environ, "rotate_signing_key", key_id="key-002", public_key=PUBLIC)
        result = smoltbot({**environ, "ED25519_SIGNING_KEY": seed, "ED25519_KEY_ID": key_id}, "rotate")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            f"Error: cannot go over to the key {key_id}, {says}: set a new ED25519_SIGNING_KEY under a new"
            " ED25519_KEY_ID\n"
        )
        assert active(environ) == [("key-002", PUBLIC)]


class TestErrors:
    """Each ends with exit code 1, and the old key is in its place, on the disk and in the database."""

    def unchanged(self, environ: Mapping[str, str], **further: str) -> str:
        before = {file.name: file.read_bytes() for file in folder(environ).glob("signing.key*") if file.is_file()}
        result = smoltbot({**environ, **further}, "rotate")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "Traceback" not in result.stderr
        after = {file.name: file.read_bytes() for file in folder(environ).glob("signing.key*") if file.is_file()}
        assert after == before
        return result.stderr

    @pytest.mark.parametrize("name", ["signing.key", "signing.key.next"])
    @pytest.mark.parametrize("text", ["", "the-secret", SEED[1:], f"{SEED}00", f"{SEED} two words"])
    def test_a_damaged_file(self, environ: dict[str, str], name: str, text: str) -> None:
        start(environ)
        (folder(environ) / name).write_text(text)
        told = self.unchanged(environ)
        assert f"{name} is damaged" in told
        assert "the-secret" not in told
        assert SEED[20:40] not in told
        assert [row["key_id"] for row in called(environ, "signing_keys") if row["is_active"]] == ["key-001"]

    def test_an_unreadable_file(self, environ: dict[str, str]) -> None:
        (folder(environ) / "signing.key").unlink()
        (folder(environ) / "signing.key").mkdir()
        assert "cannot be read (Is a directory)" in self.unchanged(environ)

    def test_a_key_of_the_wrong_length(self, environ: dict[str, str]) -> None:
        told = self.unchanged(environ, ED25519_SIGNING_KEY=SEED[:-2])
        assert "ED25519_SIGNING_KEY: is not 64 hex digits" in told
        assert SEED[:8] not in told

    def test_an_id_beside_the_file(self, environ: dict[str, str]) -> None:
        assert "ED25519_KEY_ID: unset it" in self.unchanged(environ, ED25519_KEY_ID="mine")

    def test_no_database(self, environ: dict[str, str]) -> None:
        url = "postgresql://u:the-secret@127.0.0.1:1/d"
        told = self.unchanged(environ, DATABASE_URL=url, ED25519_SIGNING_KEY=SEED, QUEUE_ENCRYPTION_KEY=OTHER)
        assert told.startswith("Error: PostgreSQL cannot be reached")
        assert "the-secret" not in told
        assert "because DATABASE_URL is a PostgreSQL server" in self.unchanged(environ, DATABASE_URL=url)

    def test_a_database_that_is_not_migrated(self, environ: dict[str, str]) -> None:
        (folder(environ) / "smoltbot.db").write_bytes(b"")
        assert "run `smoltbot migrate`" in self.unchanged(environ)


_KILLED = """
import os, signal, sys
from smoltbot_host.signing_keys import rotate
def hook(event, args):
    if event == sys.argv[2] and "signing.key.next" in str(args[0]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
rotate({"DATA_DIR": sys.argv[1]})
"""


class TestCutShort:
    """A rotation that was killed is ended by the next one, and nobody is left with a key that nobody knows."""

    def test_before_the_database(self, environ: dict[str, str]) -> None:
        old = start(environ)
        coming = folder(environ) / "signing.key.next"
        key_file.create(coming, f"{SEED} key-002")
        assert start(environ).public_key == old.public_key
        assert signing_keys.rotate(environ)["public_key"] == PUBLIC
        assert (start(environ).public_key, coming.exists()) == (PUBLIC, False)

    def test_after_the_database(self, environ: dict[str, str]) -> None:
        start(environ)
        coming = folder(environ) / "signing.key.next"
        key_file.create(coming, f"{SEED} key-002")
        called(environ, "rotate_signing_key", key_id="key-002", public_key=PUBLIC)
        assert "a rotation was cut short: run `smoltbot signing-keys rotate` again" in refusal(environ)
        assert smoltbot(environ, "rotate").exit_code == 0
        assert (start(environ).public_key, coming.exists()) == (PUBLIC, False)

    @pytest.mark.parametrize(
        ("point", "left", "is_active"),
        [("os.link", False, "key-001"), ("os.remove", True, "key-001"), ("os.rename", True, "key-002")],
    )
    def test_kill_9(self, environ: dict[str, str], point: str, left: bool, is_active: str) -> None:
        """Killed just before the next key is on the disk, just after, and just before it takes the old one's place."""
        old = start(environ)
        ran = subprocess.run([sys.executable, "-c", _KILLED, str(folder(environ)), point], timeout=30, check=False)
        assert ran.returncode == -signal.SIGKILL
        coming = folder(environ) / "signing.key.next"
        assert coming.exists() == left
        assert HostCrypto(key_file.read(folder(environ) / "signing.key").seed).public_key == old.public_key
        assert [key_id for key_id, _ in active(environ)] == [is_active]
        begun = key_file.read(coming).seed if left else None
        assert smoltbot(environ, "rotate").exit_code == 0
        new = start(environ)
        assert active(environ) == [("key-002", new.public_key)]
        assert begun in (None, key_file.read(folder(environ) / "signing.key").seed)
        assert not coming.exists()

    def test_one_at_a_time(self, environ: dict[str, str]) -> None:
        key = start(environ)
        with key_file.held(folder(environ)), pytest.raises(ConfigError, match="another rotation is at work"):
            signing_keys.rotate(environ)
        assert start(environ).public_key == key.public_key

    def test_several_at_once(self, environ: dict[str, str]) -> None:
        start(environ)
        code = "import sys\nfrom smoltbot_host.signing_keys import rotate\nrotate({'DATA_DIR': sys.argv[1]})"
        command = [sys.executable, "-c", code, str(folder(environ))]
        children = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(3)]
        assert 0 in [child.wait(30) for child in children]
        key = start(environ)
        assert active(environ) == [(key.key_id, key.public_key)]


def test_errors_are_of_two_kinds(environ: dict[str, str]) -> None:
    """For whoever calls the functions: settings are ConfigError, a database is StoreUnavailable."""
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        signing_keys.rotate(
            {
                "DATABASE_URL": "postgresql://127.0.0.1:1/d",
                "ED25519_SIGNING_KEY": SEED,
                "QUEUE_ENCRYPTION_KEY": OTHER,
            }
        )
    (folder(environ) / "signing.key").write_text("x")
    with pytest.raises(ConfigError, match="damaged"):
        signing_keys.rotate(environ)
