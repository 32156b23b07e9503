"""Header lines: what passes, what is dropped, what is added, in both directions."""

from __future__ import annotations

import pytest

from worker_compat.response import Response

from .support import AGENT, HASH, KEY_LINE, MESSAGES, THOUGHT, Gateway

IDENTITY = ["x-smoltbot-request-id", "x-smoltbot-agent", "x-smoltbot-session"]
ATTESTED = ["X-AIP-Checkpoint-Id", "X-AIP-Certificate-Id", "X-AIP-Chain-Hash"]
ADDED = [*IDENTITY, "X-AIP-Verdict", "X-AIP-Reason", *ATTESTED]


async def sent(*lines: str) -> list[tuple[bytes, bytes]]:
    """The header lines that reach the provider."""
    gateway = Gateway({MESSAGES: Response(b"ok")})
    assert (await gateway.ask("POST", "/anthropic/v1/messages", KEY_LINE, *lines)).status == 200
    return list(gateway.fetcher.requests[0].raw_headers)


async def received(*lines: tuple[bytes, bytes], status: int = 200) -> list[tuple[bytes, bytes]]:
    """The header lines that reach the client for those of a provider."""
    gateway = Gateway({MESSAGES: Response.from_raw(status, "", lines, THOUGHT)})
    got = await gateway.message()
    assert got.status == status
    return list(got.lines)


DROPPED = [
    "Host: gateway.test", "Connection: keep-alive", "Keep-Alive: timeout=5", "TE: trailers", "Trailer: x",
    "Transfer-Encoding: chunked", "Upgrade: h2c", "Proxy-Authorization: Basic x", "Proxy-Connection: close",
    "x-mnemom-api-key: mnm_1", "X-Mnemom-Agent: a", "x-smoltbot-agent: a", "X-SMOLTBOT-Session: s", "x-smoltbot-x: y",
    "cf-aig-authorization: Bearer x", "CF-AIG-Metadata: {}", "X-AIP-Verdict: clear",
]  # fmt: skip


@pytest.mark.parametrize("line", DROPPED)
async def test_what_does_not_reach_the_provider(line: str) -> None:
    name, _, value = line.partition(": ")
    for spelling in (name, name.lower(), name.upper()):
        assert await sent(f"{spelling}: {value}", "x-kept: 1") == [
            (b"x-api-key", b"sk-ant-example-000"),
            (b"x-kept", b"1"),
        ]


async def test_everything_else_reaches_the_provider_as_it_came() -> None:
    lines = [
        "Accept-Encoding: gzip, br, zstd", "anthropic-version: 2023-06-01", "X-Dup: 1", "x-dup: 2", "X-DUP: 1",
        "Authorization: Bearer also", "Cookie: a=1; b=2", "Cookie: c=3", "User-Agent: sdk/1.0  (x; y)",
        "Content-Length: 0", "Content-Encoding: gzip", "Expect: 100-continue", "X-Request-Id: mine",
        "X-Forwarded-For: 1.2.3.4", "x-empty:",
        "x-aipx: 1", "x-smoltbotx: 1", "cf-aig: 1", "Via: 1.1 x", "Range: bytes=0-1", "Origin: https://a.example",
        "x-latin: caf\u00e9",
    ]  # fmt: skip
    expected = [(b"x-api-key", b"sk-ant-example-000")]
    for line in lines:
        name, _, value = line.partition(":")
        expected.append((name.encode(), value.strip().encode("latin-1")))
    assert await sent(*lines) == expected


async def test_what_connection_names_is_for_one_hop_only() -> None:
    lines = await sent("Connection: close, X-Hop", "x-hop: 1", "X-HOP: 2", "x-other: 3")
    assert lines == [(b"x-api-key", b"sk-ant-example-000"), (b"x-other", b"3")]


async def test_connection_cannot_name_identity_or_framing_away() -> None:
    lines = await sent("Connection: x-api-key, content-length, authorization, origin", "Content-Length: 0")
    assert [name for name, _ in lines] == [b"x-api-key", b"Content-Length"]


