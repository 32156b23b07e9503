"""The bytes of an exchange message: what was written is read again, and nothing else is."""

from __future__ import annotations

import json
import struct
from dataclasses import MISSING, Field, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoltbot_worker.relay.message import VERSION, ExchangeMessage

MESSAGE = ExchangeMessage(
    id="018bcfe5-6800-7000-8000-000000000000", checkpoint_id="ic-1", created_at=1_700_000_000.125, agent_id="smolt-1",
    agent_hash="0badcafe12345678", session_id="0badcafe12345678-494000", gateway_version="1.2", provider="gemini",
    method="POST", path="/v1beta/models/g:generateContent", status=200, streamed=True, duration_ms=17,
    request_encoding="gzip", response_encoding="br", request_body=b"\x00\xff{", response_body=b"data: \xc3\x28\n\n",
    body_truncated=True, cut=True, mutations=[{"kind": "nudge", "before_sha256": None, "location": "/system"}],
    nudge_count=3,
)  # fmt: skip
REFUSAL = "^these bytes are no exchange message of this version$"
HEAD = struct.Struct(">BIII")


def written(head: Any, request: bytes = b"", response: bytes = b"", version: int = VERSION) -> bytes:
    """Bytes in the shape of a message, with any head."""
    data = head if isinstance(head, bytes) else json.dumps(head).encode()
    return HEAD.pack(version, len(data), len(request), len(response)) + data + request + response


def is_needed(entry: Field[Any]) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


def head_of(message: ExchangeMessage) -> dict[str, Any]:
    data = message.to_bytes()
    head: dict[str, Any] = json.loads(data[HEAD.size : HEAD.size + HEAD.unpack_from(data)[1]])
    return head


class TestRoundTrip:
    def test_every_field(self) -> None:
        for entry in fields(ExchangeMessage):
            assert getattr(MESSAGE, entry.name) != entry.default, f"{entry.name} must differ from its default here"
        assert ExchangeMessage.from_bytes(MESSAGE.to_bytes()) == MESSAGE

    def test_what_need_not_be_given(self) -> None:
        needed = {entry.name: getattr(MESSAGE, entry.name) for entry in fields(ExchangeMessage) if is_needed(entry)}
        short = ExchangeMessage(**needed)
        read = ExchangeMessage.from_bytes(short.to_bytes())
        assert replace(read, mutations=()) == short
        assert (read.request_body, read.response_body, read.cut, read.body_truncated) == (b"", b"", False, False)

    def test_bodies_are_no_part_of_the_head(self) -> None:
        head = head_of(replace(MESSAGE, request_body=b"the prompt", response_body=b"the answer"))
        assert head.keys() == {entry.name for entry in fields(ExchangeMessage)} - {"request_body", "response_body"}
        assert "the prompt" not in str(head)

    @given(
        st.builds(
            replace,
            st.just(MESSAGE),
            id=st.text(),
            path=st.text(),
            created_at=st.floats(allow_nan=False, allow_infinity=False),
            status=st.integers(100, 999),
            streamed=st.booleans(),
            request_body=st.binary(),
            response_body=st.binary(),
            mutations=st.lists(st.dictionaries(st.text(), st.none() | st.text() | st.integers())),
        )
    )
    def test_any(self, message: ExchangeMessage) -> None:
        assert ExchangeMessage.from_bytes(message.to_bytes()) == message


class TestDamage:
    @pytest.mark.parametrize("size", [*range(60), -1])
    def test_cut_short(self, size: int) -> None:
        with pytest.raises(ValueError, match=REFUSAL):
            ExchangeMessage.from_bytes(MESSAGE.to_bytes()[:size])

    def test_longer(self) -> None:
        with pytest.raises(ValueError, match=REFUSAL):
            ExchangeMessage.from_bytes(MESSAGE.to_bytes() + b"\0")

    def test_another_version(self) -> None:
        bodies = (MESSAGE.request_body, MESSAGE.response_body)
        assert ExchangeMessage.from_bytes(written(head_of(MESSAGE), *bodies)) == MESSAGE
        for version in (0, VERSION + 1, 255):
            with pytest.raises(ValueError, match=REFUSAL):
                ExchangeMessage.from_bytes(written(head_of(MESSAGE), *bodies, version=version))

    @pytest.mark.parametrize("name", ["id", "checkpoint_id", "agent_id", "status", "streamed"])
    def test_a_field_that_is_missing(self, name: str) -> None:
        head = head_of(MESSAGE)
        del head[name]
        with pytest.raises(ValueError, match=REFUSAL):
            ExchangeMessage.from_bytes(written(head))

    @pytest.mark.parametrize(
        "head", [b"", b"{", b"\xff", b"null", b"[]", b'"x"', b"7", b"{}", b'{"a": 1}', b"[" * 200_000, b"{}{}"]
    )
    def test_a_head_that_is_none(self, head: bytes) -> None:
        with pytest.raises(ValueError, match=REFUSAL):
            ExchangeMessage.from_bytes(written(head))

    @pytest.mark.parametrize("name", ["later_field", "request_body", "response_body"])
    def test_a_field_that_nobody_knows(self, name: str) -> None:
        with pytest.raises(ValueError, match=REFUSAL):
            ExchangeMessage.from_bytes(written({**head_of(MESSAGE), name: "x"}))

    @given(st.binary(max_size=80))
    def test_any_bytes(self, data: bytes) -> None:
        with pytest.raises(ValueError, match=REFUSAL):
            ExchangeMessage.from_bytes(data)

    @given(st.integers(0, HEAD.size - 1), st.integers(1, 255))
    def test_one_byte_of_the_lengths(self, place: int, change: int) -> None:
        data = bytearray(MESSAGE.to_bytes())
        data[place] ^= change
        with pytest.raises(ValueError, match=REFUSAL):
            ExchangeMessage.from_bytes(bytes(data))

    def test_the_error_quotes_nothing(self) -> None:
        for data in (written(b'{"the-secret": '), written({"the-secret": "the-secret"}), b"the-secret"):
            with pytest.raises(ValueError, match=REFUSAL) as caught:
                ExchangeMessage.from_bytes(data)
            assert caught.value.__cause__ is None
            assert caught.value.__suppress_context__
