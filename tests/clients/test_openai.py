"""The official `openai` client sees the same objects through the gateway as straight from the provider."""

from typing import Any

import pytest

from tests.clients.compare import Case, Outcome, arun, run, script
from tests.clients.sdks import Route, async_openai_client, openai_client

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
DATA_URL = f"data:image/png;base64,{PNG}"
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
CHAT_TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]
TOOLS = [{"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": False}]
CHAT_IMAGE = [
    {"type": "image_url", "image_url": {"url": DATA_URL}},
    {"type": "text", "text": "What is this?"},
]
IMAGE = [
    {
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": DATA_URL, "detail": "auto"},
            {"type": "input_text", "text": "What is this?"},
        ],
    }
]
REASONING = {"effort": "low", "summary": "auto"}
USAGE = {"include_usage": True}


def chat(content: Any = "How are you, Zürich?\u2028🙂", **given: Any) -> Any:
    messages = [{"role": "user", "content": content}]
    return lambda client: client.chat.completions.create(model="gpt-4o", messages=messages, **given)


def respond(content: Any = "How are you, Zürich?\u2028🙂", **given: Any) -> Any:
    return lambda client: client.responses.create(model="gpt-5", input=content, **given)


def scripted(call: Any, keys: dict[str, Any], **given: Any) -> Any:
    return call(extra_headers=script(**keys), **given)


CHUNKS = ("ChatCompletionChunk", "finish_reason': 'stop'")
EVENTS = ("ResponseCreatedEvent", "ResponseTextDeltaEvent", "ResponseTextDoneEvent", "ResponseCompletedEvent")

CHAT = [
    Case("chat", chat(), ("ChatCompletionMessage", "Zürich?\\u2028🙂")),
    Case("chat-stream", chat(stream=True), CHUNKS),
    Case("chat-stream-usage", chat(stream=True, stream_options=USAGE), (*CHUNKS, "CompletionUsage")),
    Case("chat-tools", chat(tools=CHAT_TOOLS), ("FunctionToolCall", '{"city":"Zürich","days":7}')),
    Case("chat-tools-stream", chat(tools=CHAT_TOOLS, stream=True), ("ChoiceDeltaToolCall", "'tool_calls'")),
    Case("chat-thinking", chat(reasoning_effort="low"), ("reasoning_content", "reasoning_tokens': 18")),
    Case("chat-thinking-stream", chat(reasoning_effort="low", stream=True), ("reasoning_content",)),
    Case("chat-image", chat(CHAT_IMAGE), ("image/png, 70 bytes",)),
    Case("chat-gzip", scripted(chat, {"encoding": "gzip"}), ("ChatCompletionMessage",)),
    Case("chat-br-stream", scripted(chat, {"encoding": "br"}, stream=True), CHUNKS),
    Case("chat-many-events", scripted(chat, {"events": 1000}, stream=True), (*CHUNKS, "word999 ")),
    Case("chat-split-events", scripted(chat, {"drip": [7, 0]}, stream=True), CHUNKS),
    Case("chat-long", scripted(chat, {"huge": 3_000_000}), ("xxxxxxxx",)),
    Case("chat-400", scripted(chat, {"status": 400}), ("missing_required_parameter",), "BadRequestError"),
    Case("chat-401", scripted(chat, {"status": 401}), ("invalid_api_key",), "AuthenticationError"),
    Case("chat-429", scripted(chat, {"status": 429}), ("rate_limit_exceeded",), "RateLimitError"),
    Case("chat-529", scripted(chat, {"status": 529}), ("server_error",), "InternalServerError"),
    Case("chat-429-stream", scripted(chat, {"status": 429}, stream=True), (), "RateLimitError"),
    Case("chat-error-event", scripted(chat, {"error_event": True}, stream=True), ("ChoiceDelta",), "APIError"),
    Case("chat-cut-stream", scripted(chat, {"cut": 2400}, stream=True), ("ChoiceDelta",), "APIConnectionError"),
    Case("chat-cut", scripted(chat, {"cut": 1400}), (), "APIConnectionError"),
]

