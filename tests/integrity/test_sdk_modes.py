"""The official clients in every mode: what passes is the provider's answer, what does not is an exception they know."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import anthropic
import openai
import pytest
from google.genai import errors, types

from tests.clients.compare import Outcome, arun, run, script
from tests.clients.conftest import clean_environment  # noqa: F401 - the shell's keys and proxies are nobody's here
from tests.clients.sdks import (
    ANTHROPIC_KEY,
    GEMINI_KEY,
    OPENAI_KEY,
    Route,
    anthropic_client,
    async_anthropic_client,
    gemini_client,
    openai_client,
)
from tests.integrity.support import SHAPES, Judged, Shape

MODES = ("observe", "nudge", "enforce")
MARKER = "[INTEGRITY NOTICE — Conscience Protocol]"
THINKING = "The user greets me."
ASKED = "How are you, Zürich?\u2028🙂"
Call = Callable[..., Callable[[Any], Any]]


@dataclass(frozen=True, slots=True)
class Sdk:
    """A client, its call of one endpoint, what it makes of the gateway's refusals, and where its nudges are."""

    name: str
    shape: Shape
    client: Callable[[Route], AbstractContextManager[Any]]
    call: Call
    """Takes ``stream``, the request's further headers, and what else the request has."""
    forbidden: type[Exception]
    unavailable: type[Exception]
    body: Callable[[Any], Any]
    """The gateway's answer in one of these exceptions."""
    systems: tuple[tuple[dict[str, Any], Callable[[Any], str]], ...]
    """Ways to give a system text, and each time where the notice is in the request that the provider gets."""


def messages(stream: bool, headers: dict[str, str], **given: Any) -> Callable[[Any], Any]:
    asked = {"model": "claude-opus-4-5-20251101", "max_tokens": 2048, "messages": [{"role": "user", "content": ASKED}]}
    return lambda client: client.messages.create(**asked, stream=stream, extra_headers=headers, **given)


def chat(stream: bool, headers: dict[str, str], **given: Any) -> Callable[[Any], Any]:
    asked = {"model": "gpt-5", "messages": [*given.pop("before", []), {"role": "user", "content": ASKED}]}
    return lambda client: client.chat.completions.create(**asked, stream=stream, extra_headers=headers, **given)


def responses(stream: bool, headers: dict[str, str], **given: Any) -> Callable[[Any], Any]:
    asked = {"model": "gpt-5", "input": ASKED}
    return lambda client: client.responses.create(**asked, stream=stream, extra_headers=headers, **given)


def generate(stream: bool, headers: dict[str, str], **given: Any) -> Callable[[Any], Any]:
    method = "generate_content_stream" if stream else "generate_content"
    config = types.GenerateContentConfig(http_options=types.HttpOptions(headers=headers), **given)
    asked = {"model": "gemini-2.5-pro", "contents": ASKED, "config": config}
    return lambda client: getattr(client.models, method)(**asked)


def shape(name: str, key: str) -> Shape:
    """A wire format under the key that the client has."""
    (found,) = [shape for shape in SHAPES if shape.name == name]
    return replace(found, key=(found.key[0], f"Bearer {key}" if found.key[0] == "Authorization" else key))


