"""Thinking in well-formed answers: the four shapes, documents and streams, joined as the protocol says."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from smoltbot_worker.integrity.thinking import user_text
from tests.unit.thinking_support import DECODERS, LIMIT, exchange, found, sse, streamed

SEP = "\n\n---\n\n"


def thinking(text: Any) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": "s"}


def block_start(index: Any, block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def thinking_delta(index: Any, text: Any) -> dict[str, Any]:
    return {
        "type": "content_block_delta", "index": index, "delta": {"type": "thinking_delta", "thinking": text},
    }  # fmt: skip


START = {"type": "message_start", "message": {"model": "claude-x", "content": []}}


class TestAnthropic:
    def test_blocks_are_joined(self) -> None:
        content = [thinking("one"), {"type": "text", "text": "no"}, thinking("two")]
        seen = found("anthropic", {"model": "claude-x", "content": content})
        assert (seen.text, seen.model, seen.problem) == (f"one{SEP}two", "claude-x", None)
        assert (seen.method, seen.confidence, seen.redacted) == ("native_thinking", 1.0, False)

    def test_redacted_thinking_is_noted_and_no_text(self) -> None:
        block = {"type": "redacted_thinking", "data": "thinking"}
        seen = found("anthropic", {"content": [block, thinking("one")]})
        assert (seen.text, seen.redacted) == ("one", True)
        seen = streamed("anthropic", START, block_start(0, block), block_start(1, thinking("")))
        assert (seen.text, seen.redacted, seen.problem) == ("", True, None)

    def test_a_stream_is_put_together_by_index(self) -> None:
        seen = streamed(
            "anthropic", START,
            block_start(2, thinking("")), block_start(0, thinking("")),
            thinking_delta(2, "th"), thinking_delta(0, "on"), thinking_delta(2, "ird"), thinking_delta(0, "e"),
            {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "thinking"}},
            block_start(10, {"type": "text", "text": "thinking"}),
            {"type": "content_block_delta", "index": 10, "delta": {"type": "text_delta", "text": "thinking"}},
            {"type": "message_stop"},
        )  # fmt: skip
        assert (seen.text, seen.model, seen.problem) == (f"one{SEP}third", "claude-x", None)

    def test_nothing_of_a_block_is_lost(self) -> None:
        seen = streamed(
            "anthropic", START, thinking_delta(0, "no start, "), block_start(0, thinking("a start, ")),
            thinking_delta(0, "more, "), block_start(0, thinking("")), thinking_delta(0, "again"),
        )  # fmt: skip
        assert seen.text == "no start, a start, more, again"

    @pytest.mark.parametrize("content", [[], [{"type": "text", "text": "hi"}], [thinking("")], [thinking("")] * 2])
    def test_none(self, content: Any) -> None:
        seen = found("anthropic", {"model": "m", "content": content})
        assert (seen.text, seen.problem) == ("", None)


def choice(index: Any, text: Any, name: str = "message") -> dict[str, Any]:
    return {"index": index, name: {"role": "assistant", "content": "no", "reasoning_content": text}}


class TestChatCompletion:
    def test_every_choice_counts_in_index_order(self) -> None:
        seen = found("chat", {"model": "gpt-x", "choices": [choice(1, "two"), choice(0, "one"), choice(2, None)]})
        assert (seen.text, seen.model) == (f"one{SEP}two", "gpt-x")
        assert (seen.method, seen.confidence, seen.problem) == ("reasoning_content", 0.9, None)

    def test_choices_that_share_an_index_stay_apart(self) -> None:
        assert found("chat", {"choices": [choice(0, "one"), choice(0, "two")]}).text == f"one{SEP}two"

    def test_a_choice_without_an_index_has_its_position(self) -> None:
        choices = [{"message": {"reasoning_content": text}} for text in ("one", "two")]
        assert found("chat", {"choices": choices}).text == f"one{SEP}two"

    def test_a_stream_concatenates_each_choice(self) -> None:
        parts = [(0, "a"), (1, "x"), (0, "b"), (1, "y"), (0, None), (0, "c")]
        chunks = [{"model": "gpt-x", "choices": [choice(index, text, "delta")]} for index, text in parts]
        seen = streamed("chat", *chunks, {"choices": [], "usage": {}}, "[DONE]")
        assert (seen.text, seen.model, seen.problem) == (f"abc{SEP}xy", "gpt-x", None)


def reasoning(*texts: str, name: str = "summary") -> dict[str, Any]:
    return {"type": "reasoning", name: [{"type": f"{name}_text", "text": text} for text in texts]}


class TestModelResponse:
    def test_items_and_parts_are_joined(self) -> None:
        both = reasoning("b") | {"content": reasoning("c", name="content")["content"]}
        message = {"type": "message", "content": [{"type": "output_text", "text": "no"}], "summary": [{"text": "no"}]}
        seen = found("responses", {"model": "gpt-x", "output": [reasoning("a1", "a2"), message, both]})
        assert (seen.text, seen.model) == (SEP.join(["a1", "a2", "b", "c"]), "gpt-x")
        assert (seen.method, seen.confidence, seen.problem) == ("reasoning_content", 0.9, None)

    def test_deltas(self) -> None:
        def delta(kind: str, item: int, part: int, text: str) -> dict[str, Any]:
            name = "summary_index" if "summary" in kind else "content_index"
            return {"type": f"response.{kind}.delta", "output_index": item, name: part, "delta": text}

        seen = streamed(
            "responses", {"type": "response.created", "response": {"model": "gpt-x", "output": []}},
            delta("reasoning_text", 0, 0, "c1"), delta("reasoning_summary_text", 0, 1, "s2"),
            delta("reasoning_summary_text", 0, 0, "s"), delta("reasoning_summary_text", 0, 0, "1"),
            delta("reasoning_text", 2, 0, "later"), delta("output_text", 1, 0, "reasoning"),
        )  # fmt: skip
        assert (seen.text, seen.model, seen.problem) == (SEP.join(["s1", "s2", "c1", "later"]), "gpt-x", None)

    @pytest.mark.parametrize(
        "event",
        [
            {"type": "response.reasoning_summary_text.done", "output_index": 0, "summary_index": 0, "text": "whole"},
            {"type": "response.reasoning_summary_part.done", "output_index": 0, "summary_index": 0,
             "part": {"type": "summary_text", "text": "whole"}},
            {"type": "response.output_item.done", "output_index": 0, "item": reasoning("whole")},
            {"type": "response.completed", "response": {"model": "gpt-x", "output": [reasoning("whole")]}},
            {"type": "response.incomplete", "response": {"model": "gpt-x", "output": [reasoning("whole")]}},
        ],
    )  # fmt: skip
    def test_what_ends_a_part_is_enough_and_does_not_double_it(self, event: dict[str, Any]) -> None:
        start = {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "who"}
        assert streamed("responses", event).text == "whole"
        assert streamed("responses", start, event, event).text == "whole"
        longer = start | {"delta": "the whole of it"}
        assert streamed("responses", longer, event).text == "the whole of it"


def candidate(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"content": {"role": "model", "parts": list(parts)}, **fields}


def thought(text: str, flag: Any = True) -> dict[str, Any]:
    return {"text": text, "thought": flag}


class TestGemini:
    def test_parts_and_candidates_are_joined(self) -> None:
        first = candidate(thought("b1"), {"text": "no"}, thought("b2"), index=1)
        seen = found("gemini", {"modelVersion": "gemini-x", "candidates": [first, candidate(thought("a"), index=0)]})
        assert (seen.text, seen.model) == (SEP.join(["a", "b1", "b2"]), "gemini-x")
        assert (seen.method, seen.confidence, seen.problem) == ("reasoning_content", 0.9, None)

    @pytest.mark.parametrize("flag", [False, None, 1, "true", "", [], {}, 1.0])
    def test_thought_is_exactly_true(self, flag: Any) -> None:
        assert found("gemini", {"candidates": [candidate(thought("x", flag))]}).text == ""

    CHUNKS = (
        {"modelVersion": "gemini-x", "candidates": [candidate(thought("a"), thought("b"))]},
        {"candidates": [candidate(thought("x"), index=1)]},
        {"candidates": [candidate(thought("c"), {"text": "no"}, index=0)]},
        {"candidates": [candidate({"text": "no"})]},
    )

    @pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
    def test_chunks_are_concatenated_without_a_separator(self, end: str) -> None:
        seen = found("gemini", sse(*self.CHUNKS, end=end), streamed=True)
        assert (seen.text, seen.model, seen.problem) == (f"abc{SEP}x", "gemini-x", None)

    @pytest.mark.parametrize("streams", [True, False])
    def test_a_list_of_chunks_is_a_stream(self, streams: bool) -> None:
        body = b"\xef\xbb\xbf \r\n[" + b",\r\n".join(json.dumps(chunk).encode() for chunk in self.CHUNKS) + b"\n]\n"
        assert found("gemini", body, streamed=streams).text == f"abc{SEP}x"


class TestModel:
    def test_the_answering_model_counts(self) -> None:
        request = json.dumps({"model": "asked"}).encode()
        assert found("chat", {"model": "answers"}, request_body=request).model == "answers"
        assert found("chat", {"model": ""}, request_body=request).model == "asked"
        assert found("anthropic", {"model": 7}, request_body=request).model == "asked"
        assert found("responses", {}, request_body=b"no json").model is None
        assert found("responses", {}, request_body=b'{"model": 5}').model is None

    @pytest.mark.parametrize(
        ("path", "model"),
        [
            ("/v1beta/models/gemini-2.5-pro:generateContent", "gemini-2.5-pro"),
            ("/v1/models/gemini%2D2.5-pro%3AgenerateContent", "gemini-2.5-pro"),
            ("/v1beta/tunedModels/my-own:streamGenerateContent", "my-own"),
            ("/nothing", None),
        ],
    )
    def test_gemini_names_it_in_the_path(self, path: str, model: str | None) -> None:
        assert found("gemini", {}, path=path).model == model

    def test_a_late_model_in_a_stream_is_found(self) -> None:
        assert streamed("chat", {"choices": []}, {"choices": []}, {"model": "late"}).model == "late"


class TestRoute:
    @pytest.mark.parametrize("path", ["/v1/responses", "/v1//responses/", "/v1/respon%73es"])
    def test_openai_has_two_shapes(self, path: str) -> None:
        document = {"output": [reasoning("here")], "choices": [choice(0, "there")]}
        assert found("chat", document, path=path).text == "here"
        assert found("chat", document).text == "there"

    def test_a_provider_that_nobody_knows(self) -> None:
        seen = found("chat", {"model": "m"}, provider="other")
        assert (seen.text, seen.model, seen.problem) == ("", None, "undecodable-encoding")


def asked(shape: str, request: Any, **fields: Any) -> str:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return user_text(exchange(shape, request_body=body, **fields), DECODERS, LIMIT)


class TestUserText:
    @pytest.mark.parametrize("shape", ["anthropic", "chat"])
    def test_messages(self, shape: str) -> None:
        blocks = [
            {"type": "text", "text": "look at"}, {"type": "image_url", "text": "no"}, {"type": "text", "text": "this"},
        ]  # fmt: skip
        turns = [
            {"role": "user", "content": "first"}, {"role": "user", "content": blocks},
            {"role": "assistant", "content": "no"}, {"role": "user", "content": [{"type": "tool_result"}]},
        ]  # fmt: skip
        assert asked(shape, {"messages": turns}) == "look at this"
        assert asked(shape, {"messages": turns[:1] + turns[2:]}) == "first"
        assert asked(shape, {"messages": [*turns, {"role": "user", "content": " "}]}) == "look at this"

    def test_input(self) -> None:
        assert asked("responses", {"input": "do it"}) == "do it"
        turns = [
            {"role": "user", "content": [{"type": "input_text", "text": "do"}, {"type": "input_text", "text": "it"}]},
            {"type": "function_call_output", "output": "no"}, {"role": "developer", "content": "no"},
        ]  # fmt: skip
        assert asked("responses", {"input": turns}) == "do it"

    def test_contents(self) -> None:
        parts = [{"text": "do"}, {"inlineData": {}}, {"text": "no", "thought": True}, {"text": "it"}]
        turns = [{"role": "user", "parts": parts}, {"role": "model", "parts": [{"text": "no"}]}]
        assert asked("gemini", {"contents": turns}) == "do it"
        assert asked("gemini", {"contents": [{"parts": [{"text": "no role"}]}]}) == "no role"

    @pytest.mark.parametrize("shape", ["anthropic", "chat", "responses", "gemini"])
    @pytest.mark.parametrize(
        "request_body",
        [b"", b"no json", b"[]", b"{}", b'{"messages": 5, "input": {}, "contents": "x"}', b"[" * 10_000, b"\xff" * 99,
         b'{"messages": [5, {"role": 1}, {"role": "user", "content": 5}], "contents": [{"parts": {}}]}',
         b'{"input": [null, 5, {"content": 7}]}'],
    )  # fmt: skip
    def test_none(self, shape: str, request_body: bytes) -> None:
        assert asked(shape, request_body) == ""

    def test_codings_and_halves_of_characters(self) -> None:
        body = gzip.compress(b'{"messages": [{"role": "user", "content": "a\\ud83d b\\ud83d\\ude00"}]}')
        assert asked("chat", body, request_encoding="gzip") == "a\ufffd b😀"
        assert asked("chat", body, request_encoding="zip") == ""


class TestAsTheSdkDoes:
    """Where the protocol's own adapters follow the specification, the texts are equal."""

    @pytest.mark.parametrize(
        ("shape", "name", "document"),
        [
            ("anthropic", "anthropic", {"model": "m", "content": [thinking("a ü"), thinking("b")]}),
            ("anthropic", "anthropic", {"model": "m", "content": [{"type": "text", "text": "no"}, thinking("b")]}),
            ("chat", "openai", {"model": "m", "choices": [choice(0, "only one")]}),
            ("gemini", "google", {"modelVersion": "m", "candidates": [candidate(thought("a"), thought("b"))]}),
        ],
    )
    def test_documents(self, shape: str, name: str, document: Any) -> None:
        import aip

        theirs = aip.create_adapter_registry().get(name).extract_thinking(json.dumps(document))
        ours = found(shape, document)
        assert theirs is not None
        assert (ours.text, ours.model, ours.confidence) == (theirs.content, theirs.model, theirs.confidence)

    @pytest.mark.parametrize(
        ("shape", "name", "events"),
        [
            ("anthropic", "anthropic",
             [START, block_start(0, thinking("")), thinking_delta(0, "a"), thinking_delta(0, "b"),
              block_start(1, thinking("")), thinking_delta(1, "ü")]),
            ("chat", "openai", [{"model": "m", "choices": [choice(0, text, "delta")]} for text in "abc"]),
            ("gemini", "google", [{"modelVersion": "m", "candidates": [candidate(thought("one chunk"))]}]),
        ],
    )  # fmt: skip
    def test_streams(self, shape: str, name: str, events: Any) -> None:
        import aip

        stream = sse(*events)
        theirs = aip.create_adapter_registry().get(name).extract_thinking_from_stream(stream.decode())
        ours = found(shape, stream, streamed=True)
        assert theirs is not None
        assert (ours.text, ours.model, ours.confidence) == (theirs.content, theirs.model, theirs.confidence)
