"""One scripted provider for all faults; a gateway or an empty database per test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.faults.migration_support import Database, new_database
from tests.provider.process import ProviderProcess
from tests.services.postgres import PostgresServer


@pytest.fixture(scope="session")
def _provider() -> Iterator[ProviderProcess]:
    with ProviderProcess() as provider:
        yield provider


@pytest.fixture
def provider(_provider: ProviderProcess) -> ProviderProcess:
    _provider.reset()
    return _provider


@pytest.fixture
def upstreams(provider: ProviderProcess) -> dict[str, str]:
    """The variables that point every provider route at the scripted provider."""
    return {f"UPSTREAM_{name}_URL": provider.url for name in ("ANTHROPIC", "OPENAI", "GEMINI")}


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield Database("sqlite", f"sqlite:///{tmp_path}/records.db", tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres_service")
    async with new_database(server.url) as url:
        yield Database("postgres", url, tmp_path)
