"""Headers survive the gateway both ways; what it adds, it adds under its own names only."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import anthropic
import pytest

from tests.clients.compare import script
from tests.clients.sdks import Route, anthropic_client, gemini_client, openai_client
from tests.provider.process import ProviderProcess

# Not the message's but one connection's (RFC 9110, 7.6.1).
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}
REQUIRED = {"x-smoltbot-agent", "x-smoltbot-session", "x-smoltbot-request-id", "x-aip-verdict"}
OWN_PREFIXES = ("x-smoltbot-", "x-aip-")
ODD = [["X-Odd", "a, b"], ["x-odd", ""], ["Set-Cookie", "a=1; Path=/"], ["set-cookie", "b=2"], ["X-Latin", "caf\xe9"]]

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
CLAUDE = {"model": "claude-opus-4-5-20251101", "max_tokens": 100, "messages": MESSAGES}
Pairs = list[tuple[bytes, bytes]]


def from_anthropic(route: Route, headers: dict[str, str], stream: bool) -> Pairs:
    with anthropic_client(route) as client:
        raw = client.messages.with_raw_response.create(**CLAUDE, stream=stream, extra_headers=headers)
        raw.http_response.read()
        return raw.http_response.headers.raw


def from_openai(route: Route, headers: dict[str, str], stream: bool) -> Pairs:
    with openai_client(route) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=MESSAGES, stream=stream, extra_headers=headers
        )
        raw.http_response.read()
        return raw.http_response.headers.raw


CALLS = {"anthropic": from_anthropic, "openai": from_openai}
Call = Callable[[Route, dict[str, str], bool], Pairs]


def end_to_end(pairs: Iterable[tuple[bytes, bytes]]) -> Counter[tuple[str, bytes]]:
    named = ((name.decode("latin-1").lower(), value) for name, value in pairs)
    return Counter(pair for pair in named if pair[0] not in HOP_BY_HOP)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_response_headers(call: Call, stream: bool, direct: Route, route: Route) -> None:
    scripted = script(headers=ODD)
    sent = end_to_end(call(direct, scripted, stream))
    assert sent[("x-odd", b"")] == 1
    assert sent[("set-cookie", b"b=2")] == 1
    received = end_to_end(call(route, scripted, stream))
    assert not sent - received, "lost on the way"
    added = Counter(name for name, _ in (received - sent).elements())
    if route.is_direct:
        assert not added
    else:
        assert set(added) >= REQUIRED
        assert all(name.startswith(OWN_PREFIXES) for name in added), added
        assert max(added.values()) == 1


def test_gemini_response_headers(direct: Route, route: Route) -> None:
    def headers(through: Route) -> dict[str, str]:
        with gemini_client(through) as client:
            response = client.models.generate_content(model="gemini-2.5-flash", contents="Hi")
            assert response.sdk_http_response is not None
            return {name.lower(): value for name, value in (response.sdk_http_response.headers or {}).items()}

    sent, received = headers(direct), headers(route)
    assert sent["vary"] == "Origin, X-Origin, Referer"
    assert {name: received.get(name) for name in sent} == sent
    if not route.is_direct:
        assert set(received) - set(sent) >= REQUIRED


@pytest.mark.parametrize("status", [400, 429, 529])
def test_error_headers(status: int, direct: Route, route: Route) -> None:
    """The SDKs read these to decide on a retry: `retry-after`, `x-should-retry`, `request-id`."""

    def headers(through: Route) -> Counter[tuple[str, bytes]]:
        with anthropic_client(through) as client:
            try:
                client.messages.create(**CLAUDE, extra_headers=script(status=status))
            except anthropic.APIStatusError as error:
                return end_to_end(error.response.headers.raw)
        raise AssertionError("no error")

    sent = headers(direct)
    names = {name for name, _ in sent}
    assert names >= {"x-should-retry", "request-id", *(["retry-after"] if status > 400 else [])}
    received = headers(route)
    assert not sent - received
    if not route.is_direct:
        assert ("x-aip-verdict", b"skipped") in received


def ask_anthropic(route: Route) -> None:
    with anthropic_client(route) as client:
        client.messages.create(**CLAUDE)


def ask_openai(route: Route) -> None:
    with openai_client(route) as client:
        client.responses.create(model="gpt-5", input="Hi")


def ask_gemini(route: Route) -> None:
    with gemini_client(route) as client:
        list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="Hi"))


@pytest.mark.parametrize("ask", [ask_anthropic, ask_openai, ask_gemini])
def test_requests_arrive_as_sent(
    ask: Callable[[Route], None], provider: ProviderProcess, direct: Route, route: Route
) -> None:
    """Method, target, header names in their case and order, and every byte of the body."""

    def seen(through: Route) -> Any:
        provider.reset()
        ask(through)
        (request,) = provider.requests()
        pairs = [pair for pair in request["headers"] if pair[0].lower() not in {"host", "connection"}]
        return request["line"], pairs, request["body"], request["body_sha256"]

    assert seen(route) == seen(direct)
