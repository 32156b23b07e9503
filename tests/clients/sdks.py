"""The official clients, opened for one route: no retries, no proxy, no key that could be real."""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
import openai
from google import genai
from google.genai import types

ANTHROPIC_KEY = "sk-ant-test-clients"
OPENAI_KEY = "sk-test-clients"
GEMINI_KEY = "AIza-test-clients"

# One for all: building a trust store costs 50 ms, and every test speaks plain HTTP.
_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(frozen=True)
class Route:
    """The base URL that each SDK is given."""

    anthropic: str
    openai: str
    gemini: str
    is_direct: bool

    @classmethod
    def straight(cls, provider: str) -> "Route":
        return cls(provider, f"{provider}/v1", provider, True)

    @classmethod
    def through(cls, gateway: str, agent: str | None = None) -> "Route":
        base = gateway if agent is None else f"{gateway}/agent/{agent}"
        return cls(f"{base}/anthropic", f"{base}/openai/v1", f"{base}/gemini", False)


def _arguments(base_url: str, key: str, given: dict[str, Any]) -> dict[str, Any]:
    credentials = {} if "auth_token" in given else {"api_key": key}
    return {"base_url": base_url, "max_retries": 0, **credentials, **given}


def anthropic_client(route: Route, **given: Any) -> anthropic.Anthropic:
    http = anthropic.DefaultHttpxClient(trust_env=False, verify=_TLS)
    return anthropic.Anthropic(http_client=http, **_arguments(route.anthropic, ANTHROPIC_KEY, given))


def async_anthropic_client(route: Route, **given: Any) -> anthropic.AsyncAnthropic:
    http = anthropic.DefaultAsyncHttpxClient(trust_env=False, verify=_TLS)
    return anthropic.AsyncAnthropic(http_client=http, **_arguments(route.anthropic, ANTHROPIC_KEY, given))


def openai_client(route: Route) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(trust_env=False, verify=_TLS)
    return openai.OpenAI(http_client=http, **_arguments(route.openai, OPENAI_KEY, {}))


def async_openai_client(route: Route) -> openai.AsyncOpenAI:
    http = openai.DefaultAsyncHttpxClient(trust_env=False, verify=_TLS)
    return openai.AsyncOpenAI(http_client=http, **_arguments(route.openai, OPENAI_KEY, {}))


def _gemini_options(route: Route, **given: Any) -> types.HttpOptions:
    return types.HttpOptions(
        base_url=route.gemini,
        client_args={"verify": _TLS, "trust_env": False},
        async_client_args={"verify": _TLS, "ssl": _TLS},
        **given,
    )


@contextmanager
def gemini_client(route: Route) -> Iterator[genai.Client]:
    client = genai.Client(api_key=GEMINI_KEY, http_options=_gemini_options(route))
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def async_gemini_client(route: Route, transport: str) -> AsyncIterator[Any]:
    """`client.aio`; "aiohttp" is what the SDK takes when it is installed, "httpx2" when it is not."""
    async with httpx2.AsyncClient(trust_env=False, verify=_TLS) as http:
        given = {"httpx_async_client": http} if transport == "httpx2" else {}
        client = genai.Client(api_key=GEMINI_KEY, http_options=_gemini_options(route, **given))
        try:
            yield client.aio
        finally:
            await client.aio.aclose()
            client.close()
