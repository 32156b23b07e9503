"""The official `google-genai` client sees the same objects through the gateway as from the provider."""

import base64
import gc
from typing import Any

import pytest
from google.genai import types

from tests.clients.compare import Case, arun, run, script
from tests.clients.sdks import Route, async_gemini_client, gemini_client

# The SDK subclasses aiohttp.ClientSession when it first uses aiohttp, and aiohttp discourages that.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Inheritance class AiohttpClientSession from ClientSession is discouraged:DeprecationWarning"
)

MODEL = "gemini-2.5-flash"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
TOOLS = [
    types.Tool(
        function_declarations=[
            types.FunctionDeclaration(
                name="get_weather",
                parameters=types.Schema(
                    type=types.Type.OBJECT,
                    properties={
                        "city": types.Schema(type=types.Type.STRING),
                        "days": types.Schema(type=types.Type.INTEGER),
                    },
                ),
            )
        ]
    )
]
THINKING = types.ThinkingConfig(include_thoughts=True, thinking_budget=1024)
IMAGE = [types.Part.from_bytes(data=PNG, mime_type="image/png"), "What is this?"]


def generate(contents: Any = "How are you, Zürich?\u2028🙂", *, stream: bool = False, **config: Any) -> Any:
    method = "generate_content_stream" if stream else "generate_content"
    arguments = {"model": MODEL, "contents": contents, "config": types.GenerateContentConfig(**config)}
    return lambda client: getattr(client.models, method)(**arguments)


def scripted(keys: dict[str, Any], **given: Any) -> Any:
    return generate(http_options=types.HttpOptions(headers=script(**keys)), **given)


STREAMED = ("GenerateContentResponse", "FinishReason.STOP", "'text': 'Grüezi fr'")

CASES = [
    Case("text", generate(), ("types.Part", "Zürich?\\u2028🙂")),
    Case("stream", generate(stream=True), STREAMED),
    Case("tools", generate(tools=TOOLS), ("types.FunctionCall", "'city': 'Zürich'")),
    Case("tools-stream", generate(tools=TOOLS, stream=True), ("types.FunctionCall", "'city': 'Zürich'")),
    Case("thinking", generate(thinking_config=THINKING), ("'thought': True", "The user wants")),
    Case("thinking-stream", generate(thinking_config=THINKING, stream=True), (*STREAMED, "'thought': True")),
    Case("image", generate(IMAGE), ("image/png, 70 bytes",)),
    Case("gzip", scripted({"encoding": "gzip"}), ("types.Part",)),
    Case("gzip-stream", scripted({"encoding": "gzip"}, stream=True), STREAMED),
    Case("many-events", scripted({"events": 1000}, stream=True), ("FinishReason.STOP", "word999 ")),
    Case("split-events", scripted({"drip": [7, 0]}, stream=True), STREAMED),
    Case("long", scripted({"huge": 3_000_000}), ("xxxxxxxx",)),
    Case("400", scripted({"status": 400}), ("INVALID_ARGUMENT",), "ClientError"),
    Case("401", scripted({"status": 401}), ("UNAUTHENTICATED",), "ClientError"),
    Case("429", scripted({"status": 429}), ("RESOURCE_EXHAUSTED", "RetryInfo"), "ClientError"),
    Case("503", scripted({"status": 503}), ("UNAVAILABLE",), "ServerError"),
    Case("529", scripted({"status": 529}), ("'code': 529",), "ServerError"),
    Case("429-stream", scripted({"status": 429}, stream=True), ("RESOURCE_EXHAUSTED",), "ClientError"),
    Case(
        "embeddings",
        lambda client: client.models.embed_content(model="gemini-embedding-001", contents=["a", "Zürich"]),
        ("types.ContentEmbedding", "0.2890625"),
    ),
    Case(
        "count-tokens",
        lambda client: client.models.count_tokens(model=MODEL, contents="How many?"),
        ("types.CountTokensResponse", "total_tokens"),
    ),
]

# Two pages: the second one only comes when the query string arrives.
MODELS = Case(
    "models",
    lambda client: client.models.list(config={"page_size": 2}),
    ("types.Model", "gemini-embedding-001"),
)
ERROR_EVENT = Case(
    "error-event",
    scripted({"error_event": True}, stream=True),
    ("types.Part", "UNAVAILABLE"),
    "ServerError",
)
CUT = scripted({"cut": 1500}, stream=True)
# The HTTP client's own exception: the SDK does not wrap it.
CUT_SYNC = Case("cut-stream", CUT, ("types.Part",), "RemoteProtocolError")
CUT_ASYNC = {
    "aiohttp": Case("cut-stream", CUT, ("types.Part",), "ClientPayloadError"),
    "httpx2": CUT_SYNC,
}


@pytest.mark.parametrize("case", [*CASES, MODELS, ERROR_EVENT, CUT_SYNC], ids=lambda case: case.name)
def test_sync(case: Case, direct: Route, route: Route) -> None:
    with gemini_client(direct) as client:
        expected = run(case.call, client)
    expected.fulfils(case)
    with gemini_client(route) as client:
        assert run(case.call, client) == expected


@pytest.mark.parametrize("transport", ["aiohttp", "httpx2"])
@pytest.mark.parametrize("case", [*CASES, MODELS], ids=lambda case: case.name)
async def test_async(case: Case, transport: str, direct: Route, route: Route) -> None:
    async with async_gemini_client(direct, transport) as client:
        expected = await arun(case.call, client)
    expected.fulfils(case)
    async with async_gemini_client(route, transport) as client:
        assert await arun(case.call, client) == expected


@pytest.mark.parametrize("transport", ["aiohttp", "httpx2"])
async def test_async_cut_stream(transport: str, direct: Route, route: Route) -> None:
    case = CUT_ASYNC[transport]
    async with async_gemini_client(direct, transport) as client:
        expected = await arun(case.call, client)
    expected.fulfils(case)
    async with async_gemini_client(route, transport) as client:
        assert await arun(case.call, client) == expected


# The SDK leaves the connection of such a stream to the garbage collector, and aiohttp says so.
@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")
@pytest.mark.parametrize("transport", ["aiohttp", "httpx2"])
async def test_async_error_event(transport: str, direct: Route, route: Route) -> None:
    async with async_gemini_client(direct, transport) as client:
        expected = await arun(ERROR_EVENT.call, client)
    expected.fulfils(ERROR_EVENT)
    async with async_gemini_client(route, transport) as client:
        assert await arun(ERROR_EVENT.call, client) == expected
    gc.collect()  # here and now, where the warning is expected


def test_a_reset_stream_never_ends_cleanly(direct: Route, route: Route) -> None:
    """How a reset shows (as a reset or as an early end) is the relay's business; that it shows is not."""
    with gemini_client(direct) as client:
        expected = run(generate(stream=True), client)
    with gemini_client(route) as client:
        outcome = run(scripted({"cut": 1500, "cut_with": "rst"}, stream=True), client)
    assert outcome.items == expected.items[: len(outcome.items)]
    assert outcome.error is not None
