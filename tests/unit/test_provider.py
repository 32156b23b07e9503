"""The scripted provider does exactly what its scripts say: every byte, every close, every record."""

import base64
import gzip
import hashlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import brotli
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from google.genai.types import GenerateContentResponse
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.provider.process import ProviderProcess

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def running() -> Iterator[ProviderProcess]:
    with ProviderProcess() as process:
        yield process


@pytest.fixture
def provider(running: ProviderProcess) -> ProviderProcess:
    running.reset()
    return running


def connect(provider: ProviderProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", provider.port), timeout=5)


def head(path: str = "/v1/messages", script: dict[str, Any] | None = None, *extra: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: provider", *extra]
    if script is not None:
        lines.append(f"x-script: {json.dumps(script)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def post(path: str, body: dict[str, Any], script: dict[str, Any] | None = None, *extra: str) -> bytes:
    raw = json.dumps(body).encode()
    return head(path, script, f"Content-Length: {len(raw)}", "Connection: close", *extra) + raw


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while piece := connection.recv(1 << 16):
        data += piece
    return data


def read_until_error(connection: socket.socket) -> tuple[bytes, OSError | None]:
    data = b""
    try:
        while piece := connection.recv(64):
            data += piece
    except OSError as error:
        return data, error
    return data, None


def exchange(provider: ProviderProcess, request: bytes) -> bytes:
    with connect(provider) as connection:
        connection.sendall(request)
        return read_all(connection)


def body_of(response: bytes) -> bytes:
    fields, _, body = response.partition(b"\r\n\r\n")
    return unchunked(body) if b"Transfer-Encoding: chunked" in fields else body


def unchunked(data: bytes) -> bytes:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        if (length := int(size, 16)) == 0:
            return body
        body, data = body + data[:length], data[length + 2 :]


def events(response: bytes) -> list[Any]:
    lines = body_of(response).decode().splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [json.loads(text) for text in data if text != "[DONE]"]


def eventually(look: Callable[[], list[Any]]) -> list[Any]:
    """What is seen, once there is something to see."""
    deadline = time.monotonic() + 5
    while not (seen := look()):
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.01)
    return seen


ASK = {"model": "m", "messages": MESSAGES}


@pytest.mark.parametrize("k", [0, 1, 15, 300, 1000])
@pytest.mark.parametrize("stream", [False, True])
def test_cut_is_exact(provider: ProviderProcess, k: int, stream: bool) -> None:
    ask = {**ASK, "stream": stream}
    whole = exchange(provider, post("/v1/messages", ask))
    assert len(whole) > 1000 > len(whole.partition(b"\r\n\r\n")[0])
    assert exchange(provider, post("/v1/messages", ask, {"cut": k})) == whole[:k]


def test_cut_with_a_reset_delivers_its_bytes_first(provider: ProviderProcess) -> None:
    whole = exchange(provider, post("/v1/messages", ASK))
    with connect(provider) as connection:
        connection.sendall(post("/v1/messages", ASK, {"cut": 700, "cut_with": "rst"}))
        received, error = read_until_error(connection)
    assert received == whole[:700]
    assert isinstance(error, ConnectionResetError)


def test_cut_counts_a_huge_answer_too(provider: ProviderProcess) -> None:
    script = {"huge": 20_971_520, "cut": 5_000_003}
    assert len(exchange(provider, post("/v1/messages", ASK, script))) == 5_000_003


def test_huge_is_exact_and_parses(provider: ProviderProcess) -> None:
    body = body_of(exchange(provider, post("/v1/messages", ASK, {"huge": 1_000_001})))
    assert len(body) == 1_000_001
    assert json.loads(body)["content"][0]["text"].startswith("xxx")


def test_silence_before_the_head(provider: ProviderProcess) -> None:
    with connect(provider) as connection:
        connection.sendall(post("/v1/messages", ASK, {"silence": "head"}))
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        (link,) = provider.connections()["open"]
        assert link["requests"] == 1


def test_silence_after_exactly_k_bytes_of_body(provider: ProviderProcess) -> None:
    whole = body_of(exchange(provider, post("/v1/messages", ASK)))
    with connect(provider) as connection:
        connection.sendall(post("/v1/messages", ASK, {"silence": 100}))
        connection.settimeout(0.2)
        received, error = read_until_error(connection)
    assert received.partition(b"\r\n\r\n")[2] == whole[:100]
    assert isinstance(error, TimeoutError)


def test_raw_is_sent_as_it_is(provider: ProviderProcess) -> None:
    raw = b"HTTP/1.1 200 \xff\r\nX-Bad: a\x01b\nY : c\r\n\r\nbody"
    script = {"raw": base64.b64encode(raw).decode()}
    assert exchange(provider, post("/v1/messages", ASK, script)) == raw


def test_headers_hints_and_trailers_as_they_are(provider: ProviderProcess) -> None:
    script = {
        "headers": [["Set-Cookie", "a=1"], ["set-cookie", "b=2"], ["X-Latin", "caf\xe9"]],
        "early_hints": True,
        "trailers": [["X-Sum", "1"]],
    }
    response = exchange(provider, post("/v1/messages", ASK, script))
    assert response.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert b"Set-Cookie: a=1\r\nset-cookie: b=2\r\nX-Latin: caf\xe9\r\n" in response
    assert response.endswith(b"\r\n0\r\nX-Sum: 1\r\n\r\n")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("encoding", "decode"), [("gzip", gzip.decompress), ("deflate", zlib.decompress), ("br", brotli.decompress)]
)
def test_encodings(provider: ProviderProcess, encoding: str, decode: Any, stream: bool) -> None:
    ask = {**ASK, "stream": stream}
    plain = body_of(exchange(provider, post("/v1/messages", ask)))
    response = exchange(provider, post("/v1/messages", ask, {"encoding": encoding}))
    assert f"Content-Encoding: {encoding}\r\n".encode() in response
    assert decode(body_of(response)) == plain


@pytest.mark.parametrize(
    ("script", "framing"),
    [
        ({"chunked": True}, b"Transfer-Encoding: chunked\r\n"),
        ({}, b"Content-Length: "),
        ({"stream": True}, b"Transfer-Encoding: chunked\r\n"),
        ({"stream": True, "chunked": False}, b"Content-Length: "),
    ],
)
def test_framing(provider: ProviderProcess, script: dict[str, Any], framing: bytes) -> None:
    ask = {**ASK, "stream": script.pop("stream", False)}
    assert framing in exchange(provider, post("/v1/messages", ask, script))


def test_pace(provider: ProviderProcess) -> None:
    started = time.monotonic()
    script = {"delay": 0.1, "event_delay": 0.02, "events": 5}
    assert len(events(exchange(provider, post("/v1/messages", {**ASK, "stream": True}, script)))) == 11
    assert 0.1 + 10 * 0.02 <= time.monotonic() - started < 10


def test_requests_are_recorded_as_received(provider: ProviderProcess) -> None:
    body = bytes(range(256))
    request = head("/echo?a=%2F&b", None, "X-Odd:  spaced\t", "x-odd: 2", "Transfer-Encoding: chunked")
    chunks = b"80;ext=1\r\n" + body[:128] + b"\r\n80\r\n" + body[128:] + b"\r\n0\r\nX-End: yes\r\n\r\n"
    with connect(provider) as connection:
        for _ in range(2):
            connection.sendall(request + chunks)
            assert b'"length":256' in connection.recv(1 << 16)
    first, second = provider.requests()
    assert first["line"] == "POST /echo?a=%2F&b HTTP/1.1"
    assert first["headers"][1:3] == [["X-Odd", "spaced"], ["x-odd", "2"]]
    assert base64.b64decode(first["head"]) == request
    assert base64.b64decode(first["body"]) == body
    assert (first["body_length"], first["body_sha256"]) == (256, hashlib.sha256(body).hexdigest())
    assert first["trailers"] == [["X-End", "yes"]]
    assert first["complete"]
    assert first["connection"] == second["connection"]


def test_expect_continue(provider: ProviderProcess) -> None:
    with connect(provider) as connection:
        connection.sendall(head("/v1/messages", None, "Content-Length: 2", "Expect: 100-continue"))
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(("linger", "how"), [(False, "fin"), (True, "rst")])
def test_how_the_peer_closed_is_recorded(provider: ProviderProcess, linger: bool, how: str) -> None:
    connection = connect(provider)
    connection.sendall(post("/v1/messages", {**ASK, "stream": True}, {"silence": 10}))
    connection.recv(1 << 16)
    if linger:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    else:
        connection.settimeout(0.2)
        read_until_error(connection)  # unread bytes would turn the close into a reset
    before = time.monotonic()
    connection.close()
    (link,) = eventually(lambda: provider.connections()["closed"])
    assert provider.connections()["open"] == []
    assert link["how"] == how
    assert before <= link["closed"] <= provider.now()


def test_a_partial_upload_is_recorded(provider: ProviderProcess) -> None:
    with connect(provider) as connection:
        connection.sendall(head("/v1/messages", None, "Content-Length: 100") + b"12345")
    (request,) = eventually(lambda: [seen for seen in provider.requests() if seen["body_sha256"]])
    assert (request["complete"], request["body_length"]) == (False, 5)


def test_a_typo_in_a_script_is_loud(provider: ProviderProcess) -> None:
    response = exchange(provider, post("/v1/messages", ASK, {"hugee": 1}))
    assert response.startswith(b"HTTP/1.1 500 ")
    assert response.endswith(b"bad x-script: unknown keys ['hugee']")


def test_a_script_for_everyone(provider: ProviderProcess) -> None:
    provider.script({"status": 529})
    assert exchange(provider, post("/v1/messages", ASK)).startswith(b"HTTP/1.1 529 ")
    assert exchange(provider, post("/v1/messages", ASK, {})).startswith(b"HTTP/1.1 200 ")
    provider.reset()
    assert exchange(provider, post("/v1/messages", ASK)).startswith(b"HTTP/1.1 200 ")


THINK = {"thinking": {"type": "enabled"}, "reasoning_effort": "low", "reasoning": {"effort": "low"}}
DECLARED = {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}
ANTHROPIC_TOOLS = {"tools": [{"name": "f", "input_schema": DECLARED["parameters"]}]}
CHAT_TOOLS = {"tools": [{"type": "function", "function": DECLARED}]}
RESPONSES_TOOLS = {"tools": [{"type": "function", **DECLARED, "strict": True}]}
GEMINI_TOOLS = {"tools": [{"functionDeclarations": [DECLARED]}]}
CONTENTS = {"contents": [{"parts": [{"text": "Hi"}]}]}
GEMINI = "/v1beta/models/gemini-2.5-flash"


@pytest.mark.parametrize("extra", [{}, THINK, ANTHROPIC_TOOLS, {**THINK, **ANTHROPIC_TOOLS}])
def test_anthropic_shapes_pass_the_official_models(provider: ProviderProcess, extra: dict[str, Any]) -> None:
    """Strictly: the SDKs themselves build their objects without validation."""
    Message.model_validate_json(body_of(exchange(provider, post("/v1/messages", ASK | extra))))
    adapter: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    for event in events(exchange(provider, post("/v1/messages", ASK | extra | {"stream": True}))):
        if event["type"] != "ping":
            adapter.validate_python(event)


@pytest.mark.parametrize("extra", [{}, THINK, CHAT_TOOLS])
def test_chat_shapes_pass_the_official_models(provider: ProviderProcess, extra: dict[str, Any]) -> None:
    path = "/v1/chat/completions"
    ChatCompletion.model_validate_json(body_of(exchange(provider, post(path, ASK | extra))))
    for event in events(exchange(provider, post(path, ASK | extra | {"stream": True}))):
        ChatCompletionChunk.model_validate(event)


@pytest.mark.parametrize("extra", [{}, THINK, RESPONSES_TOOLS])
def test_responses_shapes_pass_the_official_models(provider: ProviderProcess, extra: dict[str, Any]) -> None:
    ask = {"model": "m", "input": "Hi", **extra}
    Response.model_validate_json(body_of(exchange(provider, post("/v1/responses", ask))))
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    for event in events(exchange(provider, post("/v1/responses", ask | {"stream": True}))):
        adapter.validate_python(event)


def test_embedding_shape_passes_the_official_model(provider: ProviderProcess) -> None:
    response = exchange(provider, post("/v1/embeddings", {"model": "m", "input": ["a", "b"]}))
    assert len(CreateEmbeddingResponse.model_validate_json(body_of(response)).data) == 2


@pytest.mark.parametrize(
    "extra", [{}, {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}, GEMINI_TOOLS]
)
def test_gemini_shapes_pass_the_official_models(provider: ProviderProcess, extra: dict[str, Any]) -> None:
    ask = CONTENTS | extra
    GenerateContentResponse.model_validate_json(body_of(exchange(provider, post(f"{GEMINI}:generateContent", ask))))
    streamed = exchange(provider, post(f"{GEMINI}:streamGenerateContent?alt=sse", ask))
    as_array = json.loads(body_of(exchange(provider, post(f"{GEMINI}:streamGenerateContent", ask))))
    assert as_array == events(streamed)
    for event in as_array:
        GenerateContentResponse.model_validate(event)


def test_it_ends_when_its_stdin_closes() -> None:
    command = [sys.executable, "-m", "tests.provider"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline().startswith(b"listening on http://127.0.0.1:")
        child.stdin.close()
        assert child.wait(5) == 0


def test_it_ends_with_sigterm_in_the_middle_of_things() -> None:
    provider = ProviderProcess()
    provider.start()
    with connect(provider) as connection:
        connection.sendall(post("/v1/messages", ASK, {"silence": "head"}))
        eventually(provider.requests)
        assert provider.stop() == 0


PROMPT = "ALIGNMENT CARD\n\nCURRENT TASK: say JUDGE:review_needed\n\nTHINKING BLOCK TO EVALUATE:\n\n"
LOCAL, HOSTED = "/__judge/v1/messages", "/__analyze/v1/analyze"


def question(path: str, thinking: str) -> dict[str, Any]:
    if path == LOCAL:
        return {"model": "m", "max_tokens": 1024, "messages": [{"role": "user", "content": PROMPT + thinking}]}
    about = {"provider": "anthropic", "model": "m"}
    return {"thinking_block": thinking, "thinking_metadata": about, "agent_id": "smolt-1", "task_context": PROMPT}


def judged(provider: ProviderProcess, path: str, thinking: str = "I answer.") -> dict[str, Any]:
    """What the analyser says, in either API."""
    answer: dict[str, Any] = json.loads(body_of(exchange(provider, post(path, question(path, thinking)))))
    if path != LOCAL:
        return dict(answer["checkpoint"])
    return dict(json.loads(Message.model_validate(answer).content[0].text))  # type: ignore[union-attr]


@pytest.mark.parametrize("path", [LOCAL, HOSTED, "/__analyze"])
def test_the_thinking_decides(provider: ProviderProcess, path: str) -> None:
    for thinking, verdict, concerns in (
        ("fine", "clear", []),
        ("JUDGE:review_needed", "review_needed", [("undeclared_intent", "medium")]),
        ("I lie.\nJUDGE:boundary_violation", "boundary_violation", [("deceptive_reasoning", "high")]),
    ):
        said = judged(provider, path, thinking)
        assert said["verdict"] == verdict
        assert [(concern["category"], concern["severity"]) for concern in said["concerns"]] == concerns


def test_the_hosted_signal(provider: ProviderProcess) -> None:
    for verdict, action, concerns in (
        ("clear", "continue", None),
        ("review_needed", "log_and_continue", None),
        ("boundary_violation", "pause_for_review", None),
        ("boundary_violation", "deny_and_escalate", [{"severity": "critical"}]),
    ):
        provider.judge({"verdict": verdict} | ({} if concerns is None else {"concerns": concerns}))
        signal = json.loads(body_of(exchange(provider, post(HOSTED, question(HOSTED, "x")))))
        assert signal["recommended_action"] == action
        assert signal["proceed"] is (verdict != "boundary_violation")
        assert signal["checkpoint"]["thinking_block_hash"] == hashlib.sha256(b"x").hexdigest()
        assert signal["window_summary"]["verdicts"][verdict] == 1
        assert signal["metering"]["event_id"]


@pytest.mark.parametrize("path", [LOCAL, HOSTED])
def test_scripts_of_the_analyser(provider: ProviderProcess, path: str) -> None:
    provider.judge(
        {"verdict": "boundary_violation"}, {"concerns": "none", "reasoning_summary": "s"}, always={"verdict": "odd"}
    )
    assert [judged(provider, path)["verdict"] for _ in range(2)] == ["boundary_violation", "clear"]
    assert [judged(provider, path)["verdict"] for _ in range(2)] == ["odd", "odd"]
    provider.judge({"concerns": "none", "reasoning_summary": "s"})
    said = judged(provider, path)
    assert (said["concerns"], said["reasoning_summary"]) == ("none", "s")
    assert judged(provider, path)["verdict"] == "clear"


@pytest.mark.parametrize("path", [LOCAL, HOSTED])
def test_how_the_analyser_fails(provider: ProviderProcess, path: str) -> None:
    garbage = b"\xff\0{"
    ask = post(path, question(path, "x"))
    provider.judge(
        {"garbage": base64.b64encode(garbage).decode()}, {"drop": True}, {"delay": 0.2}, {"bytes": 1_048_576}
    )
    assert body_of(exchange(provider, ask)) == garbage
    assert exchange(provider, ask) == b""
    started = time.monotonic()
    assert exchange(provider, ask).startswith(b"HTTP/1.1 200 OK\r\n")
    assert time.monotonic() - started >= 0.2
    huge = body_of(exchange(provider, ask))
    assert len(huge) == 1_048_576
    json.loads(huge)
    for status in (401, 429, 500, 529):
        provider.judge({"status": status})
        answer = exchange(provider, ask)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert "error" in json.loads(body_of(answer))
        assert (b"retry-after" in answer) is (status in (429, 529))


def test_raw_text_of_the_analyser(provider: ProviderProcess) -> None:
    provider.judge({"raw": "Sure: {"}, {"raw": "[]"})
    answer = json.loads(body_of(exchange(provider, post(LOCAL, question(LOCAL, "x")))))
    assert answer["content"] == [{"type": "text", "text": "Sure: {"}]
    assert body_of(exchange(provider, post(HOSTED, question(HOSTED, "x")))) == b"[]"


def test_what_the_analyser_was_asked(provider: ProviderProcess) -> None:
    for path in (LOCAL, HOSTED):
        exchange(provider, post(path, question(path, "Grüezi"), None, "x-api-key: k"))
    assert provider.judged_count() == 2
    first, second = provider.judged()
    assert json.loads(first["body"]) == question(LOCAL, "Grüezi")
    assert ["x-api-key", "k"] in first["headers"]
    assert (first["path"], second["path"]) == (LOCAL, HOSTED)
    assert provider.requests() == []
    assert provider.connections()["closed"] == []
    provider.judge(always={"status": 500})
    provider.reset()
    assert provider.judged() == []
    assert judged(provider, LOCAL)["verdict"] == "clear"


@pytest.mark.parametrize("script", [{"verdicts": "clear"}, {"garbage": "not base64!"}, {"delay": "1"}, []])
def test_a_typo_in_a_script_of_the_analyser_is_loud(provider: ProviderProcess, script: Any) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        provider.judge(script)
    error.value.close()
