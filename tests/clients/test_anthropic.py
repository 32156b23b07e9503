"""The official `anthropic` client sees the same objects through the gateway as straight from the provider."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest

from tests.clients.compare import Case, Outcome, arun, run, script
from tests.clients.sdks import Route, anthropic_client, async_anthropic_client

MODEL = "claude-opus-4-5-20251101"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
THINKING = {"type": "enabled", "budget_tokens": 1024}
TOOLS = [
    {
        "name": "get_weather",
        "description": "Current weather",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    }
]
IMAGE = [
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
    {"type": "text", "text": "What is this?"},
]
TOOL_TURN = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "12 degrees"}]},
]


def ask(content: Any = "How are you, Zürich?\u2028🙂", **given: Any) -> dict[str, Any]:
    messages = content if isinstance(content, list) and "role" in content[0] else None
    return {
        "model": MODEL,
        "max_tokens": 2048,
        "messages": messages or [{"role": "user", "content": content}],
        **given,
    }


def create(*content: Any, **given: Any) -> Any:
    return lambda client: client.messages.create(**ask(*content, **given))


def scripted(keys: dict[str, Any], **given: Any) -> Any:
    return create(extra_headers=script(**keys), **given)


STREAMED = (
    "RawMessageStartEvent",
    "RawContentBlockDeltaEvent",
    "RawMessageDeltaEvent",
    "RawMessageStopEvent",
)

CASES = [
    Case("text", create(), ("TextBlock", "Zürich?\\u2028🙂")),
    Case("stream", create(stream=True), (*STREAMED, "TextDelta")),
    Case("tools", create(tools=TOOLS), ("ToolUseBlock", "'city': 'Zürich'", "'tool_use'")),
    Case("tools-stream", create(tools=TOOLS, stream=True), (*STREAMED, "InputJSONDelta", "ToolUseBlock")),
    Case("tool-result", create(TOOL_TURN, tools=TOOLS), ("TextBlock", "'end_turn'")),
    Case("thinking", create(thinking=THINKING), ("ThinkingBlock", "signature", "TextBlock")),
    Case(
        "thinking-stream",
        create(thinking=THINKING, stream=True),
        (*STREAMED, "ThinkingDelta", "SignatureDelta"),
    ),
    Case(
        "thinking-tools-stream",
        create(thinking=THINKING, tools=TOOLS, stream=True),
        ("ThinkingDelta", "InputJSON"),
    ),
    Case("image", create(IMAGE), ("image/png, 70 bytes",)),
    Case("image-stream", create(IMAGE, stream=True), STREAMED),
    Case("gzip", scripted({"encoding": "gzip"}), ("TextBlock",)),
    Case("deflate", scripted({"encoding": "deflate"}), ("TextBlock",)),
    Case("br-stream", scripted({"encoding": "br"}, stream=True), STREAMED),
    Case("gzip-stream", scripted({"encoding": "gzip"}, stream=True), STREAMED),
    Case("chunked", scripted({"chunked": True}), ("TextBlock",)),
    Case("length-stream", scripted({"chunked": False}, stream=True), STREAMED),
    Case("until-close-stream", scripted({"until_close": True}, stream=True), STREAMED),
    Case("many-events", scripted({"events": 1000}, stream=True), (*STREAMED, "word999 ")),
    Case("split-events", scripted({"drip": [7, 0]}, stream=True), STREAMED),
    Case("long", scripted({"huge": 3_000_000}), ("xxxxxxxx",)),
    Case("early-hints", scripted({"early_hints": True}), ("TextBlock",)),
    Case("400", scripted({"status": 400}), ("invalid_request_error",), "BadRequestError"),
    Case("401", scripted({"status": 401}), ("authentication_error",), "AuthenticationError"),
    Case("404", scripted({"status": 404}), ("not_found_error",), "NotFoundError"),
    Case("429", scripted({"status": 429, "retry_after": 2}), ("rate_limit_error",), "RateLimitError"),
    Case("500", scripted({"status": 500}), ("api_error",), "InternalServerError"),
    Case("529", scripted({"status": 529}), ("overloaded_error",), "OverloadedError"),
    Case("529-stream", scripted({"status": 529}, stream=True), ("overloaded_error",), "OverloadedError"),
    Case(
        "error-event",
        scripted({"error_event": True}, stream=True),
        ("TextDelta", "Overloaded"),
        "APIStatusError",
    ),
    Case("cut-stream", scripted({"cut": 2000}, stream=True), ("TextDelta",), "RemoteProtocolError"),
    Case("cut-text", scripted({"cut": 900}), (), "APIConnectionError"),
    Case(
        "count-tokens",
        lambda client: client.messages.count_tokens(model=MODEL, messages=ask()["messages"]),
        ("MessageTokensCount", "input_tokens"),
    ),
    # Two pages: the second one only comes when the query string arrives.
    Case("models", lambda client: client.models.list(limit=2), ("ModelInfo", "claude-sonnet-4-20250514")),
    Case("model", lambda client: client.models.retrieve(MODEL), ("ModelInfo", "Claude Opus 4.5")),
    Case("no-model", lambda client: client.models.retrieve("none"), ("not_found_error",), "NotFoundError"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sync(case: Case, direct: Route, route: Route) -> None:
    with anthropic_client(direct) as client:
        expected = run(case.call, client)
    expected.fulfils(case)
    with anthropic_client(route) as client:
        assert run(case.call, client) == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_async(case: Case, direct: Route, route: Route) -> None:
    async with async_anthropic_client(direct) as client:
        expected = await arun(case.call, client)
    expected.fulfils(case)
    async with async_anthropic_client(route) as client:
        assert await arun(case.call, client) == expected


HELPED = Case(
    "helper",
    lambda client: client,
    ("ParsedMessageStopEvent", "InputJsonEvent", "ThinkingEvent", "'city': 'Zürich'"),
)


def test_stream_helper(direct: Route, route: Route) -> None:
    def events(client: Any) -> Iterator[Any]:
        with client.messages.stream(**ask(thinking=THINKING, tools=TOOLS)) as stream:
            yield from stream
            yield stream.get_final_message()

    with anthropic_client(direct) as client:
        expected = run(events, client)
    expected.fulfils(HELPED)
    with anthropic_client(route) as client:
        assert run(events, client) == expected


async def test_async_stream_helper(direct: Route, route: Route) -> None:
    async def events(client: Any) -> AsyncIterator[Any]:
        async with client.messages.stream(**ask(thinking=THINKING, tools=TOOLS)) as stream:
            async for event in stream:
                yield event
            yield await stream.get_final_message()

    async with async_anthropic_client(direct) as client:
        expected = await arun(events, client)
    expected.fulfils(HELPED)
    async with async_anthropic_client(route) as client:
        assert await arun(events, client) == expected


def test_a_reset_stream_never_ends_cleanly(direct: Route, route: Route) -> None:
    """How a reset shows (as a reset or as an early end) is the relay's business; that it shows is not."""
    whole, reset = create(stream=True), scripted({"cut": 2000, "cut_with": "rst"}, stream=True)
    with anthropic_client(direct) as client:
        expected = run(whole, client)
    with anthropic_client(route) as client:
        outcome: Outcome = run(reset, client)
        assert outcome.items == expected.items[: len(outcome.items)]
        assert outcome.error is not None
        with pytest.raises(httpx2.TransportError):
            list(reset(client))
