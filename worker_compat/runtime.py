"""Runtime: the ambient fetcher and clock, and the dispatch of events to a handler."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .context import BackgroundTasks, ExecutionContext
from .decoding import GzipDecoder, decode, encode
from .entrypoint import WorkerEntrypoint, place_of, relaxed
from .errors import ConfigError, FetchError
from .ports import Clock, DecoderFactory, Fetcher, Handle, Send
from .queues import MessageBatch
from .request import RELAYED, Request
from .response import Response
from .url import URL

if TYPE_CHECKING:
    from .scheduled import ScheduledController, ScheduledResult

log = logging.getLogger("worker_compat")

SCHEDULED_LIMIT_S = 900.0
"""How long a scheduled event may take, its ``wait_until`` tasks included."""

_USED = "Body has already been used. It can only be used once. Use tee() first if you need to read it twice."

_runtime: ContextVar[Runtime] = ContextVar("worker_compat.runtime")
_context: ContextVar[ExecutionContext] = ContextVar("worker_compat.context")


class Runtime:
    """What handlers run in: a fetcher, a clock, and the background tasks of the process.

    ``origin`` answers requests whose handler raised after ``pass_through_on_exception``; without one such a
    request is answered 500. Of ``decoders``, which undo content codings, ``br`` is used: Workers decode gzip and that.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        clock: Clock = time.time,
        origin: Fetcher | None = None,
        decoders: Mapping[str, DecoderFactory] | None = None,
    ) -> None:
        self.fetcher = fetcher
        self.clock = clock
        self.origin = origin
        self.decoders: dict[str, DecoderFactory] = {"gzip": GzipDecoder}
        if decoders and "br" in decoders:
            self.decoders["br"] = decoders["br"]
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
            context = ExecutionContext(self.background, env=env)
            runtime_token = _runtime.set(self)
            context_token = _context.set(context)
            try:
                response = await respond(request, context)
                await send(encode(response) if response._encodes else response)
            finally:
                context.finish()
                _context.reset(context_token)
                _runtime.reset(runtime_token)

        return handle

    async def fetch(self, entrypoint: type[WorkerEntrypoint], env: Any, request: Request) -> Response:
        """Dispatch one request without a host, for tests and service bindings; the body is not read."""
        context = ExecutionContext(self.background, env=env)
        with self.use():
            token = _context.set(context)
            try:
                return await self._responder(entrypoint, env)(request, context)
            finally:
                context.finish()
                _context.reset(token)

    async def scheduled(
        self, entrypoint: type[WorkerEntrypoint], env: Any, controller: ScheduledController
    ) -> ScheduledResult:
        """Dispatch one cron event: the class method is called with ``(controller, None, None)``, as on Workers.

        Returns once the handler and its ``wait_until`` tasks have ended, after 15 minutes at the latest; what one of
        them raised is in the result. ``ConfigError`` when there is no ``scheduled`` method.
        """
        from .scheduled import ScheduledResult

        handler = getattr(entrypoint, "scheduled", None)
        if handler is None:
            raise ConfigError(
                "Handler does not export a scheduled() function; add `async def scheduled(self, controller, env, ctx)`"
            )
        context = ExecutionContext(self.background, env=env)
        with self.use():
            token = _context.set(context)
            try:
                async with asyncio.timeout(SCHEDULED_LIMIT_S):
                    failure = await _failure_of(lambda: handler(entrypoint(context, env), controller, None, None))
                    left_behind = await context.settled()
                error = failure or left_behind
            except TimeoutError as late:
                context.cancel()
                error = late
            finally:
                context.finish()
                _context.reset(token)
        return ScheduledResult("ok" if error is None else "exception", controller.refuses_retry, error)

    async def queue(self, entrypoint: type[WorkerEntrypoint], env: Any, batch: MessageBatch) -> None:
        """Dispatch one batch: it lasts until the handler and its ``wait_until`` tasks are done, and raises what failed.

        Cancelling it cancels those tasks too. ``queue(self, batch, env, ctx)`` gets None for the last two.
        """
        handler = getattr(entrypoint, "queue", None)
        if handler is None:
            raise ConfigError("Handler does not export a queue() function; add `async def queue(self, batch)`")
        context = ExecutionContext(self.background, env=env)
        with self.use():
            token = _context.set(context)
            try:
                failure = await _failure_of(lambda: relaxed(handler)(entrypoint(context, env), batch))
                left_behind = await context.settled()
            finally:
                context.cancel()
                context.finish()
                _context.reset(token)
        if error := failure or left_behind:
            raise error

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
            except (Exception, SystemExit) as error:
                # sys.exit() ends an event, not the process that serves others.
                return await self._failed(request, context, error)
            if isinstance(result, Response):
                if not result._unusable():
                    return result
                log.error(_USED)
                return _internal_error()
            log.error(
                "%s: Incorrect type for Promise: the Promise did not resolve to 'Response' but to '%s'; "
                "return a Response from fetch(), for example Response.json(data)",
                place_of(entrypoint), type(result).__name__,
            )  # fmt: skip
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


async def _failure_of(call: Callable[[], Any]) -> Exception | None:
    """What a handler raised; being cancelled from outside goes through."""
    try:
        result = call()
        if inspect.isawaitable(result):
            await result
    except asyncio.CancelledError:
        if _is_cancelled():
            raise
        return RuntimeError("the handler awaited something that was cancelled")
    except SystemExit as error:
        return RuntimeError(f"the handler called sys.exit({error.code!r})")
    except Exception as error:
        return error
    return None


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


async def fetch(resource: str | URL | Request, **options: Any) -> Response:
    """Send a request with the runtime's fetcher; options are those of :class:`Request`, by keyword.

    The response's body is decoded when it is read (gzip, and br if the runtime has its decoder), and goes on as it
    came when the response is returned. Raises :class:`worker_compat.errors.FetchError` (an ``OSError``) when no
    response came, and the signal's reason when that aborts; a 4xx or 5xx status is no error.
    https://developers.cloudflare.com/workers/runtime-apis/fetch/
    """
    if not isinstance(resource, Request) or options:
        resource = Request(resource, **options)
    runtime = current()
    if resource._options is RELAYED:
        return await runtime.fetcher.fetch(resource)
    return await fetch_through(runtime.fetcher, resource, runtime.decoders)


async def fetch_through(fetcher: Fetcher, request: Request, decoders: Mapping[str, DecoderFactory]) -> Response:
    """Workers' ``fetch`` over any fetcher, a service binding's included: redirects, the signal, decoding."""
    from .redirects import follow

    asked = request._options
    signal = asked.signal
    if signal is None:
        response = await follow(fetcher, request)
    else:
        from .abort import Until, guard

        async with Until(signal):
            response = await follow(fetcher, request)
        guard(response, signal)
    if asked.decodes:
        decode(response, decoders)
    return response
