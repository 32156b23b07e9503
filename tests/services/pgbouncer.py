"""A private PgBouncer for tests, on a free port, in transaction mode."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.services.process import accepts, free_port, running

SESSIONS = 2
"""Fewer than clients, so that each transaction may meet the session of another."""

_SETTINGS = """\
[databases]
* = host=127.0.0.1 port={server} pool_size={sessions}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
auth_type = trust
auth_file = {folder}/users.txt
max_client_conn = 200
logfile = {folder}/pgbouncer.log
"""


@contextmanager
def pgbouncer(folder: Path, server_url: str, users: Sequence[str]) -> Iterator[int]:
    """The port of a pooler in front of the server of ``server_url``; the folder must be reachable by all."""
    port = free_port()
    settings = folder / "pgbouncer.ini"
    settings.write_text(_SETTINGS.format(server=urlsplit(server_url).port, port=port, folder=folder, sessions=SESSIONS))
    (folder / "users.txt").write_text("".join(f'"{user}" ""\n' for user in users))
    user = None
    if os.getuid() == 0:  # which it refuses to be
        shutil.chown(folder, "postgres")
        user = "postgres"
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    command = [program, str(settings)]
    with running(command, ready=lambda: accepts(port), log=folder / "pgbouncer.out", user=user) as process:
        try:
            yield port
        finally:
            process.send_signal(signal.SIGINT)
