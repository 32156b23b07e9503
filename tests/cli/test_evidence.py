"""``smoltbot head``, ``export`` and ``verify`` with a gateway that runs: what an auditor does, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from smoltbot_cli.main import main
from smoltbot_host.crypto import load_crypto
from smoltbot_records_sqlite import open_records
from smoltbot_worker.attestation.log import CheckpointLog
from smoltbot_worker.testing.records_area import call
from tests.cli.raw_server import RawServer, answer, chunked
from tests.gateway_process import GatewayProcess, free_port
from tests.unit.attestation_support import draft

AGENT = "smolt-0badcafe"
OTHER = "smolt-0badbead"
ENTRIES = 250
COMMAND = str(Path(sys.executable).with_name("smoltbot"))
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


class Live:
    """A gateway with two agents, and a log of each."""

    def __init__(self, folder: Path, gateway: GatewayProcess) -> None:
        self.folder = folder
        self.gateway = gateway
        self.database = folder / "data" / "smoltbot.db"
        self.token = (folder / "data" / "admin.token").read_text().strip()
        asyncio.run(self._fill())

    async def _fill(self) -> None:
        async with open_records(f"sqlite:///{self.database}") as store:
            log = CheckpointLog(store, load_crypto("", "", str(self.folder / "data")))
            for number, agent in enumerate((AGENT, OTHER)):
                digest = agent.removeprefix("smolt-").ljust(64, "0")
                seen = "2026-05-10T08:00:00.000Z"
                await call(store, "get_or_create_agent", agent_hash=digest[:16], key_hash=digest, seen_at=seen)
                drafts = (draft(number * 1000 + each, f"{agent}-{each % 3}") for each in range(ENTRIES))
                await asyncio.gather(*(log.append(agent, each) for each in drafts))

    @property
    def environ(self) -> dict[str, str]:
        """What the commands are told by the environment."""
        return {"SMOLTBOT_GATEWAY": self.gateway.url, "SMOLTBOT_TOKEN": self.token}

    def run(self, *words: str, **environ: str) -> Result:
        """A command that talks to this gateway."""
        return CliRunner().invoke(main, words, env={**self.environ, **environ})

    def save(self, name: str, *words: str) -> Path:
        """The output of a command that ends well, in a file."""
        result = self.run(*words)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        file = self.folder / name
        file.write_bytes(result.stdout_bytes)
        return file

    def keys(self) -> Path:
        """The published keys."""
        listed = subprocess.run(["curl", "-sSf", f"{self.gateway.url}/v1/keys"], capture_output=True, check=True)
        file = self.folder / "published.json"
        file.write_bytes(listed.stdout)
        return file


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("evidence")
    with GatewayProcess(folder) as gateway:
        yield Live(folder, gateway)


def run(url: str, *words: str, token: str = "") -> Result:
    return CliRunner().invoke(main, words, env={"SMOLTBOT_GATEWAY": url, "SMOLTBOT_TOKEN": token})


def guide() -> str:
    """The commands of the operator's page."""
    page = OPERATIONS.read_text(encoding="utf-8")
    section = page.partition("\n## Evidence: heads, exports, verification\n")[2].partition("\n## ")[0]
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))
    assert commands.count("smoltbot ") >= 3
    return commands


