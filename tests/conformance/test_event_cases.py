"""What surrounds an event: ctx, departures and outcomes as cases in virtual time, and the list of all rows."""

from __future__ import annotations

import ast
import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.tree import ROOT
from tests.virtual import run
from worker_compat.context import ExecutionContext
from worker_compat.entrypoint import WorkerEntrypoint
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.runtime import Runtime, wait_until
from worker_compat.scheduled import ScheduledController
from worker_compat.streams import ReadableStream
from worker_compat.tasks import end_with_event
from worker_compat.testing import ScriptedBody, ScriptedFetcher

FILE = Path(__file__).with_name("event_cases.json")
DATA: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
CRON = "*/5  * * * MON"
QUIET_S = 2000.0
"""Longer than anything goes on after an event."""

Steps = list[dict[str, Any]]


class Broken(Exception):
    """What a case raises."""


class Play:
    """One event whose handler is a list of steps; ``log`` has (seconds, text)."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        self.log: list[list[Any]] = []
        self.status: int | None = None
        self.body: str | None = None
        self.cut = False
        self.ended = 0.0
        self.result: dict[str, Any] = {}

    async def run(self) -> None:
        end_with_event(Path(__file__).parent)
        origin = ScriptedFetcher({"POST http://h/": self._origin}) if self.case.get("origin") else None
        runtime = Runtime(ScriptedFetcher({}), origin=origin)
        event = asyncio.create_task((self._fetch if self.case["event"] == "fetch" else self._scheduled)(runtime))
        await asyncio.wait({event}, timeout=self.case.get("leaves"))
        event.cancel()
        await asyncio.wait({event})
        self.ended = now()
        await asyncio.sleep(QUIET_S)
        assert len(runtime.background) == 0

    async def _origin(self, request: Request) -> Response:
        return Response(f"from the origin: {await request.text()}")

    async def _fetch(self, runtime: Runtime) -> None:
        play = self

        class Default(WorkerEntrypoint):
            async def fetch(self, request: Request) -> Response:
                answer = await Actor(play.log, self.ctx, request).perform(play.case["handler"])
                return answer if isinstance(answer, Response) else Response("done")

        request = Request.incoming("POST", "/", ((b"host", b"h"),), ReadableStream(ScriptedBody([b"the ", b"body"])))
        await runtime.handler(Default, None)(request, self._send)

    async def _send(self, response: Response) -> None:
        self.status, self.body = response.status, ""
        content = response._release()
        if not isinstance(content, ReadableStream):
            self.body = (content or b"").decode()
            return
        source = content.detach()
        try:
            while chunk := await source.pull():
                self.body += chunk.decode()
        except Broken:
            self.cut = True
        except BaseException as error:
            source.close(error)
            raise

    async def _scheduled(self, runtime: Runtime) -> None:
        play = self
        told = ScheduledController(1_700_000_040_000, CRON)

        class Default(WorkerEntrypoint):
            async def scheduled(self, controller: ScheduledController, env: Any, ctx: Any) -> Any:
                arguments = f"{controller.scheduledTime} {controller.cron} {env} {ctx}"
                return await Actor(play.log, self.ctx, told, arguments).perform(play.case["handler"])

        result = await runtime.scheduled(Default, None, told)
        self.result = {"outcome": result.outcome, "noRetry": result.noRetry}


class Actor:
    """Does the steps of the handler and of the tasks that it starts; each method is what one step means."""

    def __init__(self, log: list[list[Any]], ctx: ExecutionContext, event: Any, arguments: str = "") -> None:
        self._lines = log
        self._ctx = ctx
        self._event = event
        self._arguments = arguments

    async def perform(self, steps: Steps) -> Any:
        """Do the steps of one task, and note when it is cancelled; what the last step gives."""
        answer = None
        try:
            for step in steps:
                verb, given = next(iter(step.items()))
                answer = await getattr(self, f"_{verb}")(given, step)
        except asyncio.CancelledError:
            self._note("cancelled")
            raise
        return answer

    def _note(self, text: str) -> None:
        self._lines.append([now(), text])

    async def _wait_until(self, steps: Steps, step: dict[str, Any]) -> None:
        work = self.perform(steps)
        self._ctx.wait_until(self._stubborn(work, step["stubborn"]) if "stubborn" in step else work)

    async def _module_wait_until(self, steps: Steps, step: dict[str, Any]) -> None:
        wait_until(self.perform(steps))

    async def _wait_until_value(self, value: Any, step: dict[str, Any]) -> None:
        self._ctx.wait_until(value)

    async def _start(self, steps: Steps, step: dict[str, Any]) -> None:
        KEPT.append(asyncio.create_task(self.perform(steps)))

    async def _sleep(self, seconds: float, step: dict[str, Any]) -> None:
        await asyncio.sleep(seconds)

    async def _log(self, text: str, step: dict[str, Any]) -> None:
        self._note(text)

    async def _raise(self, text: str, step: dict[str, Any]) -> None:
        raise Broken(text)

    async def _abort(self, reason: str, step: dict[str, Any]) -> None:
        self._ctx.abort(reason)

    async def _pass_through(self, given: bool, step: dict[str, Any]) -> None:
        self._ctx.pass_through_on_exception()

    async def _read(self, given: bool, step: dict[str, Any]) -> None:
        await self._event.text()

    async def _return(self, value: Any, step: dict[str, Any]) -> Any:
        return value

    async def _respond(self, chunks: list[tuple[float, str | None]], step: dict[str, Any]) -> Response:
        return Response(self._body(chunks, step.get("finally", [])))

    async def _no_retry(self, given: bool, step: dict[str, Any]) -> None:
        self._event.noRetry()

    async def _log_controller(self, given: bool, step: dict[str, Any]) -> None:
        self._note(f"{self._arguments} {'a' if hasattr(self._event, 'type') else 'no'} type")

    async def _stubborn(self, work: Coroutine[Any, Any, Any], seconds: float) -> None:
        try:
            await work
        except asyncio.CancelledError:
            await asyncio.sleep(seconds)
            self._note("gave up")

    async def _body(self, chunks: list[tuple[float, str | None]], last: Steps) -> AsyncIterator[bytes]:
        try:
            for pause, text in chunks:
                await asyncio.sleep(pause)
                if text is None:
                    raise Broken("in the middle")
                yield text.encode()
        finally:
            await self.perform(last)


KEPT: list[asyncio.Task[Any]] = []
"""Tasks that nobody awaits, kept from being collected."""


def now() -> float:
    return round(asyncio.get_running_loop().time(), 3)


@pytest.mark.parametrize("case", DATA["cases"], ids=lambda case: f"{case['event']}: {case['name']}")
def test_case(case: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    play = Play(case)
    run(play.run())
    KEPT.clear()
    expected = dict(case["expect"])
    seen: dict[str, Any] = {"ended": play.ended, "log": play.log}
    if case["event"] == "fetch":
        seen |= {"status": play.status, "body": play.body}
    assert seen | play.result == expected
    assert play.cut == case.get("cut", False)
    warned = {text for text in caplog.messages if "ended with their event" not in text}
    assert warned == set(case.get("says", ()))
    assert "secret" not in (play.body or "")


def names_in(path: str) -> set[str]:
    """The tests of a file as pytest names them, without parameters."""
    found: set[str] = set()

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{prefix}{node.name}::")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.add(prefix + node.name)

    walk(ast.parse((ROOT / path).read_text(encoding="utf-8")).body, "")
    return found


def test_every_row_has_a_case_a_test_or_a_line_of_parity() -> None:
    rows: dict[str, dict[str, Any]] = DATA["rows"]
    used = [row for case in DATA["cases"] for row in case["rows"]]
    assert set(used) <= set(rows)
    assert [row for row, how in rows.items() if row not in used and not how] == []


def test_the_tests_that_rows_name_exist() -> None:
    named = [test for how in DATA["rows"].values() for test in how.get("tests", ())]
    missing = [test for test in named if test.partition("::")[2] not in names_in(test.partition("::")[0])]
    assert missing == []


def test_the_lines_of_parity_that_rows_name_exist() -> None:
    page = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    named = [how["parity"] for how in DATA["rows"].values() if "parity" in how]
    assert [text for text in named if not any(text in cell for cell in cells)] == []
