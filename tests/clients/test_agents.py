"""One key, two ways to present it, and named agents: the same identities for the official client."""

import pytest

from tests.clients.compare import script
from tests.clients.sdks import Route, anthropic_client, openai_client
from tests.provider.process import ProviderProcess

# The vectors of the identity rule: SHA-256(key [+ "|" + name]), first 8 hex digits.
KEY = "sk-ant-example-000"
DEFAULT_AGENT = "smolt-9d08aa51"
MY_CODER = "smolt-c04288b7"

CREDENTIALS: dict[str, dict[str, object]] = {
    "api_key": {"api_key": KEY},
    "auth_token": {"auth_token": KEY},
    # What older releases of the client send: then this header decides, whatever else is there.
    "x-api-key": {"api_key": "sk-ant-test-other", "default_headers": {"x-api-key": KEY}},
}


@pytest.fixture(params=CREDENTIALS)
def credentials(request: pytest.FixtureRequest) -> dict[str, object]:
    return CREDENTIALS[request.param]


def agent_of(route: Route, credentials: dict[str, object], headers: dict[str, str] | None = None) -> str:
    with anthropic_client(route, **credentials) as client:
        raw = client.messages.with_raw_response.create(
            model="claude-opus-4-5-20251101",
            max_tokens=100,
            messages=[{"role": "user", "content": "Hi"}],
            extra_headers=headers,
        )
        assert raw.parse().content
        return str(raw.http_response.headers["x-smoltbot-agent"])


def test_default_agent(gateway_url: str, credentials: dict[str, object]) -> None:
    assert agent_of(Route.through(gateway_url), credentials) == DEFAULT_AGENT


def test_named_agent_by_base_url(gateway_url: str, credentials: dict[str, object]) -> None:
    assert agent_of(Route.through(gateway_url, "my-coder"), credentials) == MY_CODER


def test_named_agent_by_header(gateway_url: str, credentials: dict[str, object]) -> None:
    named = {"x-smoltbot-agent": "my-coder"}
    assert agent_of(Route.through(gateway_url), credentials, named) == MY_CODER


def test_the_path_wins_over_the_header(gateway_url: str, credentials: dict[str, object]) -> None:
    named = {"x-smoltbot-agent": "someone-else"}
    assert agent_of(Route.through(gateway_url, "my-coder"), credentials, named) == MY_CODER


def test_the_provider_sees_credentials_but_no_agent(
    gateway_url: str, credentials: dict[str, object], provider: ProviderProcess
) -> None:
    provider.reset()
    agent_of(Route.through(gateway_url, "my-coder"), credentials, {"x-smoltbot-agent": "my-coder"})
    (request,) = provider.requests()
    headers = {name.lower(): value for name, value in request["headers"]}
    assert request["line"] == "POST /v1/messages HTTP/1.1"
    assert KEY in (headers.get("x-api-key"), headers["authorization"].removeprefix("Bearer "))
    assert not [name for name in headers if name.startswith("x-smoltbot-")]


def test_a_spoofed_agent_in_the_answer_never_survives(gateway_url: str) -> None:
    spoof = script(headers=[["x-smoltbot-agent", "smolt-spoofed0"], ["X-AIP-Verdict", "clear"]])
    with openai_client(Route.through(gateway_url)) as client:
        raw = client.with_options(default_headers=spoof).models.with_raw_response.list()
    assert "smolt-spoofed0" not in str(raw.http_response.headers.raw)
    assert raw.http_response.headers.get_list("x-aip-verdict") != ["clear"]


def test_bearer_needs_no_api_key_straight(provider: ProviderProcess) -> None:
    provider.reset()
    with anthropic_client(Route.straight(provider.url), auth_token=KEY) as client:
        client.models.list()
    headers = dict(map(tuple, provider.requests()[0]["headers"]))
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert "x-api-key" not in {name.lower() for name in headers}
