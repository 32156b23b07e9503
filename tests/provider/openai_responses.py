"""The OpenAI wire format, newer half: the Responses API, plain and streamed."""

from collections.abc import Iterator
from typing import Any

from tests.provider import errors
from tests.provider.answer import Answer, document, sse, stream
from tests.provider.ask import CREATED, Ask, Tool, Turn, decide, describe_url, items, split

Event = dict[str, Any]


def answer(ask: Ask) -> Answer | None:
    if (ask.request.method, ask.path) != ("POST", "/v1/responses"):
        return None
    headers, turn = errors.openai_headers(ask), _turn(ask)
    if ask.doc.get("stream") is True:
        numbered = ({**event, "sequence_number": number} for number, event in enumerate(_events(ask, turn)))
        return stream(headers, (sse(event, event["type"]) for event in numbered))
    return document(200, headers, _response(ask, turn), huge=ask.script.huge, indent=2)


def _turn(ask: Ask) -> Turn:
    reasoning = ask.doc.get("reasoning")
    thinks = isinstance(reasoning, dict) and reasoning.get("effort") != "none"
    given = ask.doc.get("input")
    last = {"content": given} if isinstance(given, str) else (items(given) or [{}])[-1]
    content = last.get("content")
    parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else items(content)
    images = [describe_url(str(part.get("image_url"))) for part in parts if part.get("type") == "input_image"]
    said = " ".join(str(part.get("text", "")) for part in parts if part.get("type") == "input_text")
    tools = [entry for entry in items(ask.doc.get("tools")) if entry.get("type") == "function"]
    tool = None
    if tools and last.get("type") != "function_call_output":
        tool = Tool(str(tools[0].get("name")), tools[0].get("parameters") or {})
    return decide(ask, thinks=thinks, tool=tool, said=said, images=images)


def _response(ask: Ask, turn: Turn, status: str = "completed") -> dict[str, Any]:
    done = status == "completed"
    return {
        "id": ask.token("resp_", 50),
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": ask.doc.get("instructions"),
        "max_output_tokens": None,
        "model": ask.model,
        "output": _output(ask, turn) if done else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": ask.doc.get("reasoning") or {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": ask.doc.get("tools") or [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": _usage(ask, turn) if done else None,
        "user": None,
        "metadata": {},
    }


def _usage(ask: Ask, turn: Turn) -> dict[str, Any]:
    reasoning = 0 if turn.thinking is None else len(turn.thinking) // 4
    return {
        "input_tokens": ask.input_tokens,
        "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
        "output_tokens": turn.output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": ask.input_tokens + turn.output_tokens,
    }


def _output(ask: Ask, turn: Turn) -> list[dict[str, Any]]:
    output = []
    if turn.thinking is not None:
        output.append(_reasoning(ask, [_summary(turn.thinking)]))
    if turn.tool is not None:
        return [*output, _function_call(ask, turn.tool, errors.compact(turn.tool.arguments()), "completed")]
    return [*output, _message(ask, [_text(turn.text)], "completed")]


def _reasoning(ask: Ask, summary: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": ask.token("rs_", 50), "type": "reasoning", "summary": summary}


def _summary(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def _message(ask: Ask, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
    head = {"id": ask.token("msg_", 50), "type": "message", "status": status}
    return head | {"content": content, "role": "assistant"}


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _function_call(ask: Ask, tool: Tool, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": ask.token("fc_", 50),
        "type": "function_call",
        "status": status,
        "arguments": arguments,
        "call_id": ask.token("call_", 24),
        "name": tool.name,
    }


def _events(ask: Ask, turn: Turn) -> Iterator[Event]:
    for kind in ("created", "in_progress"):
        yield {"type": f"response.{kind}", "response": _response(ask, turn, "in_progress")}
    index = 0
    if turn.thinking is not None:
        yield from _reasoning_events(ask, turn.thinking)
        index = 1
    events = _message_events(ask, turn, index) if turn.tool is None else _call_events(ask, turn.tool, index)
    deltas = 0
    for event in events:
        if ask.script.error_event and deltas == 2:
            error = errors.openai_body(ask, 500)["error"]
            yield {"type": "error", "code": error["type"], "message": error["message"], "param": None}
            return
        deltas += event["type"].endswith(".delta")
        yield event
    yield {"type": "response.completed", "response": _response(ask, turn)}


def _reasoning_events(ask: Ask, thought: str) -> Iterator[Event]:
    at = {"item_id": ask.token("rs_", 50), "output_index": 0, "summary_index": 0}
    prefix = "response.reasoning_summary"
    yield {"type": "response.output_item.added", "output_index": 0, "item": _reasoning(ask, [])}
    yield {"type": f"{prefix}_part.added", **at, "part": _summary("")}
    for text in split(thought):
        yield {"type": f"{prefix}_text.delta", **at, "delta": text}
    yield {"type": f"{prefix}_text.done", **at, "text": thought}
    yield {"type": f"{prefix}_part.done", **at, "part": _summary(thought)}
    done = _reasoning(ask, [_summary(thought)])
    yield {"type": "response.output_item.done", "output_index": 0, "item": done}


def _message_events(ask: Ask, turn: Turn, index: int) -> Iterator[Event]:
    at = {"item_id": ask.token("msg_", 50), "output_index": index, "content_index": 0}
    added = _message(ask, [], "in_progress")
    yield {"type": "response.output_item.added", "output_index": index, "item": added}
    yield {"type": "response.content_part.added", **at, "part": _text("")}
    said = []
    for text in turn.deltas():
        said.append(text)
        yield {"type": "response.output_text.delta", **at, "delta": text, "logprobs": []}
    whole = "".join(said)
    yield {"type": "response.output_text.done", **at, "text": whole, "logprobs": []}
    yield {"type": "response.content_part.done", **at, "part": _text(whole)}
    done = _message(ask, [_text(whole)], "completed")
    yield {"type": "response.output_item.done", "output_index": index, "item": done}


def _call_events(ask: Ask, tool: Tool, index: int) -> Iterator[Event]:
    at = {"item_id": ask.token("fc_", 50), "output_index": index}
    arguments = errors.compact(tool.arguments())
    added = _function_call(ask, tool, "", "in_progress")
    yield {"type": "response.output_item.added", "output_index": index, "item": added}
    for text in split(arguments, 7):
        yield {"type": "response.function_call_arguments.delta", **at, "delta": text}
    yield {"type": "response.function_call_arguments.done", **at, "arguments": arguments}
    done = _function_call(ask, tool, arguments, "completed")
    yield {"type": "response.output_item.done", "output_index": index, "item": done}
