"""Methods and bodies: anything passes as it is, except a generation request that is too large to be looked at."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from worker_compat.errors import ConnectionLost
from worker_compat.response import Response
from worker_compat.streams import ReadableStream
from worker_compat.testing import ScriptedBody, SeenRequest, read_response

from .support import ANTHROPIC, GEMINI, KEY_LINE, MESSAGES, OPENAI, Gateway, Got

LINES = {
    "anthropic": (ANTHROPIC, KEY_LINE),
    "openai": (OPENAI, "Authorization: Bearer k"),
    "gemini": (GEMINI, "x-goog-api-key: k"),
}
GENERATION = [
    "/anthropic/v1/messages",
    "/anthropic/v1/messages?beta=true",
    "/agent/a/anthropic/v1/messages",
    "/openai/v1/chat/completions",
    "/openai/v1/responses",
    "/gemini/v1beta/models/gemini-2.5-pro:generateContent",
    "/gemini/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
    "/gemini/v1/models/g:generateContent",
    "/gemini/v1alpha/models/g:generateContent",
    "/gemini/v1beta/tunedModels/mine:generateContent",
]
OTHER = [
    "/anthropic/v1/messages/count_tokens",
    "/anthropic/v1/messages/batches",
    "/anthropic/v1/files",
    "/anthropic/v1/messagesx",
    "/openai/v1/embeddings",
    "/openai/v1/files",
    "/openai/v1/chat/completions/x",
    "/openai/v1/audio/transcriptions",
    "/gemini/v1beta/models/g:embedContent",
    "/gemini/v1beta/models/g:countTokens",
    "/gemini/upload/v1beta/files",
]
BINARY = bytes(range(256)) + "\ud800".encode("utf-8", "surrogatepass") + b"\xef\xbb\xbf{" + gzip.compress(b"x")


def provider_of(target: str) -> str:
    parts = target.split("/")
    return parts[3] if parts[1] == "agent" else parts[1]


def open_gateway(target: str, **variables: str) -> Gateway:
    """One whose provider answers this target, whatever the method."""
    base = LINES[provider_of(target)][0]
    rest = target.split(f"/{provider_of(target)}", 1)[1]
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "PURGE", "M-SEARCH", "post")
    return Gateway({f"{method} {base}{rest}": Response(b"ok") for method in methods}, **variables)


async def post(gateway: Gateway, target: str, body: bytes | ScriptedBody | None) -> Got:
    return await gateway.ask("POST", target, LINES[provider_of(target)][1], body=body)


def only(gateway: Gateway) -> SeenRequest:
    [request] = gateway.fetcher.requests
    return request


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "PURGE", "M-SEARCH", "post"])
async def test_any_method_passes(method: str) -> None:
    gateway = open_gateway("/openai/v1/files")
    got = await gateway.ask(method, "/openai/v1/files", "Authorization: Bearer k")
    assert (got.status, got.body) == (200, b"ok")
    assert (only(gateway).method, only(gateway).has_body) == (method, False)


async def test_head_has_the_lines_and_no_body() -> None:
    gateway = open_gateway("/openai/v1/files")
    got = await gateway.ask("HEAD", "/openai/v1/files", "Authorization: Bearer k")
    assert (got.status, got.body) == (200, b"")
    assert got.get("x-smoltbot-agent")


@pytest.mark.parametrize("target", [*GENERATION, *OTHER])
@pytest.mark.parametrize("body", [b"", b"{}", b"not json", BINARY], ids=["empty", "json", "text", "binary"])
async def test_a_body_passes_byte_for_byte(target: str, body: bytes) -> None:
    gateway = open_gateway(target)
    assert (await post(gateway, target, body)).status == 200
    assert (only(gateway).body, only(gateway).has_body) == (body, True)


async def test_a_body_in_pieces_passes() -> None:
    for target in (GENERATION[0], OTHER[0]):
        gateway = open_gateway(target)
        await post(gateway, target, ScriptedBody([b"ab", b"c", b"def"]))
        assert only(gateway).body == b"abcdef"


@pytest.mark.parametrize("target", GENERATION)
async def test_a_generation_request_may_have_so_many_bytes(target: str) -> None:
    gateway = open_gateway(target, MAX_BODY_BYTES="10")
    for body in (b"x" * 10, ScriptedBody([b"x" * 5, b"y" * 5]), ScriptedBody([b"x" * 5] * 2, length=10)):
        assert (await post(gateway, target, body)).status == 200
    for body in (b"x" * 11, ScriptedBody([b"x" * 5, b"y" * 6]), ScriptedBody([b"x" * 11], length=11)):
        got = await post(gateway, target, body)
        assert got.status == 413
        answer = got.json()
        assert "MAX_BODY_BYTES" in answer.pop("message")
        assert answer == {"error": "Request body too large", "type": "invalid_request"}
        assert (got.get("x-aip-verdict"), got.get("x-aip-reason")) == ("skipped", "too-large")
        assert got.get("x-smoltbot-agent")
    assert len(gateway.fetcher.requests) == 3


async def test_what_is_too_large_by_its_length_is_not_read() -> None:
    gateway = open_gateway(GENERATION[0], MAX_BODY_BYTES="10")
    body = ScriptedBody([b"x" * 11], length=11)
    assert (await post(gateway, GENERATION[0], body)).status == 413
    assert body.pulled == 0


async def test_what_turns_out_too_large_is_read_no_further() -> None:
    gateway = open_gateway(GENERATION[0], MAX_BODY_BYTES="10")
    body = ScriptedBody([b"x" * 6] * 1000)
    assert (await post(gateway, GENERATION[0], body)).status == 413
    assert body.pulled == 2
    assert body.closed


@pytest.mark.parametrize("target", OTHER)
async def test_other_endpoints_have_no_limit(target: str) -> None:
    gateway = open_gateway(target, MAX_BODY_BYTES="10")
    for body in (b"x" * 11, ScriptedBody([b"x" * 100]), ScriptedBody([b"x" * 11], length=11)):
        assert (await post(gateway, target, body)).status == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_only_post_generates(method: str) -> None:
    gateway = open_gateway(GENERATION[0], MAX_BODY_BYTES="10")
    assert (await gateway.ask(method, GENERATION[0], KEY_LINE, body=b"x" * 11)).status == 200


@pytest.mark.parametrize(
    ("variable", "settings", "status"),
    [
        ("true", {}, 413),
        ("false", {}, 413),  # traces still look at it
        ("true", {"aap_enabled": False}, 413),
        ("true", {"aip_enabled": False}, 413),
        ("true", {"aip_enabled": False, "aap_enabled": False}, 200),
        ("false", {"aap_enabled": False}, 200),
    ],
)
async def test_there_is_no_limit_when_nobody_looks(variable: str, settings: dict[str, bool], status: int) -> None:
    gateway = open_gateway(GENERATION[0], MAX_BODY_BYTES="10", AIP_ENABLED=variable)
    gateway.records.settings.update(settings)
    for body in (b"x" * 11, ScriptedBody([b"x" * 11])):
        assert (await post(gateway, GENERATION[0], body)).status == status


@pytest.mark.parametrize("body", [b"", b"ok", BINARY])
async def test_an_answer_passes_byte_for_byte(body: bytes) -> None:
    gateway = Gateway({MESSAGES: Response.from_raw(200, "Fine", ((b"content-length", b"%d" % len(body)),), body)})
    response = await gateway.begin("POST", "/anthropic/v1/messages", KEY_LINE, body=b"{}")
    assert response.status_text == "Fine"
    assert await read_response(response) == body


async def test_every_piece_of_a_stream_passes_at_once() -> None:
    gate = asyncio.Event()
    events = [b"event: a\ndata: 1\n\n", b": ping\n\n", b"da", b"ta: [DONE]\n\n"]
    source = ScriptedBody(events, gate=gate)
    answer = Response.from_raw(200, "", ((b"content-type", b"text/event-stream"),), ReadableStream(source))
    gateway = Gateway({MESSAGES: answer})
    response = await gateway.begin("POST", "/anthropic/v1/messages", KEY_LINE, body=b"{}")
    assert response.body is not None
    reader = response.body.get_reader()
    for number, event in enumerate(events, 1):
        assert await reader.read() == event
        assert source.pulled == number
        gate.set()
    assert await reader.read() == b""


async def test_the_length_of_an_answer_is_kept() -> None:
    for length in (None, 5):
        answer = Response.from_raw(200, "", (), ReadableStream(ScriptedBody([b"ab", b"cde"], length=length)))
        response = await Gateway({MESSAGES: answer}).begin("POST", "/anthropic/v1/messages", KEY_LINE, body=b"{}")
        assert response.body is not None
        assert response.body.detach().length == length


async def test_a_client_whose_body_breaks_off_is_no_success() -> None:
    gateway = open_gateway(GENERATION[0])
    got = await post(gateway, GENERATION[0], ScriptedBody([b"x"], error=ConnectionLost("the client's body broke off")))
    assert got.status == 502
