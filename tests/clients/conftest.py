"""Fixtures of the client tests: one provider, one gateway in front of it, and the ways to reach them."""

import os
from collections.abc import Iterator

import pytest

from tests.clients.sdks import Route
from tests.gateway_process import GatewayProcess
from tests.provider.process import ProviderProcess

# What the SDKs and their HTTP clients would otherwise pick up from the developer's shell.
_FOREIGN = ("ANTHROPIC_", "OPENAI_", "GEMINI_", "GOOGLE_", "SSL_CERT_")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in list(os.environ):
        if name.startswith(_FOREIGN) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")
    # The Anthropic SDK also reads profiles from disk.
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path_factory.getbasetemp() / "no-anthropic-config"))


@pytest.fixture(scope="session")
def provider() -> Iterator[ProviderProcess]:
    with ProviderProcess() as process:
        yield process


@pytest.fixture(scope="session")
def gateway_url(provider: ProviderProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    upstreams = {f"UPSTREAM_{name}_URL": provider.url for name in ("ANTHROPIC", "OPENAI", "GEMINI")}
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), upstreams) as gateway:
        yield gateway.url


@pytest.fixture
def direct(provider: ProviderProcess) -> Route:
    return Route.straight(provider.url)


@pytest.fixture(params=["direct", "gateway", "agent"])
def route(request: pytest.FixtureRequest, direct: Route) -> Route:
    """`direct` compares the provider with itself: it fails when a test, not the gateway, is at fault."""
    if request.param == "direct":
        return direct
    url = request.getfixturevalue("gateway_url")
    return Route.through(url, "my-coder" if request.param == "agent" else None)
