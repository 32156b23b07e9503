"""A private PostgreSQL server for tests, on a free port."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.services.process import accepts, free_port, running

GUARDED = "guarded"
"""A user that needs a password; whoever else exists needs none."""

GUARD = f"host all {GUARDED} 127.0.0.1/32 scram-sha-256\n"


@dataclass
class PostgresServer:
    """A running server; ``url`` leads to its database ``postgres`` as a user who may do everything."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """``postgresql://postgres@127.0.0.1:<port>/postgres``."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def pause(self) -> None:
        """Stop the server and the processes that serve its connections: they stay open and nothing answers."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """End everything at once, as if the machine had stopped; its folder can be started again."""
        main = psutil.Process(self.process.pid)
        children = main.children(recursive=True)
        for each in (main, *children):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait(10)
        psutil.wait_procs(children, 10)

    def kill_backend(self) -> None:
        """Kill one of the processes that serve clients; the server then breaks every connection and recovers."""
        serving = [each for each in psutil.Process(self.process.pid).children() if _serves(each)]
        with suppress(psutil.NoSuchProcess):  # its client left
            random.choice(serving).kill()

    def _send(self, number: int) -> None:
        if self.process.poll() is not None:
            return
        # First the one that starts the others.
        main = psutil.Process(self.process.pid)
        main.send_signal(number)
        for child in main.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # its client left
                child.send_signal(number)


@contextmanager
def postgres_server(folder: Path, *, port: int | None = None) -> Iterator[PostgresServer]:
    """A server whose data is in ``folder/data``, made there unless it exists; the folder must be reachable by all."""
    port = port or free_port()
    programs = _programs()
    data = folder / "data"
    user = _owner(folder)
    if not data.exists():
        made = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(made, check=True, user=user, capture_output=True, cwd=folder)
        rules = data / "pg_hba.conf"
        rules.write_text(GUARD + rules.read_text())
    command = [
        str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder),
        "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200",
        # No test cuts the power: what a killed process loses is the same without.
        "-c", "fsync=off", "-c", "full_page_writes=off",
    ]  # fmt: skip
    with running(command, ready=lambda: _is_ready(programs, port), log=folder / "postgres.log", user=user) as process:
        server = PostgresServer(port, process)
        try:
            yield server
        finally:
            server.resume()
            process.send_signal(signal.SIGINT)  # fast shutdown: SIGTERM waits for clients


def _serves(process: psutil.Process) -> bool:
    """Whether it is one client's, which its title says."""
    try:
        return any("127.0.0.1(" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _is_ready(programs: Path, port: int) -> bool:
    """Whether it lets clients in: it accepts connections before it does."""
    asked = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    return accepts(port) and subprocess.run(asked, check=False).returncode == 0


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise RuntimeError("no PostgreSQL here: tests/install.sh installs it")
    return Path(on_path).parent


def _owner(folder: Path) -> str | None:
    """PostgreSQL refuses to run as root: its own user runs it then."""
    if os.getuid() != 0:
        return None
    shutil.chown(folder, "postgres")
    return "postgres"