BLOCK = [{"type": "text", "text": "Be kind."}]
SYSTEM = {"role": "system", "content": "Be kind."}
SDKS = (
    Sdk(
        "anthropic", shape("anthropic", ANTHROPIC_KEY), anthropic_client, messages,
        anthropic.PermissionDeniedError, anthropic.InternalServerError, lambda error: error.body,
        (
            ({}, lambda body: body["system"]),
            ({"system": "Be kind."}, lambda body: body["system"].removeprefix("Be kind.\n\n")),
            ({"system": BLOCK}, lambda body: body["system"][-1]["text"]),
        ),
    ),
    Sdk(
        "openai-chat", shape("openai-chat", OPENAI_KEY), openai_client, chat,
        openai.PermissionDeniedError, openai.InternalServerError, lambda error: error.response.json(),
        (
            ({}, lambda body: body["messages"][0]["content"]),
            ({"before": [SYSTEM]}, lambda body: body["messages"][0]["content"]),
        ),
    ),
    Sdk(
        "openai-responses", shape("openai-responses", OPENAI_KEY), openai_client, responses,
        openai.PermissionDeniedError, openai.InternalServerError, lambda error: error.response.json(),
        (
            ({}, lambda body: body["instructions"]),
            ({"instructions": "Be kind."}, lambda body: body["instructions"].removeprefix("Be kind.\n\n")),
        ),
    ),
    Sdk(
        "gemini", shape("gemini", GEMINI_KEY), gemini_client, generate,
        errors.ClientError, errors.ServerError, lambda error: error.details,
        (
            ({}, lambda body: body["systemInstruction"]["parts"][-1]["text"]),
            ({"system_instruction": "Be kind."}, lambda body: body["systemInstruction"]["parts"][-1]["text"]),
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ending:
    """How a check ends: what the analyser does, the agent's failure policy, and what the client gets if buffered."""

    name: str
    verdict: str
    judge: dict[str, Any]
    policy: str | None = None
    enforced: tuple[int, str] | None = None
    """Status and type of the refusal in mode ``enforce``."""


GARBAGE = {"garbage": base64.b64encode(b"\x00\xff<html>").decode()}
ENDINGS = (
    Ending("clear", "clear", {"verdict": "clear"}),
    Ending("violation", "boundary_violation", {"verdict": "boundary_violation"}, None, (403, "integrity_violation")),
    Ending("error-open", "error", GARBAGE, "fail_open"),
    Ending("error-closed", "error", GARBAGE, "fail_closed", (503, "integrity_unavailable")),
)
CELLS = list(itertools.product(MODES, (False, True), ENDINGS))


@dataclass(frozen=True, slots=True)
class Place:
    """An agent of a mode, as a client reaches it."""

    judged: Judged
    sdk: Sdk
    name: str
    agent_id: str

    @property
    def straight(self) -> Route:
        return Route.straight(self.judged.provider.url)

    @property
    def route(self) -> Route:
        return Route.through(self.judged.gateway.url, self.name)

    def run(self, route: Route, call: Callable[[Any], Any]) -> Outcome:
        with self.sdk.client(route) as client:
            return run(call, client)

    def refusal(self, call: Callable[[Any], Any], expected: type[Exception]) -> Any:
        """The exception that the call ends in."""
        with self.sdk.client(self.route) as client, pytest.raises(expected) as raised:
            list(call(client))  # Gemini's client asks for a stream when the first part of it is wanted
        return raised.value

    def received(self) -> list[bytes]:
        """The bodies of the provider's generation requests since its last reset."""
        return [
            base64.b64decode(request["body"])
            for request in self.judged.provider.requests()
            if request["line"].startswith("POST ")
        ]


def placed(judged: Judged, sdk: Sdk, mode: str, **settings: Any) -> Place:
    name, agent_id = judged.new_agent(sdk.shape, mode, **settings)
    return Place(judged, sdk, name, agent_id)


def name_of(value: Any) -> str:
    return str(getattr(value, "name", value))


def thinking(sdk: Sdk, stream: bool, **given: Any) -> Callable[[Any], Any]:
    return sdk.call(stream, script(thinking=THINKING), **given)


@pytest.mark.parametrize(("mode", "stream", "ending"), CELLS, ids=name_of)
@pytest.mark.parametrize("sdk", SDKS, ids=name_of)
def test_every_mode(judged: Judged, sdk: Sdk, mode: str, stream: bool, ending: Ending) -> None:
    place = placed(judged, sdk, mode, failure_policy=ending.policy)
    judged.provider.judge(always=ending.judge)
    call = thinking(sdk, stream)
    if ending.enforced is None or mode != "enforce" or stream:
        expected = place.run(place.straight, call)
        assert (expected.error, THINKING[:3] in repr(expected)) == (None, True)
        assert place.run(place.route, call) == expected
    else:
        refused(place, call, ending)
    (row,) = judged.checkpoints(place.agent_id)
    assert row["verdict"] == ending.verdict


def refused(place: Place, call: Callable[[Any], Any], ending: Ending) -> None:
    """The client raises what it has for such a status, and what it raises carries the gateway's answer."""
    assert ending.enforced is not None
    status, kind = ending.enforced
    error = place.refusal(call, place.sdk.forbidden if status == 403 else place.sdk.unavailable)
    check_refusal(error, place.sdk.body(error), status, kind)
    (row,) = place.judged.checkpoints(place.agent_id)
    if status == 403:
        shown = place.sdk.body(error)["checkpoint"]
        assert (shown["checkpoint_id"], shown["verdict"]) == (row["checkpoint_id"], "boundary_violation")
        assert [concern["category"] for concern in shown["concerns"]] == ["deceptive_reasoning"]
    assert error.response.headers["x-aip-checkpoint-id"] == row["checkpoint_id"]
    assert error.response.headers["x-aip-verdict"] == ending.verdict


def check_refusal(error: Any, body: dict[str, Any], status: int, kind: str) -> None:
    code = error.code if isinstance(error, errors.APIError) else error.status_code
    assert (code, body["type"]) == (status, kind)
    assert isinstance(body["error"], str)
    assert not [said for said in (THINKING, "Grüezi") if said in repr(body)]


@pytest.mark.parametrize(("mode", "stream", "ending"), CELLS, ids=name_of)
async def test_every_mode_asynchronously(judged: Judged, mode: str, stream: bool, ending: Ending) -> None:
    place = placed(judged, SDKS[0], mode, failure_policy=ending.policy)
    judged.provider.judge(always=ending.judge)
    call = thinking(SDKS[0], stream)
    async with async_anthropic_client(place.straight) as direct, async_anthropic_client(place.route) as through:
        if ending.enforced is None or mode != "enforce" or stream:
            expected = await arun(call, direct)
            assert (expected.error, THINKING[:3] in repr(expected)) == (None, True)
            assert await arun(call, through) == expected
            return
        status, kind = ending.enforced
        with pytest.raises(SDKS[0].forbidden if status == 403 else SDKS[0].unavailable) as raised:
            await call(through)
        check_refusal(raised.value, SDKS[0].body(raised.value), status, kind)


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "stream"])
@pytest.mark.parametrize(("action", "undo"), [("pause", "resume"), ("kill", "reactivate")])
@pytest.mark.parametrize("sdk", SDKS, ids=name_of)
def test_a_contained_agent(judged: Judged, sdk: Sdk, action: str, undo: str, stream: bool) -> None:
    """In any mode; and the very same client goes on after the end of it."""
    place = placed(judged, sdk, "observe")
    call = thinking(sdk, stream)
    judged.operate("POST", f"/agents/{place.agent_id}/{action}")
    judged.provider.reset()
    error = place.refusal(call, sdk.forbidden)
    check_refusal(error, sdk.body(error), 403, "containment_error")
    assert sdk.body(error)["reason"] == {"pause": "agent_paused", "kill": "agent_killed"}[action]
    assert place.received() == []
    judged.operate("POST", f"/agents/{place.agent_id}/{undo}")
    assert place.run(place.route, call) == place.run(place.straight, call)


NUDGED = [
    pytest.param(sdk, given, notice, stream, id=f"{sdk.name}-{number}-{'stream' if stream else 'buffered'}")
    for sdk in SDKS
    for number, (given, notice) in enumerate(sdk.systems)
    for stream in (False, True)
]


@pytest.mark.parametrize(("sdk", "given", "notice", "stream"), NUDGED)
def test_a_nudge(judged: Judged, sdk: Sdk, given: dict[str, Any], notice: Any, stream: bool) -> None:
    """The notice stands where the system speaks, nothing else of the request has changed, and its answer parses."""
    place = placed(judged, sdk, "nudge")
    assert place.run(place.route, sdk.call(False, script(thinking="JUDGE:boundary_violation"))).error is None
    (violation,) = judged.checkpoints(place.agent_id)
    judged.provider.reset()
    call = thinking(sdk, stream, **given)
    expected = place.run(place.straight, call)
    got = place.run(place.route, call)
    assert expected.error is None
    assert same_but_ids(got) == same_but_ids(expected)

    original, nudged = place.received()
    text = notice(json.loads(nudged))
    assert text.startswith(MARKER + "\n")
    assert violation["checkpoint_id"] in text
    assert violation["checkpoint_id"].encode() in only_addition(original, nudged)
    assert place.run(place.route, call) == expected, "told once"


def only_addition(original: bytes, changed: bytes) -> bytes:
    """The one run of bytes that was put into the original."""
    differ = (at for at, pair in enumerate(zip(original, changed, strict=False)) if len(set(pair)) > 1)
    kept = next(differ, len(original))
    end = len(changed) - (len(original) - kept)
    assert changed[end:] == original[kept:], "more than one place was changed"
    return changed[kept:end]


def same_but_ids(outcome: Outcome) -> str:
    """What a client saw, without what the provider derives from the bytes of the request or repeats of them."""
    derived = r"""[0-9a-f]{20,}|(?<=token)[a-z_]*': \d+|'instructions': (None|(['"]).*?\2(?=, '))"""
    return re.sub(derived, "*", repr(outcome))
