"""Runtime: the ambient fetcher and clock, and the dispatch of events to a handler."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .context import BackgroundTasks, ExecutionContext
from .entrypoint import WorkerEntrypoint, relaxed
from .errors import ConfigError, FetchError
from .ports import Clock, Fetcher, Handle, Send
from .request import Request
from .response import Response

log = logging.getLogger("worker_compat")

_USED = "Body has already been used. It can only be used once. Use tee() first if you need to read it twice."

_runtime: ContextVar[Runtime] = ContextVar("worker_compat.runtime")
_context: ContextVar[ExecutionContext] = ContextVar("worker_compat.context")


class Runtime:
    """What handlers run in: a fetcher, a clock, and the background tasks of the process.

    ``origin`` answers requests whose handler raised after ``pass_through_on_exception``; without one such a
    request is answered 500.
    """

    def __init__(self, fetcher: Fetcher, *, clock: Clock = time.time, origin: Fetcher | None = None) -> None:
        self.fetcher = fetcher
        self.clock = clock
        self.origin = origin
        self.background = BackgroundTasks()

    @contextmanager
    def use(self) -> Iterator[Runtime]:
        """Make this the runtime of the current context; tasks started inside keep it."""
        token = _runtime.set(self)
        try:
            yield self
        finally:
            _runtime.reset(token)

    def handler(self, entrypoint: type[WorkerEntrypoint], env: Any) -> Handle:
        """What a host calls for each request: one new ``entrypoint``, its answer sent, its event ended."""
        respond = self._responder(entrypoint, env)

        async def handle(request: Request, send: Send) -> None:
            context = ExecutionContext(self.background)
            runtime_token = _runtime.set(self)
            context_token = _context.set(context)
            try:
                await send(await respond(request, context))
            finally:
                context.finish()
                _context.reset(context_token)
                _runtime.reset(runtime_token)

        return handle

    async def fetch(self, entrypoint: type[WorkerEntrypoint], env: Any, request: Request) -> Response:
        """Dispatch one request without a host, for tests and service bindings; the body is not read."""
        context = ExecutionContext(self.background)
        with self.use():
            token = _context.set(context)
            try:
                return await self._responder(entrypoint, env)(request, context)
            finally:
                context.finish()
                _context.reset(token)

    async def scheduled(self, entrypoint: type[WorkerEntrypoint], env: Any, controller: Any) -> None:
        """Dispatch one cron event: the class method is called with ``(controller, None, None)``, as on Workers."""
        handler = getattr(entrypoint, "scheduled", None)
        if handler is None:
            raise ConfigError("Handler does not export a scheduled() function")
        context = ExecutionContext(self.background)
        with self.use():
            token = _context.set(context)
            try:
                result = handler(entrypoint(context, env), controller, None, None)
                if inspect.isawaitable(result):
                    await result
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise
                raise RuntimeError("the scheduled handler awaited something that was cancelled") from error
            finally:
                context.finish()
                _context.reset(token)

    def _responder(
        self, entrypoint: type[WorkerEntrypoint], env: Any
    ) -> Callable[[Request, ExecutionContext], Awaitable[Response]]:
        handler = getattr(entrypoint, "fetch", None)
        if handler is None:
            raise ConfigError("Handler does not export a fetch() function; add `async def fetch(self, request)`")
        call = relaxed(handler)
        is_async = inspect.iscoroutinefunction(handler)

        async def respond(request: Request, context: ExecutionContext) -> Response:
            try:
                result = call(entrypoint(context, env), request)
                if is_async or inspect.isawaitable(result):
                    result = await result
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise
                # Nobody cancelled this request: the handler awaited something that was cancelled.
                return await self._failed(request, context, error)
            except Exception as error:
                return await self._failed(request, context, error)
            if isinstance(result, Response):
                if not result._unusable():
                    return result
                log.error(_USED)
                return _internal_error()
            log.error(
                "Incorrect type for Promise: the Promise did not resolve to 'Response' but to %s; "
                "return a Response from fetch()",
                type(result).__name__,
            )
            return _internal_error()

        return respond

    async def _failed(self, request: Request, context: ExecutionContext, error: BaseException) -> Response:
        log.error("the handler raised", exc_info=error)
        if not context.pass_through or self.origin is None:
            return _internal_error()
        try:
            # An unread body goes along whole; one that the handler already read is gone, as on Workers.
            body = None if request._unusable() else request._release()
            return await self.origin.fetch(Request.outgoing(request.url, request._method, request.headers.raw, body))
        except FetchError as failure:
            log.error("the origin did not answer: %s", failure)
        except Exception:
            log.exception("the origin's fetcher failed")
        return _internal_error()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _internal_error() -> Response:
    # No details: a client must not learn what broke.
    return Response("Internal Server Error", 500)


def current() -> Runtime:
    """The runtime of the running event; ``ConfigError`` outside of one."""
    try:
        return _runtime.get()
    except LookupError:
        raise ConfigError(
            "no runtime here: call this from a handler, or inside `with Runtime(fetcher).use():`"
        ) from None


def wait_until(awaitable: Awaitable[Any]) -> None:
    """``ctx.wait_until`` of the running event, for code that has no ``ctx`` at hand."""
    try:
        context = _context.get()
    except LookupError:
        raise ConfigError("no event here: wait_until works while a handler runs") from None
    context.wait_until(awaitable)


async def fetch(resource: str | Request, **options: Any) -> Response:
    """Send a request with the runtime's fetcher; options are those of :class:`Request`, by keyword.

    Raises :class:`worker_compat.errors.FetchError` (an ``OSError``) when no response came; a 4xx or 5xx
    status is no error. https://developers.cloudflare.com/workers/runtime-apis/fetch/
    """
    if not isinstance(resource, Request) or options:
        resource = Request(resource, **options)
    fetcher = current().fetcher
    if resource.redirect == "manual":
        response = await fetcher.fetch(resource)
        if "#" in response.url:
            response.url = response.url.partition("#")[0]
        return response
    from .redirects import follow

    return await follow(fetcher, resource)