def test_the_commands_of_the_operators_page(live: Live, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(live.folder / "data")
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", guide()],
        cwd=tmp_path,
        env={"PATH": f"{Path(COMMAND).parent}:{os.environ['PATH']}", "SMOLTBOT_GATEWAY": live.gateway.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"bundle with {ENTRIES} entries and 0 pruned: valid" in ran.stdout
    assert "certificate of ic-" in ran.stdout
    head = json.loads((tmp_path / "head.json").read_text())
    assert (head["agent_id"], head["size"]) == (AGENT, ENTRIES)


def test_an_export_verifies_with_the_published_keys(live: Live) -> None:
    bundle, head = (
        live.save("bundle.json", "export", "--agent", AGENT),
        live.save("head.json", "head", "--agent", AGENT),
    )
    result = live.run("verify", "--keys", str(live.keys()), "--head", str(head), str(bundle))
    assert (result.exit_code, result.stdout) == (0, f"{bundle}: bundle with {ENTRIES} entries and 0 pruned: valid\n")
    entries = json.loads(bundle.read_text())["entries"]
    assert {entry["certificate"]["verification"]["keys_url"] for entry in entries} == {"http://localhost:8787/v1/keys"}


def test_a_log_that_was_cut_in_the_database_is_found_by_the_saved_head(live: Live) -> None:
    head = live.save("saved.json", "head", "--agent", OTHER)
    keys = live.keys()
    with closing(sqlite3.connect(live.database)) as database, database:
        (size,) = database.execute(
            "SELECT size FROM signed_heads WHERE agent_id = ? AND size < ? ORDER BY size DESC LIMIT 1",
            (OTHER, ENTRIES),
        ).fetchone()
        gone = "FROM integrity_checkpoints WHERE agent_id = ? AND merkle_leaf_index >= ?"
        database.execute(f"DELETE FROM mutations WHERE checkpoint_id IN (SELECT checkpoint_id {gone})", (OTHER, size))
        database.execute(f"DELETE {gone}", (OTHER, size))
        database.execute("DELETE FROM signed_heads WHERE agent_id = ? AND size > ?", (OTHER, size))
    bundle = live.save("cut.json", "export", "--agent", OTHER)
    alone = live.run("verify", "--keys", str(keys), str(bundle))
    assert alone.exit_code == 0, "nothing in the file tells of what is gone"
    result = live.run("verify", "--keys", str(keys), "--head", str(head), str(bundle))
    assert result.exit_code == 1
    said = f"saved head: head: has {ENTRIES} entries where the bundle has {size}: the log was cut"
    assert said in result.stdout


def test_an_output_file_is_whole_or_not_there(live: Live, tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    assert live.run("export", "--agent", AGENT, "-o", str(file)).output == ""
    assert len(json.loads(file.read_bytes())["entries"]) == ENTRIES
    file.write_text("older")
    with RawServer(chunked(b'{"bundle_version":1,', ended=False)) as server:
        result = run(server.url, "export", "--agent", AGENT, "-o", str(file))
    assert (result.exit_code, file.read_text()) == (1, "older")
    assert list(tmp_path.iterdir()) == [file]
    link = tmp_path / "link.json"
    link.symlink_to(file)
    assert live.run("export", "--agent", AGENT, "--output", str(link)).exit_code == 0
    assert link.is_symlink()
    assert len(json.loads(file.read_bytes())["entries"]) == ENTRIES


def test_a_place_that_cannot_be_written(live: Live, tmp_path: Path) -> None:
    for place, reason in (
        ("/dev/full", "No space left on device"),
        (str(tmp_path / "gone" / "bundle.json"), "No such file or directory"),
        (str(tmp_path), "Is a directory"),
    ):
        result = live.run("export", "--agent", AGENT, "-o", place)
        assert (result.exit_code, result.output) == (1, f"Error: {place} cannot be written ({reason})\n")
    assert Path("/dev/full").is_char_device()
    assert live.run("export", "--agent", AGENT, "-o", "/dev/null").exit_code == 0
    assert Path("/dev/null").is_char_device()


def test_a_reader_that_leaves(live: Live) -> None:
    ran = subprocess.run(
        f"{COMMAND} export --agent {AGENT} | head -c 10", shell=True, env={**os.environ, **live.environ},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ran.stdout, ran.stderr) == ('{"bundle_v', "")


def test_a_terminal_sees_how_far_it_is(live: Live, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [COMMAND, "export", "--agent", AGENT, "-o", str(tmp_path / "bundle.json")]
    ran = subprocess.run(command, env={**os.environ, **live.environ}, stderr=theirs, timeout=60, check=False)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert ran.returncode == 0
    assert re.search(r"\r\d\.\d MiB\r?\n$", shown), shown


def test_an_agent_that_nobody_knows(live: Live) -> None:
    for command in ("head", "export"):
        result = live.run(command, "--agent", "smolt-ffffffff")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "the gateway answers 404: Agent not found" in result.stderr


@pytest.mark.parametrize("agent", ["../keys", "a b", "", "é", "x/y", "-x", "x" * 201])
def test_only_an_agents_id_is_taken(agent: str) -> None:
    result = run("http://127.0.0.1:1", "export", f"--agent={agent}")
    assert result.exit_code == 2
    assert "it should be an agent's id" in result.output


def test_tokens(live: Live) -> None:
    missing = live.run("export", "--agent", AGENT, SMOLTBOT_TOKEN="")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "the gateway wants a token: set SMOLTBOT_TOKEN to its ADMIN_TOKEN or READ_TOKEN" in missing.stderr
    wrong = live.run("export", "--agent", AGENT, "--token", "wrong")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "the gateway refuses the token: set SMOLTBOT_TOKEN" in wrong.stderr
    unsendable = live.run("export", "--agent", AGENT, "--token", "a\nb: c")
    assert (unsendable.exit_code, "no header can carry" in unsendable.stderr) == (1, True)
    assert live.run("head", "--agent", AGENT, SMOLTBOT_TOKEN="").exit_code == 0, "heads are public"
    body = b'{"error":"Forbidden","message":"No token is set, so nobody may: set READ_TOKEN or ADMIN_TOKEN"}'
    with RawServer(answer(403, body)) as server:
        result = run(server.url, "export", "--agent", AGENT, token="t")
    assert result.exit_code == 1
    assert "set READ_TOKEN or ADMIN_TOKEN" in result.stderr


def test_a_gateway_that_is_down() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for command in ("head", "export"):
        result = run(url, command, "--agent", AGENT)
        assert result.exit_code == 1
        said = f"the gateway at {url} does not answer (Connection refused); start it, or set SMOLTBOT_GATEWAY"
        assert result.stderr == f"Error: {said}\n"


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "ftp://a.example",
        "http://",
        "http://a:b@c.example",
        "http://a.example:x",
        "http://a b",
        "http://a/?x",
    ],
)
def test_an_address_that_is_none(url: str) -> None:
    result = run(url, "head", "--agent", AGENT)
    assert result.exit_code == 1
    assert "must be like http://127.0.0.1:8787" in result.stderr
    assert "a:b" not in result.stderr


WHOLE = b'{"bundle_version":1}\n'

CUT = {
    "in a chunk": chunked(WHOLE, ended=False)[:-10],
    "after a chunk": chunked(WHOLE, ended=False),
    "before its length": answer(200, WHOLE, length=1000),
    "at its length": answer(200, WHOLE[:-1]),
    "by a proxy that ended it properly": chunked(WHOLE[:-3]),
    "by the end of the connection": b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + WHOLE[:-4],
    "before anything": b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n",
}


@pytest.mark.parametrize("where", CUT)
def test_an_answer_that_was_cut_short(where: str, tmp_path: Path) -> None:
    with RawServer(CUT[where]) as server:
        for more in ((), ("-o", str(tmp_path / "bundle.json"))):
            result = run(server.url, "export", "--agent", AGENT, *more)
            assert result.exit_code == 1
            assert "was cut short" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_answer_in_pieces_is_taken_as_it_is(tmp_path: Path) -> None:
    for sent in (chunked(WHOLE), chunked(WHOLE[:-1], WHOLE[-1:]), answer(200, WHOLE), b"HTTP/1.0 200 OK\r\n"
                 b"Content-Type: application/json; charset=utf-8\r\n\r\n" + WHOLE):  # fmt: skip
        with RawServer(sent) as server:
            result = run(f"{server.url}/prefix/", "export", "--agent", AGENT, token="t")
        assert (result.exit_code, result.stdout_bytes) == (0, WHOLE), result.output
        assert server.asked.startswith(f"GET /prefix/v1/agents/{AGENT}/export HTTP/1.1\r\n")
        assert "\r\nAuthorization: Bearer t\r\n" in server.asked


STRANGERS = {
    "another server": (answer(200, b"<html>\n", kind="text/html"), "is no smoltbot gateway"),
    "nothing there": (answer(404, b"<html>", kind="text/html"), "is no smoltbot gateway"),
    "no HTTP": (b"SSH-2.0-x\r\n", "does not answer"),
    "a redirect": (answer(302, b"{}"), "set SMOLTBOT_GATEWAY to where it leads"),
    "a failure": (answer(503, b'{"error":"Records unavailable"}'), "the gateway answers 503: Records unavailable"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("command", ["head", "export"])
def test_what_is_no_answer_of_a_gateway(command: str, stranger: str) -> None:
    sent, said = STRANGERS[stranger]
    with RawServer(sent) as server:
        result = run(server.url, command, "--agent", AGENT, token="secret-token")
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert "secret-token" not in result.stderr


def test_what_is_no_head(live: Live) -> None:
    body = live.run("head", "--agent", AGENT).stdout_bytes
    for sent, said in ((body, "the head of another agent"), (b"{}", "no signed head"), (b"\xff", "not UTF-8")):
        with RawServer(answer(200, sent)) as server:
            result = run(server.url, "head", "--agent", "smolt-ffffffff")
        assert (result.exit_code, result.stdout) == (1, "")
        assert said in result.stderr


@pytest.mark.parametrize("words", [("head",), ("export",), ("export", "-o", "/dev/full")])
def test_a_full_disk(live: Live, words: tuple[str, ...]) -> None:
    command = [COMMAND, words[0], "--agent", AGENT, *words[1:]]
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            command, env={"PATH": os.defpath, **live.environ}, stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    assert ran.returncode == 1
    file = "/dev/full" if "-o" in words else "stdout"
    assert ran.stderr == f"Error: {file} cannot be written (No space left on device)\n"
