"""Service bindings: how a worker reaches another one of the same process, by ``fetch`` and by method calls.

https://developers.cloudflare.com/workers/runtime-apis/bindings/service-bindings/
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .context import _MISSING, ExecutionContext
from .decoding import encode
from .entrypoint import WorkerEntrypoint
from .headers import Headers
from .jsjson import JsDict
from .request import RELAYED, Request
from .response import Response
from .rpc import python_to_rpc
from .runtime import Runtime, _context, fetch_through
from .url import URL


class Worker:
    """One worker of this process: its entrypoints by name (``default`` and classes) and its environment.

    ``env`` is set once its bindings are open, which may be after other workers were bound to this one.
    """

    def __init__(self, name: str, entrypoints: Mapping[str, type[WorkerEntrypoint]], runtime: Runtime) -> None:
        self.name = name
        self.entrypoints = entrypoints
        self.runtime = runtime
        self.env: Any = None


class _CalledContext(ExecutionContext):
    """``ctx`` of a call from another worker: its tasks live as long as the event of the caller."""

    __slots__ = ("_caller",)

    def __init__(self, caller: ExecutionContext, runtime: Runtime, props: Mapping[str, Any], env: Any) -> None:
        super().__init__(runtime.background, props, env=env)
        self._caller = caller

    def wait_until(self, awaitable: Any = _MISSING) -> None:
        """Keep the event alive; see :meth:`ExecutionContext.wait_until`."""
        self._caller.wait_until(awaitable)

    waitUntil = wait_until

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """``task`` ends with the event of the caller; see :meth:`ExecutionContext.adopt`."""
        self._caller.adopt(task)


class ServiceBinding:
    """``env.OTHER``: ``await env.OTHER.fetch(url_or_request)``, and any other public method by its name.

    A method is called on a new instance; arguments and result are copied (:func:`worker_compat.rpc.python_to_rpc`),
    and keyword arguments become one trailing object, as for every binding.
    """

    __slots__ = ("_entrypoint", "_props", "_worker")

    def __init__(self, worker: Worker, entrypoint: str, props: Mapping[str, Any]) -> None:
        self._worker = worker
        self._entrypoint = worker.entrypoints[entrypoint]
        self._props = props

    async def fetch(self, resource: str | URL | Request, **options: Any) -> Response:
        """The other worker's answer; options and redirects as for :func:`worker_compat.fetch`."""
        request = Request(resource, **options) if options or not isinstance(resource, Request) else resource
        target = _Target(self)
        if request._options is RELAYED:
            return await target.fetch(request)
        return await fetch_through(target, request, self._worker.runtime.decoders)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name.startswith("__"):
            raise AttributeError(name)  # Python's own protocols are no remote methods

        async def call(*args: Any, **named: Any) -> Any:
            method = None if name.startswith("_") else getattr(self._entrypoint, name, None)
            if not callable(method):
                raise TypeError(f'The RPC receiver does not implement the method "{name}".')
            values = [python_to_rpc(value) for value in (*args, *([JsDict(named)] if named else []))]
            with self._event() as context:
                result = method(self._entrypoint(context, self._worker.env), *values)
                return python_to_rpc(await result if inspect.isawaitable(result) else result)

        return call

    def __repr__(self) -> str:
        return f"<ServiceBinding {self._worker.name}>"

    @contextmanager
    def _event(self) -> Iterator[ExecutionContext]:
        runtime, env = self._worker.runtime, self._worker.env
        caller = _context.get(None)
        context = (
            ExecutionContext(runtime.background, dict(self._props), env=env)
            if caller is None
            else _CalledContext(caller, runtime, dict(self._props), env)
        )
        token = _context.set(context)
        try:
            with runtime.use():
                yield context
        finally:
            context.finish()
            _context.reset(token)


class _Target:
    """The other worker as a Fetcher, for one hop of a request."""

    def __init__(self, binding: ServiceBinding) -> None:
        self._binding = binding

    async def fetch(self, request: Request) -> Response:
        """Dispatch ``request`` as if it had come from the network."""
        binding = self._binding
        incoming = Request.outgoing(request.url, request._method, (), request._release())
        incoming._headers = Headers.from_raw(request.headers.raw, immutable=True)
        respond = binding._worker.runtime._responder(binding._entrypoint, binding._worker.env)
        with binding._event() as context:
            answer = await respond(incoming, context)
        if answer._encodes:
            answer = encode(answer)
        return Response.from_raw(
            answer.status, answer.reason, answer.headers.raw, answer._release(), url=request.url, immutable=True
        )