async def test_the_lines_of_a_provider_pass_in_order() -> None:
    lines = (
        (b"Content-Type", b"application/json"),
        (b"Set-Cookie", b"a=1"),
        (b"content-encoding", b"gzip"),
        (b"Set-Cookie", b"b=2"),
        (b"Request-Id", b"req_1"),
        (b"x-request-id", b"r-2"),
        (b"anthropic-ratelimit-tokens-remaining", b"1"),
        (b"X-Latin", "caf\u00e9".encode("latin-1")),
        (b"Server", b"cloudflare"),
    )
    got = await received(*lines)
    assert tuple(got[: len(lines)]) == lines
    assert [name.decode() for name, _ in got[len(lines) :]] == ADDED


@pytest.mark.parametrize(
    "name",
    [
        "x-smoltbot-agent", "X-Smoltbot-Session", "X-SMOLTBOT-REQUEST-ID", "x-smoltbot-anything", "X-AIP-Verdict",
        "x-aip-certificate-id", "X-AIP-Anything", "X-Mnemom-Usage-Warning", "x-mnemom-agent", "Connection",
        "Keep-Alive", "Transfer-Encoding", "Trailer", "Upgrade", "Proxy-Authenticate",
    ],
)  # fmt: skip
async def test_what_a_provider_cannot_say(name: str) -> None:
    got = await received((name.encode(), b"spoofed"), (name.lower().encode(), b"spoofed"), (b"x-kept", b"1"))
    assert b"spoofed" not in [value for _, value in got]
    assert [key.decode() for key, _ in got] == ["x-kept", *ADDED]


async def test_what_is_added() -> None:
    gateway = Gateway({MESSAGES: Response(THOUGHT)})
    gateway.clock.now = 1_778_400_000.0
    got = await gateway.message()
    assert got.all("x-smoltbot-agent") == [AGENT]
    assert got.all("x-smoltbot-session") == [f"{HASH}-494000"]
    assert got.all("x-aip-verdict") == ["skipped"]
    assert got.all("x-aip-reason") == ["no-analysis-configured"]
    [row] = gateway.records.checkpoints
    assert got.all("x-aip-checkpoint-id") == [row["checkpoint_id"]]
    assert got.all("x-aip-certificate-id") == [row["certificate_id"]]
    assert got.all("x-aip-chain-hash") == [row["chain_hash"]]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Response(b"no", 429), ["X-AIP-Verdict", "X-AIP-Reason"]),
        (Response(b"data: {}\n\n", headers={"content-type": "text/event-stream"}), ["X-AIP-Verdict"]),
    ],
    ids=["refusal", "stream"],
)
async def test_nothing_is_promised_of_what_has_no_checkpoint_yet(answer: Response, verdict: list[str]) -> None:
    got = await Gateway({MESSAGES: answer}).message()
    own = [name.decode() for name, _ in got.lines if name.lower().startswith((b"x-smoltbot-", b"x-aip-"))]
    assert own == [*IDENTITY, *verdict]


async def test_a_session_lasts_until_the_full_hour() -> None:
    gateway = Gateway({MESSAGES: Response(b"ok")})
    gateway.clock.now = 1_778_400_000.0
    seen = []
    for seconds in (0.0, 3599.999, 0.001, 3600.0):
        gateway.clock.advance(seconds)
        seen.append(str((await gateway.message()).get("x-smoltbot-session")).rpartition("-")[2])
    assert seen == ["494000", "494000", "494001", "494002"]


async def test_a_client_cannot_choose_its_session_or_request_id() -> None:
    gateway = Gateway({MESSAGES: Response(THOUGHT)})
    got = await gateway.message("x-smoltbot-session: mine", "x-smoltbot-request-id: mine", "x-aip-verdict: clear")
    assert "mine" not in str(got.lines)
    assert got.get("x-aip-verdict") == "skipped"
