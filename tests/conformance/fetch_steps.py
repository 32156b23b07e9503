"""The steps of fetch cases, performed on worker_compat; tests/workerd/fetch_worker.mjs does the same inside workerd."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from worker_compat.abort import AbortController, AbortSignal
from worker_compat.blob import Blob, File
from worker_compat.errors import AbortError
from worker_compat.formdata import FormData
from worker_compat.headers import Headers
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import fetch
from worker_compat.streams import ReadableStream
from worker_compat.testing.origin import Origin

Step = Mapping[str, Any]
Held = dict[str, Any]

CLASSES: dict[str, Any] = {
    one.__name__: one for one in (AbortController, AbortSignal, Blob, File, FormData, Headers, Request, Response)
}
JAVASCRIPT_ERRORS = {"ValueError": "RangeError", "BodyUsedError": "OSError"}


class ReasonError(Exception):
    """What a case makes by ``$error``: JavaScript's plain Error."""


async def performed(steps: Sequence[Step], origin: Origin) -> list[Any]:
    """What each step gave; steps that name their value give nothing, and end the case when they fail."""
    held: Held = {"origin": origin}
    results: list[Any] = []
    for step in steps:
        try:
            value = await _perform(step, held)
            if "as" in step:
                held[step["as"]] = value
            else:
                results.append(await _written(value, origin))
        except (TypeError, ValueError, OSError, ReasonError) as error:
            results.append(_error(error, origin))
            if "as" in step:
                break
    await _give_up(held)
    return results


async def _give_up(held: Held) -> None:
    """Close what no step has read."""
    for value in held.values():
        body = value.body if isinstance(value, Response) else None
        if body is not None and not body.locked:
            await body.cancel()


async def _perform(step: Step, held: Held) -> Any:
    arguments = _given(step.get("args", []), held)
    if "new" in step or "static" in step:
        name = step["new"] if "new" in step else step["static"]
        made = _made(name, arguments)
    elif "fetch" in step:
        url, *init = _given(step["fetch"], held)
        made = fetch(url, **_options(init))
    elif "seen" in step:
        return _seen(held["origin"], step["seen"])
    elif "get" in step:
        return getattr(held[step["on"]], _python(step["get"], held[step["on"]]))
    else:
        target = held[step["on"]]
        made = getattr(target, _python(step["call"], target))(*arguments)
    return await made if inspect.isawaitable(made) else made


def _made(name: str, arguments: list[Any]) -> Any:
    """A new object: the last argument of some is JavaScript's object of options."""
    kind, _, method = name.partition(".")
    make = getattr(CLASSES[kind], method) if method else CLASSES[kind]
    if kind in ("Request", "Response") and method != "redirect":
        first, *init = arguments or [None]
        if isinstance(first, Response):
            raise AssertionError("Python has no Response(response)")
        if init and isinstance(init[0], Response):
            other = init[0]
            return make(first, other.status, other.status_text, other.headers)
        return make(first, **_options(init))
    return make(*arguments)


def _options(init: list[Any]) -> dict[str, Any]:
    return {_snake(name) if name == "statusText" else name: value for name, value in (init[0] if init else {}).items()}


def _python(name: str, target: object) -> str:
    """The name of a method or property here: JavaScript's where we have it, else in snake case."""
    return name if hasattr(target, name) else _snake(name)


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda match: f"_{match[0].lower()}", name)


def _given(value: Any, held: Held) -> Any:
    if isinstance(value, str):
        return value.replace("{origin}", held["origin"].url)
    if isinstance(value, list):
        return [_given(item, held) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if tag == "$":
        name, *rest = value[tag].split(".")
        found = held[name]
        for part in rest:
            found = getattr(found, part)
        return found
    if tag.startswith("$"):
        return _tagged(tag, value[tag], held)
    return {name: _given(item, held) for name, item in value.items()}


def _tagged(tag: str, value: Any, held: Held) -> Any:
    match tag:
        case "$bytes":
            return value.encode("latin-1")
        case "$blob":
            return Blob([value[0]], value[1])
        case "$form":
            return FormData([(name, _given(item, held)) for name, item in value])
        case "$stream":
            return ReadableStream.from_iterable(
                [chunk.encode("latin-1") if isinstance(chunk, str) else chunk for chunk in value]
            )
        case "$error":
            return ReasonError(value)
    raise AssertionError(f"an unknown tag: {tag}")


def _seen(origin: Origin, names: Sequence[str]) -> list[Any]:
    return [
        {
            "method": request.method,
            "target": request.target,
            "body": request.body.decode("latin-1"),
            "headers": sorted(
                [name.decode().lower(), value.decode("latin-1")]
                for name, value in request.headers
                if name.decode().lower() in names
            ),
        }
        for request in origin.requests
    ]


def _error(error: BaseException, origin: Origin) -> Any:
    name = getattr(error, "name", None) or ("Error" if isinstance(error, ReasonError) else type(error).__name__)
    return {"$error": [JAVASCRIPT_ERRORS.get(name, name), str(error).replace(origin.url, "{origin}")]}


async def _written(value: Any, origin: Origin) -> Any:
    if isinstance(value, str):
        return value.replace(origin.url, "{origin}")
    if isinstance(value, bytes | memoryview):
        return {"$bytes": bytes(value).decode("latin-1")}
    if isinstance(value, File):
        return {"$file": [value.name, value.content_type, await value.text()]}
    if isinstance(value, Blob):
        return {"$blob": [await value.text(), value.content_type]}
    if isinstance(value, ReadableStream):
        return {"$stream": value.locked}
    if isinstance(value, Request | Response):
        return {"$": type(value).__name__}
    if isinstance(value, AbortError | ReasonError):
        return _error(value, origin)
    if isinstance(value, FormData):
        value = value.items()
    if isinstance(value, list | tuple):
        return [await _written(item, origin) for item in value]
    return value
