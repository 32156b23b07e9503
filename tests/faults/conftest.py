"""One scripted provider for all faults; a gateway per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.provider.process import ProviderProcess


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
