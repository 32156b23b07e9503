"""The backends that every KV and queue suite runs on: one row for each, by URL, through the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from worker_compat.registry import with_option

if TYPE_CHECKING:
    from tests.services.postgres import PostgresServer
    from tests.services.redis import RedisServer


@dataclass(frozen=True, slots=True)
class Backend:
    """A kind of store; ``base`` gives its URL, starting its server on first use.

    ``lasting``: what is stored outlives the opening.
    """

    id: str
    base: Callable[[pytest.FixtureRequest], str]
    lasting: bool = True

    def kv_url(self, request: pytest.FixtureRequest) -> str:
        """The URL of a namespace that nobody else uses."""
        return with_option(self.base(request), "namespace", uuid4().hex)

    def queue_url(self, request: pytest.FixtureRequest) -> str:
        """The URL of a queue that nobody else uses."""
        return with_option(self.base(request), "queue", uuid4().hex)


def _memory(_request: pytest.FixtureRequest) -> str:
    return "memory://"


def _sqlite(request: pytest.FixtureRequest) -> str:
    # One database for all tests of the process: its tables are made once, and namespaces keep tests apart.
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    return f"sqlite:///{factory.getbasetemp() / 'conformance.db'}"


def _redis(request: pytest.FixtureRequest) -> str:
    server: RedisServer = request.getfixturevalue("redis_service")
    # What is judged here are the answers: a busy machine must not make it a test of speed.
    return f"{server.url}?connect_timeout_ms=5000&timeout_ms=10000"


def _postgres(request: pytest.FixtureRequest) -> str:
    server: PostgresServer = request.getfixturevalue("postgres_service")
    return f"{server.url}?connect_timeout=10&command_timeout=20"


BACKENDS = (
    Backend("memory", _memory, lasting=False),
    Backend("sqlite", _sqlite),
    Backend("redis", _redis),
    Backend("postgres", _postgres),
)
"""A backend that cannot be started fails its tests; none is ever skipped."""
