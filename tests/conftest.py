"""Private servers for all tests that need them: one of each kind in a test process, started on first use."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.least_privilege import USER
from tests.services.pgbouncer import pgbouncer
from tests.services.postgres import PostgresServer, postgres_server
from tests.services.redis import RedisServer, redis_server


@pytest.fixture(scope="session")
def redis_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of this test process; tests that stop or break a server start their own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_service() -> Iterator[PostgresServer]:
    """A PostgreSQL of this test process; tests that stop or break a server start their own."""
    # Not below pytest's own folder, which other users may not enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with postgres_server(folder) as server:
            yield server


@pytest.fixture(scope="session")
def pgbouncer_port(postgres_service: PostgresServer) -> Iterator[int]:
    """The port of a PgBouncer in front of it, for the user who may execute the functions and nothing else."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with pgbouncer(folder, postgres_service.url, [USER]) as port:
            yield port
