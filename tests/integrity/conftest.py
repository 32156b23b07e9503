"""Fixtures of the integrity tests."""

from collections.abc import Iterator

import pytest

from tests.integrity.support import Judged
from tests.provider.process import ProviderProcess


@pytest.fixture(scope="session")
def analysing_provider() -> Iterator[ProviderProcess]:
    with ProviderProcess() as process:
        yield process


@pytest.fixture(scope="session")
def judged(analysing_provider: ProviderProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    """A gateway on embedded defaults whose analyses may take half a second."""
    folder = tmp_path_factory.mktemp("judged")
    setup = Judged(folder, analysing_provider, ANALYSIS_TIMEOUT_MS="500")
    with setup.gateway:
        yield setup


@pytest.fixture(autouse=True)
def _unscripted(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "analysing_provider" in request.fixturenames or "judged" in request.fixturenames:
        request.getfixturevalue("analysing_provider").reset()
