"""KV cases as data: reading them, performing their calls on a KVNamespace, and writing down what each gave.

A case is a list of steps. ``{"call": method, "args": [...], "gives": result}`` is a call of the binding; ``{"fill":
n}`` puts ``n`` empty values under the names 0000, 0001, ...; ``{"advance": s}`` lets time pass; ``{"again":
"binding"}`` makes a new binding over the same store and ``{"again": "runtime"}`` opens the store anew. What JSON
cannot say is an object with one tag, as in ``{"$bytes": "<base64>"}``. ``tests/workerd/kv_worker.mjs`` reads the same.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from array import array
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker_compat import Response
from worker_compat.errors import KVError
from worker_compat.kv import KVNamespace
from worker_compat.registry import open_kv
from worker_compat.streams import ReadableStream
from worker_compat.testing import FakeClock

FOLDER = Path(__file__).with_name("kv_cases")
_LONG = 2000
_NOW = re.compile(r"\{now([+-]\d+)\}")
_ERRORS = {"TypeError": TypeError, "RangeError": ValueError}


@dataclass(frozen=True)
class Case:
    """One case. ``time``: its clock is told; ``lasting``: for stores that outlive their process.

    ``oracle`` says, in the words of docs/parity.md, what Cloudflare's local runtime does otherwise; ``varies``: not
    every time.
    """

    id: str
    covers: list[str]
    steps: list[dict[str, Any]]
    time: bool = False
    lasting: bool = False
    oracle: str = ""
    varies: bool = False

    def expected(self, now: int) -> list[Any]:
        """What the calls give when the case begins in the second ``now``."""
        return [_expected(step.get("gives"), now) for step in self.steps if "call" in step or "fill" in step]


def cases() -> list[Case]:
    """All cases, in the order of their files."""
    return [Case(**row) for path in sorted(FOLDER.glob("*.json")) for row in json.loads(path.read_text("utf-8"))]


def differences(case: Case, now: int, given: list[Any]) -> list[str]:
    """Where ``given`` is not what ``case`` expects; an error without a text is compared by its name."""
    calls = [step for step in case.steps if "call" in step or "fill" in step]
    found = []
    for step, expected, result in zip(calls, case.expected(now), given, strict=True):
        if isinstance(expected, dict) and isinstance(expected.get("$error"), str) and "$error" in (result or {}):
            result = {"$error": result["$error"][0]}
        if _canonical(expected) != _canonical(result):
            call = _short(json.dumps([step.get("call", "fill"), *step.get("args", [])]))
            found.append(f"{call}: expected {_short(_canonical(expected))}, got {_short(_canonical(result))}")
    return found


def _canonical(value: Any) -> str:
    # As text, because to Python True and 1 are equal. The order of members is nobody's promise.
    return json.dumps(value, sort_keys=True)


def _short(text: str) -> str:
    return text if len(text) <= 500 else f"{text[:500]}..."


@dataclass
class Player:
    """Performs cases on the store at ``url``; a context of its own for each case."""

    url: str
    clock: FakeClock
    now: int = 0
    cursors: list[str] = field(default_factory=list)

    async def play(self, case: Case) -> list[Any]:
        """What the calls gave, as JSON."""
        self.now = int(self.clock())
        self.clock.now = self.now + 0.75  # Workers count whole seconds
        results = []
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_kv(self.url, clock=self.clock))
            kv = KVNamespace(store, clock=self.clock)
            for step in case.steps:
                if "advance" in step:
                    self.clock.advance(step["advance"])
                elif step.get("again") == "runtime":
                    await stack.aclose()
                    store = await stack.enter_async_context(open_kv(self.url, clock=self.clock))
                    kv = KVNamespace(store, clock=self.clock)
                elif "again" in step:
                    kv = KVNamespace(store, clock=self.clock)
                else:
                    results.append(await self._perform(kv, step))
        return results

    async def _perform(self, kv: KVNamespace, step: Mapping[str, Any]) -> Any:
        if "fill" in step:
            await _fill(kv, step["fill"])
            return None
        try:
            arguments = list(map(self._argument, step["args"]))
            result = await getattr(kv, step["call"])(*arguments)
            if step["call"] == "list" and "cursor" in result:
                self.cursors.append(result["cursor"])
                result["cursor"] = {"$cursor": True}
            if arguments and isinstance(arguments[0], list):
                return {"$map": [[name, await _written(item)] for name, item in result.items()]}
            return await _written(result)
        except KVError as error:
            return {"$error": [error.name, error.message]}
        except (TypeError, ValueError) as error:
            return {"$error": ["TypeError" if isinstance(error, TypeError) else "RangeError", str(error)]}

    def _argument(self, value: Any) -> Any:
        """A value of a case as Python has it; everything without a tag is itself."""
        if isinstance(value, list):
            return [self._argument(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1 and (tag := next(iter(value))).startswith("$"):
            return self._tagged(tag, value[tag])
        return {name: self._argument(item) for name, item in value.items()}

    def _tagged(self, tag: str, given: Any) -> Any:
        if tag == "$now":
            return self.now + given
        if tag == "$cursor":
            return self.cursors[given - 1]
        return _TAGS[tag](given)


async def _fill(kv: KVNamespace, count: int) -> None:
    for start in range(0, count, 100):
        await asyncio.gather(*(kv.put(f"{number:04}", "") for number in range(start, min(count, start + 100))))


def _names(first: int, count: int) -> list[str]:
    return [f"{number:04}" for number in range(first, first + count)]


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _locked(_given: Any) -> ReadableStream:
    stream = ReadableStream.from_iterable([])
    stream.get_reader()
    return stream


def _broken(given: list[str]) -> ReadableStream:
    chunk, name, message = given

    async def chunks() -> AsyncIterator[bytes]:
        yield _bytes(chunk)
        raise _ERRORS[name](message)

    return ReadableStream.from_iterable(chunks())


def _circular(_given: Any) -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


_TAGS: dict[str, Callable[[Any], Any]] = {
    "$bytes": _bytes,
    "$view": lambda given: memoryview(_bytes(given[0]))[given[1] : given[2]],
    "$uint16": lambda numbers: array("H", numbers),
    "$repeat": lambda given: given[0] * given[1],
    "$repeatBytes": lambda given: bytes([given[0]]) * given[1],
    "$number": float,
    "$bigint": int,
    "$keys": lambda given: _names(*given),
    "$response": Response,
    "$circular": _circular,
    "$stream": lambda chunks: ReadableStream.from_iterable(list(map(_bytes, chunks))),
    "$streamOf": lambda given: ReadableStream.from_iterable([bytes([given[0]]) * given[1]] * given[2]),
    "$lockedStream": _locked,
    "$brokenStream": _broken,
}


async def _written(value: Any) -> Any:
    """A result as JSON: what JSON cannot say has a tag, and long text only its length and its start."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, ReadableStream):
        return {"$stream": base64.b64encode(await value.read_all()).decode()}
    if isinstance(value, list):
        return [await _written(item) for item in value]
    if isinstance(value, dict):
        return {name: await _written(item) for name, item in value.items()}
    return value


def _text(text: str) -> Any:
    return {"$long": [len(text), text[:16]]} if len(text) > _LONG else text


def _expected(value: Any, now: int) -> Any:
    """A result that a case expects, as :func:`_written` writes it."""
    if isinstance(value, str):
        return _text(_NOW.sub(lambda found: str(now + int(found[1])), value))
    if isinstance(value, list):
        return [_expected(item, now) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$now": seconds}:
            return now + seconds
        case {"$repeat": [text, count]}:
            return _text(text * count)
        case {"$rows": [first, count]}:
            return [{"name": name} for name in _names(first, count)]
        case {"$pairs": [first, count]}:
            return [[name, ""] for name in _names(first, count)]
    return {name: _expected(item, now) for name, item in value.items()}