RESPONSES = [
    Case("responses", respond(), ("ResponseOutputText", "Zürich?\\u2028🙂")),
    Case("responses-stream", respond(stream=True), EVENTS),
    Case("responses-tools", respond(tools=TOOLS), ("ResponseFunctionToolCall", '{"city":"Zürich","days":7}')),
    Case(
        "responses-tools-stream",
        respond(tools=TOOLS, stream=True),
        ("FunctionCallArgumentsDeltaEvent", "FunctionCallArgumentsDoneEvent"),
    ),
    Case("responses-thinking", respond(reasoning=REASONING), ("ResponseReasoningItem", "summary_text")),
    Case(
        "responses-thinking-stream",
        respond(reasoning=REASONING, stream=True),
        (*EVENTS, "ReasoningSummaryTextDeltaEvent", "ReasoningSummaryPartDoneEvent"),
    ),
    Case("responses-image", respond(IMAGE), ("image/png, 70 bytes",)),
    Case("responses-400", scripted(respond, {"status": 400}), (), "BadRequestError"),
    Case("responses-401", scripted(respond, {"status": 401}), (), "AuthenticationError"),
    Case("responses-429", scripted(respond, {"status": 429}), (), "RateLimitError"),
    Case("responses-529-stream", scripted(respond, {"status": 529}, stream=True), (), "InternalServerError"),
    # The Responses API has an event of its own for this, and the SDK hands it on instead of raising.
    Case(
        "responses-error-event",
        scripted(respond, {"error_event": True}, stream=True),
        ("ResponseErrorEvent",),
    ),
    Case(
        "responses-cut-stream",
        scripted(respond, {"cut": 5000}, stream=True),
        ("ResponseTextDeltaEvent",),
        "APIConnectionError",
    ),
]

OTHERS = [
    Case(
        "embeddings",
        lambda client: client.embeddings.create(model="text-embedding-3-small", input=["a", "Zürich"]),
        ("openai.types.embedding.Embedding", "0.2890625"),
    ),
    Case(
        "embeddings-float",
        lambda client: client.embeddings.create(model="m", input="a", encoding_format="float", dimensions=4),
        ("[0.2890625, 0.08984375, 0.00390625, -0.4296875]",),
    ),
    Case("models", lambda client: client.models.list(), ("openai.types.model.Model", "text-embedding-3-small")),
    Case("model", lambda client: client.models.retrieve("gpt-5"), ("openai.types.model.Model",)),
    Case("no-model", lambda client: client.models.retrieve("none"), ("Invalid URL",), "NotFoundError"),
]

CASES = [*CHAT, *RESPONSES, *OTHERS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sync(case: Case, direct: Route, route: Route) -> None:
    with openai_client(direct) as client:
        expected = run(case.call, client)
    expected.fulfils(case)
    with openai_client(route) as client:
        assert run(case.call, client) == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_async(case: Case, direct: Route, route: Route) -> None:
    async with async_openai_client(direct) as client:
        expected = await arun(case.call, client)
    expected.fulfils(case)
    async with async_openai_client(route) as client:
        assert await arun(case.call, client) == expected


@pytest.mark.parametrize("call", [chat, respond], ids=["chat", "responses"])
def test_a_reset_stream_never_ends_cleanly(call: Any, direct: Route, route: Route) -> None:
    """How a reset shows (as a reset or as an early end) is the relay's business; that it shows is not."""
    with openai_client(direct) as client:
        expected = run(call(stream=True), client)
    with openai_client(route) as client:
        outcome: Outcome = run(scripted(call, {"cut": 2400, "cut_with": "rst"}, stream=True), client)
    assert outcome.items == expected.items[: len(outcome.items)]
    assert outcome.error is not None
    assert outcome.error["class"] == "openai.APIConnectionError"
