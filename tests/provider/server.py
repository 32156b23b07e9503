"""The provider's server: connections, the control plane under `/__`, and who answers which path.

GET /__requests, GET /__connections, GET /__now, POST /__reset, and POST /__script: a script (or `null`) for
every request that brings none of its own, until the next reset. `analyser.py` has more under `/__judge`.
"""

import asyncio
import json
import time
import traceback
from typing import Any

from tests.provider import anthropic, errors, gemini, openai_chat, openai_responses
from tests.provider.analyser import HOSTED_PATHS, MODEL_PATHS, Analyser
from tests.provider.answer import Answer, document
from tests.provider.ask import Ask
from tests.provider.http1 import BadRequestError, Request, read_body, read_head
from tests.provider.records import Received, Records
from tests.provider.script import BadScriptError, Script, parse
from tests.provider.send import ClosedError, send
from tests.provider.wire import PeerGoneError, Wire

_FAMILIES = {
    "anthropic": (anthropic.answer, openai_chat.answer, openai_responses.answer, gemini.answer),
    "openai": (openai_chat.answer, openai_responses.answer, gemini.answer, anthropic.answer),
    "gemini": (gemini.answer, anthropic.answer, openai_chat.answer, openai_responses.answer),
}


class Provider:
    def __init__(self) -> None:
        self._records = Records()
        self._default: Script | None = None
        self._analyser = Analyser()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> int:
        """Listen on 127.0.0.1; the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Wire(self._opened, self._records.closed), "127.0.0.1", port, backlog=4096
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _opened(self, wire: Wire) -> None:
        self._records.opened(wire)
        task = asyncio.get_running_loop().create_task(self._serve(wire))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, wire: Wire) -> None:
        try:
            while (request := await read_head(wire)) is not None:
                path = request.path
                if path.startswith("/__"):
                    self._records.is_control(wire)
                    if request.method == "POST" and path in (*MODEL_PATHS, *HOSTED_PATHS):
                        await self._analyser.serve(wire, request, path)
                    else:
                        await self._control(wire, request)
                else:
                    await self._data(wire, request)
            await wire.close()
        except BadRequestError as error:
            await self._refuse(wire, str(error))
        except (ClosedError, PeerGoneError):
            await wire.close()
        except asyncio.CancelledError:
            wire.transport.abort()
            raise
        except Exception:
            # A fault of the provider itself must be seen, not mistaken for a scripted one.
            traceback.print_exc()
            wire.transport.abort()

    async def _refuse(self, wire: Wire, why: str) -> None:
        try:
            await wire.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + why.encode())
        except PeerGoneError:
            return
        await wire.close()

    async def _data(self, wire: Wire, request: Request) -> None:
        received = self._records.received(wire, request.line, request.headers, request.head)
        script, complaint = self._script(request)
        if not script.early:
            await self._read(wire, request, received, script)
        received.answering()
        try:
            if complaint is None:
                await send(wire, request, script, _answer(Ask(request, script)))
            else:
                await send(wire, request, Script(), _plain(500, f"bad x-script: {complaint}"))
            received.answered = True
        finally:
            received.done()

    async def _read(self, wire: Wire, request: Request, received: Received, script: Script) -> None:
        try:
            received.complete = await read_body(wire, request, script.read)
        finally:
            received.trailers = request.trailers
            self._records.keep_body(received, request.body, request.sha256, request.length)
        if script.read is not None:
            await wire.stop_reading()
            raise ClosedError

    def _script(self, request: Request) -> tuple[Script, str | None]:
        given = request.header("x-script") or request.query.get("x-script")
        if given is None:
            return self._default or Script(), None
        try:
            return parse(given), None
        except BadScriptError as error:
            return Script(), str(error)

    async def _control(self, wire: Wire, request: Request) -> None:
        await read_body(wire, request, None)
        try:
            value = self._controlled(request)
        except BadScriptError as error:
            await send(wire, request, Script(), _plain(500, f"bad script: {error}"))
            return
        status = 404 if value is None else 200
        await send(wire, request, Script(), document(status, [], value))

    def _controlled(self, request: Request) -> Any:
        match request.method, request.path:
            case "GET", "/__requests":
                return self._records.requests()
            case "GET", "/__connections":
                return self._records.connections()
            case "GET", "/__now":
                return {"now": time.monotonic()}
            case "POST", "/__reset":
                self._default = None
                self._records.reset()
                self._analyser.reset()
                return {"reset": True}
            case "POST", "/__script":
                given = request.body.decode()
                self._default = None if given == "null" else parse(given)
                return {"set": True}
            case "GET", "/__judge/requests":
                return self._analyser.requests()
            case "POST", "/__judge/script":
                self._analyser.script(_json(request.body))
                return {"set": True}
        return None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise BadScriptError(f"not JSON: {error}") from error


def _answer(ask: Ask) -> Answer:
    status = ask.script.status
    if status >= 300:
        return errors.answer(ask, status)
    for family in _FAMILIES[errors.family(ask)]:
        if (answer := family(ask)) is not None:
            answer.status = status
            return answer
    if ask.path.startswith("/echo") or ask.script != Script():
        return _echo(ask)
    return errors.answer(ask, 404)


def _echo(ask: Ask) -> Answer:
    """For paths that no provider has: what arrived, or `huge` bytes that are no JSON at all."""
    if ask.script.huge is not None:
        block = bytes(range(256)) * 256
        whole, rest = divmod(ask.script.huge, len(block))
        pieces = (block for _ in range(whole))
        tail = block[:rest]
        content = "application/octet-stream"
        return Answer(ask.script.status, content, [], (*pieces, tail), ask.script.huge)
    request = ask.request
    seen = {
        "method": request.method,
        "target": request.target,
        "sha256": request.sha256,
        "length": request.length,
    }
    return document(ask.script.status, [], seen)


def _plain(status: int, text: str) -> Answer:
    body = text.encode()
    return Answer(status, "text/plain", [], [body], len(body))
